//! A service that stands still while its cell floods the door.

use std::fs;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::ends::{assert_failed, assert_well, bash, becomes, begun, in_workspace, post};
use crate::support::{House, Result, until};

/// Waits for a word from outside, then writes to the agent's own output for ever, and counts it.
const FLOOD: &str = "touch begun; until [ -e go ]; do sleep 0.05; done; \
                     yes | tee flood > /proc/$PPID/fd/1";

/// A run whose cell floods a service that was stopped just before.
fn stalled(house: &House) -> Result<Value> {
    let run = post(house, &json!({"message": bash(FLOOD)}))?;
    let run = begun(house, &run)?;
    signal(house, Signal::SIGSTOP)?;
    let full = flooded(house, &run);
    if full.is_err() {
        signal(house, Signal::SIGCONT)?;
    }
    full.map(|()| run)
}

/// Lets the flood begin, and waits until every buffer on its way is full: it no longer grows.
fn flooded(house: &House, run: &Value) -> Result {
    fs::write(in_workspace(house, run, "go")?, "")?;
    let flood = in_workspace(house, run, "flood")?;
    let (mut seen, mut same) = (0, 0);
    until("the door is full", || {
        let size = fs::metadata(&flood).ok()?.len();
        same = if size > 0 && size == seen { same + 1 } else { 0 };
        seen = size;
        (same > 20).then_some(())
    })
}

fn signal(house: &House, signal: Signal) -> Result {
    let pid = house.pid().ok_or("the service does not run")?;
    Ok(kill(Pid::from_raw(pid), signal)?)
}

#[test]
fn a_service_that_stood_still_ends_the_flood_that_it_finds() -> Result {
    let house = House::start(&[])?;
    let run = stalled(&house)?;
    signal(&house, Signal::SIGCONT)?;
    assert_failed(&becomes(&house, &run, "failed")?, &["breach: ", "101 lines", "one of them: y"]);
    assert_well(&house)
}

#[test]
fn a_service_killed_while_it_stood_still_leaves_no_flood_behind() -> Result {
    let mut house = House::start(&[])?;
    let run = stalled(&house)?;
    house.kill()?;
    assert_eq!(house.containers()?.len(), 1, "nobody has ended it yet");
    house.open()?;
    let run = becomes(&house, &run, "failed")?;
    assert_failed(&run, &["interrupted: ", "after the agent had begun to use tools"]);
    assert_well(&house)
}
