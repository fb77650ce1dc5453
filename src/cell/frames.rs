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
}
