//! What a sender may ask for besides an answer: to be answered once, to stop, to try again, to
//! begin anew; and that each end of a run is told so that nobody takes it for another.

#![expect(clippy::disallowed_methods, reason = "a test makes files of its own")]

mod support;

use std::collections::HashSet;
use std::io::Write;
use std::process::Stdio;

use serde_json::Value;
use support::{Answer, House, Result, post, told, until};

const FAST: &[&str] = &["--burst", "100", "--rate", "6000"];

fn id(run: &Value) -> Result<String> {
    Ok(run["run"].as_str().ok_or_else(|| format!("no run: {run}"))?.to_owned())
}

fn begin(house: &House, message: &str) -> Result<Value> {
    let body = serde_json::json!({ "message": message }).to_string();
    house.post("/webhook?wait=0", &body)?.json()
}

fn await_state(house: &House, run: &Value, state: &str) -> Result<Value> {
    until(state, || house.show(run).ok().filter(|run| run["status"] == state))
}

fn request(house: &House, method: &str, path: &str) -> Result<Answer> {
    house.request(format!(
        "{method} {path} HTTP/1.1\r\nhost: n\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
    ))
}

fn cancel(house: &House, run: &Value) -> Result<Answer> {
    request(house, "DELETE", &format!("/v1/runs/{}", id(run)?))
}

fn keyed(key: &str, headers: &str, message: &str) -> String {
    let body = serde_json::json!({ "message": message }).to_string();
    post("/webhook", &format!("idempotency-key: {key}\r\n{headers}"), &body)
}

#[test]
fn a_message_under_a_key_is_answered_once() -> Result {
    let house = House::start(FAST)?;
    let first = house.request(keyed("k1", "", "hello"))?;
    assert_eq!((first.status, first.json()?["reply"].as_str()), (200, Some("You said: hello")));
    let again = house.request(keyed("k1", "", "hello"))?;
    assert_eq!((again.status, id(&again.json()?)?), (200, id(&first.json()?)?));
    let other = house.request(keyed("k1", "", "something else"))?;
    assert_eq!((other.status, other.problem()?.as_str()), (409, "idempotency-key-reused"));

    let runs: Vec<_> = std::thread::scope(|scope| {
        let sends: Vec<_> =
            (0..8).map(|_| scope.spawn(|| house.request(keyed("k2", "", "at once")))).collect();
        sends.into_iter().filter_map(|sent| sent.join().ok()).collect()
    });
    let runs: HashSet<_> =
        runs.into_iter().map(|answer| id(&answer?.json()?)).collect::<Result<_>>()?;
    assert_eq!(runs.len(), 1, "eight senders, one message");
    assert_eq!(house.send(&["!history"])?, "hello\nat once\n!history");
    Ok(())
}

#[test]
fn a_key_is_its_token_s_own_and_outlasts_a_restart() -> Result {
    let mut house = House::start(&[FAST, &["--listen", "127.0.0.1:0"]].concat())?;
    let token = |house: &House| -> Result<String> {
        let output = house.noclaw(&["token", "create"]).output()?;
        let token = String::from_utf8(output.stdout)?;
        Ok(format!("authorization: Bearer {}\r\n", token.trim()))
    };
    let (ours, theirs) = (token(&house)?, token(&house)?);
    let first = id(&house.tcp(keyed("k", &ours, "one"))?.json()?)?;
    let second = house.tcp(keyed("k", &theirs, "two"))?;
    assert_eq!(second.status, 200, "{second:?}");
    assert_ne!(id(&second.json()?)?, first);
    house.kill()?;
    house.open()?;
    assert_eq!(id(&house.tcp(keyed("k", &ours, "one"))?.json()?)?, first);
    assert_eq!(house.tcp(keyed("k", &ours, "two"))?.status, 409);
    Ok(())
}

#[test]
fn a_key_does_not_pass_on_to_a_later_token() -> Result {
    let house = House::start(&[FAST, &["--listen", "127.0.0.1:0"]].concat())?;
    let mut runs = HashSet::new();
    let mut numbers = HashSet::new();
    for message in ["one", "two"] {
        let output = house.noclaw(&["token", "create"]).output()?;
        let token = String::from_utf8(output.stdout)?;
        let headers = format!("authorization: Bearer {}\r\n", token.trim());
        let answer = house.tcp(keyed("k", &headers, message))?;
        assert_eq!(answer.status, 200, "{answer:?}");
        runs.insert(id(&answer.json()?)?);
        let tokens = house.get("/v1/tokens")?.json()?;
        let number = tokens["tokens"][0]["id"].as_i64().ok_or("no token")?.to_string();
        assert!(house.noclaw(&["token", "remove", &number]).status()?.success());
        numbers.insert(number);
    }
    assert_eq!((runs.len(), numbers.len()), (2, 1), "the number is the same, the token is not");
    Ok(())
}

#[test]
fn a_message_under_a_key_streams_on_from_where_it_broke_off() -> Result {
    let house = House::start(FAST)?;
    let headers = |more: &str| format!("accept: text/event-stream\r\n{more}");
    let first = house.request(keyed("k", &headers(""), "hello"))?;
    let ids = |answer: &Answer| -> Vec<String> {
        let lines = answer.body.lines();
        lines.filter_map(|line| line.strip_prefix("id: ")).map(str::to_owned).collect()
    };
    let all = ids(&first);
    let [.., seen, _] = all.as_slice() else { return Err(format!("{first:?}").into()) };
    let again = headers(&format!("last-event-id: {seen}\r\n"));
    let again = ids(&house.request(keyed("k", &again, "hello"))?);
    assert_eq!(again.as_slice(), all.split_at(all.len() - 1).1);
    // Another run's, or nobody's.
    for id in ["0190a0a0-0000-7000-8000-000000000000:3", "what"] {
        let other = headers(&format!("last-event-id: {id}\r\n"));
        let other = house.request(keyed("k", &other, "hello"))?;
        assert_eq!((other.status, ids(&other)), (200, all.clone()), "{id}");
    }
    let end = all.last().ok_or("no events")?;
    let end = headers(&format!("last-event-id: {end}\r\n"));
    assert_eq!(house.request(keyed("k", &end, "hello"))?.status, 204);
    for unwanted in ["0", "0.000", "0.0;x=y"] {
        let accept = format!("accept: application/json, Text/Event-Stream; Q={unwanted}\r\n");
        let json = house.request(keyed("k", &accept, "hello"))?;
        assert_eq!(json.header("content-type"), Some("application/json"), "{unwanted}");
    }
    let some = house.request(keyed("k", "accept: text/event-stream;q=0.1\r\n", "hello"))?;
    assert_eq!(some.header("content-type"), Some("text/event-stream"));
    Ok(())
}

#[test]
fn a_retry_is_answered_as_a_message_is() -> Result {
    let house = House::start(FAST)?;
    let mut run = house.run(&["!error 400"])?;
    for (query, headers, status, kind) in [
        ("", "", 202, "application/json"),
        ("?wait=60", "prefer: respond-async\r\n", 202, "application/json"),
        ("?wait=60", "", 502, "application/json"),
        ("", "accept: text/event-stream\r\n", 200, "text/event-stream"),
    ] {
        let path = format!("/v1/runs/{}/retry{query}", id(&run)?);
        let answer = house.request(post(&path, headers, ""))?;
        assert_eq!((answer.status, answer.header("content-type")), (status, Some(kind)));
        if status == 502 {
            run = answer.json()?;
            continue;
        }
        let place = answer.header("location").ok_or("no location")?.to_owned();
        assert_eq!(status == 200, answer.body.contains("event: result\n"), "{answer:?}");
        run = house.get(&format!("{place}?wait=60"))?.json()?;
        assert_eq!(run["status"], "failed");
    }
    Ok(())
}

#[test]
fn a_parameter_is_there_once() -> Result {
    let house = House::start(FAST)?;
    let body = r#"{"message":"never shown"}"#;
    let later = "prefer: respond-async\r\n";
    for request in [
        post("/webhook?wait=0&wait=1", "", body),
        post("/webhook?wait=0&wait=0", later, body),
        post("/webhook?what=0", later, body),
    ] {
        let answer = house.request(request)?;
        assert_eq!((answer.status, answer.problem()?.as_str()), (400, "bad-request"));
    }
    for path in ["/v1/runs?limit=1&limit=2", "/v1/runs?status=queued&limit=1&status=running"] {
        let answer = house.get(path)?;
        assert_eq!((answer.status, answer.problem()?.as_str()), (400, "bad-request"), "{path}");
    }
    assert_eq!(house.get("/v1/runs?limit=1")?.json()?["runs"], serde_json::json!([]));
    Ok(())
}

#[test]
fn a_key_is_answered_though_nothing_new_could_be() -> Result {
    let house = House::start(&["--queue", "1", "--burst", "100"])?;
    let busy = begin(&house, "!sleep 5")?;
    await_state(&house, &busy, "running")?;
    let waits = "prefer: respond-async\r\n";
    assert_eq!(house.request(keyed("k", waits, "waits"))?.status, 202);
    let full = house.request(keyed("k2", waits, "too much"))?;
    assert_eq!((full.status, full.problem()?.as_str()), (429, "queue-full"));
    assert!(full.header("retry-after").is_some_and(|s| s.parse::<u32>().is_ok()), "{full:?}");
    assert_eq!(house.request(keyed("k", waits, "waits"))?.status, 202);
    cancel(&house, &busy)?;
    assert_eq!(house.request(keyed("k", "", "waits"))?.status, 200);
    Ok(())
}

#[test]
fn each_end_has_a_status_and_an_exit_status_of_its_own() -> Result {
    let mut house = House::start(FAST)?;
    for (message, state, status, exit) in [
        ("hello", "answered", 200, 0),
        ("!error 400", "failed", 502, 70),
        ("!sleep 60", "timed_out", 504, 124),
    ] {
        if state == "timed_out" {
            house.reopen_with("--run-timeout", "1")?;
        }
        let body = serde_json::json!({"message": message, "conversation": state}).to_string();
        let answer = house.post("/webhook", &body)?;
        let run = answer.json()?;
        assert_eq!((answer.status, run["status"].as_str()), (status, Some(state)), "{answer:?}");
        assert_eq!(run["reply"].is_string(), state == "answered", "{run}");
        assert_eq!(run["error"].is_string(), state != "answered", "{run}");
        let output = house.noclaw(&["send", message]).output()?;
        assert_eq!(output.status.code(), Some(exit), "{}", told(&output));
        assert_eq!(output.stdout.is_empty(), state != "answered", "{}", told(&output));
    }
    Ok(())
}

#[test]
fn a_cancelled_run_is_told_to_all_and_leaves_the_conversation_as_it_was() -> Result {
    let house = House::start(FAST)?;
    house.send(&["first"])?;
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| house.post("/webhook", r#"{"message":"!sleep 60"}"#));
        let running = || {
            let runs = house.get("/v1/runs?status=running").ok()?.json().ok()?;
            Some(runs["runs"].as_array()?.first()?.clone())
        };
        let run = until("it runs", running)?;
        let answer = cancel(&house, &run)?;
        assert_eq!((answer.status, answer.json()?["status"].as_str()), (200, Some("cancelled")));
        let told = waiting.join().map_err(|_| "the sender panicked")??;
        assert_eq!((told.status, told.json()?["status"].as_str()), (409, Some("cancelled")));
        assert_eq!(cancel(&house, &run)?.status, 200, "twice is once");
        until("its container is gone", || house.containers().ok().filter(Vec::is_empty))?;
        Ok::<_, support::Error>(())
    })?;
    let done = house.run(&["second"])?;
    let late = cancel(&house, &done)?;
    assert_eq!((late.status, late.problem()?.as_str()), (409, "conflict"));
    assert_eq!(house.send(&["!history"])?, "first\nsecond\n!history");
    Ok(())
}

#[test]
fn a_run_is_cancelled_while_it_waits_and_while_a_tool_works() -> Result {
    let house = House::start(FAST)?;
    let command =
        r#"!tool Bash {"command":"touch begun; python3 -c 'import time; time.sleep(60)'"}"#;
    let busy = begin(&house, command)?;
    let owner = busy["user"].as_str().ok_or("no user")?;
    let begun = house.path("state/users").join(owner).join("workspace/begun");
    until("the tool works", || begun.exists().then_some(()))?;
    let waits = begin(&house, "never shown")?;
    assert_eq!(house.noclaw(&["run", "cancel", &id(&waits)?]).status()?.code(), Some(0));
    assert_eq!(house.show(&waits)?["status"], "cancelled");
    assert!(house.show(&waits)?["container"].is_null());

    let output = house.noclaw(&["run", "cancel", "--json", &id(&busy)?]).output()?;
    let run: Value = serde_json::from_slice(&output.stdout)?;
    assert_eq!(run["status"], "cancelled", "{}", told(&output));
    let gone = until("it is gone", || house.show(&busy).ok().filter(|r| r["gone_at"].is_string()))?;
    assert!(gone["reply"].is_null(), "{gone}");
    assert_eq!(house.send(&["!history"])?, "!history");
    Ok(())
}

#[test]
fn what_was_not_answered_can_be_tried_again_once() -> Result {
    let house = House::start(FAST)?;
    house.send(&["first"])?;
    let busy = begin(&house, "!sleep 60")?;
    await_state(&house, &busy, "running")?;
    let waits = begin(&house, "second")?;
    let too_early = request(&house, "POST", &format!("/v1/runs/{}/retry", id(&waits)?))?;
    assert_eq!((too_early.status, too_early.problem()?.as_str()), (409, "conflict"));
    cancel(&house, &waits)?;
    cancel(&house, &busy)?;

    let output = house.noclaw(&["run", "retry", &id(&waits)?]).output()?;
    assert_eq!(String::from_utf8(output.stdout)?, "You said: second\n");
    let path = format!("/v1/runs/{}/retry?wait=20", id(&waits)?);
    let again = request(&house, "POST", &path)?;
    let run = again.json()?;
    assert_eq!((again.status, &run["retry_of"]), (200, &waits["run"]), "{again:?}");
    assert_eq!(house.show(&waits)?["status"], "cancelled", "the old one stays as it ended");
    assert_eq!(request(&house, "POST", &format!("/v1/runs/{}/retry", id(&run)?))?.status, 409);
    assert_eq!(house.send(&["!history"])?, "first\nsecond\n!history", "shown once");
    Ok(())
}

#[test]
fn a_conversation_begins_anew_when_its_sender_says_so() -> Result {
    let house = House::start(FAST)?;
    house.send(&["-c", "garden", "the roses are red"])?;
    let failed = house.noclaw(&["send", "-c", "garden", "--new", "!error 400"]).output()?;
    assert_eq!(failed.status.code(), Some(70), "{}", told(&failed));
    let history = house.send(&["-c", "garden", "!history"])?;
    assert_eq!(history, "the roses are red\n!history", "a failed beginning is none");
    house.send(&["-c", "garden", "--new", "the lilies are white"])?;
    let history = house.send(&["-c", "garden", "!history"])?;
    assert_eq!(history, "the lilies are white\n!history");
    Ok(())
}

#[test]
fn a_run_tells_where_its_time_went() -> Result {
    let house = House::start(FAST)?;
    let run = house.run(&["hello"])?;
    let run = until("it is gone", || house.show(&run).ok().filter(|r| r["gone_at"].is_string()))?;
    let moments = run["timeline"].as_array().ok_or("no timeline")?;
    let steps: Vec<_> = moments.iter().filter_map(|moment| moment["step"].as_str()).collect();
    let all = [
        "accepted",
        "claimed",
        "created",
        "attached",
        "preflight",
        "agent ready",
        "first model byte",
        "first delta",
        "result",
        "gone",
    ];
    assert_eq!(steps, all);
    let times: Vec<_> = moments.iter().filter_map(|moment| moment["at_ms"].as_f64()).collect();
    assert!(times.is_sorted(), "{times:?}");
    let output = house.noclaw(&["run", "show", "--timeline", &id(&run)?]).output()?;
    assert!(String::from_utf8(output.stdout)?.contains("agent ready"));
    Ok(())
}

#[test]
fn standard_input_is_part_of_the_message_and_standard_output_is_the_reply() -> Result {
    let house = House::start(FAST)?;
    let mut command = house.noclaw(&["send", "review this"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    child.stdin.take().ok_or("no stdin")?.write_all(b"-old\n+new\n")?;
    let output = child.wait_with_output()?;
    assert_eq!(String::from_utf8(output.stdout)?, "You said: review this\n\n-old\n+new\n\n");
    assert!(output.stderr.is_empty());
    Ok(())
}
