//! What must not be lost when a part fails at a bad moment: Podman between a request and its
//! answer, the database at the start.

#![expect(clippy::disallowed_methods, reason = "a test makes files of its own")]

#[path = "chaos/processes.rs"]
mod processes;
mod support;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use processes::{inhabitants, processes};
use serde_json::json;
use support::podmans::OtherPodman;
use support::{House, Result, ground, podman, until};

/// A Podman that dies once, right after it has made a container and before it says so.
struct Forgetful {
    dir: tempfile::TempDir,
    dead: Arc<AtomicBool>,
}

impl Forgetful {
    fn start() -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let listener = UnixListener::bind(dir.path().join("sock"))?;
        let podman = PathBuf::from(ground("NOCLAW_PODMAN")?);
        let dead = Arc::new(AtomicBool::new(false));
        let (died, once) = (Arc::clone(&dead), Arc::new(AtomicBool::new(false)));
        // It ends with the test's process.
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (podman, died, once) = (podman.clone(), Arc::clone(&died), Arc::clone(&once));
                thread::spawn(move || pass(client, &podman, &died, &once).ok());
            }
        });
        Ok(Self { dir, dead })
    }

    fn socket(&self) -> String {
        self.dir.path().join("sock").display().to_string()
    }
}

fn pass(mut client: UnixStream, podman: &Path, dead: &AtomicBool, once: &AtomicBool) -> Result {
    let mut upstream = UnixStream::connect(podman)?;
    let mut piece = vec![0; 64 * 1024];
    let mut answers = None;
    loop {
        let read = client.read(&mut piece)?;
        let piece = piece.get(..read).unwrap_or_default();
        if piece.is_empty() || dead.load(Ordering::SeqCst) {
            return Ok(());
        }
        upstream.write_all(piece)?;
        let creates = piece.starts_with(b"POST") && contains(piece, b"/containers/create");
        if creates && !once.swap(true, Ordering::SeqCst) {
            upstream.read_exact(&mut [0; 12])?;
            dead.store(true, Ordering::SeqCst);
            return Ok(());
        }
        if answers.is_none() {
            let (mut from, mut to) = (upstream.try_clone()?, client.try_clone()?);
            answers = Some(thread::spawn(move || std::io::copy(&mut from, &mut to)));
        }
    }
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

#[test]
fn a_container_that_podman_made_and_did_not_tell_of_is_removed() -> Result {
    let podman = Forgetful::start()?;
    let mut house = House::closed(&podman.socket(), &["--model-api", "demo"])?;
    house.open()?;
    let run = house.run(&["hello"])?;
    assert_eq!(run["status"], "failed", "{run}");
    let left = house.containers_at(&ground("NOCLAW_PODMAN")?)?;
    assert_eq!(left.len(), 1, "the test needs a container that nobody knows of");
    assert!(house.show(&run)?["gone_at"].is_null(), "it is not gone, and not told to be");
    podman.dead.store(false, Ordering::SeqCst);
    until("it is removed", || house.containers().ok().filter(Vec::is_empty))?;
    until("and told to be", || house.show(&run).ok().filter(|run| run["gone_at"].is_string()))?;
    assert_eq!(house.send(&["hello"])?, "You said: hello");
    Ok(())
}

#[test]
fn runs_are_settled_however_long_the_database_is_locked() -> Result {
    let mut house = House::start(&[])?;
    let run = house.post("/webhook?wait=0", r#"{"message":"!sleep 2"}"#)?.json()?;
    until("it runs", || house.show(&run).ok().filter(|run| run["status"] == "running"))?;
    house.kill()?;
    // Another program holds the lock, as a backup may.
    let mut other = Command::new("python3");
    other.arg("-c").arg(
        "import sqlite3, sys\nstore = sqlite3.connect(sys.argv[1], isolation_level=None)\n\
         store.execute('BEGIN IMMEDIATE')\nsys.stdin.read()",
    );
    let mut other = other.arg(house.path("state/noclaw.db")).stdin(Stdio::piped()).spawn()?;
    house.open()?;
    until("runs cannot be settled", || {
        house.logged().contains("cannot settle runs").then_some(())
    })?;
    drop(other.stdin.take());
    other.wait()?;
    let id = run["run"].as_str().ok_or("no run")?;
    let run = house.get(&format!("/v1/runs/{id}?wait=30"))?.json()?;
    assert_eq!(run["status"], "answered", "{run}");
    Ok(())
}

/// As when a machine is switched off, which ends cells and service side by side, whichever is the
/// first to go. `is_on` says when; returned is what the run is after the next start.
fn cut_off(
    message: &str,
    is_on: impl Fn(&House) -> bool,
    cell_first: bool,
) -> Result<(serde_json::Value, String)> {
    let mut house = House::start(&[])?;
    let message = json!({ "message": message }).to_string();
    let run = house.post("/webhook?wait=0", &message)?.json()?;
    until("it runs", || {
        house.show(&run).ok().filter(|run| run.get("status") == Some(&json!("running")))
    })?;
    until("it is as far as it should be", || is_on(&house).then_some(()))?;
    let [cell] = house.containers()?.try_into().map_err(|_| "not one cell")?;
    let service = house.pid().ok_or("no service")?;
    let stop = || kill(Pid::from_raw(service), Signal::SIGTERM);
    if cell_first {
        let id = cell.clone();
        let ends = thread::spawn(move || podman(&["kill", &id]).is_ok());
        until("its pid 1 is gone", || {
            inhabitants(std::slice::from_ref(&cell)).is_empty().then_some(())
        })?;
        stop()?;
        assert!(ends.join().map_err(|_| "a thread")?);
    } else {
        stop()?;
        until("the service stops", || house.logged().contains("stopping").then_some(()))?;
        podman(&["rm", "--force", "--time=0", &cell])?;
    }
    let stat = || fs::read_to_string(format!("/proc/{service}/stat")).unwrap_or_default();
    until("the service has ended", || stat().contains(") Z ").then_some(()))?;
    house.close()?;
    house.open()?;
    let id = run.get("run").and_then(serde_json::Value::as_str).ok_or("no run")?;
    Ok((house.get(&format!("/v1/runs/{id}?wait=30"))?.json()?, house.logged()))
}

#[test]
fn a_run_that_is_cut_off_with_its_service_is_answered_by_the_next_one() -> Result {
    for cell_first in [false, true] {
        let (run, logged) = cut_off("!sleep 3", |_| true, cell_first)?;
        let expected = (&json!("answered"), &json!(2));
        assert_eq!((&run["status"], &run["attempts"]), expected, "{cell_first}: {run}");
        let settled = logged.lines().find(|line| line.contains("settled after an interruption"));
        let settled = settled.ok_or_else(|| format!("it was not settled: {logged}"))?;
        assert!(settled.contains("user_id=") && settled.contains("conversation=main"), "{settled}");
    }
    Ok(())
}

#[test]
fn one_that_has_used_a_tool_by_then_is_not_tried_again() -> Result {
    let tool = r#"!tool Bash {"command":"touch begun; sleep 60"}"#;
    let begun = |house: &House| find(&house.path("state/users"), "begun");
    let (run, _) = cut_off(tool, begun, false)?;
    assert_eq!((&run["status"], &run["attempts"]), (&json!("failed"), &json!(1)), "{run}");
    let error = run["error"].as_str().unwrap_or_default();
    assert!(error.starts_with("interrupted: the service stopped after"), "{error}");
    Ok(())
}

fn find(folder: &Path, name: &str) -> bool {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.into_iter().any(|entry| {
        let path = entry.path();
        entry.file_name() == name || (path.is_dir() && !path.is_symlink() && find(&path, name))
    })
}

/// An agent that somebody ends has not refused what it was to go on from.
#[test]
fn an_agent_that_is_ended_before_it_has_said_a_word_does_not_cost_the_conversation_its_memory()
-> Result {
    let mut house = House::start(&[])?;
    house.send(&["first"])?;
    house.close()?;
    let point = house.point("delivered")?;
    house.env("NOCLAW_TEST_PAUSE", &format!("delivered:{}", point.display()));
    house.open()?;
    let run = house.post("/webhook?wait=0", r#"{"message":"second"}"#)?.json()?;
    until("the agent listens", || point.exists().then_some(()))?;
    let [cell] = house.containers()?.try_into().map_err(|_| "not one cell")?;
    let agents = || {
        let inside = inhabitants(std::slice::from_ref(&cell));
        inside.into_iter().filter(|(_, line)| line.contains("stream-json")).count()
    };
    assert_eq!(agents(), 1, "the test needs an agent");
    podman(&["kill", "--signal=TERM", &cell])?;
    until("it has ended", || (agents() == 0).then_some(()))?;
    fs::remove_file(&point)?;
    let id = run["run"].as_str().ok_or("no run")?;
    let run = house.get(&format!("/v1/runs/{id}?wait=30"))?.json()?;
    assert_eq!((&run["status"], &run["attempts"]), (&json!("failed"), &json!(1)), "{run}");
    house.close()?;
    house.env("NOCLAW_TEST_PAUSE", "");
    house.open()?;
    assert_eq!(house.send(&["!history"])?, "first\n!history");
    Ok(())
}

#[test]
fn a_container_that_comes_after_the_start_is_removed_and_no_other() -> Result {
    let house = House::start(&[])?;
    let run = house.post("/webhook?wait=0", r#"{"message":"!sleep 300"}"#)?.json()?;
    until("it has its container", || (house.containers().ok()?.len() == 1).then_some(()))?;
    let instance = fs::read_to_string(house.path("state/instance"))?;
    let instance = format!("io.noclaw.instance={instance}");
    let late = "io.noclaw.run=01a00000-0000-7000-8000-000000000000";
    let create = ["create", "--network=none", "--label", &instance, "--label", late];
    let stray = podman(&[&create[..], &["localhost/noclaw-agent:latest", "true"]].concat())?;
    until("the stray is removed", || {
        let left = house.containers().ok()?;
        (!left.iter().any(|id| id == stray.trim())).then_some(())
    })?;
    assert_eq!(house.containers()?.len(), 1, "the one that works stays");
    let path = format!("/v1/runs/{}", run["run"].as_str().ok_or("no run")?);
    assert_eq!(house.get(&path)?.json()?["status"], "running");
    assert_eq!(house.call("DELETE", &path, &serde_json::json!({}))?.json()?["status"], "cancelled");
    Ok(())
}

/// An OCI runtime that, once it has created a container, has Podman killed before it is told.
const RUNTIME: &str = r#"#!/bin/sh
crun "$@"
status=$?
case " $* " in *" create "*)
    if mkdir "${0%/*}/once" 2>/dev/null; then
        for id; do :; done
        echo "$id" >"${0%/*}/part"
        mv "${0%/*}/part" "${0%/*}/created"
        while [ -e "${0%/*}/created" ]; do sleep 0.01; done
    fi
esac
exit $status
"#;

#[test]
fn a_container_that_podman_began_and_forgot_leaves_no_process() -> Result {
    let dir = tempfile::tempdir()?;
    let runtime = dir.path().join("crun");
    fs::write(&runtime, RUNTIME)?;
    fs::set_permissions(&runtime, fs::Permissions::from_mode(0o755))?;
    let mut podman = OtherPodman::with_runtime(&runtime.display().to_string())?;
    let mut house = House::closed(&podman.socket(), &["--model-api", "demo"])?;
    house.open()?;
    let run = house.post("/webhook?wait=0", r#"{"message":"hello"}"#)?.json()?;
    let created = dir.path().join("created");
    until("a container is created", || created.exists().then_some(()))?;
    // Podman itself cannot be asked for it: the container is locked.
    let containers = [fs::read_to_string(&created)?.trim().to_owned()];
    podman.kill()?;
    fs::remove_file(&created)?;
    assert!(!inhabitants(&containers).is_empty(), "the test needs processes that nobody knows of");
    podman.open()?;
    until("the run is over", || house.show(&run).ok().filter(|run| run["gone_at"].is_string()))?;
    let none = until("no process is left", || inhabitants(&containers).is_empty().then_some(()));
    none.map_err(|error| format!("{error}: {:?}", inhabitants(&containers)).into())
}

/// Waits for a word from outside. Then one process floods the door in the agent's place, and
/// another one, which has left the agent's session, itself. WORDS are what they say.
const FLOOD: &str = "touch begun; until [ -e go ]; do sleep 0.05; done; \
                     (setsid yes WORDS >/dev/null &); yes WORDS | tee flood >/proc/$PPID/fd/1";

#[test]
fn a_cell_of_a_service_that_stands_still_ends_by_itself() -> Result {
    let house = House::start(&["--run-timeout", "15"])?;
    // By its words it is found among all processes of the machine.
    let words = house.path("flood").display().to_string();
    let flood = FLOOD.replace("WORDS", &words);
    let message = format!("!tool Bash {}", json!({ "command": flood }));
    let body = json!({ "message": message }).to_string();
    let run = house.post("/webhook?wait=0", &body)?.json()?;
    let floods = || {
        let line = |pid| fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let named = |pid| line(pid).windows(words.len()).any(|part| part == words.as_bytes());
        processes().into_iter().any(named)
    };
    let user = house.show(&run)?["user"].as_str().ok_or("no user")?.to_owned();
    let inside = house.path("state/users").join(user).join("workspace");
    until("its tool works", || inside.join("begun").exists().then_some(()))?;
    let service = Pid::from_raw(house.pid().ok_or("no service")?);
    kill(service, Signal::SIGSTOP)?;
    // Once every buffer on its way is full, what is written grows no more.
    let full = || {
        fs::write(inside.join("go"), "")?;
        let (mut seen, mut same) = (0, 0);
        until("the door is full", || {
            let size = fs::metadata(inside.join("flood")).ok()?.len();
            same = if size > 0 && size == seen { same + 1 } else { 0 };
            seen = size;
            (same > 20 && floods()).then_some(())
        })
    };
    let over = full().and_then(|()| until("nobody floods any more", || (!floods()).then_some(())));
    kill(service, Signal::SIGCONT)?;
    over?;
    let ended = until("the run is over", || {
        let run = house.show(&run).ok()?;
        run["gone_at"].is_string().then_some(run)
    })?;
    assert!(["timed_out", "failed"].iter().any(|status| ended["status"] == *status), "{ended}");
    assert_eq!(house.containers()?, [""; 0]);
    Ok(())
}

/// The process that holds its standard input, and not the thread that has started it.
#[test]
fn a_service_of_another_program_ends_with_it_also_when_that_was_first() -> Result {
    let house = House::closed(&ground("NOCLAW_PODMAN")?, &["--end-with-parent"])?;
    let begin = |input: Stdio| -> Result<Child> {
        let mut serve = house.serve()?;
        serve.stdin(input).stderr(File::create(house.path("log"))?);
        let begun = thread::spawn(move || serve.spawn()).join();
        Ok(begun.map_err(|_| "no thread")??)
    };
    let mut service = begin(Stdio::piped())?;
    let mut held = service.stdin.take().ok_or("no pipe")?;
    held.write_all(b"a word is not the end\n")?;
    until("the service answers", || house.get("/v1/status").ok())?;
    assert!(service.try_wait()?.is_none(), "the thread is gone, and the process is not");
    drop(held);
    let end = until("it ends", || service.try_wait().ok().flatten())?;
    assert!(end.success(), "{end}: {}", house.logged());

    let (input, held) = std::io::pipe()?;
    drop(held);
    let mut orphan = begin(input.into())?;
    let end = until("the orphan ends", || orphan.try_wait().ok().flatten())?;
    assert!(end.success(), "{end}: {}", house.logged());

    let mut nobodys = begin(Stdio::null())?;
    let end = until("the last one ends", || nobodys.try_wait().ok().flatten())?;
    assert_eq!(end.code(), Some(64), "{}", house.logged());
    assert!(house.logged().contains("hint: it is for a program that gives this one a pipe"));
    Ok(())
}
