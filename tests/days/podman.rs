//! Podman dies in the middle of things: its service, or the monitor of a cell.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use crate::ends::{assert_failed, assert_gone, assert_well, bash, becomes, begun, post};
use crate::support::podmans::OtherPodman;
use crate::support::{House, Result, podman, until};

/// A service on a Podman of the test's own.
fn house(podman: &OtherPodman, args: &[&str]) -> Result<House> {
    let mut house = House::closed(&podman.socket(), &["--model-api", "demo"])?;
    house.args(args);
    house.open()?;
    Ok(house)
}

#[test]
fn podman_killed_in_mid_run_fails_the_run_and_keeps_the_message_that_waits() -> Result {
    let mut podman = OtherPodman::beside()?;
    let house = house(&podman, &["--max-cells", "1"])?;
    let run = post(&house, &json!({"message": bash("touch begun; sleep 60")}))?;
    let begun = begun(&house, &run)?;
    let waiting = post(&house, &json!({"message": "later", "conversation": "b"}))?;
    let down = podman.down()?;
    let run = becomes(&house, &begun, "failed")?;
    assert_failed(&run, &["door lost: ", "ended before it said how the agent ended"]);
    assert_eq!(house.show(&waiting)?["status"], "queued", "its place is not free yet");
    until("that is known", || house.get("/readyz").ok().filter(|answer| answer.status == 503))?;
    let refused = house.post("/webhook", r#"{"message":"x"}"#)?;
    assert_eq!((refused.status, refused.problem()?.as_str()), (503, "podman-unavailable"));
    let refused = house.noclaw(&["send", "x"]).output()?;
    assert_eq!(refused.status.code(), Some(69), "{}", crate::support::told(&refused));
    drop(down);
    let waiting = becomes(&house, &waiting, "answered")?;
    assert_eq!(waiting["reply"], "You said: later");
    assert!(house.show(&run)?["gone_at"].is_string(), "its container was seen gone");
    assert_well(&house)
}

#[test]
fn a_message_whose_podman_is_gone_when_its_turn_comes_is_told_so() -> Result {
    let mut podman = OtherPodman::beside()?;
    let gate = Gate::before(&podman)?;
    let mut house = House::closed(&gate.socket(), &["--model-api", "demo"])?;
    house.open()?;
    gate.close();
    let first = post(&house, &json!({"message": "one"}))?;
    until("its cell is being made", || gate.is_reached().then_some(()))?;
    let second = post(&house, &json!({"message": "two"}))?;
    assert_eq!(house.show(&second)?["status"], "queued", "it waits for the first");
    let down = podman.down()?;
    gate.open();
    assert_failed(&becomes(&house, &first, "failed")?, &["podman: ", "Podman"]);
    assert_eq!(house.show(&second)?["status"], "queued", "it does not fail as well");
    drop(down);
    becomes(&house, &second, "answered")?;
    assert_well(&house)
}

/// A socket in front of Podman's, which can keep a container's creation waiting.
struct Gate {
    dir: tempfile::TempDir,
    closed: Arc<AtomicBool>,
    reached: Arc<AtomicBool>,
}

impl Gate {
    fn before(podman: &OtherPodman) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("noclaw-gate-").tempdir()?;
        let gate = Self { dir, closed: Arc::default(), reached: Arc::default() };
        let listener = UnixListener::bind(gate.socket())?;
        let (closed, reached) = (Arc::clone(&gate.closed), Arc::clone(&gate.reached));
        let podman = podman.socket();
        // It ends with the test's process.
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (closed, reached) = (Arc::clone(&closed), Arc::clone(&reached));
                let podman = podman.clone();
                std::thread::spawn(move || pass(client, &podman, &closed, &reached));
            }
        });
        Ok(gate)
    }

    fn socket(&self) -> String {
        self.dir.path().join("sock").display().to_string()
    }

    fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
    }

    fn open(&self) {
        self.closed.store(false, Ordering::Relaxed);
    }

    fn is_reached(&self) -> bool {
        self.reached.load(Ordering::Relaxed)
    }
}

/// Passes a connection on. Each way ends by itself.
fn pass(mut client: UnixStream, podman: &str, closed: &AtomicBool, reached: &AtomicBool) -> Result {
    let mut begin = [0; 64];
    let length = client.read(&mut begin)?;
    let begin = begin.get(..length).unwrap_or_default();
    if String::from_utf8_lossy(begin).contains("/containers/create") {
        reached.store(true, Ordering::Relaxed);
        until("the gate is open", || (!closed.load(Ordering::Relaxed)).then_some(()))?;
    }
    let mut podman = UnixStream::connect(podman)?;
    podman.write_all(begin)?;
    let (mut up, mut down) = (client.try_clone()?, podman.try_clone()?);
    std::thread::spawn(move || -> Result {
        std::io::copy(&mut up, &mut podman)?;
        Ok(podman.shutdown(Shutdown::Write)?)
    });
    std::io::copy(&mut down, &mut client)?;
    Ok(client.shutdown(Shutdown::Both)?)
}

#[test]
fn a_cell_whose_monitor_is_killed_is_a_lost_door() -> Result {
    let house = House::start(&[])?;
    let run = post(&house, &json!({"message": bash("touch begun; sleep 60")}))?;
    let run = begun(&house, &run)?;
    let container = run["container"].as_str().ok_or("no container")?;
    let pid = podman(&["inspect", "--format", "{{.State.ConmonPid}}", container])?;
    kill(Pid::from_raw(pid.trim().parse()?), Signal::SIGKILL)?;
    let run = becomes(&house, &run, "failed")?;
    assert_failed(&run, &["door lost: "]);
    assert_gone(&house)?;
    assert_well(&house)
}
