//! A user is removed with everything that is theirs. A removal survives `kill -9` at any moment and
//! messages that come at the same time, and nobody inherits anything.

#![expect(clippy::disallowed_methods, reason = "a test makes files of its own")]

mod support;

use std::fs::{self, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};
use support::{Answer, House, PATIENCE, Result, exchange, exits, ground, post, until};

fn noclaw(house: &House, args: &[&str]) -> Result<Output> {
    Ok(house.noclaw(args).output()?)
}

#[test]
fn a_removal_asks_says_what_goes_and_takes_everything() -> Result {
    let house = House::start(&[])?;
    house.send(&["-u", "bob", r#"!tool Bash {"command":"printf 12345 >five; chmod 0 ."}"#])?;
    house.send(&["-u", "bob.b", r#"!tool Bash {"command":"echo mine >note"}"#])?;
    house.call("POST", "/v1/tokens", &json!({"user": "bob"}))?;
    fs::set_permissions(house.workspace("bob"), Permissions::from_mode(0o700))?;
    symlink(house.workspace("bob.b"), house.workspace("bob").join("way-out"))?;
    let said = exits(&noclaw(&house, &["user", "remove", "bob"])?, 64);
    for word in
        ["1 messages", "1 runs", "1 conversations", "1 tokens", "2 files of 5 bytes", "--yes"]
    {
        assert!(said.contains(word), "{word}: {said}");
    }
    // At a terminal it asks.
    let exe = support::NOCLAW;
    let at_terminal = |answer: &str| -> Result<Output> {
        let mut script = Command::new("script");
        script.args(["-qec", &format!("{exe} user remove bob"), "/dev/null"]);
        script.env("NOCLAW_SOCKET", house.socket()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = script.spawn()?;
        child.stdin.take().ok_or("no stdin")?.write_all(answer.as_bytes())?;
        Ok(child.wait_with_output()?)
    };
    let said = exits(&at_terminal("n\n")?, 130);
    assert!(said.contains("[y/N]") && said.contains("bob was not removed"), "{said}");
    assert_eq!(house.get("/v1/users/bob")?.status, 200);
    let said = exits(&at_terminal("y\n")?, 0);
    assert!(said.contains("removed bob: 1 messages"), "{said}");

    assert_eq!(house.get("/v1/users/bob")?.status, 404);
    assert!(!house.path("state/users/bob").exists());
    assert_eq!(fs::read_dir(house.path("state/removed"))?.count(), 0);
    assert_eq!(house.get("/v1/tokens")?.json()?["tokens"], json!([]));
    let note = fs::read_to_string(house.workspace("bob.b").join("note"))?;
    assert_eq!(note, "mine\n", "a link out of the workspace was not followed");
    // A later user of the name finds nothing.
    assert_eq!(house.send(&["-u", "bob", "!history"])?, "!history");
    let own = house.get("/v1/users")?.json()?;
    let own = own["users"].as_array().ok_or("no users")?.iter().find(|user| user["owner"] == true);
    let own = own.and_then(|user| user["name"].as_str()).ok_or("no owner")?;
    let said = exits(&noclaw(&house, &["user", "remove", own, "--yes"])?, 65);
    assert!(said.contains("always exists"), "{said}");
    exits(&noclaw(&house, &["user", "remove", "eve", "--yes"])?, 65);
    Ok(())
}

#[test]
fn a_user_with_a_run_that_is_not_over_is_not_removed() -> Result {
    let house = House::start(&[])?;
    let body = json!({"user": "bob", "message": "!sleep 3"});
    let run = house.call("POST", "/webhook?wait=0", &body)?.json()?;
    let refused = house.call("DELETE", "/v1/users/bob", &json!({}))?;
    assert_eq!((refused.status, refused.problem()?.as_str()), (409, "conflict"), "{refused:?}");
    let id = run["run"].as_str().ok_or("no run")?;
    let ended = house.get(&format!("/v1/runs/{id}?wait=60"))?.json()?;
    assert_eq!(ended["reply"], "You said: !sleep 3");
    // To people the run is over now, though its container may be there for another moment.
    let removed = house.call("DELETE", "/v1/users/bob", &json!({}))?;
    assert_eq!(removed.status, 200, "{removed:?}");
    assert_eq!(removed.json()?["messages"], 1);
    assert_eq!(house.show(&run)?["status"], 404, "the run went, too");
    Ok(())
}

/// A house with bob, who has a note, and a removal of him that stands still at `point`.
struct Halted {
    house: House,
    reached: PathBuf,
    removal: UnixStream,
}

impl Halted {
    fn at(point: &str) -> Result<Self> {
        let mut house = House::closed(&ground("NOCLAW_PODMAN")?, &["--model-api", "demo"])?;
        let reached = house.point("reached")?;
        house.env("NOCLAW_TEST_PAUSE", &format!("{point}:{}", reached.display()));
        house.open()?;
        let bob = json!({"name": "bob", "time_zone": "Asia/Tokyo"});
        assert_eq!(house.call("POST", "/v1/users", &bob)?.status, 201);
        fs::write(house.workspace("bob").join("note"), "bob's")?;
        let mut removal = UnixStream::connect(house.socket())?;
        let request = post("/v1/users/bob", "", "{}").replacen("POST", "DELETE", 1);
        removal.write_all(request.as_bytes())?;
        until("the removal is under way", || reached.exists().then_some(()))?;
        assert!(!house.workspace("bob").exists());
        Ok(Self { house, reached, removal })
    }

    /// `kill -9`, and another start.
    fn killed(mut self) -> Result<House> {
        self.house.kill()?;
        self.house.env("NOCLAW_TEST_PAUSE", "");
        self.house.open()?;
        assert_eq!(waiting(&self.house)?, 0);
        Ok(self.house)
    }

    /// Lets the removal go on; returns its answer's first line.
    fn goes_on(self) -> Result<(House, String)> {
        fs::remove_file(&self.reached)?;
        let answer = std::io::read_to_string(self.removal)?;
        Ok((self.house, answer.lines().next().unwrap_or_default().to_owned()))
    }
}

/// Folders that wait to be deleted.
fn waiting(house: &House) -> Result<usize> {
    Ok(fs::read_dir(house.path("state/removed"))?.count())
}

/// Connections to the house's socket, its listener not counted.
fn connections(house: &House) -> Result<usize> {
    let socket = house.socket().display().to_string();
    let all = fs::read_to_string("/proc/net/unix")?;
    Ok(all.lines().filter(|line| line.ends_with(&socket)).count() - 1)
}

/// Makes the agent say what bob's note says.
const LOOK: &str = r#"!tool Bash {"command":"cat /workspace/note 2>/dev/null || echo nothing"}"#;

#[test]
fn a_removal_killed_before_its_rows_are_deleted_is_undone() -> Result {
    let house = Halted::at("user_moved")?.killed()?;
    assert_eq!(house.get("/v1/users/bob")?.json()?["time_zone"], "Asia/Tokyo");
    assert_eq!(fs::read_to_string(house.workspace("bob").join("note"))?, "bob's");
    let said = exits(&noclaw(&house, &["user", "remove", "bob", "--yes"])?, 0);
    assert!(said.contains("1 files of 5 bytes"), "{said}");
    Ok(())
}

#[test]
fn a_removal_killed_after_its_rows_are_deleted_is_completed() -> Result {
    let house = Halted::at("user_rows_removed")?.killed()?;
    assert_eq!(house.get("/v1/users/bob")?.status, 404);
    assert_eq!(house.send(&["-u", "bob", LOOK])?, "nothing", "a later bob inherits nothing");
    Ok(())
}

#[test]
fn a_removal_goes_on_when_its_caller_has_gone() -> Result {
    let Halted { house, reached, removal } = Halted::at("user_moved")?;
    assert_eq!(connections(&house)?, 1);
    drop(removal);
    until("the service saw it", || (connections(&house).ok()? == 0).then_some(()))?;
    assert_eq!(house.get("/v1/users/bob")?.status, 200, "the rows are still there");
    fs::remove_file(reached)?;
    until("nothing is left", || waiting(&house).ok().filter(|n| *n == 0))?;
    assert_eq!(house.get("/v1/users/bob")?.status, 404);
    Ok(())
}

#[test]
fn a_message_that_comes_before_the_rows_are_deleted_keeps_the_user() -> Result {
    let halted = Halted::at("user_moved")?;
    let message = json!({"user": "bob", "message": LOOK});
    let run = halted.house.call("POST", "/webhook?wait=0", &message)?.json()?;
    let run = run.get("run").and_then(Value::as_str).ok_or("no run")?;
    // It would be begun at once.
    for _ in 0..50 {
        let waits = halted.house.get(&format!("/v1/runs/{run}"))?.json()?;
        assert_eq!(waits.get("status"), Some(&json!("queued")), "{waits}");
    }
    let (house, answer) = halted.goes_on()?;
    assert!(answer.contains("409"), "{answer}");
    let run = house.get(&format!("/v1/runs/{run}?wait=60"))?.json()?;
    assert_eq!(run.get("reply"), Some(&json!("bob's")), "{run}");
    assert_eq!(waiting(&house)?, 0);
    Ok(())
}

#[test]
fn a_message_that_comes_later_is_a_fresh_users() -> Result {
    let halted = Halted::at("user_rows_removed")?;
    assert_eq!(halted.house.send(&["-u", "bob", LOOK])?, "nothing");
    let (house, answer) = halted.goes_on()?;
    assert!(answer.contains("200"), "{answer}");
    assert_eq!(waiting(&house)?, 0);
    let bob = house.get("/v1/users/bob")?.json()?;
    assert_eq!(bob.get("messages"), Some(&json!(1)), "{bob}");
    Ok(())
}

/// Sends the head of a message with this token, does something, then sends the message.
fn slowly(house: &House, token: &str, between: impl FnOnce() -> Result) -> Result<Answer> {
    let headers =
        format!("authorization: Bearer {token}\r\nexpect: 100-continue\r\nidempotency-key: k\r\n");
    let message = post("/webhook?wait=0", &headers, r#"{"message":"hello"}"#);
    let (head, body) = message.split_once("\r\n\r\n").ok_or("no body")?;
    let mut stream = house.connect()?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(format!("{head}\r\n\r\n").as_bytes())?;
    // It is asked to go on when the token was found good.
    let mut go_on = [0; b"HTTP/1.1 100 Continue\r\n\r\n".len()];
    stream.read_exact(&mut go_on)?;
    assert!(go_on.starts_with(b"HTTP/1.1 100 "), "{go_on:?}");
    between()?;
    exchange(stream, body.as_bytes())
}

#[test]
fn a_removed_token_brings_nobody_back() -> Result {
    let house = House::start(&["--listen", "127.0.0.1:0"])?;
    let token = || -> Result<String> {
        let output = noclaw(&house, &["token", "create", "-u", "mal"])?;
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    };
    let refused = |answer: &Answer| -> Result {
        assert_eq!((answer.status, answer.problem()?.as_str()), (401, "unauthenticated"));
        assert!(answer.header("www-authenticate").is_some(), "{answer:?}");
        Ok(())
    };
    let revoke = || -> Result {
        let tokens = house.get("/v1/tokens")?.json()?;
        let id = tokens.pointer("/tokens/0/id").and_then(Value::as_i64).ok_or("no token")?;
        exits(&noclaw(&house, &["token", "remove", &id.to_string()])?, 0);
        Ok(())
    };
    refused(&slowly(&house, &token()?, revoke)?)?;
    assert_eq!(house.get("/v1/users/mal")?.json()?.get("messages"), Some(&json!(0)));

    let known = token()?;
    let run = slowly(&house, &known, || Ok(()))?;
    assert_eq!(run.status, 202, "{run:?}");
    let run = run.json()?;
    let run = run.get("run").and_then(Value::as_str).ok_or("no run")?;
    house.get(&format!("/v1/runs/{run}?wait=60"))?;
    refused(&slowly(&house, &known, revoke)?)?;

    let is_over = || house.show(&json!({"run": run})).ok().filter(|r| r["gone_at"].is_string());
    until("the run is over", is_over)?;
    let remove = || -> Result {
        exits(&noclaw(&house, &["user", "remove", "mal", "--yes"])?, 0);
        Ok(())
    };
    refused(&slowly(&house, &token()?, remove)?)?;
    assert_eq!(house.get("/v1/users/mal")?.status, 404);
    assert!(!house.path("state/users/mal").exists());
    Ok(())
}
