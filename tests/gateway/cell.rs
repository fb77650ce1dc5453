//! A cell whose tool sends what it is told to, byte by byte, to the model socket.

use serde_json::{Value, json};

use crate::support::recorder::{Recorded, Recorder, Say};
use crate::support::{House, Result, ground};

/// The model of the runs.
pub const MODEL: &str = "claude-sonnet-5-5";
/// Reads what to send from its standard input, prints a line for each: its name, the statuses that
/// came back, the last one's message.
const SENDER: &str = r#"
import json, os, re, socket, sys
for name, raw, half, padding in json.load(sys.stdin):
    s = socket.socket(socket.AF_UNIX); s.settimeout(40)
    s.connect(os.environ["ANTHROPIC_UNIX_SOCKET"])
    got = b""
    try:
        s.sendall(bytes.fromhex(raw).replace(b"@PAD@", b"x" * padding))
        if half: s.shutdown(socket.SHUT_WR)
    except OSError: pass
    try:
        while piece := s.recv(65536): got += piece
    except OSError: pass
    heads = [status.decode() for status in re.findall(rb"HTTP/1\.[01] (\d+) ", got)]
    try: said = json.loads(got.rsplit(b"\r\n\r\n", 1)[1])["error"]["message"]
    except Exception: said = ""
    print(name, ",".join(heads) or "closed", said.replace("\n", " "), sep="\t")
"#;

/// A request to be sent as it is.
pub struct Attempt {
    name: &'static str,
    raw: Vec<u8>,
    half: bool,
    padding: usize,
}

impl Attempt {
    /// `@PAD@` in it stands for so many bytes.
    pub fn padded(self, padding: usize) -> Self {
        Self { padding, ..self }
    }
}

/// What came back.
#[derive(Debug)]
struct Got {
    name: String,
    // Of all answers: `200`, `200,404`, or `closed`.
    statuses: String,
    // The last error's message.
    said: String,
}

/// These bytes.
pub fn raw(name: &'static str, raw: impl Into<Vec<u8>>) -> Attempt {
    Attempt { name, raw: raw.into(), half: false, padding: 0 }
}

/// These bytes, behind which the sender says that nothing more comes.
pub fn cut(name: &'static str, bytes: impl Into<Vec<u8>>) -> Attempt {
    Attempt { half: true, ..raw(name, bytes) }
}

/// A request line and headers of the test's own (each ends in CRLF), with this body.
pub fn request(line: &str, headers: &str, body: &str) -> Vec<u8> {
    format!("{line}\r\nhost: model.invalid\r\nconnection: close\r\n{headers}\r\n{body}")
        .into_bytes()
}

/// A body as the agent's, with these fields beside.
pub fn body(more: &Value) -> String {
    let mut body = json!({"model": MODEL, "max_tokens": 9, "stream": true, 
        "messages": [{"role": "user", "content": "hello"}]});
    for (name, value) in more.as_object().into_iter().flatten() {
        body[name] = value.clone();
    }
    body.to_string()
}

/// What must stand in the head of a request with this body.
pub fn told(body: &str) -> String {
    format!(
        "content-type: application/json\r\nanthropic-version: 2023-06-01\r\ncontent-length: {}\r\n",
        body.len()
    )
}

pub const LINE: &str = "POST /v1/messages?beta=true HTTP/1.1";

/// A request that is permitted but for these headers.
pub fn with_headers(name: &'static str, headers: &str) -> Attempt {
    let body = body(&json!({}));
    raw(name, request(LINE, &(told(&body) + headers), &body))
}

/// A request that is permitted but for its body.
pub fn with_body(name: &'static str, body: &str) -> Attempt {
    raw(name, request(LINE, &told(body), body))
}

/// Has a cell's tool send these one after the other. Returns what came back for each, and what of
/// it reached the model.
fn send(attempts: &[Attempt]) -> Result<(Vec<Got>, Vec<Recorded>)> {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let encoded = attempts.iter().map(|a| json!([a.name, hex(&a.raw), a.half, a.padding]));
    let encoded: Vec<_> = encoded.collect();
    let input = json!(encoded).to_string();
    let command = format!("cat >/tmp/s.py <<'P'{SENDER}P\npython3 /tmp/s.py <<'J'\n{input}\nJ\n");
    let recorder = Recorder::start(move |_, request| {
        let text = request.body["messages"].to_string();
        match request.results().pop() {
            _ if is_ours(request) => Say::Text("through".to_owned()),
            Some(result) => Say::Text(result),
            None if text.contains("begin") => Say::Tool("Bash", json!({"command": command})),
            None => Say::Text("nothing to do".to_owned()),
        }
    })?;
    let house = house(&recorder, &[])?;
    let said = house.send(&["begin"])?;
    let line = |line: &str| {
        let mut parts = line.splitn(3, '\t').map(str::to_owned);
        let (name, statuses) = (parts.next()?, parts.next()?);
        Some(Got { name, statuses, said: parts.next().unwrap_or_default() })
    };
    let got: Vec<_> = said.lines().filter_map(line).collect();
    assert_eq!(got.len(), attempts.len(), "{said}");
    let ours = recorder.requests().into_iter().filter(is_ours).collect();
    Ok((got, ours))
}

/// A service with this model.
pub fn house(recorder: &Recorder, args: &[&str]) -> Result<House> {
    let all = [&["--model-api", &recorder.url, "--model", MODEL], args].concat();
    let mut house = House::closed(&ground("NOCLAW_PODMAN")?, &all)?;
    house.key("canary-5f1d7c0a9b")?;
    house.open()?;
    Ok(house)
}

/// Whatever the agent did not send.
fn is_ours(request: &Recorded) -> bool {
    !request.header("user-agent").is_some_and(|agent| agent.starts_with("claude-cli/"))
}

/// Sends these, with what must come of each: its statuses (or others, after `|`), and words of its
/// message.
///
/// Returns what reached the model: of those that were to be answered with 200, and of no other.
pub fn judge(table: Vec<(Attempt, &str, &str)>) -> Result<Vec<Recorded>> {
    let (attempts, wanted): (Vec<_>, Vec<_>) =
        table.into_iter().map(|(attempt, statuses, words)| (attempt, (statuses, words))).unzip();
    let (got, reached) = send(&attempts)?;
    for (got, (statuses, words)) in got.iter().zip(&wanted) {
        let name = &got.name;
        assert!(
            statuses.split('|').any(|one| one == got.statuses),
            "{name}: {got:?}, not {statuses}"
        );
        assert!(got.said.contains(words), "{name}: {got:?}, not {words}");
    }
    let through = wanted.iter().filter(|(statuses, _)| statuses.contains("200")).count();
    assert_eq!(reached.len(), through, "{reached:#?}");
    Ok(reached)
}
