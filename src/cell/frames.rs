//! Podman's attach stream as two byte streams.
//!
//! Each frame has eight bytes of head: stream (1 standard output, 2 standard error), three zeroes,
//! length as a big-endian u32. The length is never trusted with memory: a frame is passed on as it
//! comes. Standard output is what reading yields (the door); the last bytes of standard error are
//! kept. An end inside a frame is an error, an end between frames is the end.

use std::io::{Error, ErrorKind};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::core::limits::STDERR_BYTES;

const HEAD: usize = 8;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;

/// The last bytes of a cell's standard error.
#[derive(Debug, Clone, Default)]
pub struct Tail(Arc<Mutex<Vec<u8>>>);

impl Tail {
    fn push(&self, bytes: &[u8]) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.extend_from_slice(bytes);
        let over = kept.len().saturating_sub(STDERR_BYTES);
        kept.drain(..over);
    }

    /// What was kept, as text.
    pub fn text(&self) -> String {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&kept).trim().to_owned()
    }
}

/// An attached container's streams.
#[derive(Debug)]
pub struct Attached<S> {
    stream: S,
    head: [u8; HEAD],
    have: usize,
    left: usize,
    tail: Tail,
}

impl<S> Attached<S> {
    /// Wraps the stream of an attach request.
    pub fn new(stream: S) -> Self {
        Self { stream, head: [0; HEAD], have: 0, left: 0, tail: Tail::default() }
    }

    /// A handle to the last bytes of standard error.
    pub fn tail(&self) -> Tail {
        self.tail.clone()
    }
}

impl<S: AsyncRead + Unpin> Attached<S> {
    /// Reads a frame's head; `false` at the end of the stream.
    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<std::io::Result<bool>> {
        while self.have < HEAD {
            let free = self.head.get_mut(self.have..).unwrap_or_default();
            let mut head = ReadBuf::new(free);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut head))?;
            match (head.filled().len(), self.have) {
                (0, 0) => return Poll::Ready(Ok(false)),
                (0, _) => return Poll::Ready(Err(ErrorKind::UnexpectedEof.into())),
                (read, _) => self.have += read,
            }
        }
        let [stream @ (STDOUT | STDERR), 0, 0, 0, length @ ..] = self.head else {
            let text = "a frame of the attach stream is not of its form";
            return Poll::Ready(Err(Error::new(ErrorKind::InvalidData, text)));
        };
        self.left = u32::from_be_bytes(length) as usize;
        self.have = 0;
        self.head = [stream, 0, 0, 0, 0, 0, 0, 0];
        Poll::Ready(Ok(true))
    }

    fn poll_stderr(&mut self, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        let mut bytes = [0; 1024];
        let most = self.left.min(bytes.len());
        let mut buffer = ReadBuf::new(bytes.get_mut(..most).unwrap_or_default());
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer))?;
        let read = buffer.filled();
        if read.is_empty() {
            return Poll::Ready(Err(ErrorKind::UnexpectedEof.into()));
        }
        self.left -= read.len();
        self.tail.push(read);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Attached<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let this = &mut *self;
        loop {
            if this.left == 0 {
                if !ready!(this.poll_head(cx))? {
                    return Poll::Ready(Ok(()));
                }
                continue;
            }
            if this.head.first() == Some(&STDERR) {
                ready!(this.poll_stderr(cx))?;
                continue;
            }
            // Initialised first: `ReadBuf::take` does not tell its parent what it filled.
            let most = this.left.min(buffer.remaining());
            let mut part = ReadBuf::new(buffer.initialize_unfilled_to(most));
            ready!(Pin::new(&mut this.stream).poll_read(cx, &mut part))?;
            let read = part.filled().len();
            if read == 0 {
                return Poll::Ready(Err(ErrorKind::UnexpectedEof.into()));
            }
            buffer.advance(read);
            this.left -= read;
            return Poll::Ready(Ok(()));
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Attached<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;
    use tokio::io::AsyncReadExt;

    fn frame(stream: u8, bytes: &[u8]) -> Vec<u8> {
        let length = u32::try_from(bytes.len()).unwrap_or(0).to_be_bytes();
        [&[stream, 0, 0, 0], &length[..], bytes].concat()
    }

    async fn read(bytes: &[u8]) -> (std::io::Result<Vec<u8>>, String) {
        let mut attached = Attached::new(bytes);
        let mut out = Vec::new();
        let result = attached.read_to_end(&mut out).await.map(|_| out);
        (result, attached.tail().text())
    }

    #[tokio::test]
    async fn the_two_streams_are_told_apart() -> std::io::Result<()> {
        let bytes = [frame(1, b"ab"), frame(2, b"oops\n"), frame(1, b""), frame(1, b"cd")].concat();
        let (out, err) = read(&bytes).await;
        assert_eq!((out?.as_slice(), err.as_str()), (&b"abcd"[..], "oops"));
        Ok(())
    }

    #[tokio::test]
    async fn every_cut_but_the_one_between_frames_is_an_error() {
        let bytes = [frame(1, b"ab"), frame(2, b"c")].concat();
        let whole = [0, 10, bytes.len()];
        for cut in 0..=bytes.len() {
            let (out, _) = read(&bytes[..cut]).await;
            assert_eq!(out.is_ok(), whole.contains(&cut), "cut at {cut}");
        }
    }

    #[tokio::test]
    async fn another_stream_or_a_broken_head_is_an_error() {
        for bytes in [frame(0, b"x"), frame(3, b"x"), b"HTTP/1.1 200 OK".to_vec()] {
            assert!(read(&bytes).await.0.is_err());
        }
    }

    #[tokio::test]
    async fn standard_error_is_bounded() {
        let bytes = frame(2, &vec![b'x'; 5 * STDERR_BYTES]);
        assert_eq!(read(&bytes).await.1.len(), STDERR_BYTES);
    }

    /// A stream whose reads end where it likes, and that is not ready in between.
    struct Pieces(VecDeque<Vec<u8>>, bool);

    impl AsyncRead for Pieces {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<std::io::Result<()>> {
            self.1 = !self.1;
            if self.1 {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let Some(piece) = self.0.front_mut() else { return Poll::Ready(Ok(())) };
            let most = piece.len().min(buffer.remaining());
            buffer.put_slice(&piece[..most]);
            piece.drain(..most);
            if piece.is_empty() {
                self.0.pop_front();
            }
            Poll::Ready(Ok(()))
        }
    }

    fn cut(mut bytes: &[u8], cuts: &[usize]) -> Pieces {
        let mut pieces = VecDeque::new();
        for most in cuts.iter().cycle() {
            if bytes.is_empty() {
                break;
            }
            let (piece, rest) = bytes.split_at(bytes.len().min(*most));
            pieces.push_back(piece.to_vec());
            bytes = rest;
        }
        Pieces(pieces, false)
    }

    /// What the bytes say, read in one go: output, errors, and whether they end well.
    fn meaning(mut bytes: &[u8]) -> (Vec<u8>, Vec<u8>, bool) {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        while !bytes.is_empty() {
            let Some((&[stream @ (STDOUT | STDERR), 0, 0, 0, a, b, c, d], rest)) =
                bytes.split_first_chunk()
            else {
                return (out, err, false);
            };
            let length = u32::from_be_bytes([a, b, c, d]) as usize;
            let (content, rest) = rest.split_at(rest.len().min(length));
            if stream == STDOUT { &mut out } else { &mut err }.extend_from_slice(content);
            if content.len() < length {
                return (out, err, false);
            }
            bytes = rest;
        }
        (out, err, true)
    }

    /// Reads with a buffer of so many bytes. What was read, the tail, whether it ended well.
    fn read_in(pieces: Pieces, most: usize) -> (Vec<u8>, Tail, bool) {
        let mut attached = Attached::new(pieces);
        let tail = attached.tail();
        let mut out = Vec::new();
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        let ended = runtime.expect("a runtime").block_on(async {
            let mut buffer = vec![0; most];
            loop {
                match attached.read(&mut buffer).await {
                    Ok(0) => return true,
                    Ok(read) => out.extend_from_slice(&buffer[..read]),
                    Err(_) => return false,
                }
            }
        });
        (out, tail, ended)
    }

    /// Frames, whose last one may lie about its length, and rubbish behind them.
    fn stream() -> impl Strategy<Value = Vec<u8>> {
        let content = prop_oneof![
            8 => prop::collection::vec(any::<u8>(), 0..40),
            1 => prop::collection::vec(Just(b'e'), STDERR_BYTES - 9..3 * STDERR_BYTES),
        ];
        let frames = prop::collection::vec((1..=2u8, content), 0..9);
        let last = prop_oneof![
            3 => Just(Vec::new()),
            2 => any::<(bool, u32, [u8; 9])>().prop_map(|(out, length, content)| {
                [&[1 + u8::from(!out), 0, 0, 0][..], &length.to_be_bytes(), &content].concat()
            }),
            1 => prop::collection::vec(any::<u8>(), 1..30),
        ];
        (frames, last).prop_map(|(frames, last)| {
            let frames = frames.iter().flat_map(|(stream, content)| frame(*stream, content));
            frames.chain(last).collect()
        })
    }

    proptest! {
        #![proptest_config(crate::core::arbitrary::config())]

        /// However a stream is cut, and whatever is in it: what is read is what it says, byte by
        /// byte, and no length is believed.
        #[test]
        fn a_stream_is_read_as_it_is_meant(
            bytes in stream(),
            cuts in prop::collection::vec(1..300usize, 1..9),
            most in 1..300usize,
        ) {
            let (out, err, whole) = meaning(&bytes);
            let (read, tail, ended) = read_in(cut(&bytes, &cuts), most);
            prop_assert_eq!((read, ended), (out, whole));
            let kept = tail.0.lock().unwrap_or_else(PoisonError::into_inner);
            prop_assert_eq!(&kept[..], &err[err.len().saturating_sub(STDERR_BYTES)..]);
            prop_assert!(kept.capacity() <= 4 * STDERR_BYTES, "{} bytes", kept.capacity());
        }
    }
}
