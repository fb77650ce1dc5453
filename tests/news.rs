//! Looking back: a history that reads as a chat, what happened since the owner last looked, and
//! what commands say about themselves.

#![expect(clippy::disallowed_methods, reason = "a test makes files of its own")]

mod support;

use std::fs::File;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use support::{House, Result, exits, ground, told, until};

fn noclaw(house: &House, args: &[&str]) -> Result<Output> {
    Ok(house.noclaw(args).output()?)
}

fn json(output: &Output) -> Result<Value> {
    serde_json::from_slice(&output.stdout).map_err(|_| told(output).into())
}

/// The places of these words in a text, which must be in this order.
fn in_order(text: &str, words: &[&str]) {
    let mut rest = text;
    for word in words {
        let found = rest.split_once(word);
        assert!(found.is_some(), "{word:?} is missing, or not in its place:\n{text}");
        rest = found.map_or("", |(_, rest)| rest);
    }
}

#[test]
fn a_history_reads_as_a_chat_and_is_paged() -> Result {
    let house = House::start(&[])?;
    house.send(&["-u", "bob", "first\nbob in main  (7)"])?;
    house.run(&["-u", "bob", "-c", "garden", "!error 400"])?;
    house.send(&["-u", "bob", "third"])?;
    house.send(&["of the owner"])?;

    let mut history = house.noclaw(&["history", "-u", "bob"]);
    let said = exits(&history.env("TZ", "Asia/Tokyo").output()?, 0);
    in_order(
        &said,
        &[
            "bob in main",
            "    first\n    bob in main  (7)\n\n",
            "noclaw in main\n    You said: first",
            "bob in garden",
            "    !error 400\n",
            "failed in garden, run ",
            "400",
            "bob in main",
            "    third",
            "    You said: third",
        ],
    );
    assert!(!said.contains("of the owner"), "{said}");
    let newest = house.get("/v1/users/bob/history?limit=1")?.json()?;
    let at: jiff::Timestamp = newest["messages"][0]["created_at"].as_str().unwrap_or("").parse()?;
    let tokyo = at.in_tz("Asia/Tokyo")?.strftime("%Y-%m-%d %H:%M:%S").to_string();
    assert!(said.contains(&tokyo), "{tokyo}: {said}");

    let garden = json(&noclaw(&house, &["history", "-u", "bob", "-c", "garden", "--json"])?)?;
    assert_eq!(garden["messages"].as_array().map(Vec::len), Some(1), "{garden}");
    assert_eq!(garden["messages"][0]["status"], "failed");
    let page = noclaw(&house, &["history", "-u", "bob", "--limit", "2"])?;
    let said = exits(&page, 0);
    assert!(said.contains("third") && !said.contains("first"), "{said}");
    let before = said.split_once("--before ").ok_or("no word about older messages")?.1.trim();
    let said = exits(&noclaw(&house, &["history", "-u", "bob", "--before", before])?, 0);
    assert!(said.contains("first") && !said.contains("!error"), "{said}");
    let last = house.get(&format!("/v1/users/bob/history?limit=1&before={before}"))?.json()?;
    assert_eq!(last["before"], Value::Null, "there is no other page: {last}");

    assert!(exits(&noclaw(&house, &["history"])?, 0).contains("of the owner"));
    exits(&noclaw(&house, &["history", "-u", "eve"])?, 65);
    exits(&noclaw(&house, &["history", "-u", "bob", "--limit", "101"])?, 65);
    assert_eq!(house.get("/v1/users/bob/history?colour=red")?.status, 400);
    Ok(())
}

#[test]
fn what_steers_a_terminal_is_only_shown_in_a_history() -> Result {
    let house = House::start(&[])?;
    house.send(&["\u{1b}]0;pwned\u{7}"])?;
    let line = format!("{} history", support::NOCLAW);
    let mut script = Command::new("script");
    script.args(["-qec", &line, "/dev/null"]).env("NOCLAW_SOCKET", house.socket());
    let said = exits(&script.stdin(Stdio::null()).output()?, 0);
    assert!(said.contains("\\u{1b}]0;pwned\\u{7}") && !said.contains('\u{1b}'), "{said:?}");
    Ok(())
}

#[test]
fn alone_it_tells_what_is_new_and_each_thing_once() -> Result {
    let house = House::start(&[])?;
    let said = exits(&noclaw(&house, &[])?, 0);
    assert!(said.contains("nothing new since the beginning"), "{said}");
    house.send(&["-u", "bob", "hello"])?;
    let failed = house.run(&["!error 400"])?;
    let failed = failed["run"].as_str().ok_or("no run")?;
    let busy = house.post("/webhook?wait=0", r#"{"message":"!sleep 4","user":"bob"}"#)?.json()?;
    until("it is busy", || house.show(&busy).ok().filter(|run| run["status"] == "running"))?;

    // Who could not read it has not seen it.
    let full = house.noclaw(&[]).stdout(File::options().write(true).open("/dev/full")?).output()?;
    let said = exits(&full, 70);
    assert!(said.contains("standard output cannot be written"), "{said}");
    let (reader, writer) = std::io::pipe()?;
    drop(reader);
    exits(&house.noclaw(&[]).stdout(writer).output()?, 0);

    let said = exits(&noclaw(&house, &[])?, 0);
    in_order(
        &said,
        &[
            "since 2",
            ": 1 answered, 1 failed",
            failed,
            "failed",
            "400",
            "now: 1 going on, 0 waiting",
            busy["run"].as_str().ok_or("no run")?,
            "new users: bob",
            "spent: $",
            "today (UTC) $",
        ],
    );
    house.show(&busy)?;
    until("it is over", || house.show(&busy).ok().filter(|run| run["status"] == "answered"))?;
    let news = json(&noclaw(&house, &["--json"])?)?;
    assert_eq!((&news["answered"], &news["failed"]), (&1.into(), &0.into()), "{news}");
    assert_eq!(news["new_users"], serde_json::json!([]));
    let said = exits(&noclaw(&house, &[])?, 0);
    let lines = String::from_utf8(noclaw(&house, &[])?.stdout)?;
    assert!(said.contains("nothing new since 2") && lines.trim().lines().count() == 1, "{said}");
    let future = format!(r#"{{"until":{}}}"#, i64::MAX);
    assert_eq!(house.post("/v1/news/seen", &future)?.status, 422);
    assert_eq!(house.get("/v1/news/seen")?.status, 405);
    Ok(())
}

#[test]
fn alone_without_a_service_it_says_how_to_begin() -> Result {
    let house = House::closed(&ground("NOCLAW_PODMAN")?, &[])?;
    let said = exits(&noclaw(&house, &[])?, 69);
    assert!(said.contains("hint: start it") && said.contains("noclaw --help"), "{said}");
    exits(&noclaw(&house, &["frobnicate"])?, 64);
    exits(&noclaw(&house, &["--json", "status"])?, 64);
    assert!(exits(&noclaw(&house, &["--help"])?, 0).contains("since you last looked"));
    Ok(())
}

#[test]
fn a_reply_that_cannot_be_written_is_no_success() -> Result {
    let house = House::start(&[])?;
    let full = || File::options().write(true).open("/dev/full");
    let said = exits(&house.noclaw(&["send", "hello"]).stdout(full()?).output()?, 70);
    assert_eq!(said.matches("cannot be written").count(), 1, "{said}");
    let mut failed = house.noclaw(&["send", "--json", "!error 400"]);
    exits(&failed.stdout(full()?).output()?, 70);
    let (reader, writer) = std::io::pipe()?;
    drop(reader);
    exits(&house.noclaw(&["send", "hello"]).stdout(writer).output()?, 0);
    Ok(())
}

#[test]
fn a_token_lives_a_day_or_longer_and_tells_how_long() -> Result {
    let house = House::start(&[])?;
    exits(&noclaw(&house, &["token", "create", "--days", "0"])?, 64);
    let dead = house.post("/v1/tokens", r#"{"days":0}"#)?;
    assert_eq!((dead.status, dead.json()?["detail"].to_string().contains("days")), (422, true));
    exits(&noclaw(&house, &["token", "create", "--days", "1", "--label", "phone"])?, 0);
    exits(&noclaw(&house, &["token", "create", "--user", "bob"])?, 0);
    let said = exits(&noclaw(&house, &["token", "list"])?, 0);
    in_order(&said, &["owner", "until 2", "phone", "user:bob", "for ever"]);
    let list = json(&noclaw(&house, &["token", "list", "--json"])?)?;
    assert!(list["tokens"][0]["expires_at"].is_string(), "{list}");
    assert!(exits(&noclaw(&house, &["token", "remove", "99"])?, 65).contains("hint:"));
    Ok(())
}

#[test]
fn json_that_is_nested_too_deep_is_called_so() -> Result {
    let house = House::start(&[])?;
    let (open, close) = ("[".repeat(5000), "]".repeat(5000));
    let answer =
        house.post("/webhook", &format!(r#"{{"message":"x","context":{open}{close}}}"#))?;
    assert_eq!((answer.status, answer.problem()?.as_str()), (422, "invalid-field"), "{answer:?}");
    let detail = answer.json()?["detail"].to_string();
    assert!(detail.contains("context: is nested deeper"), "{detail}");
    Ok(())
}

#[test]
fn the_help_names_the_states_that_people_are_told() -> Result {
    let house = House::closed(&ground("NOCLAW_PODMAN")?, &[])?;
    let said = exits(&noclaw(&house, &["run", "list", "--help"])?, 0);
    let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
    let states = "queued, starting, running, answered, failed, timed_out, cancelled";
    assert!(said.contains(states) && !said.contains("finishing"), "{said}");
    Ok(())
}
