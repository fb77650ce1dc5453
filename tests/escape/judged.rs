//! What the probes make of an answer, each with a part of them alone: a cell shows only its own.

use std::process::Command;

use serde_json::Value;

use crate::away::WITHOUT;
use crate::support::{Result, told};

/// A probe with files of a cgroup that is not there.
const WITH_FILES: &str = r#"
def verdict(name, files):
    globals()["limit"] = lambda file: next(files[file]) if file in COUNTED else files[file]
    try:
        next(run for probe, run in PROBES if probe == name)()
    except (Blocked, Open) as word:
        print(type(word).__name__, word)
COUNTED = {"memory.events"}
"#;

/// No limit is behind this one, and then another one.
const PROCESSES: &str = r#"
for most in "max", "20":
    verdict("exhaustion: processes", {"pids.max": most})
fork = os.fork
for others in 19, 20:
    left = iter(range(others))
    def os_fork():
        if next(left, None) is None:
            raise BlockingIOError(errno.EAGAIN, "no more")
        return fork()
    os.fork = os_fork
    verdict("exhaustion: processes", {"pids.max": "20"})
"#;

/// The same; and one that is killed, by the limit and by somebody else.
const MEMORY: &str = r#"
def memory(most, *kills):
    events = iter([f"low 0\noom_kill {number}" for number in kills])
    verdict("exhaustion: memory", {"memory.max": most, "memory.events": events})
memory("max")
memory(str(32 << 20), 0, 0)
child = lambda work, seconds: (signal.SIGKILL, None)
memory(str(32 << 20), 3, 4)
memory(str(32 << 20), 3, 3)
"#;

/// Where a machine counts no processor time, this is all that is known of that probe's judgement.
const HELD_BACK: &str = r#"
def verdict(processors, used, throttled, periods):
    none = {"usage_usec": 7, "nr_throttled": 3, "nr_periods": 9}
    counted = {"usage_usec": 7 + used, "nr_throttled": 3 + throttled, "nr_periods": 9 + periods}
    try:
        held_back(200_000, 100_000, processors, 3_000_000, none, counted)
    except (Blocked, Open) as word:
        return type(word).__name__
print(*(verdict(*case) for case in (
    (4, 5_900_000, 20, 30), (4, 11_500_000, 0, 30), (4, 11_500_000, 30, 30), (4, 3_000_000, 0, 30),
    (2, 5_900_000, 0, 30), (2, 5_900_000, 0, 0))))
"#;

/// Runs a line of python with some of the probes' parts.
fn python(parts: &[&str], given: &str, line: &str) -> Result<String> {
    let parts = parts.iter().map(|part| format!("data/escape/{part}.py"));
    let parts = parts.map(std::fs::read_to_string).collect::<std::io::Result<String>>()?;
    let mut python = Command::new("python3");
    let said = python.args(["-c", &format!("{parts}\n{line}")]).env("GIVEN", given).output()?;
    match said.status.success() {
        true => Ok(String::from_utf8(said.stdout)?.trim().to_owned()),
        false => Err(told(&said).into()),
    }
}

#[test]
fn processes_are_judged_by_how_many_there_could_be() -> Result {
    let said = python(&["common", "exhaustion"], "{}", &[WITH_FILES, PROCESSES].concat())?;
    let found: Vec<_> = said.lines().collect();
    assert_eq!(
        found,
        [
            "Open pids.max is max",
            "Open 41 processes, pids.max 20",
            "Blocked EAGAIN after 19, pids.max 20",
            "Open nothing is proved: EAGAIN after 20, pids.max 20",
        ]
    );
    Ok(())
}

#[test]
fn memory_is_judged_by_who_was_killed_for_it() -> Result {
    let said = python(&["common", "exhaustion"], "{}", &[WITH_FILES, MEMORY].concat())?;
    let found: Vec<_> = said.lines().collect();
    assert_eq!(
        found,
        [
            "Open memory.max is max",
            "Open 64 MiB were taken, status 0; memory.max 32 MiB",
            "Blocked killed for it; memory.max 32 MiB",
            "Open None MiB were taken, status 9; memory.max 32 MiB",
        ]
    );
    Ok(())
}

/// What a machine lacks excuses no probe whose judgement nobody has seen fail.
#[test]
fn each_probe_that_a_machine_may_lack_something_for_names_its_judgements_test() -> Result {
    let files = ["tests/escape/judged.rs", "src/commands/doctor/escape/leaks.rs"];
    let tests = files.iter().map(std::fs::read_to_string).collect::<std::io::Result<String>>()?;
    for (_, probe, test) in WITHOUT {
        assert!(tests.contains(&format!("fn {test}()")), "{probe}: {test}");
    }
    Ok(())
}

#[test]
fn processor_time_is_judged_by_what_was_used_and_held_back() -> Result {
    let said = python(&["common", "exhaustion"], "{}", HELD_BACK)?;
    assert_eq!(said, "Blocked Open Open None Blocked None");
    Ok(())
}

/// A place where it was enough before all was read proves nothing; a look to the end finds it.
#[test]
fn the_key_is_found_in_a_whole_file_and_what_was_not_read_is_told() -> Result {
    let line = r#"
import tempfile
with tempfile.TemporaryDirectory() as folder:
    open(folder + "/a", "wb").write(bytes((3 << 20) - 2) + KEY + bytes(9))
    late = time.monotonic() + 60
    print(in_files(folder, set(), late, []) == folder + "/a", in_files(folder, {folder + "/a"}, late, []))
    mounted = lambda: ([folder, "/"], {folder, "/proc", "/sys"})
    SECONDS = 0
    try:
        PROBES[-1][1]()
    except Open as word:
        print(word)
"#;
    let said = python(&["common", "door", "key"], r#"{"key": ["sk-canary", "-0123"]}"#, line)?;
    let (found, told) = said.split_once('\n').ok_or(said.as_str())?;
    assert_eq!(found, "True None");
    assert!(told.starts_with("nothing is proved: not all was read in "), "{told}");
    Ok(())
}

/// In a cell no program has this, and no process could make use of it. Here `newuidmap` has it:
/// rootless Podman needs that.
#[test]
fn a_program_that_raises_its_rights_is_seen_whatever_it_exits_with() -> Result {
    let line = r#"
import shutil
print(raised(shutil.which("id"), []), raised("/bin/false", []), sep="\n")
print(raised(shutil.which("newuidmap"), ["1", "0", "0", "1"]))"#;
    let said = python(&["common", "privileges"], r#"{"key": ["x", "y"]}"#, line)?;
    let [id, fails, raises] = said.lines().collect::<Vec<_>>()[..] else { return Err(said.into()) };
    assert_eq!((id, fails), ("None", "None"));
    assert_ne!(raises, "None");
    Ok(())
}

/// A door that breaks off has refused nothing.
#[test]
fn a_door_that_breaks_off_has_refused_nothing() -> Result {
    let line = r#"
import tempfile
def judged(answer):
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as server:
        os.environ["ANTHROPIC_UNIX_SOCKET"] = folder + "/sock"
        server.bind(folder + "/sock")
        server.listen()
        serving = os.fork()
        while serving == 0:
            # What is not read makes a reset of the end.
            stream = server.accept()[0]
            stream.recv(1)
            stream.sendall(answer)
            stream.close()
        try:
            next(run for name, run in PROBES if name == "door: smuggled and giant headers")()
        except Open as word:
            return word
        finally:
            os.kill(serving, signal.SIGKILL)
            os.waitpid(serving, 0)
print(judged(b""), judged(b"HTTP/1.1 431 too large\r\n\r\n"), sep="\n")
"#;
    let given = r#"{"model": "m", "reached": "reached"}"#;
    let said = python(&["common", "door"], given, line)?;
    let [broken, another] = said.lines().collect::<Vec<_>>()[..] else { return Err(said.into()) };
    assert_eq!(broken, "nothing is proved: two lengths: nothing came back");
    assert_eq!(another, "nothing is proved: two lengths: 431 too large, and not 400");
    Ok(())
}

/// Whatever breaks the launcher ends a run, too: it is no limit of the service's.
#[test]
fn an_attack_on_a_service_is_held_by_the_limit_that_it_runs_into() -> Result {
    let table: Value = serde_json::from_str(&std::fs::read_to_string("data/escape/service.json")?)?;
    let attacks = table["attacks"].as_array().ok_or("no attacks")?;
    let ends = attacks.iter().flat_map(|attack| attack["ends"].as_array().into_iter().flatten());
    let ends: Vec<_> = ends.filter_map(Value::as_str).collect();
    assert!(ends.len() > 4, "{ends:?}");
    let limits = ["quota: the workspace takes", "breach: the agent wrote", "breach: this run has"];
    let held = |end: &&str| limits.iter().any(|limit| end.starts_with(limit));
    let other: Vec<_> = ends.iter().filter(|end| !held(end)).collect();
    assert_eq!(other, [&""; 0]);
    Ok(())
}

/// Where the key is in a process's memory it is found, and who cannot be read is not counted.
#[test]
fn the_key_is_found_in_memory_and_who_was_not_read_is_not_counted() -> Result {
    let line = r#"
with_key = os.posix_spawn("/bin/sleep", ["sleep", "60"], {"HELD": KEY.decode()})
without = os.posix_spawn("/bin/sleep", ["sleep", "60"], {})
# That of the first process is its owner's alone, and a process that has ended has none.
having, read = in_memory(["1", str(without), str(with_key), "4194304"])
print(having == [str(with_key)], read)
for pid in with_key, without:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
"#;
    let given = r#"{"key": ["sk-canary", "-0123"]}"#;
    assert_eq!(python(&["common", "door", "key"], given, line)?, "True 2");
    Ok(())
}
