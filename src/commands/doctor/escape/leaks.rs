//! Where the key may have come to outside of a cell: what people are told of a run whose model
//! quoted it, what Podman tells of a cell, what the service keeps, its log, the journal.
//!
//! Each place must show something else that belongs there, or nothing was looked at.

use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use serde_json::Value;
use tokio::process::Command;
use tokio::time::{Instant, sleep, timeout};
use uuid::Uuid;

use super::bait::Bait;
use super::service::{LOOK, Service, file, told};
use super::{Outcome, Probed};
use crate::cell::Cells;
use crate::core::problem::chain;
use crate::host::machine::now;

/// Whose runs they are.
pub(super) const USER: &str = "escape-key";
/// The lines that this adds.
pub(super) const PROBES: [&str; 5] = [ERROR, INSPECT, STORE, LOG, JOURNAL];
const ERROR: &str = "key: what a run's error and record tell";
const INSPECT: &str = "key: what Podman tells of a cell";
const STORE: &str = "key: what the service keeps";
const LOG: &str = "key: the log, with all details";
const JOURNAL: &str = "key: the journal";
/// What the demo model says before the key.
const QUOTED: &str = "the key that came: ";
/// How a line begins that is written into the journal to be found there.
const MARKER: &str = "noclaw-escape-";
/// Where the journal is written to.
const JOURNAL_SOCKET: &str = "/run/systemd/journal/socket";
/// How long it may take until it can be read there.
const JOURNAL_TIME: Duration = Duration::from_secs(10);

/// How long it may take until an agent runs: what was tried before may still be ending.
const AGENT_TIME: Duration = Duration::from_secs(300);

/// What was told while the service worked.
pub(super) struct Told {
    since: i64,
    error: Result<String, String>,
    /// The run that failed with it.
    run: String,
    inspect: Result<String, String>,
}

/// Has a run fail, and another one looked at from outside.
pub(super) async fn ask(service: &Service, cells: &Cells) -> Told {
    let since = now() / 1000;
    let (error, run) = error(service).await;
    Told { since, error, run, inspect: inspect(service, cells).await }
}

/// Looks everywhere.
pub(super) async fn look(told: Told, service: &Service, bait: &Bait) -> Vec<Probed> {
    let kept = ["noclaw.db", "noclaw.db-wal"].map(|name| file(&service.state().join(name)));
    let log = file(&service.log());
    let key = bait.key();
    vec![
        judge(ERROR, told.error, key, QUOTED, "the error and what is told of the run"),
        judge(INSPECT, told.inspect, key, USER, "what an inspect tells"),
        judge(STORE, Ok(kept.concat()), key, USER, "the store"),
        judge(LOG, Ok(log), key, &told.run, "the log"),
        judge_journal(journal(told.since).await, key),
    ]
}

/// What was found in a place, and whether the twin is there, too.
fn judge(probe: &str, found: Result<String, String>, key: &str, twin: &str, about: &str) -> Probed {
    match found {
        Ok(text) if text.contains(key) => Probed::new(probe, Outcome::Open, "it is there"),
        Ok(text) if text.contains(twin) => {
            Probed::new(probe, Outcome::Blocked, format!("not in {about}"))
        }
        Ok(_) => Probed::new(probe, Outcome::Open, format!("nothing is proved: no {twin:?}")),
        Err(why) => Probed::new(probe, Outcome::Open, why),
    }
}

fn judge_journal(found: Option<String>, key: &str) -> Probed {
    match found {
        Some(journal) => judge(JOURNAL, Ok(journal), key, MARKER, "the journal"),
        None => Probed::new(JOURNAL, Outcome::NotTested, "no journal can be read here"),
    }
}

/// What is told of a run whose model has quoted the key, and which run that was.
async fn error(service: &Service) -> (Result<String, String>, String) {
    let run = match service.send(USER, "!quote 401").await {
        Ok(run) => run,
        Err(why) => return (Err(why), String::new()),
    };
    let record = told(&service.client, &format!("/v1/runs/{}", run.run)).await;
    let error = run.error.unwrap_or_default();
    (record.map(|record| format!("{error}\n{record}")), run.run)
}

/// What Podman tells of a cell in which an agent works.
async fn inspect(service: &Service, cells: &Cells) -> Result<String, String> {
    let run = service.post(USER, "!sleep 300", "0").await?.run;
    let path = format!("/v1/runs/{run}");
    let container = async {
        loop {
            let record = told(&service.client, &path).await?;
            let word = |field| record.get(field).and_then(Value::as_str);
            if let (Some("running"), Some(container)) = (word("status"), word("container")) {
                return Ok::<_, String>(container.to_owned());
            }
            sleep(LOOK * 10).await;
        }
    };
    let container = timeout(AGENT_TIME, container).await;
    let inspected = match container {
        Ok(Ok(container)) => cells.podman().inspected::<Value>(&container).await,
        Ok(Err(why)) => return Err(why),
        Err(_) => return Err("no agent came to run".to_owned()),
    };
    service.client.delete(&path).await.ok();
    inspected.map(|inspected| inspected.to_string()).map_err(|error| chain(&error))
}

/// What the journal has taken since then, if there is one that can be read: a line of ours is seen.
async fn journal(since: i64) -> Option<String> {
    let marker = format!("{MARKER}{}", Uuid::new_v4().simple());
    let line = format!("MESSAGE={marker}\n");
    UnixDatagram::unbound().ok()?.send_to(line.as_bytes(), JOURNAL_SOCKET).ok()?;
    let late = Instant::now() + JOURNAL_TIME;
    loop {
        let mut journalctl = Command::new("journalctl");
        journalctl.args(["--quiet", "--output=export", &format!("--since=@{since}")]);
        journalctl.kill_on_drop(true);
        let output = timeout(JOURNAL_TIME, journalctl.output()).await.ok()?.ok()?;
        let text = String::from_utf8_lossy(&output.stdout);
        if text.contains(&marker) {
            return Some(text.into_owned());
        }
        if Instant::now() > late {
            return None;
        }
        sleep(JOURNAL_TIME / 20).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where nobody keeps a journal, this is all that is known of that probe's judgement.
    #[test]
    fn a_journal_with_the_key_is_open_and_one_without_a_line_of_ours_proves_nothing() {
        for (journal, result, detail) in [
            (Some("MESSAGE=noclaw-escape-7\nMESSAGE=sk-canary-7\n"), Outcome::Open, "it is there"),
            (Some("MESSAGE=sk-canary-7\n"), Outcome::Open, "it is there"),
            (Some("MESSAGE=noclaw-escape-7\n"), Outcome::Blocked, "not in the journal"),
            (Some("MESSAGE=another\n"), Outcome::Open, "nothing is proved: no \"noclaw-escape-\""),
            (None, Outcome::NotTested, "no journal can be read here"),
        ] {
            let judged = judge_journal(journal.map(str::to_owned), "sk-canary-7");
            assert_eq!((judged.result, &*judged.detail), (result, detail), "{journal:?}");
        }
    }
}
