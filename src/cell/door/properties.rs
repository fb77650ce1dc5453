//! Whatever comes through the door, in whatever order: the story goes on with what is right, ends
//! with what is not, and the model sees a request's own path.

use std::time::Duration;

use hyper::client::conn::http2::{SendRequest, handshake};
use proptest::prelude::*;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex, join};

use super::*;
use crate::core::arbitrary::{Edit, any_json, edited, edits};

/// Much longer than any of it takes: who waits for so long waits for ever.
const LONG: Duration = Duration::from_secs(20);

/// The cell's end of the streams, and the host's, where what the cell said comes in frames.
fn attached() -> (impl Both, impl Both) {
    let (said, mut from_cell) = duplex(1 << 16);
    let (mut frames, framed) = duplex(1 << 16);
    let (to_cell, heard) = duplex(1 << 16);
    tokio::spawn(async move {
        let mut buffer = vec![0; 4096];
        while let Ok(read @ 1..) = from_cell.read(&mut buffer).await {
            let length = u32::try_from(read).unwrap_or(0).to_be_bytes();
            let frame = [&[1, 0, 0, 0], &length[..], &buffer[..read]].concat();
            if frames.write_all(&frame).await.is_err() {
                return;
            }
        }
    });
    (join(heard, said), join(framed, to_cell))
}

trait Both: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> Both for S {}

type Client = SendRequest<Full<Bytes>>;

async fn client(cell: impl Both) -> Client {
    let io = TokioIo::new(cell);
    let (client, connection) = handshake(TokioExecutor::new(), io).await.expect("a handshake");
    tokio::spawn(connection);
    client
}

/// The way of a request's own path to the model.
fn told() -> (Model, mpsc::UnboundedReceiver<Uri>) {
    let (sender, told) = mpsc::unbounded_channel();
    let model: Model = Arc::new(move |request| {
        sender.send(request.uri().clone()).ok();
        Box::pin(async { Response::new(full("")) })
    });
    (model, told)
}

/// A request: its route, its method, its body.
#[derive(Debug, Clone)]
struct Said {
    path: &'static str,
    post: bool,
    body: Vec<u8>,
}

fn job() -> Job {
    let job = json!({
        "argv": [], "env": {}, "cwd": "/", "files": [], "links": [], "model_socket": "",
        "confinement": {"landlock": [], "seccomp": "", "fingerprint": 0, "places": []}, "most_seconds": 60,
        "stderr_bytes": 0,
    });
    serde_json::from_value(job).expect("a job")
}

fn measured() -> Value {
    json!({
        "uids": [], "gids": [], "groups": [], "uid_map": [], "gid_map": [], "no_new_privs": true,
        "seccomp_mode": 2, "seccomp_filters": 1, "seccomp_answer": 0, "mounts": [],
        "capabilities":
            {"inheritable": 0, "permitted": 0, "effective": 0, "bounding": 0, "ambient": 0},
        "interfaces": [], "descriptors": {}, "environment": [], "devices": {}, "places": [],
        "pid": 1, "namespaces": {}, "landlock": null, "landlock_answer": 0,
        "limits": {"memory_max": null, "memory_swap_max": null, "pids_max": null, "cpu_max": null,
            "nofile": null, "fsize": null, "core": null},
    })
}

/// What an honest launcher says.
fn honest() -> [Said; 4] {
    let said = |path, body: Value| Said { path, post: true, body: body.to_string().into() };
    [
        said("/hello", json!({"protocol": PROTOCOL, "launcher": "1"})),
        said("/preflight", json!({"launcher": measured(), "agent": measured()})),
        Said { path: "/agent", post: true, body: Vec::new() },
        said(
            "/exit",
            json!({"status": 0, "signal": null, "memory_peak": 1, "oom_kills": 0,
            "stderr": "bye"}),
        ),
    ]
}

/// What is said instead of a body.
#[derive(Debug, Clone)]
enum Instead {
    Nothing,
    Changed(Vec<Edit>),
    Other(Vec<u8>),
}

/// A launcher's words, of which some are left out, repeated, changed, or said by somebody else.
fn words() -> impl Strategy<Value = Vec<Said>> {
    let number = prop_oneof![6 => Just(None), 1 => (0..5usize).prop_map(Some)];
    let bytes = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..40),
        any_json().prop_map(|json| json.to_string().into_bytes()),
        Just(vec![b' '; DOOR_BODY_BYTES + 1]),
    ];
    let instead = prop_oneof![
        12 => Just(Instead::Nothing),
        2 => edits(2).prop_map(Instead::Changed),
        2 => bytes.prop_map(Instead::Other),
    ];
    let stranger = prop::sample::select(vec!["/model/v1/messages", "/", "/agents", "/hello/"]);
    let word = (number, prop::bool::weighted(0.97), instead, stranger);
    prop::collection::vec(word, 1..7).prop_map(|words| {
        let say = |(turn, (other, post, instead, stranger)): (usize, (Option<usize>, _, _, _))| {
            let stranger = Said { path: stranger, post, body: Vec::new() };
            let said = honest().get(other.filter(|n| *n < 4).unwrap_or(turn)).cloned();
            let said = said.unwrap_or_else(|| stranger.clone());
            let body = match instead {
                Instead::Nothing => said.body,
                Instead::Changed(edits) => {
                    let json = serde_json::from_slice(&said.body).unwrap_or_default();
                    edited(&json, &edits).to_string().into()
                }
                Instead::Other(bytes) => bytes,
            };
            let said = Said { path: said.path, post, body };
            // A stranger may speak before, and is then alone in being wrong.
            if other == Some(4) { vec![stranger, said] } else { vec![said] }
        };
        words.into_iter().enumerate().flat_map(say).collect()
    })
}

/// How far an honest story goes with these words, and whether they break the rules then.
fn story(words: &[Said]) -> (usize, bool) {
    let right = |turn: usize, said: &Said| {
        let honest = honest().get(turn).is_some_and(|honest| honest.path == said.path);
        let body = &said.body;
        let is = match turn {
            0 => serde_json::from_slice::<Hello>(body).is_ok_and(|h| h.protocol == PROTOCOL),
            1 => serde_json::from_slice::<Preflight>(body).is_ok(),
            3 => serde_json::from_slice::<Exit>(body).is_ok(),
            _ => true,
        };
        honest && said.post && is && (turn == 2 || body.len() <= DOOR_BODY_BYTES)
    };
    let mut turn = 0;
    for said in words {
        // The agent's own requests are the model's to judge.
        if turn == 3 && said.path.starts_with("/model/") {
            continue;
        }
        if !right(turn, said) {
            return (turn, true);
        }
        turn += 1;
    }
    (turn, false)
}

/// The host's side: how far it came, and why not further.
async fn host(mut door: Door) -> (usize, Option<DoorError>) {
    match door.preflight().await {
        Ok((_, verdict)) => verdict.go(),
        Err(error) => return (1, Some(error)),
    }
    let _streams = match door.agent().await {
        Ok(streams) => streams,
        Err(error) => return (2, Some(error)),
    };
    match door.exit().await {
        Ok(_) => (4, None),
        Err(error) => (3, Some(error)),
    }
}

async fn say(client: &mut Client, said: &Said) -> hyper::Result<Response<Incoming>> {
    let method = if said.post { Method::POST } else { Method::PUT };
    let uri = format!("http://cell{}", said.path);
    let body = Full::new(Bytes::from(said.body.clone()));
    let request = Request::builder().method(method).uri(uri).body(body).expect("a request");
    let answer = tokio::time::timeout(LONG, client.send_request(request)).await;
    answer.expect("it waits for ever")
}

/// As when somebody ends a cell that is just speaking.
#[tokio::test]
async fn a_word_that_breaks_off_is_a_door_that_is_lost_and_no_breach() {
    let (cell, streams) = attached();
    let (model, _told) = told();
    let host = tokio::spawn(host(Door::open(streams, &job(), model)));
    let speaks = handshake(TokioExecutor::new(), TokioIo::new(cell)).await.expect("a handshake");
    let (mut client, connection) = speaks;
    let connection = tokio::spawn(connection);
    let [hello, preflight, ..] = honest();
    for (said, breaks_off) in [(hello, false), (preflight, true)] {
        let piece = Ok(Frame::data(Bytes::from(said.body)));
        let end = breaks_off.then(|| Err(std::io::Error::other("it is ended")));
        let body =
            StreamBody::new(futures_util::stream::iter([Some(piece), end].into_iter().flatten()));
        let request = Request::post(format!("http://cell{}", said.path)).body(body);
        let answer = client.send_request(request.expect("a request")).await;
        assert_eq!(answer.is_err(), breaks_off, "{answer:?}");
    }
    drop(client);
    connection.abort();
    let host = tokio::time::timeout(LONG, host).await.expect("it waits for ever");
    let (turn, error) = host.expect("it panicked");
    assert!(turn == 1 && matches!(error, Some(DoorError::Lost { .. })), "{turn}: {error:?}");
}

async fn tell(words: &[Said]) -> (usize, Option<DoorError>) {
    let (cell, streams) = attached();
    let (model, _told) = told();
    let host = tokio::spawn(host(Door::open(streams, &job(), model)));
    let mut client = client(cell).await;
    // The agent's stream stays open until all is said.
    let mut answers = Vec::new();
    for said in words {
        match say(&mut client, said).await {
            Ok(answer) => answers.push(answer),
            Err(_) => break,
        }
    }
    drop((answers, client));
    tokio::time::timeout(LONG, host).await.expect("it waits for ever").expect("it panicked")
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(future)
}

#[test]
fn an_honest_launcher_s_words_are_a_whole_story() {
    assert_eq!(story(&honest()), (4, false));
    assert!(matches!(block_on(tell(&honest())), (4, None)));
}

proptest! {
    #![proptest_config(crate::core::arbitrary::config())]

    /// The story comes as far as the words are right, and knows whether they broke the rules.
    #[test]
    fn any_words_come_as_far_as_they_are_right(words in words()) {
        let (right, breaks) = story(&words);
        let (came, error) = block_on(tell(&words));
        // Nothing is told of the greeting alone; it waits for a preflight next.
        prop_assert_eq!(came, right.max(1), "{:?}", error);
        match error {
            None => prop_assert_eq!(right, 4),
            Some(DoorError::Breach(_)) => prop_assert!(breaks),
            Some(DoorError::Lost { .. }) => prop_assert!(!breaks),
        }
    }

    /// Bytes that are no HTTP/2 at all: the story ends at once.
    #[test]
    fn any_bytes_end_the_story(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let (came, error) = block_on(async {
            let (mut cell, streams) = attached();
            let (model, _told) = told();
            let host = tokio::spawn(host(Door::open(streams, &job(), model)));
            cell.write_all(&bytes).await.ok();
            drop(cell);
            tokio::time::timeout(LONG, host).await.expect("it waits for ever").expect("a panic")
        });
        prop_assert!(came == 1 && matches!(error, Some(DoorError::Lost { .. })), "{error:?}");
    }

    /// The model is asked for the very path that stands behind `/model`, and for nothing else.
    #[test]
    fn the_model_sees_a_request_s_own_path(
        path in "(/[a-zA-Z0-9._~%@:!*-]{0,9}){1,4}(\\?[a-z=&/:@.]{0,12})?",
    ) {
        let uri: Uri = format!("http://cell/model{path}").parse()?;
        let asked = block_on(async {
            let (cell, streams) = attached();
            let (model, mut told) = told();
            let host = tokio::spawn(host(Door::open(streams, &job(), model)));
            let mut client = client(cell).await;
            let mut answers = Vec::new();
            for said in &honest()[..3] {
                answers.push(say(&mut client, said).await.expect("an answer"));
            }
            let request = Request::builder().uri(uri).body(Full::default()).expect("a request");
            client.send_request(request).await.expect("an answer");
            host.abort();
            told.recv().await.expect("the model was not asked")
        });
        prop_assert_eq!(asked.path_and_query().map(|all| all.as_str()), Some(path.as_str()));
        prop_assert_eq!((asked.scheme(), asked.authority()), (None, None));
    }
}
