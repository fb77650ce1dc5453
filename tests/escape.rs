//! `noclaw doctor --escape` finds nothing open in a real cell; with the layers taken away each of
//! its probes finds something, as do traps for the agent once it is started carelessly; and with
//! one layer broken no agent is started, and the run says which.

#![expect(clippy::disallowed_methods, reason = "a test makes files of its own")]

#[path = "escape/away.rs"]
mod away;
#[path = "escape/judged.rs"]
mod judged;
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use away::{
    ALL_AWAY, AT_HOME, CARELESS, FOUND, HOST_NETWORK, JOURNAL, MACHINES, NO_REAPER, STAYS, TIDY,
    UNPROVED, WITHOUT,
};
use serde_json::Value;
use support::broken::BrokenPodman;
use support::recorder::{Recorder, Say};
use support::{House, NOCLAW, Result, ground, told, until};

/// Probe: result and detail.
type Probed = BTreeMap<String, (String, String)>;

const PATIENT: &[&str] = &["--patient"];

/// `noclaw doctor --escape --json` with this state.
fn command(podman: &str, state: &Path) -> Result<Command> {
    let mut command = Command::new(NOCLAW);
    command.args(["doctor", "--escape", "--json", "--podman", podman]);
    command.env("NOCLAW_LAUNCHER", ground("NOCLAW_TEST_LAUNCHER")?).arg("--state").arg(state);
    Ok(command)
}

/// The same with a state of its own, to its end.
fn doctor(podman: &str, more: &[&str], variables: &[(&str, &str)]) -> Result<Output> {
    let state = tempfile::tempdir()?;
    Ok(command(podman, state.path())?.args(more).envs(variables.iter().copied()).output()?)
}

/// Runs the probes; their command's exit status stands beside them.
fn escape(
    podman: &str,
    patience: &[&str],
    variables: &[(&str, &str)],
) -> Result<(Option<i32>, Probed)> {
    let output = doctor(podman, patience, variables)?;
    Ok((output.status.code(), probed(&output)?))
}

/// The array on standard output: every element in its form, no probe twice.
fn probed(output: &Output) -> Result<Probed> {
    let list: Vec<Value> =
        serde_json::from_slice(&output.stdout).map_err(|e| format!("{e}: {}", told(output)))?;
    let word = |value: &Value| value.as_str().map(ToOwned::to_owned).ok_or("no word");
    let mut found = Probed::new();
    for one in &list {
        let twice =
            found.insert(word(&one["probe"])?, (word(&one["result"])?, word(&one["detail"])?));
        assert!(twice.is_none(), "told twice: {one}");
    }
    Ok(found)
}

fn with<'a>(probed: &'a Probed, result: &str) -> Vec<&'a str> {
    let found = probed.iter().filter(|(_, (found, _))| found == result);
    found.map(|(probe, _)| probe.as_str()).collect()
}

#[test]
fn nothing_is_open_in_a_cell() -> Result {
    let (status, probed) = escape(&ground("NOCLAW_PODMAN")?, PATIENT, &[])?;
    assert_eq!(with(&probed, "open"), [""; 0], "{probed:#?}");
    assert_eq!(status, Some(0));
    assert!(with(&probed, "blocked").len() > 150, "{probed:#?}");
    assert_eq!(with(&probed, "not_tested"), untested()?, "{probed:#?}");
    Ok(())
}

/// What cannot be tested here, in order: what this machine's kernel has no controller for, and the
/// journal where nobody keeps one.
fn untested() -> Result<Vec<&'static str>> {
    let without = std::env::var("NOCLAW_ACCEPT_WITHOUT").unwrap_or_default();
    let journal = UnixDatagram::unbound()?.connect("/run/systemd/journal/socket").is_ok();
    let lacks = |what: &str| if what == JOURNAL { !journal } else { without.contains(what) };
    let untested = WITHOUT.iter().filter(|(what, ..)| lacks(what));
    Ok(untested.map(|(_, probe, _)| *probe).collect())
}

#[test]
fn what_cannot_be_tried_is_told_as_one_line_that_says_what_to_do() -> Result {
    let here = ground("NOCLAW_PODMAN")?;
    let nobody = tempfile::tempdir()?.path().join("sock").display().to_string();
    let mut ways = vec![
        (nobody, vec![], 69, "No such file or directory", "systemctl --user start podman.socket"),
        (here.clone(), vec!["--launcher", "/none"], 78, "/none", "--launcher PATH"),
        (
            here.clone(),
            vec!["--accept-without", "disk"],
            64,
            "a limit to do without",
            "memory, pids or cpu",
        ),
    ];
    // Of what this machine has not, all must be accepted.
    let missing = std::env::var("NOCLAW_ACCEPT_WITHOUT").unwrap_or_default();
    let hint = format!("--accept-without={missing}");
    if !missing.is_empty() {
        ways.push((here, vec!["--accept-without="], 78, "no cgroup controller", &hint));
    }
    for (podman, more, status, why, hint) in ways {
        let output = doctor(&podman, &more, &[])?;
        assert_eq!(output.status.code(), Some(status), "{}", told(&output));
        let probed = probed(&output)?;
        let [(probe, (result, detail))] = probed.iter().collect::<Vec<_>>()[..] else {
            return Err(format!("more than one line: {probed:#?}").into());
        };
        assert_eq!((probe.as_str(), result.as_str()), ("the other probes", "not_tested"));
        let error = String::from_utf8_lossy(&output.stderr);
        for word in [why, hint] {
            assert!(detail.contains(word), "{word}: {detail}");
            assert!(error.contains(word), "{word}: {error}");
        }
    }
    Ok(())
}

#[test]
fn the_service_of_a_doctor_that_is_killed_ends_with_it() -> Result {
    let state = tempfile::tempdir()?;
    let mut command = command(&ground("NOCLAW_PODMAN")?, state.path())?;
    let mut doctor = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let socket = state.path().join("escape/service/sock");
    // The probes come first, and other tests' are at it at the same time.
    let listens = || until("its service listens", || UnixStream::connect(&socket).ok());
    let begun = listens().or_else(|_| listens()).or_else(|_| listens());
    doctor.kill()?;
    doctor.wait()?;
    begun?;
    until("its service ends", || UnixStream::connect(&socket).is_err().then_some(()))
}

/// The tools of the pin's that are not listed: each is a line of `tests/golden/tools.txt`.
#[test]
fn each_tool_that_is_kept_away_is_called() -> Result {
    let table: Value =
        serde_json::from_str(&std::fs::read_to_string("data/escape/persistence.json")?)?;
    let called = table["kept_away"].as_array().ok_or("no calls")?;
    let golden = std::fs::read_to_string("tests/golden/tools.txt")?;
    let kept_away = golden.lines().filter(|line| line.contains(" kept-away "));
    for tool in kept_away.filter_map(|line| line.split_whitespace().next()) {
        assert!(called.iter().any(|call| call["tool"] == tool), "{tool} is not called");
    }
    Ok(())
}

/// Each call of the second filter, the argument that it looks at, and the probe that makes it.
const SECOND: [(&str, Option<u64>, &str); 14] = [
    ("landlock_create_ruleset", None, "kernel: landlock_create_ruleset"),
    ("landlock_add_rule", None, "kernel: landlock_add_rule"),
    ("landlock_restrict_self", None, "kernel: landlock_restrict_self"),
    ("seccomp", None, "kernel: seccomp"),
    ("prctl", Some(22), "kernel: prctl loads a filter"),
    ("personality", None, "kernel: personality"),
    ("ioctl", Some(0x5412), "kernel: typing into a terminal (TIOCSTI)"),
    ("ioctl", Some(0x541C), "kernel: a console's selection, pasted (TIOCLINUX)"),
    ("ioctl", Some(0x5000_9401), "kernel: of the host's file system a snapshot (SNAP_CREATE)"),
    ("ioctl", Some(0x5000_940E), "kernel: of the host's file system a volume (SUBVOL_CREATE)"),
    ("ioctl", Some(0x5000_9417), "kernel: of the host's file system a snapshot (SNAP_CREATE_V2)"),
    ("ioctl", Some(0x5000_9418), "kernel: of the host's file system a volume (SUBVOL_CREATE_V2)"),
    (
        "ioctl",
        Some(0x4008_941A),
        "kernel: of the host's file system a volume's flags (SUBVOL_SETFLAGS)",
    ),
    ("ioctl", Some(0x4080_6685), "kernel: of the host's file system a file's seal (ENABLE_VERITY)"),
];
/// The first filter refuses this, too.
const BY_BOTH: &str = "kernel: prctl loads a filter";

#[test]
fn without_the_second_filter_all_its_calls_are_found_and_no_other() -> Result {
    let table: Value = serde_json::from_str(&std::fs::read_to_string("data/seccomp-agent.json")?)?;
    let calls = table["agent"]["filter"].as_array().ok_or("no calls")?.iter();
    let calls = calls.map(|call| (call["syscall"].as_str(), call["args"][0]["val"].as_u64()));
    let probes = SECOND.iter().map(|(call, value, _)| (Some(*call), *value));
    assert_eq!(calls.collect::<Vec<_>>(), probes.collect::<Vec<_>>());

    let unfiltered = [("NOCLAW_TEST_UNCONFINED", "seccomp")];
    let (status, probed) = escape(&ground("NOCLAW_PODMAN")?, &[], &unfiltered)?;
    assert_eq!(status, Some(70), "{probed:#?}");
    let open = with(&probed, "open").into_iter().filter(|probe| probe.starts_with("kernel: "));
    let mut its: Vec<_> = SECOND.iter().map(|(.., probe)| *probe).collect();
    its.retain(|probe| *probe != BY_BOTH);
    its.sort_unstable();
    assert_eq!(open.collect::<Vec<_>>(), its, "{probed:#?}");
    Ok(())
}

#[test]
fn each_probe_can_fail() -> Result {
    let podman = BrokenPodman::start()?;
    let host_network = format!("{ALL_AWAY}{HOST_NETWORK}{NO_REAPER}");
    let unconfined = [
        ("NOCLAW_TEST_UNCONFINED", "1"),
        ("NOCLAW_TEST_AGENT", TIDY),
        ("NOCLAW_TEST_UNGATED", "1"),
    ];
    let careless = [("NOCLAW_TEST_AGENT", CARELESS)];
    let ways: [(&str, &[&str], &[_]); 4] = [
        (ALL_AWAY, &[], &unconfined),
        (&host_network, &[], &unconfined),
        ("", PATIENT, &careless),
        ("", &[], &AT_HOME),
    ];
    let (mut all, mut open) = (BTreeSet::new(), BTreeSet::new());
    let mut details = Vec::new();
    for (edit, patience, variables) in ways {
        podman.edit(edit)?;
        let (status, probed) = escape(&podman.socket(), patience, variables)?;
        assert_eq!(status, Some(70), "{probed:#?}");
        for (probe, (result, detail)) in probed {
            // Neither says anything of the layers.
            let broken = ["the probe failed", "it was not answered"];
            assert!(!broken.iter().any(|why| detail.starts_with(why)), "{probe}: {detail}");
            if result == "open" && !UNPROVED.iter().any(|why| detail.starts_with(why)) {
                open.insert(probe.clone());
            }
            // A twin has a line only where it does not work.
            if !probe.starts_with("twin: ") {
                all.insert(probe.clone());
            }
            details.push((probe, detail));
        }
    }
    let named: BTreeSet<_> = [STAYS, MACHINES].concat().iter().map(|(probe, _)| *probe).collect();
    let untested = untested()?;
    let excused =
        |probe: &&String| named.contains(probe.as_str()) || untested.contains(&probe.as_str());
    let held: Vec<_> = all.difference(&open).filter(|probe| !excused(probe)).collect();
    assert_eq!(held, [""; 0], "{details:#?}");
    let unknown: Vec<_> = named.iter().filter(|probe| !all.contains(**probe)).collect();
    assert_eq!(unknown, [&""; 0], "no probe is called so");
    let found: Vec<_> = STAYS.iter().filter(|(probe, _)| open.contains(*probe)).collect();
    assert!(found.is_empty(), "it was found open: {found:#?} {details:#?}");
    let found = |probe: &str, why: &str| details.iter().any(|(p, d)| p == probe && d.contains(why));
    let missed: Vec<_> = FOUND.iter().filter(|(probe, why)| !found(probe, why)).collect();
    assert!(missed.is_empty(), "{missed:#?} {details:#?}");
    Ok(())
}

const HOST_NETWORK_ALONE: &str = r#"
l = c["linux"]
l.pop("sysctl", None)
l["namespaces"] = [n for n in l["namespaces"] if n["type"] != "network"]
c["mounts"].remove(mount("/sys"))
bind("/sys", "/sys", "rbind", "ro")
"#;

/// The host's processes in sight. (No `/proc` of its own can be mounted then.)
const HOST_PROCESSES: &str = r#"
l = c["linux"]
l["namespaces"] = [n for n in l["namespaces"] if n["type"] != "pid"]
c["mounts"].remove(mount("/proc"))
bind("/proc", "/proc", "rbind", "ro", "nosuid", "nodev", "noexec")
l["maskedPaths"] = []; l["readonlyPaths"] = []
"#;

/// An edit, and what the run's error must say.
const BREAKS: [(&str, &str); 25] = [
    // With our filter the runtime itself cannot do without.
    (r#"c["process"]["noNewPrivileges"] = False"#, "Podman failed to init the container"),
    (
        r#"c["process"]["noNewPrivileges"] = False; c["linux"].pop("seccomp")"#,
        "no-new-privileges is false",
    ),
    (HOST_NETWORK_ALONE, "the list of network interfaces"),
    (r#"c["linux"].pop("seccomp")"#, "the seccomp mode"),
    (r#"c["linux"]["seccomp"]["syscalls"].pop()"#, "the filter's fingerprint"),
    (
        r#"c["process"]["capabilities"] = {"bounding": ["CAP_KILL"]}"#,
        "the union of the capability sets",
    ),
    (HOST_PROCESSES, "the pid namespace is the service's"),
    (
        r#"c["linux"]["namespaces"] = [n for n in c["linux"]["namespaces"] if n["type"] != "ipc"]
c["mounts"] = [m for m in c["mounts"] if m["type"] != "mqueue"]"#,
        "the ipc namespace is the service's",
    ),
    (
        r#"c["linux"]["namespaces"] = [n for n in c["linux"]["namespaces"] if n["type"] != "uts"]
c.pop("hostname", None)"#,
        "the uts namespace is the service's",
    ),
    (
        r#"c["linux"]["namespaces"] = [n for n in c["linux"]["namespaces"] if n["type"] != "cgroup"]"#,
        "the cgroup namespace is",
    ),
    (r#"bind("/usr/share", "/srv", "ro")"#, "what is mounted at /srv is"),
    (r#"bind("/usr/share/doc", "/tmp/x", "ro")"#, "what is mounted at /tmp/x is"),
    (
        r#"mount("/workspace")["options"] = ["bind", "ro"]"#,
        "the mode of the mount /workspace is ro",
    ),
    (
        r#"mount("/noclaw/noclaw-cell")["options"] = ["bind", "rw"]"#,
        "the mode of the mount /noclaw/noclaw-cell is rw",
    ),
    (
        r#"mount("/noclaw/noclaw-cell")["options"] = ["bind", "ro", "nosuid"]"#,
        "the list of options of the mount /noclaw/noclaw-cell",
    ),
    (r#"c["root"]["readonly"] = False"#, "the mode of the mount / is rw"),
    (
        r#"workspace = mount("/workspace")
for option in ("--bind", workspace["source"]), ("--make-shared",):
    os.system(" ".join(["mount", *option, workspace["source"]]))
workspace["options"] = ["bind", "rslave", "rw", "nosuid", "nodev"]
c["linux"]["rootfsPropagation"] = "rslave""#,
        "the propagation of the mount /workspace is master:",
    ),
    (
        r#"hosts = mount("/etc/hosts")
folder = "/var/tmp/noclaw-other/userdata"
os.makedirs(folder, exist_ok=True)
open(folder + "/hosts", "w").write("127.0.0.1 localhost")
hosts["source"] = folder + "/hosts""#,
        "what is mounted at /etc/hosts is",
    ),
    (r#"mount("/workspace")["source"] = "/var/tmp""#, "what is mounted at /workspace is device"),
    (
        r#"options = mount("/tmp")["options"]
options[:] = [o for o in options if not o.startswith("size=")] + ["size=1g"]"#,
        "the size of /tmp is 1048576k",
    ),
    (r#"c["linux"]["readonlyPaths"] = []"#, "what is mounted at /proc/sys is missing"),
    (r#"c["linux"]["readonlyPaths"] = ["/proc/sys"]"#, "is missing"),
    (r#"c["linux"]["maskedPaths"] = []"#, "is missing"),
    (r#"c["process"]["rlimits"][0]["hard"] += 1"#, "the limit of"),
    (r#"c["process"]["env"].append("SECRET=1")"#, "the list of variables"),
];

#[test]
fn with_a_layer_broken_the_agent_is_not_started_and_the_layer_is_named() -> Result {
    let podman = BrokenPodman::start()?;
    let recorder = Recorder::start(|_, _| Say::Text("It was started.".into()))?;
    let args = ["--model-api", &recorder.url, "--burst", "100", "--rate", "1000"];
    let mut house = House::closed(&podman.socket(), &args)?;
    house.key("canary")?;
    house.open()?;
    for (edit, field) in BREAKS {
        podman.edit(edit)?;
        let run = house.run(&["hello"])?;
        let error = run["error"].as_str().unwrap_or_default();
        assert_eq!(run["status"], "failed", "{edit}: {run}");
        assert!(error.contains(field), "{edit}: {error}");
        assert_eq!(recorder.requests().len(), 0, "{edit}: the model was asked");
    }
    podman.edit("")?;
    assert_eq!(house.send(&["the twin"])?, "It was started.");

    // What the agent's process gives up by itself, one thing after the other and both.
    for (what, field) in [
        ("landlock", "agent: Landlock is missing"),
        ("another", "agent: the answer of the second filter is"),
        ("seccomp", "agent: the number of filters is 1"),
        ("1", "agent: the number of filters is 1"),
    ] {
        let before = recorder.requests().len();
        house.env("NOCLAW_TEST_UNCONFINED", what);
        house.close()?;
        house.open()?;
        let run = house.run(&["hello"])?;
        let error = run["error"].as_str().unwrap_or_default();
        assert_eq!(run["status"], "failed", "without {what}: {run}");
        assert!(error.contains(field), "without {what}: {error}");
        assert_eq!(recorder.requests().len(), before, "without {what}: the model was asked");
    }
    Ok(())
}
