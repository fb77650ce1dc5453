//! Much at once, slowly, for ever: the run that does it ends; nobody else notices.

use serde_json::json;

use crate::cell::house;
use crate::support::recorder::{Recorder, Say};
use crate::support::{House, Result, until};

/// Opens ten thousand connections from several processes; each sends a head and withholds its body.
/// What is answered is asked again. It does not end by itself.
const STREAMS: &str = r#"
import os, select, socket
for _ in range(3):
    if os.fork() == 0: break
head = b"POST /v1/messages HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n"
poll, sockets = select.epoll(), {}
def begin():
    s = socket.socket(socket.AF_UNIX); s.setblocking(False)
    try:
        s.connect(os.environ["ANTHROPIC_UNIX_SOCKET"]); s.send(head)
    except OSError: return s.close()
    sockets[s.fileno()] = s
    poll.register(s, select.EPOLLIN)
while True:
    for _ in range(2600 - len(sockets)): begin()
    for number, _ in poll.poll(0.1):
        sockets.pop(number).close()
"#;

/// Runs a tool that does this, and never ends, in one conversation.
fn attacked(script: &str, args: &[&str]) -> Result<(House, serde_json::Value)> {
    let command = format!("cat >/tmp/a.py <<'P'{script}P\ntouch begun; python3 /tmp/a.py");
    let recorder = Recorder::start(move |_, request| {
        let text = request.body["messages"].to_string();
        match request.results().is_empty() && text.contains("begin") {
            true => Say::Tool("Bash", json!({"command": command})),
            false => Say::Text("well".to_owned()),
        }
    })?;
    let house = house(&recorder, &[&["--burst", "50", "--max-cells", "2"], args].concat())?;
    let run = house.post("/webhook?wait=0", r#"{"message":"begin"}"#)?.json()?;
    let begun = house.workspace(run["user"].as_str().ok_or("no user")?).join("begun");
    until("its tool works", || begun.exists().then_some(()))?;
    Ok((house, run))
}

fn ends(house: &House, run: &serde_json::Value) -> Result<serde_json::Value> {
    let over = |run: &serde_json::Value| !matches!(run["status"].as_str(), Some("running"));
    until("the run ends", || house.show(run).ok().filter(over))
}

/// Bytes of memory that the service holds by itself.
fn memory(house: &House) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", house.pid().ok_or("no pid")?))?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kib: u64 = line.and_then(|l| l.trim().strip_suffix(" kB")).ok_or("no RssAnon")?.parse()?;
    Ok(kib * 1024)
}

#[test]
fn ten_thousand_streams_and_withheld_bodies_end_their_run_and_no_other() -> Result {
    let (house, run) = attacked(STREAMS, &[])?;
    let before = memory(&house)?;
    // Whoever else writes is answered meanwhile.
    assert_eq!(house.send(&["-c", "other", "hello"])?, "well");
    let ended = ends(&house, &run)?;
    assert_eq!(ended["status"], "failed", "{ended}");
    let error = ended["error"].as_str().unwrap_or_default();
    assert_eq!(error, "breach: this run has made its 1000 model requests");
    until("no container is left", || house.containers().ok().filter(Vec::is_empty))?;
    let grown = memory(&house)?.saturating_sub(before);
    assert!(grown < 32 << 20, "the service holds {grown} bytes more");
    assert_eq!(house.send(&["-c", "other", "hello"])?, "well");
    Ok(())
}

/// Announces a body, and sends a byte of it every now and then.
const DRIBBLE: &str = r#"
import os, socket, time
head = b"POST /v1/messages HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 1000000\r\n\r\n"
sockets = []
for _ in range(8):
    s = socket.socket(socket.AF_UNIX); s.connect(os.environ["ANTHROPIC_UNIX_SOCKET"]); s.sendall(head)
    sockets.append(s)
start = time.monotonic()
while sockets:
    for s in list(sockets):
        try: s.send(b" ")
        except OSError: sockets.remove(s)
    time.sleep(0.2)
print(round(time.monotonic() - start))
"#;

#[test]
fn a_body_that_dribbles_is_given_up_in_bounded_time() -> Result {
    let command = format!("cat >/tmp/a.py <<'P'{DRIBBLE}P\npython3 /tmp/a.py");
    let recorder = Recorder::start(move |_, request| match request.results().pop() {
        Some(result) => Say::Text(result),
        None => Say::Tool("Bash", json!({"command": command})),
    })?;
    let house = house(&recorder, &[])?;
    let seconds: u64 = house.send(&["begin"])?.trim().parse()?;
    assert!((15..40).contains(&seconds), "all of them were closed after {seconds} s");
    assert!(recorder.requests().iter().all(|request| request.body["model"].is_string()));
    Ok(())
}
