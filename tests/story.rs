//! A message from door to door, on the real parts: order, sharing of runs, what is remembered.

#![expect(clippy::disallowed_methods, reason = "a test makes files of its own")]

mod support;

use std::collections::{HashMap, HashSet};

use serde_json::Value;
use support::{House, Result, until};

fn text<'a>(run: &'a Value, field: &str) -> Result<&'a str> {
    run[field].as_str().ok_or_else(|| format!("no {field} in {run}").into())
}

#[test]
fn a_message_is_answered_from_a_fresh_cell_and_nothing_is_left() -> Result {
    let house = House::start(&[])?;
    assert_eq!(house.send(&["hello"])?, "You said: hello");
    assert_eq!(house.send(&["hello", "again"])?, "You said: hello again");
    let runs = house.get("/v1/runs")?.json()?;
    let containers: HashSet<_> = runs["runs"]
        .as_array()
        .ok_or("no runs")?
        .iter()
        .map(|run| run["container"].as_str().unwrap_or(""))
        .collect();
    assert_eq!(containers.len(), 2, "{runs}");
    until("no container is left", || house.containers().ok().filter(Vec::is_empty))?;
    Ok(())
}

#[test]
fn a_conversation_remembers_its_texts_once_each_and_only_its_own() -> Result {
    let house = House::start(&[])?;
    house.send(&["-c", "garden", "the roses are red"])?;
    house.send(&["-c", "garden", "the lilies are white"])?;
    house.send(&["-c", "kitchen", "the oven is hot"])?;
    let history = house.send(&["-c", "garden", "!history"])?;
    assert_eq!(history, "the roses are red\nthe lilies are white\n!history");
    assert_eq!(house.send(&["-c", "kitchen", "!history"])?, "the oven is hot\n!history");
    assert_eq!(house.send(&["-u", "bob", "-c", "garden", "!history"])?, "!history");
    Ok(())
}

#[test]
fn a_message_that_begins_with_a_slash_is_a_message() -> Result {
    let house = House::start(&[])?;
    for message in ["/clear", "/context", "/model claude-opus-4-1", "/etc/passwd is a file"] {
        assert_eq!(house.send(&[message])?, format!("You said: {message}"));
    }
    assert_eq!(house.run(&["/compact"])?["usage"]["requests"], 1);
    Ok(())
}

#[test]
fn a_failed_run_leaves_the_conversation_as_it_was() -> Result {
    let house = House::start(&[])?;
    house.send(&["first"])?;
    let failed = house.run(&["!error 400"])?;
    assert_eq!(failed["status"], "failed", "{failed}");
    assert!(text(&failed, "error")?.contains("400"), "{failed}");
    assert_eq!(house.send(&["!history"])?, "first\n!history");
    Ok(())
}

#[test]
fn messages_that_wait_are_answered_by_one_run() -> Result {
    let house = House::start(&["--burst", "30"])?;
    let busy: Value = house.post("/webhook?wait=0", r#"{"message":"!sleep 2"}"#)?.json()?;
    until("it is busy", || house.show(&busy).ok().filter(|run| run["status"] == "running"))?;
    let mut runs = HashSet::new();
    for message in ["one", "two", "three"] {
        let body = serde_json::json!({"message": message}).to_string();
        let answer = house.post("/webhook?wait=0", &body)?;
        assert_eq!(answer.status, 202, "{answer:?}");
        runs.insert(text(&answer.json()?, "run")?.to_owned());
    }
    assert_eq!(runs.len(), 1, "three quick messages belong to one run");
    let run = runs.into_iter().next().ok_or("no run")?;
    assert_ne!(run, text(&busy, "run")?);
    let run = house.get(&format!("/v1/runs/{run}?wait=60"))?.json()?;
    assert_eq!(text(&run, "reply")?, "You said: one\ntwo\nthree");
    assert_eq!(run["messages"], serde_json::json!(["one", "two", "three"]));
    Ok(())
}

#[test]
fn twenty_messages_of_five_users_at_once() -> Result {
    let house = House::start(&["--max-cells", "2"])?;
    let users = ["ada", "bob", "cyd", "dan", "eve"];
    // Two messages in each of a user's two conversations, sent one after the other.
    let mut expected: HashMap<(String, String), Vec<String>> = HashMap::new();
    for n in 0..2 {
        for user in users {
            for conversation in ["work", "home"] {
                let message = format!("{user} {conversation} {n}");
                let body = serde_json::json!(
                    {"user": user, "conversation": conversation, "message": message});
                let answer = house.post("/webhook?wait=0", &body.to_string())?;
                assert_eq!(answer.status, 202, "{answer:?}");
                expected.entry((user.into(), conversation.into())).or_default().push(message);
            }
        }
    }
    let mut most = 0;
    until("all are answered", || {
        let status = house.get("/v1/status").ok()?.json().ok()?;
        most = most.max(status["active"].as_u64()?);
        (status["active"] == 0 && status["queued"] == 0).then_some(())
    })?;
    assert!(most <= 2, "{most} cells at a time");

    let mut said: HashMap<(String, String), Vec<String>> = HashMap::new();
    let runs = house.get("/v1/runs?limit=100")?.json()?;
    let runs = runs["runs"].as_array().ok_or("no runs")?;
    for run in runs.iter().rev() {
        assert_eq!(run["status"], "answered", "{run}");
        let whose = (text(run, "user")?.to_owned(), text(run, "conversation")?.to_owned());
        let reply = text(run, "reply")?.trim_start_matches("You said: ");
        said.entry(whose).or_default().extend(reply.lines().map(str::to_owned));
    }
    assert_eq!(said, expected);
    let containers: HashSet<_> = runs.iter().map(|run| run["container"].as_str()).collect();
    assert_eq!(containers.len(), runs.len(), "each run had a container of its own");
    Ok(())
}

#[test]
fn what_one_run_writes_into_the_workspace_the_next_one_finds() -> Result {
    let house = House::start(&[])?;
    house.send(&[
        r#"!tool Write {"file_path":"/workspace/note.txt","content":"remember the milk"}"#,
    ])?;
    let read =
        house.send(&["-c", "other", r#"!tool Bash {"command":"cat /workspace/note.txt"}"#])?;
    assert_eq!(read, "remember the milk");
    let theirs = r#"!tool Bash {"command":"ls /workspace | wc -l"}"#;
    assert_eq!(house.send(&["-u", "bob", theirs])?, "0", "another user has another workspace");
    Ok(())
}

#[test]
fn a_run_that_takes_too_long_is_ended_and_its_container_is_gone() -> Result {
    let house = House::start(&["--run-timeout", "10"])?;
    let output = house.noclaw(&["send", "!sleep 60"]).output()?;
    assert_eq!(output.status.code(), Some(124), "{}", support::told(&output));
    let runs = house.get("/v1/runs")?.json()?;
    assert_eq!(runs["runs"][0]["status"], "timed_out", "{runs}");
    until("its container is gone", || house.containers().ok().filter(Vec::is_empty))?;
    assert_eq!(house.send(&["hello"])?, "You said: hello", "the conversation goes on");
    Ok(())
}

#[test]
fn a_silent_agent_is_ended() -> Result {
    let house = House::start(&["--silence", "3"])?;
    let run = house.run(&["!sleep 60"])?;
    assert_eq!(run["status"], "timed_out", "{run}");
    assert!(text(&run, "error")?.contains("silent"), "{run}");
    Ok(())
}

#[test]
fn a_tool_may_work_longer_than_the_agent_may_be_silent() -> Result {
    let house = House::start(&["--silence", "4"])?;
    let reply = house.send(&[
        r#"!tool Bash {"command":"python3 -c 'import time; time.sleep(9)'; echo built"}"#,
    ])?;
    assert_eq!(reply, "built");
    Ok(())
}

#[test]
fn an_overloaded_model_is_told_with_its_own_words() -> Result {
    let house = House::start(&[])?;
    let run = house.run(&["!error 529"])?;
    assert_eq!(run["status"], "failed", "{run}");
    assert!(text(&run, "error")?.contains("529"), "{run}");
    Ok(())
}

#[test]
fn a_sender_who_stops_waiting_knows_the_run() -> Result {
    let house = House::start(&[])?;
    let mut send = house.noclaw(&["send", "!sleep 5"]);
    let send =
        send.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn()?;
    until("the run goes on", || {
        let runs = house.get("/v1/runs?status=running").ok()?.json().ok()?;
        runs["runs"][0]["run"].as_str().map(str::to_owned)
    })?;
    let pid = nix::unistd::Pid::from_raw(i32::try_from(send.id())?);
    nix::sys::signal::kill(pid, nix::sys::signal::SIGINT)?;
    let output = send.wait_with_output()?;
    assert_eq!(output.status.code(), Some(130), "{}", support::told(&output));
    let said = String::from_utf8(output.stderr)?;
    let run =
        house.get("/v1/runs?limit=1")?.json()?["runs"][0]["run"].as_str().unwrap_or("?").to_owned();
    assert!(said.contains(&run), "{said}");
    let run = house.get(&format!("/v1/runs/{run}?wait=60"))?.json()?;
    assert_eq!(run["status"], "answered", "the run went on: {run}");
    Ok(())
}

#[test]
fn a_sender_waits_through_a_restart() -> Result {
    let mut house = House::start(&["--stop-time", "1"])?;
    let mut send = house.noclaw(&["send", "!sleep 4"]);
    let send = send.stdout(std::process::Stdio::piped()).spawn()?;
    until("the run goes on", || {
        let runs = house.get("/v1/runs?status=running").ok()?.json().ok()?;
        runs["runs"][0]["run"].as_str().map(str::to_owned)
    })?;
    house.close()?;
    house.open()?;
    let output = send.wait_with_output()?;
    assert_eq!(String::from_utf8(output.stdout)?.trim(), "You said: !sleep 4");
    Ok(())
}

#[test]
fn after_kill_9_an_accepted_message_still_reaches_its_end() -> Result {
    let mut house = House::start(&[])?;
    let run = house.post("/webhook?wait=0", r#"{"message":"!sleep 5"}"#)?.json()?;
    until("its cell is there", || house.containers().ok().filter(|found| !found.is_empty()))?;
    let waiting =
        house.post("/webhook?wait=0", r#"{"message":"later","conversation":"b"}"#)?.json()?;
    house.kill()?;
    house.open()?;
    for run in [run, waiting] {
        let path = format!("/v1/runs/{}?wait=60", text(&run, "run")?);
        let run = house.get(&path)?.json()?;
        assert_eq!(run["status"], "answered", "{run}");
    }
    assert_eq!(house.send(&["!history"])?, "!sleep 5\n!history", "shown once");
    Ok(())
}

#[test]
fn a_stop_lets_the_run_end_and_tells_its_sender_where_to_look() -> Result {
    let mut house = House::start(&[])?;
    let socket = house.socket();
    let waiting = std::thread::spawn(move || {
        let mut house = std::os::unix::net::UnixStream::connect(socket)?;
        std::io::Write::write_all(
            &mut house,
            support::post("/webhook?wait=50", "", r#"{"message":"!sleep 3"}"#).as_bytes(),
        )?;
        std::io::read_to_string(house)
    });
    until("the run goes on", || {
        let runs = house.get("/v1/runs?status=running").ok()?.json().ok()?;
        runs["runs"][0]["run"].as_str().map(str::to_owned)
    })?;
    house.close()?;
    let answer = waiting.join().map_err(|_| "the client broke")??;
    assert!(answer.starts_with("HTTP/1.1 202"), "{answer}");
    assert!(answer.to_lowercase().contains("location: /v1/runs/"), "{answer}");
    house.open()?;
    let runs = house.get("/v1/runs")?.json()?;
    assert_eq!(runs["runs"][0]["status"], "answered", "{runs}");
    Ok(())
}
