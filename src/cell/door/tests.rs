//! A door whose other side is no launcher but hostile bytes: HTTP/2 frames written by hand.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf};
use tokio::sync::Semaphore;

use super::*;

type Outcome = Result<(), Box<dyn std::error::Error + Send + Sync>>;
type Field<'a> = (&'a str, &'a str);

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

const POST: [Field<'static>; 4] =
    [(":method", "POST"), (":scheme", "http"), (":authority", "door"), (":path", "/model/v1/x")];

/// An integer with a prefix of seven bits (RFC 7541, 5.1).
fn length(text: &str) -> Vec<u8> {
    let mut left = text.len();
    if left < 127 {
        return vec![u8::try_from(left).unwrap_or(0)];
    }
    left -= 127;
    let mut bytes = vec![127];
    while left >= 128 {
        bytes.push(u8::try_from(left % 128 + 128).unwrap_or(0));
        left /= 128;
    }
    bytes.push(u8::try_from(left).unwrap_or(0));
    bytes
}

/// Literal fields, without indexing and without Huffman's code.
fn block(fields: &[Field<'_>]) -> Vec<u8> {
    let text = |text: &str| [length(text), text.as_bytes().to_vec()].concat();
    fields.iter().flat_map(|(name, value)| [vec![0], text(name), text(value)].concat()).collect()
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let size = u32::try_from(payload.len()).unwrap_or(0).to_be_bytes();
    [&size[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

fn headers(stream: u32, flags: u8, fields: &[Field<'_>]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | flags, stream, &block(fields))
}

/// What was let through to the model: paths, and how bodies ended.
#[derive(Default)]
struct Seen {
    paths: Mutex<Vec<String>>,
    bodies: Mutex<Vec<Result<usize, ()>>>,
    now: AtomicUsize,
    most: AtomicUsize,
    all: AtomicUsize,
}

impl Seen {
    fn paths(&self) -> Vec<String> {
        self.paths.lock().unwrap().clone()
    }
}

/// Counts itself as long as it is there.
struct Here(Arc<Seen>);

impl Drop for Here {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Ordering::SeqCst);
    }
}

/// An open door behind which an agent runs, and its other side.
struct Open {
    door: Door,
    far: WriteHalf<DuplexStream>,
    frames: mpsc::UnboundedReceiver<(u8, u32)>,
    seen: Arc<Seen>,
    // What each answer waits for.
    gate: Arc<Semaphore>,
}

impl Open {
    async fn new() -> Result<Self, std::io::Error> {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let (seen, gate) = (Arc::<Seen>::default(), Arc::new(Semaphore::new(0)));
        let (kept, held) = (Arc::clone(&seen), Arc::clone(&gate));
        let model: Model = Arc::new(move |request| {
            let (seen, gate) = (Arc::clone(&kept), Arc::clone(&held));
            Box::pin(async move {
                seen.all.fetch_add(1, Ordering::SeqCst);
                let now = seen.now.fetch_add(1, Ordering::SeqCst) + 1;
                seen.most.fetch_max(now, Ordering::SeqCst);
                let _here = Here(Arc::clone(&seen));
                seen.paths.lock().unwrap().push(request.uri().to_string());
                let body = request.into_body().collect().await;
                let body = body.map(|body| body.to_bytes().len()).map_err(drop);
                seen.bodies.lock().unwrap().push(body);
                gate.acquire().await.unwrap().forget();
                Response::new(full("{}"))
            })
        });
        let job = Job {
            argv: vec![],
            env: std::collections::BTreeMap::new(),
            cwd: String::new(),
            files: vec![],
            links: vec![],
            confinement: noclaw_cell::job::Confinement::default(),
            model_socket: String::new(),
            most_seconds: 60,
            stderr_bytes: 0,
        };
        let door = Door::open(near, &job, model);
        *door.room.next.lock().unwrap() = Next::Exit;
        let (read, far) = tokio::io::split(far);
        let (sender, frames) = mpsc::unbounded_channel();
        // Always read: what the door has to say would hold it up.
        tokio::spawn(frames_of(read, sender));
        let mut open = Self { door, far, frames, seen, gate };
        open.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await?;
        open.send(&frame(4, 0, 0, &[])).await?;
        Ok(open)
    }

    /// Writes these bytes to the cell's standard output.
    async fn send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        let length = u32::try_from(bytes.len()).unwrap_or(0).to_be_bytes();
        self.far.write_all(&[&[1, 0, 0, 0], &length[..], bytes].concat()).await
    }

    /// Reads until something comes on this stream, or the door says that it closes.
    async fn answered(&mut self, stream: u32) -> Option<u8> {
        loop {
            match self.frames.recv().await? {
                (kind @ (HEADERS | RST_STREAM), on) if on == stream => return Some(kind),
                (GOAWAY, _) => return None,
                _ => {}
            }
        }
    }
}

/// Tells kind and stream of each frame, until the door closes.
async fn frames_of(
    mut far: ReadHalf<DuplexStream>,
    frames: mpsc::UnboundedSender<(u8, u32)>,
) -> Option<()> {
    loop {
        let mut head = [0; 9];
        far.read_exact(&mut head).await.ok()?;
        let [a, b, c, kind, _, stream @ ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        far.read_exact(&mut payload).await.ok()?;
        frames.send((kind, u32::from_be_bytes(stream))).ok()?;
    }
}

/// Nothing in these tests takes long; one that waits for ever says where.
async fn within<T>(future: impl Future<Output = T>) -> Result<T, tokio::time::error::Elapsed> {
    tokio::time::timeout(Duration::from_secs(30), future).await
}

#[tokio::test]
async fn a_request_that_is_none_reaches_nobody() -> Outcome {
    let long = "x".repeat(HEADER_BYTES);
    let with = |field: Field<'static>| [&POST[..], &[field]].concat();
    let path = |path: &'static str| [&POST[..3], &[(":path", path)]].concat();
    let large = [&POST[..], &[("x-large", &*long)]].concat();
    let many: Vec<_> = POST.into_iter().chain([("x", "y"); 600]).collect();
    for (what, fields) in [
        ("a header of a connection", with(("connection", "close"))),
        ("a length in chunks", with(("transfer-encoding", "chunked"))),
        ("another protocol", with(("upgrade", "h2c"))),
        ("an encoding hop by hop", with(("te", "gzip"))),
        ("a name in capitals", with(("X-Large", "y"))),
        ("a name with a space", with(("x large", "y"))),
        ("a line's end in a value", with(("x", "a\r\nx-api-key: b"))),
        ("a NUL in a value", with(("x", "a\0"))),
        ("two paths", with((":path", "/exit"))),
        ("an unknown pseudo-header", with((":protocol", "websocket"))),
        ("a length that is none", with(("content-length", "+1"))),
        ("no path", POST[..3].to_vec()),
        ("no method", POST[1..].to_vec()),
        ("a pseudo-header behind", [&[("x", "y")], &POST[..]].concat()),
        ("a tunnel", vec![(":method", "CONNECT"), (":authority", "door:80")]),
        ("no route", path("/modelx")),
        ("a star", path("*")),
        ("a star behind", path("/model*")),
        ("another route", path("/exit")),
        ("a large header", large),
        ("many headers", many),
    ] {
        let mut open = Open::new().await?;
        open.gate.add_permits(1);
        open.send(&headers(1, END_STREAM, &fields)).await?;
        within(open.answered(1)).await?;
        assert_eq!(open.seen.paths(), Vec::<String>::new(), "{what}");
    }
    let mut twin = Open::new().await?;
    twin.gate.add_permits(2);
    twin.send(&headers(1, END_STREAM, &with(("x-large", "y")))).await?;
    assert_eq!(within(twin.answered(1)).await?, Some(HEADERS));
    // Neither scheme nor authority decides anything.
    let elsewhere =
        [POST[0], (":scheme", "https"), (":authority", "elsewhere"), (":path", "/model//x/../y")];
    twin.send(&headers(3, END_STREAM, &elsewhere)).await?;
    assert_eq!(within(twin.answered(3)).await?, Some(HEADERS));
    assert_eq!(twin.seen.paths(), ["/v1/x", "//x/../y"]);
    Ok(())
}

#[tokio::test]
async fn a_body_ends_where_its_length_says_or_breaks_off() -> Outcome {
    for (announced, sent, whole) in [
        (&["4"][..], &["abcd"][..], Ok(4)),
        (&[], &["ab", "cd"], Ok(4)),
        (&["5"], &["abcd"], Err(())),
        (&["3"], &["abcd"], Err(())),
        (&["4"], &["abcd", "e"], Err(())),
    ] {
        let mut open = Open::new().await?;
        open.gate.add_permits(1);
        let lengths = announced.iter().map(|length| ("content-length", *length));
        let fields: Vec<_> = POST.into_iter().chain(lengths).collect();
        open.send(&headers(1, 0, &fields)).await?;
        for (n, piece) in sent.iter().enumerate() {
            let flags = if n + 1 == sent.len() { END_STREAM } else { 0 };
            open.send(&frame(DATA, flags, 1, piece.as_bytes())).await?;
        }
        within(open.answered(1)).await?;
        let ended = async {
            while open.seen.now.load(Ordering::SeqCst) > 0 {
                tokio::task::yield_now().await;
            }
        };
        within(ended).await?;
        // One that broke off may have been given up before it was told so.
        let bodies = open.seen.bodies.lock().unwrap().clone();
        assert!(bodies.iter().all(|body| *body == whole), "{announced:?}: {bodies:?}");
        assert!(whole.is_err() || bodies.len() == 1, "{announced:?}");
    }
    Ok(())
}

#[tokio::test]
async fn ten_thousand_streams_at_once_are_sixteen() -> Outcome {
    let mut open = Open::new().await?;
    for number in 0..10_000_u32 {
        if open.send(&headers(number * 2 + 1, 0, &POST)).await.is_err() {
            break;
        }
    }
    let Open { door, far, mut frames, seen, .. } = open;
    let most = seen.most.load(Ordering::SeqCst);
    assert_eq!((most, seen.all.load(Ordering::SeqCst)), (DOOR_STREAMS as usize, most));
    drop((door, far));
    let mut refused = 0;
    while let Some((kind, _)) = within(frames.recv()).await? {
        refused += usize::from(kind == RST_STREAM);
    }
    assert!(refused > 0, "the others were refused");
    Ok(())
}

#[tokio::test]
async fn streams_that_are_opened_and_reset_hold_nothing() -> Outcome {
    let mut open = Open::new().await?;
    for number in 0..10_000_u32 {
        let stream = number * 2 + 1;
        let reset = frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes());
        if open.send(&[headers(stream, 0, &POST), reset].concat()).await.is_err() {
            break;
        }
    }
    let most = open.seen.most.load(Ordering::SeqCst);
    assert!(most <= 2 * DOOR_STREAMS as usize, "{most} at once");
    let none_is_left = async {
        while open.seen.now.load(Ordering::SeqCst) > 0 {
            tokio::task::yield_now().await;
        }
    };
    within(none_is_left).await?;
    Ok(())
}

#[tokio::test]
async fn a_head_without_an_end_breaks_the_door() -> Outcome {
    let mut open = Open::new().await?;
    open.send(&frame(HEADERS, END_STREAM, 1, &block(&POST))).await?;
    let more = block(&[("x", &"y".repeat(10_000))]);
    let mut sent = 0;
    // Nobody collects it: long before it is a problem the door closes.
    while open.send(&frame(CONTINUATION, 0, 1, &more)).await.is_ok() {
        sent += more.len();
        assert!(sent < 10 << 20, "{sent} bytes of headers were taken");
        tokio::task::yield_now().await;
    }
    assert_eq!(open.seen.paths(), Vec::<String>::new());
    Ok(())
}
