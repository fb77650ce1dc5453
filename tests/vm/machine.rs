//! What the kernel holds a cell to, seen from outside of it: in the machine of `make vm-test`,
//! whose systemd hands the controllers memory, pids and cpu to its user. Nothing is accepted away.
//!
//! | a cell that | is |
//! |---|---|
//! | idles | in a cgroup of its own, with the plan's limits, as its preflight measured them |
//! | takes too much memory in small parts | `failed: out of memory`: the agent was the largest |
//! | has one child that does | answered: the child alone is killed, which the log tells |
//! | makes processes without end | held to its number; others are served; its time ends it at the latest |
//! | computes without end | held to its share of the processors |
//! | has another limit than is planned | not an agent's: the preflight names the limit |

#![expect(clippy::disallowed_methods, reason = "a test makes files of its own")]
#![expect(clippy::indexing_slicing, reason = "a JSON value has null at what is not there")]

#[path = "../support/mod.rs"]
mod support;

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use support::broken::BrokenPodman;
use support::recorder::{Recorder, Say};
use support::{House, Result, exchange, ground, podman, slowness, told, until};

/// From a run's end to its container's absence, times the slowness.
const MOST: Duration = Duration::from_secs(2);
/// How long a busy cell is watched.
const SPAN: Duration = Duration::from_secs(5);

/// A message that has the agent run this in its shell.
fn bash(command: &str) -> String {
    format!("!tool Bash {}", json!({ "command": command }))
}

/// Has a message accepted, and does not wait for its reply.
fn begin(house: &House, user: &str, message: &str) -> Result<Value> {
    let body = json!({"user": user, "message": message}).to_string();
    let answer = house.post("/webhook?wait=0", &body)?;
    assert_eq!(answer.status, 202, "{answer:?}");
    answer.json()
}

/// The cgroup of a run's container, as the host names it.
fn cgroup(house: &House, run: &Value) -> Result<PathBuf> {
    let container = until("its agent runs", || {
        let run = house.show(run).ok().filter(|run| run["status"] == "running")?;
        run["container"].as_str().map(str::to_owned)
    })?;
    let pid = podman(&["inspect", "--format", "{{.State.Pid}}", &container])?;
    let line = fs::read_to_string(format!("/proc/{}/cgroup", pid.trim()))?;
    let path = line.trim().strip_prefix("0::/").ok_or("more than cgroup2")?;
    Ok(Path::new("/sys/fs/cgroup").join(path))
}

/// A file of a cgroup.
fn read(cgroup: &Path, file: &str) -> Result<String> {
    let path = cgroup.join(file);
    let text = fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    Ok(text.trim().to_owned())
}

/// A number of a file like `memory.events`: `name number` a line.
fn number(cgroup: &Path, file: &str, name: &str) -> Result<u64> {
    let text = read(cgroup, file)?;
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    Ok(value.ok_or_else(|| format!("{file} has no {name}: {text}"))?.parse()?)
}

/// Cancels a run and waits until its container is gone.
fn cancel(house: &House, run: &Value) -> Result {
    let id = run["run"].as_str().ok_or("no run")?;
    let request = format!("DELETE /v1/runs/{id} HTTP/1.1\r\nhost: n\r\nconnection: close\r\n\r\n");
    assert_eq!(house.request(request)?.status, 200);
    until("it is gone", || house.show(run).ok().filter(|run| run["gone_at"].is_string()))?;
    Ok(())
}

#[test]
fn the_kernel_shows_a_cell_s_limits_on_both_sides() -> Result {
    let house =
        House::start(&["--cell-memory", "1100", "--cell-pids", "123", "--cell-cpus", "0.7"])?;
    let run = begin(&house, "alice", "!sleep 60")?;
    let cgroup = cgroup(&house, &run)?;
    let memory = (1100_u64 << 20).to_string();
    let limits = [
        ("memory.max", "memory_max", memory.as_str()),
        ("memory.swap.max", "memory_swap_max", "0"),
        ("pids.max", "pids_max", "123"),
        ("cpu.max", "cpu_max", "70000 100000"),
    ];
    let preflight = house.show(&run)?["preflight"].clone();
    let output = house.noclaw(&["run", "show", run["run"].as_str().unwrap_or("?")]).output()?;
    let shown = told(&output);
    for (file, field, planned) in limits {
        assert_eq!(read(&cgroup, file)?, planned, "{file} in {}", cgroup.display());
        for process in ["launcher", "agent"] {
            assert_eq!(preflight[process]["limits"][field], planned, "{process}: {preflight}");
        }
        let row = shown.lines().find(|line| line.split(' ').next() == Some(file));
        assert_eq!(row.map(|row| row.matches(planned).count()), Some(2), "{file}: {shown}");
    }
    let slice = format!("user-{}.slice", nix::unistd::getuid());
    assert!(cgroup.display().to_string().contains(&slice), "{}", cgroup.display());
    cancel(&house, &run)
}

/// Edits of what the runtime is asked for, and the limit that the preflight names.
const OTHER_LIMITS: [(&str, &str); 4] = [
    // A page more, of memory and swap alike.
    ("s/1153433600/1153437696/g", "memory.max"),
    ("s/\"swap\": *1153433600/\"swap\":1153437696/", "memory.swap.max"),
    ("s/\"pids\": *{\"limit\": *123}/\"pids\":{\"limit\":124}/", "pids.max"),
    ("s/\"quota\": *70000/\"quota\":80000/", "cpu.max"),
];

#[test]
fn a_cell_with_another_limit_gets_no_agent_and_the_limit_is_named() -> Result {
    let podman = BrokenPodman::by_sed()?;
    let recorder = Recorder::start(|_, _| Say::Text("It was started.".into()))?;
    let args = ["--cell-memory", "1100", "--cell-pids", "123", "--cell-cpus", "0.7"];
    let model = ["--model-api", &recorder.url];
    let mut house = House::closed(&podman.socket(), &[&args[..], &model].concat())?;
    house.key("canary")?;
    house.open()?;
    for (edit, limit) in OTHER_LIMITS {
        podman.edit(edit)?;
        let run = house.run(&["hello"])?;
        let error = run["error"].as_str().unwrap_or_default();
        assert_eq!(run["status"], "failed", "{edit}: {run}");
        assert!(error.contains(&format!("launcher: {limit} is ")), "{edit}: {error}");
        assert_eq!(recorder.requests().len(), 0, "{edit}: the model was asked");
    }
    podman.edit("")?;
    assert_eq!(house.send(&["the twin"])?, "It was started.");
    Ok(())
}

/// Each of its processes is smaller than the agent, and all together they are too much.
const MANY: &str = "cat >/tmp/many.py <<'P'
import os, time
for n in range(60):
    if os.fork() == 0:
        held = b'x' * (24 << 20)
        time.sleep(600)
time.sleep(600)
P
python3 /tmp/many.py";

#[test]
fn an_agent_that_is_killed_for_memory_is_told_so() -> Result {
    let house = House::start(&["--cell-memory", "1024"])?;
    let run = house.run(&[&bash(MANY)])?;
    assert_eq!(run["status"], "failed", "{run}");
    let error = run["error"].as_str().unwrap_or_default();
    assert!(error.starts_with("out of memory: "), "{run}");
    assert!(error.contains("killed for memory"), "{run}");
    until("its container is gone", || house.containers().ok().filter(Vec::is_empty))?;
    assert_eq!(house.send(&["hello"])?, "You said: hello", "the conversation goes on");
    Ok(())
}

#[test]
fn a_child_that_is_killed_for_memory_dies_alone() -> Result {
    let house = House::start(&["--cell-memory", "1024"])?;
    let hog = "python3 -c 'b\"x\" * (3 << 30)'; echo \"status $?\"";
    let run = house.run(&[&bash(hog)])?;
    assert_eq!(run["status"], "answered", "{run}");
    let reply = run["reply"].as_str().unwrap_or_default();
    assert!(reply.contains("status 137"), "{run}");
    until("the log tells it", || {
        let logged = house.logged();
        let line = logged.lines().find(|line| line.contains("killed for memory"))?;
        (line.contains(run["run"].as_str()?) && line.contains("oom_kills=1")).then_some(())
    })?;
    Ok(())
}

#[test]
fn a_fork_bomb_is_held_and_disturbs_nobody() -> Result {
    // Bob is answered in that time. What a cell may compute is another test's.
    let time = Duration::from_secs(10) * slowness();
    let seconds = time.as_secs().to_string();
    let house = House::start(&["--run-timeout", &seconds, "--max-cells", "2", "--cell-cpus", "1"])?;
    let bomb = begin(&house, "alice", &bash("bomb() { bomb | bomb & }; bomb; sleep 600"))?;
    let cgroup = cgroup(&house, &bomb)?;
    let most: u64 = read(&cgroup, "pids.max")?.parse()?;
    assert_eq!(most, 256);
    until("the bomb has met its limit", || {
        number(&cgroup, "pids.events", "max").ok().filter(|refused| *refused > 100)
    })?;
    assert!(read(&cgroup, "pids.current")?.parse::<u64>()? <= most);
    let container = house.show(&bomb)?["container"].as_str().ok_or("no container")?.to_owned();
    assert!(listed(&container)?);
    assert_eq!(house.send(&["-u", "bob", "hello"])?, "You said: hello");
    assert_eq!(house.get("/readyz")?.status, 200);

    let ended = until("its container is gone", || {
        house.show(&bomb).ok().filter(|run| run["gone_at"].is_string())
    })?;
    assert!(!listed(&container)?, "{ended}");
    until("its cgroup is gone", || (!cgroup.exists()).then_some(()))?;
    // An agent that is refused a thread may give up before its time.
    assert!(["timed_out", "failed"].map(Value::from).contains(&ended["status"]), "{ended}");
    let took = Duration::from_millis(ended["duration_ms"].as_u64().ok_or("no duration")?);
    assert!(took < time + MOST * slowness(), "{ended}");
    let end = moment(&ended, "created_at")?.checked_add(took)?;
    let gone = moment(&ended, "gone_at")?.duration_since(end);
    assert!(gone <= SignedDuration::try_from(MOST * slowness())?, "after {gone:#}: {ended}");
    Ok(())
}

fn moment(run: &Value, field: &str) -> Result<Timestamp> {
    Ok(run[field].as_str().ok_or("no time")?.parse()?)
}

/// Whether Podman's own list has a container. Its program would take seconds to ask, emulated.
fn listed(container: &str) -> Result<bool> {
    let filters = format!("%7B%22id%22%3A%5B%22{container}%22%5D%7D");
    // HTTP 1.0: no chunks.
    let get = format!("GET /v4.0.0/libpod/containers/json?all=true&filters={filters} HTTP/1.0");
    let podman = UnixStream::connect(ground("NOCLAW_PODMAN")?)?;
    let answer = exchange(podman, format!("{get}\r\nhost: n\r\n\r\n").as_bytes())?.json()?;
    Ok(!answer.as_array().ok_or("no list")?.is_empty())
}

#[test]
fn a_cell_that_computes_without_end_has_its_share() -> Result {
    let house = House::start(&["--cell-cpus", "0.5"])?;
    let busy = "python3 -c 'while True: pass' & python3 -c 'while True: pass' & sleep 600";
    let run = begin(&house, "alice", &bash(busy))?;
    let cgroup = cgroup(&house, &run)?;
    let used = || number(&cgroup, "cpu.stat", "usage_usec");
    // Throttled often means that the loops run, and more than they may.
    until("it is throttled", || {
        number(&cgroup, "cpu.stat", "nr_throttled").ok().filter(|times| *times > 20)
    })?;
    let (before, since) = (used()?, Instant::now());
    until("it was watched for a while", || (since.elapsed() >= SPAN).then_some(()))?;
    let span = since.elapsed();
    let share =
        Duration::from_micros(used()?.saturating_sub(before)).as_secs_f64() / span.as_secs_f64();
    assert!((0.25..0.65).contains(&share), "{share:.2} processors, and 0.5 are planned");
    cancel(&house, &run)
}
