//! The halt: what goes on is ended, what waits is kept, nothing reaches the model, and it outlasts
//! whatever happens to the service.

#![expect(clippy::disallowed_methods, reason = "a test makes files of its own")]
#![expect(clippy::indexing_slicing, reason = "a JSON value has null at what is not there")]

mod support;

use std::fs;
use std::process::Stdio;

use sea_orm::{ConnectionTrait, Database};
use serde_json::{Value, json};
use support::recorder::{Recorder, Say};
use support::{Answer, House, Result, exits, ground, post, until};

const REASON: &str = "the key has leaked";
const ENDED: &str = "halted: the owner has halted NoClaw: the key has leaked";

/// Sends a message and returns its run at once.
fn begin(house: &House, conversation: &str, message: &str) -> Result<Value> {
    let body = json!({"message": message, "conversation": conversation}).to_string();
    let answer = house.post("/webhook?wait=0", &body)?;
    if answer.status == 202 { answer.json() } else { Err(format!("{answer:?}").into()) }
}

fn becomes(house: &House, run: &Value, status: &str) -> Result<Value> {
    until(status, || house.show(run).ok().filter(|run| run["status"] == status))
}

fn halt(house: &House) -> Result<String> {
    let output = house.noclaw(&["halt", "--reason", REASON]).output()?;
    Ok(exits(&output, 0))
}

fn unhalt(house: &House) -> Result {
    exits(&house.noclaw(&["unhalt"]).output()?, 0);
    assert_eq!(stand(house)?["halt"], Value::Null);
    Ok(())
}

/// What the service says of its halt.
fn stand(house: &House) -> Result<Value> {
    house.get("/v1/halt")?.json()
}

fn retry(house: &House, run: &Value) -> Result<Answer> {
    let id = run["run"].as_str().ok_or("no run")?;
    house.post(&format!("/v1/runs/{id}/retry?wait=50"), "")
}

/// The answer must say that the service is halted, and why.
fn assert_halted(answer: &Answer) -> Result {
    assert_eq!((answer.status, answer.problem()?.as_str()), (503, "halted"), "{answer:?}");
    let problem = answer.json()?;
    let detail = problem["detail"].as_str().unwrap_or("");
    assert!(detail.contains(REASON) && detail.contains("(since 20"), "{answer:?}");
    assert!(problem["hint"].as_str().is_some_and(|hint| hint.contains("noclaw unhalt")));
    Ok(())
}

#[test]
fn a_halt_ends_what_goes_on_and_keeps_what_waits() -> Result {
    let house = House::start(&["--burst", "50"])?;
    let works = format!("!tool Bash {}", json!({"command": "touch begun; sleep 600"}));
    let running = begin(&house, "main", &works)?;
    let user = running["user"].as_str().ok_or("no user")?;
    let begun = house.workspace(user).join("begun");
    until("its tool works", || begun.exists().then_some(()))?;
    let waiting = begin(&house, "main", "later")?;

    let told = halt(&house)?;
    assert!(told.contains(REASON) && told.contains("runs ending: 0, waiting"), "{told}");
    assert_eq!(house.containers()?, Vec::<String>::new(), "they have ended when it returns");
    let ended = house.show(&running)?;
    assert_eq!((ended["status"].as_str(), ended["error"].as_str()), (Some("failed"), Some(ENDED)));
    let first = stand(&house)?;
    assert_eq!((&first["halt"]["reason"], &first["queued"]), (&json!(REASON), &json!(1)));

    // While it holds, everything says so, and nothing new is taken.
    assert_halted(&house.get("/readyz")?)?;
    assert_halted(&house.post("/webhook", r#"{"message":"now?"}"#)?)?;
    assert_halted(&retry(&house, &running)?)?;
    assert_eq!(house.get("/healthz")?.status, 200, "it lives");
    for (args, status) in [(&["send", "now?"][..], 75), (&["status"], 75), (&[], 0)] {
        let told = exits(&house.noclaw(args).output()?, status);
        assert!(told.contains(REASON), "{args:?}: {told}");
    }
    let again = house.noclaw(&["halt", "--json", "--reason", "another"]).output()?;
    let again: Value = serde_json::from_slice(&again.stdout)?;
    assert_eq!(again["halt"], first["halt"], "the first one stands");
    assert_eq!(house.show(&waiting)?["status"], "queued");

    unhalt(&house)?;
    unhalt(&house)?;
    assert_eq!(becomes(&house, &waiting, "answered")?["reply"], "You said: later");
    assert_eq!(house.get("/readyz")?.status, 200);
    let told = exits(&house.noclaw(&[]).output()?, 0);
    assert!(!told.contains("HALTED"), "{told}");
    assert_eq!(house.send(&["hello"])?, "You said: hello");
    Ok(())
}

#[test]
fn a_halted_run_can_be_tried_again() -> Result {
    let house = House::start(&[])?;
    let run = begin(&house, "main", "!sleep 5")?;
    becomes(&house, &run, "running")?;
    halt(&house)?;
    assert_eq!(house.show(&run)?["error"], ENDED);
    unhalt(&house)?;
    let again = retry(&house, &run)?;
    assert_eq!((again.status, &again.json()?["status"]), (200, &json!("answered")));
    Ok(())
}

#[test]
fn nothing_is_asked_of_the_model_after_a_halt() -> Result {
    // A run that would ask for ever.
    let recorder = Recorder::start(|_, request| {
        match request.body["messages"].to_string().contains("for ever") {
            true => Say::Tool("Bash", json!({"command": "true"})),
            false => Say::Text("well".into()),
        }
    })?;
    let args = ["--model-api", &recorder.url, "--cells-per-user", "4", "--max-cells", "4"];
    let mut house = House::closed(&ground("NOCLAW_PODMAN")?, &args)?;
    house.key("canary")?;
    house.open()?;
    let runs: Vec<_> = ["a", "b"]
        .iter()
        .map(|conversation| begin(&house, conversation, "for ever"))
        .collect::<Result<_>>()?;
    until("it asks", || (recorder.requests().len() > 10).then_some(()))?;

    halt(&house)?;
    let asked = recorder.requests().len();
    for run in &runs {
        assert_eq!(house.show(run)?["error"], ENDED);
    }
    assert_eq!(recorder.requests().len(), asked, "the model was asked after the halt");
    unhalt(&house)?;
    assert_eq!(house.send(&["-c", "c", "hello"])?, "well");
    assert_eq!(recorder.requests().len(), asked + 1, "and by nobody else since");
    Ok(())
}

#[test]
fn a_halt_outlasts_a_stop_and_a_kill() -> Result {
    let mut house = House::start(&[])?;
    let running = begin(&house, "main", "!sleep 60")?;
    becomes(&house, &running, "running")?;
    let waiting = begin(&house, "main", "later")?;
    halt(&house)?;
    let first = stand(&house)?["halt"].clone();
    for stop in [House::kill, House::close] {
        stop(&mut house)?;
        house.open()?;
        assert_eq!(stand(&house)?["halt"], first, "since when and why, too");
        assert_halted(&house.post("/webhook", r#"{"message":"now?"}"#)?)?;
        assert_eq!(house.show(&running)?["error"], ENDED);
        assert_eq!(house.show(&waiting)?["status"], "queued");
        assert_eq!(house.containers()?, Vec::<String>::new());
    }
    unhalt(&house)?;
    becomes(&house, &waiting, "answered")?;
    house.kill()?;
    house.open()?;
    assert_eq!(stand(&house)?["halt"], Value::Null, "its end outlasts a kill, too");
    Ok(())
}

/// A service that stands still at a point of its work while the file is there.
fn pausing(point: &str) -> Result<(House, std::path::PathBuf)> {
    let mut house = House::closed(&ground("NOCLAW_PODMAN")?, &["--model-api", "demo"])?;
    let file = house.point("paused")?;
    house.env("NOCLAW_TEST_PAUSE", &format!("{point}:{}", file.display()));
    Ok((house, file))
}

/// `noclaw halt`, which nobody waits for.
fn halting(house: &House) -> Result<std::process::Child> {
    let mut command = house.noclaw(&["halt", "--reason", REASON]);
    Ok(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?)
}

#[test]
fn a_service_that_dies_while_it_ends_runs_ends_them_at_its_next_start() -> Result {
    let (mut house, file) = pausing("result")?;
    house.open()?;
    let run = begin(&house, "main", "!sleep 60")?;
    becomes(&house, &run, "running")?;
    let mut halting = halting(&house)?;
    // Its outcome is known and not written; the halt is.
    until("it stands still", || file.exists().then_some(()))?;
    until("the halt is written", || house.logged().contains("WARN halted").then_some(()))?;
    house.kill()?;
    halting.wait()?;
    fs::remove_file(&file)?;
    house.open()?;
    assert_eq!(becomes(&house, &run, "failed")?["error"], ENDED);
    assert_eq!(stand(&house)?["halt"]["reason"], REASON);
    assert_eq!(house.containers()?, Vec::<String>::new());
    Ok(())
}

#[test]
fn a_halt_that_was_not_written_has_told_nobody_that_it_was() -> Result {
    let (mut house, file) = pausing("halted")?;
    house.open()?;
    let mut halting = halting(&house)?;
    until("it stands still", || file.exists().then_some(()))?;
    // It acts before it is written.
    assert_halted(&house.post("/webhook", r#"{"message":"now?"}"#)?)?;
    house.kill()?;
    assert_eq!(halting.wait()?.code(), Some(69), "no answer is no promise");
    fs::remove_file(&file)?;
    house.open()?;
    assert_eq!(stand(&house)?["halt"], Value::Null);
    assert_eq!(house.send(&["hello"])?, "You said: hello");
    Ok(())
}

#[tokio::test]
async fn a_halt_that_cannot_be_written_holds_and_says_for_how_long() -> Result {
    let mut house = House::start(&[])?;
    // Another program that has the database and does not let go.
    let database = format!("sqlite:{}", house.path("state/noclaw.db").display());
    let rival = Database::connect(database).await?;
    rival.execute_unprepared("BEGIN IMMEDIATE").await?;
    let halted = house.call("PUT", "/v1/halt", &json!({"reason": REASON}))?;
    assert_eq!((halted.status, halted.problem()?.as_str()), (500, "internal"), "{halted:?}");
    assert!(halted.body.contains("only until its next start"), "{halted:?}");
    assert_halted(&house.post("/webhook", r#"{"message":"now?"}"#)?)?;
    rival.execute_unprepared("ROLLBACK").await?;
    rival.close().await?;
    halt(&house)?;
    house.kill()?;
    house.open()?;
    assert_eq!(stand(&house)?["halt"]["reason"], REASON);
    Ok(())
}

#[test]
fn only_the_owner_halts_and_says_why_in_a_line() -> Result {
    let house = House::start(&["--listen", "127.0.0.1:0"])?;
    exits(&house.noclaw(&["user", "add", "bob"]).output()?, 0);
    let token = |args: &[&str]| -> Result<String> {
        let output = house.noclaw(&[&["token", "create"], args].concat()).output()?;
        Ok(format!("authorization: Bearer {}\r\n", String::from_utf8(output.stdout)?.trim()))
    };
    let (owner, bob) = (token(&[])?, token(&["--user", "bob"])?);
    for method in ["PUT", "DELETE", "GET"] {
        let ask =
            |headers: &str| house.tcp(post("/v1/halt", headers, "{}").replacen("POST", method, 1));
        assert_eq!(ask("")?.status, 401);
        assert_eq!(ask(&bob)?.status, 403);
        assert_eq!(ask(&owner)?.status, 200);
    }
    let allowed = house.post("/v1/halt", "{}")?;
    assert_eq!((allowed.status, allowed.header("allow")), (405, Some("GET, PUT, DELETE")));
    for body in [
        json!({"reason": ""}),
        json!({"reason": "a\nb"}),
        json!({"reason": "x".repeat(501)}),
        json!({"reason": 7}),
        json!({"why": "x"}),
    ] {
        let refused = house.call("PUT", "/v1/halt", &body)?;
        assert_eq!((refused.status, refused.problem()?.as_str()), (422, "invalid-field"), "{body}");
    }
    exits(&house.noclaw(&["halt", "--reason", " "]).output()?, 65);
    assert_eq!(stand(&house)?["halt"], Value::Null, "none of these halted it");
    Ok(())
}
