//! Answers as they are written: server-sent events, who reads them slowly or comes back, and the
//! chat that shows them.

#![expect(clippy::disallowed_methods, reason = "a test makes files of its own")]
#![expect(clippy::indexing_slicing, reason = "a JSON value has null at what is not there")]

mod support;

use std::collections::HashSet;
use std::io::{BufRead, BufReader, Lines, Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use support::{House, PATIENCE, Result, post, until};

/// An event as it came.
#[derive(Debug, Clone)]
struct Event {
    id: String,
    name: String,
    data: Value,
    at: Instant,
}

/// A connection that streams events.
struct Events {
    lines: Lines<BufReader<UnixStream>>,
    head: String,
}

impl Events {
    /// Sends a message and follows it.
    fn of_message(house: &House, message: &str) -> Result<Self> {
        Self::in_conversation(house, "main", message)
    }

    fn in_conversation(house: &House, conversation: &str, message: &str) -> Result<Self> {
        let body = serde_json::json!({"message": message, "conversation": conversation});
        let body = body.to_string();
        Self::open(house, &post("/webhook", "accept: text/event-stream\r\n", &body))
    }

    /// Follows a run.
    fn of_run(house: &House, run: &str, last: Option<&str>) -> Result<Self> {
        let last = last.map(|id| format!("last-event-id: {id}\r\n")).unwrap_or_default();
        let request = format!("GET /v1/runs/{run}/events HTTP/1.1\r\nhost: n\r\n{last}\r\n");
        Self::open(house, &request)
    }

    fn open(house: &House, request: &str) -> Result<Self> {
        let mut stream = UnixStream::connect(house.socket())?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(request.as_bytes())?;
        let mut lines = BufReader::new(stream).lines();
        let mut head = String::new();
        for line in lines.by_ref() {
            let line = line?;
            if line.is_empty() {
                break;
            }
            head.push_str(&line);
            head.push('\n');
        }
        Ok(Self { lines, head })
    }

    fn status(&self) -> Option<&str> {
        self.head.split(' ').nth(1)
    }

    /// The run whose events these are.
    fn run(&self) -> Result<String> {
        let path = self.head.lines().find_map(|line| line.strip_prefix("location: /v1/runs/"));
        Ok(path.ok_or_else(|| format!("no location: {}", self.head))?.to_owned())
    }

    /// The next event; `None` at the end of the stream.
    fn next(&mut self) -> Result<Option<Event>> {
        let mut event =
            Event { id: String::new(), name: String::new(), data: Value::Null, at: Instant::now() };
        for line in self.lines.by_ref() {
            let line = line?;
            // The rest are comments, the sizes of chunks, and empty lines.
            match line.split_once(": ") {
                Some(("id", id)) => id.clone_into(&mut event.id),
                Some(("event", name)) => name.clone_into(&mut event.name),
                Some(("data", data)) => {
                    event.data = serde_json::from_str(data)?;
                    event.at = Instant::now();
                    return Ok(Some(event));
                }
                _ => {}
            }
        }
        Ok(None)
    }

    /// All that follows, to the result.
    fn rest(mut self) -> Result<Vec<Event>> {
        let mut all = Vec::new();
        while let Some(event) = self.next()? {
            let over = event.name == "result";
            all.push(event);
            if over {
                return Ok(all);
            }
        }
        Err(format!("the stream ended without a result: {all:?}").into())
    }
}

fn text(events: &[Event]) -> String {
    let deltas = events.iter().filter(|event| event.name == "delta");
    deltas.filter_map(|event| event.data["text"].as_str()).collect()
}

fn words(count: usize) -> String {
    (1..=count).map(|n| format!("word{n}")).collect::<Vec<_>>().join(" ")
}

#[test]
fn text_comes_as_it_is_written_and_the_result_is_the_run() -> Result {
    let house = House::start(&[])?;
    let events = Events::of_message(&house, "!words 40")?;
    assert_eq!(events.status(), Some("200"));
    assert!(events.head.contains("content-type: text/event-stream"), "{}", events.head);
    let run = events.run()?;
    let events = events.rest()?;
    let states: Vec<_> = events
        .iter()
        .filter(|event| event.name == "state")
        .filter_map(|event| event.data["status"].as_str())
        .collect();
    assert!(states.ends_with(&["starting", "running"]), "{states:?}");
    assert_eq!(text(&events), words(40));
    let deltas: Vec<_> = events.iter().filter(|event| event.name == "delta").collect();
    // 40 words at 20 a second; had they been kept back, they would have come at once.
    let (first, last) = (deltas.first().ok_or("no text")?, deltas.last().ok_or("no text")?);
    assert!(last.at - first.at > Duration::from_millis(1000), "{:?}", last.at - first.at);
    assert!(deltas.len() >= 20, "{} pieces", deltas.len());
    let result = &events.last().ok_or("no events")?.data;
    assert_eq!(
        (result["status"].as_str(), result["run"].as_str()),
        (Some("answered"), Some(&*run))
    );
    assert_eq!(result["reply"].as_str(), Some(&*words(40)));
    let ids: Vec<_> = events.iter().map(|event| event.id.clone()).collect();
    let numbered: Vec<_> = (1..=events.len()).map(|n| format!("{run}:{n}")).collect();
    assert_eq!(ids, numbered);
    Ok(())
}

#[test]
fn a_tool_call_is_an_event() -> Result {
    let house = House::start(&[])?;
    let events = Events::of_message(&house, r#"!tool Bash {"command":"echo hi"}"#)?.rest()?;
    let tool = events.iter().find(|event| event.name == "tool").ok_or("no tool")?;
    assert_eq!(tool.data["name"], "Bash");
    assert!(tool.data["summary"].as_str().is_some_and(|s| s.contains("echo hi")), "{tool:?}");
    Ok(())
}

#[test]
fn who_comes_back_sees_each_event_once() -> Result {
    let house = House::start(&[])?;
    let mut first = Events::of_message(&house, "!words 40")?;
    let run = first.run()?;
    let mut seen = Vec::new();
    while text(&seen).split(' ').count() < 10 {
        seen.push(first.next()?.ok_or("the stream ended early")?);
    }
    drop(first);
    let last = seen.last().ok_or("nothing seen")?.id.clone();
    let rest = Events::of_run(&house, &run, Some(&last))?.rest()?;
    let end = rest.last().ok_or("no result")?.id.clone();
    seen.extend(rest);
    assert_eq!(text(&seen), words(40));
    let ids: HashSet<_> = seen.iter().map(|event| &event.id).collect();
    assert_eq!(ids.len(), seen.len());
    // The whole story again, for one who has seen nothing; nothing, for one who has seen it all.
    assert_eq!(text(&Events::of_run(&house, &run, None)?.rest()?), words(40));
    assert_eq!(Events::of_run(&house, &run, Some(&end))?.status(), Some("204"));
    assert_eq!(Events::of_run(&house, &run, Some("nonsense"))?.status(), Some("400"));
    let other = "01a00000-0000-7000-8000-000000000000:1";
    assert_eq!(Events::of_run(&house, &run, Some(other))?.status(), Some("400"));
    Ok(())
}

#[test]
fn after_a_restart_a_run_s_only_event_is_its_result() -> Result {
    let mut house = House::start(&[])?;
    let events = Events::of_message(&house, "hello")?;
    let run = events.run()?;
    let seen = events.rest()?;
    let last = &seen.first().ok_or("nothing seen")?.id;
    house.kill()?;
    house.open()?;
    for last in [None, Some(last.as_str())] {
        let events = Events::of_run(&house, &run, last)?.rest()?;
        assert_eq!(events.len(), 1, "{events:?}");
        assert_eq!(events[0].data["reply"], "You said: hello");
    }
    Ok(())
}

#[test]
fn a_run_that_waits_or_is_cancelled_has_events_too() -> Result {
    let house = House::start(&[])?;
    let mut busy = Events::of_message(&house, "!sleep 60")?;
    while busy.next()?.ok_or("the stream ended early")?.data["status"] != "running" {}
    let waits = Events::of_message(&house, "waits")?;
    let run = waits.run()?;
    for run in [&run, &busy.run()?] {
        let output = house.noclaw(&["run", "cancel", run]).output()?;
        assert!(output.status.success(), "{}", support::told(&output));
    }
    for events in [waits.rest()?, busy.rest()?] {
        assert_eq!(events.last().ok_or("no events")?.data["status"], "cancelled", "{events:?}");
    }
    Ok(())
}

#[test]
fn a_reader_that_does_not_read_holds_up_nobody() -> Result {
    let house = House::start(&["--burst", "100"])?;
    let long = "x".repeat(200 * 1024);
    // More than the sockets' buffers hold, several times.
    let idle = ["a", "b", "c"].map(|name| Events::in_conversation(&house, name, &long));
    let idle: Vec<_> = idle.into_iter().collect::<Result<_>>()?;
    for events in &idle {
        let path = format!("/v1/runs/{}?wait=50", events.run()?);
        let run = house.get(&path)?.json()?;
        assert_eq!(run["status"], "answered");
        assert_eq!(run["reply"].as_str().map(str::len), Some("You said: ".len() + long.len()));
    }
    assert_eq!(house.send(&["-c", "other", "hello"])?, "You said: hello");
    // What was kept for the first one is all there when it reads at last.
    let events = idle.into_iter().next().ok_or("nobody")?.rest()?;
    assert_eq!(text(&events).len(), "You said: ".len() + long.len());
    Ok(())
}

#[test]
fn a_user_s_token_follows_that_user_s_runs_only() -> Result {
    let house = House::start(&["--listen", "127.0.0.1:0"])?;
    let output = house.noclaw(&["token", "create", "--user", "bob"]).output()?;
    let token = String::from_utf8(output.stdout)?;
    let ours = house.run(&["mine"])?;
    let run = ours["run"].as_str().ok_or("no run")?;
    for (method, path) in [
        ("GET", format!("/v1/runs/{run}/events")),
        ("POST", format!("/v1/runs/{run}/retry")),
        ("DELETE", format!("/v1/runs/{run}")),
    ] {
        let answer = house.tcp(format!(
            "{method} {path} HTTP/1.1\r\nhost: n\r\nconnection: close\r\n\
             authorization: Bearer {}\r\n\r\n",
            token.trim()
        ))?;
        assert_eq!(answer.status, 404, "{method} {path}: {answer:?}");
    }
    Ok(())
}

fn chat(house: &House) -> Result<Child> {
    let mut command = house.noclaw(&["chat"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    Ok(command.spawn()?)
}

fn interrupt(child: &Child) -> Result {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id())?);
    Ok(nix::sys::signal::kill(pid, nix::sys::signal::SIGINT)?)
}

#[test]
fn a_chat_shows_replies_and_its_status_is_the_last_one_s() -> Result {
    let house = House::start(&["--burst", "100"])?;
    for (lines, said, status) in [
        ("hello\n\n!words 5\n", "You said: hello\nword1 word2 word3 word4 word5\n", 0),
        ("!tool Bash {\"command\":\"echo hi\"}\n!error 400\n", "hi\n", 70),
    ] {
        let mut child = chat(&house)?;
        child.stdin.take().ok_or("no stdin")?.write_all(lines.as_bytes())?;
        let output = child.wait_with_output()?;
        assert_eq!(String::from_utf8(output.stdout.clone())?, said);
        assert_eq!(output.status.code(), Some(status), "{}", support::told(&output));
    }
    Ok(())
}

#[test]
fn a_chat_says_what_it_cannot_read() -> Result {
    let house = House::start(&[])?;
    let mut child = chat(&house)?;
    child.stdin.take().ok_or("no stdin")?.write_all(b"hello\nabc\xff\nlost\n")?;
    let output = child.wait_with_output()?;
    assert_eq!(output.status.code(), Some(65), "{}", support::told(&output));
    assert_eq!(String::from_utf8(output.stdout.clone())?, "You said: hello\n");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("line 2 of standard input is not UTF-8, from byte 4 on"), "{said}");
    Ok(())
}

#[test]
fn ctrl_c_in_a_chat_cancels_the_run_and_a_second_one_leaves() -> Result {
    let house = House::start(&["--burst", "100"])?;
    let running = || {
        let runs = house.get("/v1/runs?status=running").ok()?.json().ok()?;
        runs["runs"][0]["run"].as_str().map(str::to_owned)
    };
    let mut child = chat(&house)?;
    let mut stdin = child.stdin.take().ok_or("no stdin")?;
    stdin.write_all(b"!sleep 60\n")?;
    let run = until("it runs", running)?;
    interrupt(&child)?;
    let ended = || house.get(&format!("/v1/runs/{run}")).ok()?.json().ok();
    until("it is cancelled", || ended().filter(|run| run["status"] == "cancelled"))?;
    // The chat goes on; at its prompt Ctrl-C leaves.
    stdin.write_all(b"hello\n")?;
    let mut stdout = child.stdout.take().ok_or("no stdout")?;
    let mut said = [0; 16];
    stdout.read_exact(&mut said)?;
    assert_eq!(&said, b"You said: hello\n");
    until("it is at its prompt", || {
        let runs = house.get("/v1/runs?limit=1").ok()?.json().ok()?;
        (runs["runs"][0]["status"] == "answered").then_some(())
    })?;
    interrupt(&child)?;
    assert_eq!(child.wait()?.code(), Some(130));
    Ok(())
}

#[test]
fn a_chat_outlasts_a_restart_of_the_service() -> Result {
    let mut house = House::start(&["--stop-time", "1"])?;
    let mut child = chat(&house)?;
    child.stdin.take().ok_or("no stdin")?.write_all(b"!words 60\n")?;
    let mut stdout = child.stdout.take().ok_or("no stdout")?;
    let mut said = [0; 5];
    stdout.read_exact(&mut said)?;
    house.kill()?;
    house.open()?;
    let mut rest = String::new();
    stdout.read_to_string(&mut rest)?;
    assert!(rest.ends_with(&format!("{}\n", words(60))), "{rest}");
    assert_eq!(child.wait()?.code(), Some(0));
    Ok(())
}
