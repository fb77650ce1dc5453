//! What every bad day ends with.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::support::{House, Result, until};

/// What makes the demo model ask for a shell command.
pub fn bash(command: &str) -> String {
    format!("!tool Bash {}", json!({"command": command}))
}

/// Sends a message and returns its run at once.
pub fn post(house: &House, body: &Value) -> Result<Value> {
    let answer = house.post("/webhook?wait=0", &body.to_string())?;
    if answer.status == 202 { answer.json() } else { Err(format!("{answer:?}").into()) }
}

/// Waits until a run has this status; a final one does not become another.
pub fn becomes(house: &House, run: &Value, status: &str) -> Result<Value> {
    let wanted = |run: &Value| run["status"] == status || is_final(run);
    let what = format!("{} is {status}", run["run"]);
    let run = until(&what, || house.show(run).ok().filter(wanted))?;
    if run["status"] == status { Ok(run) } else { Err(format!("not {status}: {run}").into()) }
}

/// Waits until a run has come to its end, whichever.
pub fn ends(house: &House, run: &Value) -> Result<Value> {
    until(&format!("{} ends", run["run"]), || house.show(run).ok().filter(is_final))
}

fn is_final(run: &Value) -> bool {
    matches!(run["status"].as_str(), Some("answered" | "failed" | "timed_out" | "cancelled"))
}

/// A path in the workspace of the run's user.
pub fn in_workspace(house: &House, run: &Value, name: &str) -> Result<PathBuf> {
    let user = run["user"].as_str().ok_or("no user")?;
    Ok(house.path("state/users").join(user).join("workspace").join(name))
}

/// Waits until the run's tool has made the file `begun`.
pub fn begun(house: &House, run: &Value) -> Result<Value> {
    let file = in_workspace(house, run, "begun")?;
    until("its tool works", || file.exists().then_some(()))?;
    becomes(house, run, "running")
}

/// The run must have failed, with all of these words.
pub fn assert_failed(run: &Value, words: &[&str]) {
    assert_eq!(run["status"], "failed", "{run}");
    assert_says(run, words);
}

/// The run's error must have all of these words.
pub fn assert_says(run: &Value, words: &[&str]) {
    let error = run["error"].as_str().unwrap_or_default();
    for word in words {
        assert!(error.contains(word), "{word:?} is missing: {run}");
    }
}

/// No container is left, and the next message is answered.
pub fn assert_well(house: &House) -> Result {
    assert_gone(house)?;
    assert_eq!(house.send(&["-c", "afterwards", "hello"])?, "You said: hello");
    assert_gone(house)
}

/// No container is left.
pub fn assert_gone(house: &House) -> Result {
    until("no container is left", || house.containers().ok().filter(Vec::is_empty)).map(drop)
}
