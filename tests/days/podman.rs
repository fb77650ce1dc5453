//! Podman dies in the middle of things: its service, or the monitor of a cell.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

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
    let gate = Gate::before(&podman, "/containers/create")?;
    let mut house = House::closed(&gate.socket(), &["--model-api", "demo"])?;
    house.open()?;
    gate.close();
    let first = post(&house, &json!({"message": "one"}))?;
    until("its cell is being made", || (gate.reached() == 1).then_some(()))?;
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

#[test]
fn what_a_slow_podman_answers_is_good_for_the_next_message() -> Result {
    let podman = OtherPodman::beside()?;
    let gate = Gate::before(&podman, "/libpod/info")?;
    gate.close();
    let mut house = House::closed(&gate.socket(), &["--model-api", "demo"])?;
    house.open()?;
    let late = house.post("/webhook", r#"{"message":"x"}"#)?;
    assert_eq!((late.status, late.problem()?.as_str()), (503, "podman-unavailable"));
    assert!(late.body.contains("did not answer within 10 s"), "{late:?}");
    gate.open();
    until("it is ready", || (house.get("/readyz").ok()?.status == 200).then_some(()))?;
    assert_eq!(gate.reached(), 1, "it was asked again");
    assert_well(&house)
}

/// A socket in front of Podman's, which can keep a request waiting.
struct Gate {
    dir: tempfile::TempDir,
    way: Arc<Way>,
}

struct Way {
    podman: String,
    request: &'static str,
    closed: AtomicBool,
    reached: AtomicUsize,
}

impl Gate {
    /// The request is one whose path has this in it.
    fn before(podman: &OtherPodman, request: &'static str) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("noclaw-gate-").tempdir()?;
        let (closed, reached) = (AtomicBool::default(), AtomicUsize::default());
        let way = Way { podman: podman.socket(), request, closed, reached };
        let gate = Self { dir, way: Arc::new(way) };
        let listener = UnixListener::bind(gate.socket())?;
        let way = Arc::clone(&gate.way);
        // It ends with the test's process.
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let way = Arc::clone(&way);
                std::thread::spawn(move || pass(client, &way));
            }
        });
        Ok(gate)
    }

    fn socket(&self) -> String {
        self.dir.path().join("sock").display().to_string()
    }

    fn close(&self) {
        self.way.closed.store(true, Ordering::Relaxed);
    }

    fn open(&self) {
        self.way.closed.store(false, Ordering::Relaxed);
    }

    /// How often it was asked for.
    fn reached(&self) -> usize {
        self.way.reached.load(Ordering::Relaxed)
    }
}

/// Passes a connection on. Each way ends by itself.
fn pass(mut client: UnixStream, way: &Way) -> Result {
    let mut begin = [0; 64];
    let length = client.read(&mut begin)?;
    let begin = begin.get(..length).unwrap_or_default();
    if String::from_utf8_lossy(begin).contains(way.request) {
        way.reached.fetch_add(1, Ordering::Relaxed);
        until("the gate is open", || (!way.closed.load(Ordering::Relaxed)).then_some(()))?;
    }
    let mut podman = UnixStream::connect(&way.podman)?;
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
