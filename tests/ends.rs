//! Ends: runs that take too long and runs that are cancelled at any moment of their lives, several
//! at a time. Each must be over, and its container gone, within two seconds: as the service says,
//! and as Podman says. On a machine that is busy with something else they have as long as Podman
//! alone takes for the removal of six containers.
//!
//! `NOCLAW_ENDS` says how many of each (20).

#![expect(clippy::disallowed_methods, reason = "a test makes files of its own")]
#![expect(clippy::indexing_slicing, reason = "a JSON value has null at what is not there")]

#[path = "ends/events.rs"]
mod events;
#[path = "chaos/random.rs"]
mod random;
mod support;

use std::collections::HashMap;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use events::Removals;
use random::Random;
use support::{House, Result, podman as podman_says, post, told, until};

const ENDS: usize = 20;
const CELLS: usize = 4;
/// From the word, or the limit, to the container's absence.
const MOST: SignedDuration = SignedDuration::from_secs(2);
/// The moments at which a run is cancelled: from before its claim to its tool's work.
const MOMENT_MS: u64 = 2500;

/// What is measured is the service, not two of them at once.
static ALONE: Mutex<()> = Mutex::new(());

fn wanted() -> Result<usize> {
    match std::env::var("NOCLAW_ENDS") {
        Ok(text) if !text.is_empty() => Ok(text.parse()?),
        _ => Ok(ENDS),
    }
}

fn house(limit: &str) -> Result<House> {
    let many = ["--rate", "1000000", "--burst", "1000000", "--max-cells", "4"];
    let house = [&many[..], &["--cells-per-user", "4", "--run-timeout", limit]].concat();
    House::start(&house)
}

/// A run that was ended, and when it was told to.
struct End {
    run: Value,
    told: Timestamp,
}

#[test]
fn a_run_that_takes_too_long_is_gone_two_seconds_later() -> Result {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let house = house("1")?;
    let removals = Removals::watch(&house)?;
    let (ends, next) = (Mutex::new(Vec::new()), AtomicUsize::new(0));
    at_once(CELLS, wanted()?, &next, |number| {
        let conversation = format!("c{number}");
        if number % 5 == 0 {
            let output = house.noclaw(&["send", "-c", &conversation, "!sleep 60"]).output()?;
            assert_eq!(output.status.code(), Some(124), "{}", told(&output));
        } else {
            let answer = house.post("/webhook?wait=30", &message(&conversation, "!sleep 60"))?;
            assert_eq!(answer.status, 504, "{answer:?}");
        }
        let run = gone(&house, &find(&house, &conversation)?)?;
        let claimed = moment(&run, "claimed")?;
        let end = End { told: claimed.checked_add(Duration::from_secs(1))?, run };
        ends.lock().map_err(|_| "a sender broke")?.push(end);
        Ok(())
    })?;
    judge("time-outs", "timed_out", ends.into_inner()?, &removals)
}

#[test]
fn a_cancelled_run_is_gone_two_seconds_later() -> Result {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let house = house("600")?;
    let removals = Removals::watch(&house)?;
    let (ends, next) = (Mutex::new(Vec::new()), AtomicUsize::new(0));
    // More than there are cells: some are cancelled while they wait.
    at_once(CELLS + 2, wanted()?, &next, |number| {
        let mut random = Random::new(number as u64).fork();
        let conversation = format!("c{number}");
        let text = match random.percent(50) {
            true => "!sleep 60",
            false => "!tool Bash {\"command\":\"python3 -c 'import time; time.sleep(60)'\"}",
        };
        let sender = Waiting::send(&house, number, &conversation, text)?;
        let run = find(&house, &conversation)?;
        random.pass(MOMENT_MS);
        let told = Timestamp::now();
        let path = format!("DELETE /v1/runs/{} HTTP/1.1\r\nhost: n\r\n", id(&run)?);
        let answer = house.request(format!("{path}connection: close\r\n\r\n"))?;
        assert_eq!(answer.status, 200, "{answer:?}");
        sender.ends_cancelled()?;
        ends.lock().map_err(|_| "a sender broke")?.push(End { run: gone(&house, &run)?, told });
        Ok(())
    })?;
    judge("cancels", "cancelled", ends.into_inner()?, &removals)
}

/// Several at a time, until all are done.
fn at_once(
    most: usize,
    all: usize,
    next: &AtomicUsize,
    end: impl Fn(usize) -> Result + Sync,
) -> Result {
    thread::scope(|scope| {
        let work = || {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= all {
                    return Ok(());
                }
                end(number).map_err(|error| format!("{number}: {error}"))?;
            }
        };
        let workers: Vec<_> = (0..most).map(|_| scope.spawn(work)).collect();
        let ended =
            workers.into_iter().map(|w| w.join().map_err(|_| "a sender broke".to_owned())?);
        ended.collect::<std::result::Result<Vec<()>, String>>()
    })?;
    Ok(())
}

fn message(conversation: &str, text: &str) -> String {
    json!({"conversation": conversation, "message": text}).to_string()
}

fn id(run: &Value) -> Result<&str> {
    run["run"].as_str().ok_or_else(|| format!("no run: {run}").into())
}

/// Somebody who waits for the reply, in either way.
enum Waiting {
    Command(Child),
    Request(thread::JoinHandle<Result<u16>>),
    Nobody,
}

impl Waiting {
    fn send(house: &House, number: usize, conversation: &str, text: &str) -> Result<Self> {
        match number % 4 {
            0 => {
                let mut send = house.noclaw(&["send", "-c", conversation, text]);
                Ok(Self::Command(send.stderr(Stdio::null()).spawn()?))
            }
            1 => {
                let stream = std::os::unix::net::UnixStream::connect(house.socket())?;
                let request = post("/webhook?wait=60", "", &message(conversation, text));
                let ask = move || Ok(support::exchange(stream, request.as_bytes())?.status);
                Ok(Self::Request(thread::spawn(ask)))
            }
            _ => {
                let answer = house.post("/webhook?wait=0", &message(conversation, text))?;
                assert_eq!(answer.status, 202, "{answer:?}");
                Ok(Self::Nobody)
            }
        }
    }

    fn ends_cancelled(self) -> Result {
        match self {
            Self::Command(mut send) => assert_eq!(send.wait()?.code(), Some(130)),
            Self::Request(thread) => {
                assert_eq!(thread.join().map_err(|_| "a sender broke")??, 409);
            }
            Self::Nobody => {}
        }
        Ok(())
    }
}

/// The run of a conversation that has one.
fn find(house: &House, conversation: &str) -> Result<Value> {
    until("the run is there", || {
        let runs = house.get("/v1/runs?limit=20").ok()?.json().ok()?;
        let runs = runs["runs"].as_array()?;
        runs.iter().find(|run| run["conversation"] == conversation).cloned()
    })
}

/// The run, when its container was seen gone.
fn gone(house: &House, run: &Value) -> Result<Value> {
    until("it is gone", || house.show(run).ok().filter(|run| run["gone_at"].is_string()))
}

fn time(run: &Value, field: &str) -> Result<Timestamp> {
    Ok(run[field].as_str().ok_or_else(|| format!("no {field}: {run}"))?.parse()?)
}

/// When a run came to a step of its timeline.
fn moment(run: &Value, step: &str) -> Result<Timestamp> {
    let steps = run["timeline"].as_array().ok_or("no timeline")?;
    let step = steps.iter().find(|moment| moment["step"] == step).ok_or("not in the timeline")?;
    let after = Duration::from_secs_f64(step["at_ms"].as_f64().ok_or("no time")? / 1000.0);
    Ok(time(run, "created_at")?.checked_add(after)?)
}

/// What an end may take here and now.
fn allowed() -> Result<SignedDuration> {
    let create = ["run", "--detach", "--network=none", "--entrypoint=sleep"];
    let container =
        podman_says(&[&create[..], &["localhost/noclaw-agent:latest", "600"]].concat())?;
    let begun = Instant::now();
    podman_says(&["rm", "--force", "--time=0", container.trim()])?;
    Ok(MOST.max((begun.elapsed() * 6).try_into()?))
}

/// All of them have this end, and were gone in time.
fn judge(what: &str, status: &str, ends: Vec<End>, removals: &Removals) -> Result {
    let (all, most) = (wanted()?, allowed()?);
    let (mut service, mut podman) = (Vec::new(), Vec::new());
    let mut late = HashMap::new();
    for End { run, told } in &ends {
        assert_eq!(run["status"], status, "{run}");
        let took = time(run, "gone_at")?.duration_since(*told);
        service.push(took);
        if took > most {
            late.insert(id(run)?, took);
        }
        if let Some(container) = run["container"].as_str() {
            podman.push(removals.of(container)?.duration_since(*told));
        }
    }
    println!("{what}: {} of {all} are gone; {}", ends.len(), spread("the service", &mut service));
    println!("{what}: {} had a container; {}", podman.len(), spread("Podman", &mut podman));
    assert_eq!(ends.len(), all);
    assert!(late.is_empty(), "more than {most:#} after their end: {late:?}");
    assert!(podman.last().is_none_or(|took| *took <= most), "Podman: {podman:?}");
    Ok(())
}

fn spread(by: &str, times: &mut [SignedDuration]) -> String {
    times.sort();
    let at = |percent: usize| {
        let index = (times.len() * percent / 100).min(times.len().saturating_sub(1));
        times.get(index).map_or(0, SignedDuration::as_millis)
    };
    format!("by {by}: p50 {} ms, p99 {} ms, max {} ms", at(50), at(99), at(100))
}
