//! What a cell may take of the disk: a workspace that is filled by bytes, by files or by both ends
//! its run before much is added; so does a disk that is nearly full. What stays below is answered,
//! and a full workspace can be cleaned up by its agent.

#![expect(clippy::disallowed_methods, reason = "a test makes files of its own")]

mod support;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::recorder::{Recorder, Say};
use support::{House, Result, exits, ground, until};

const MIB: u64 = 1 << 20;
/// A machine with other work may take so long to look, to count and to kill.
const LATE: u64 = 3;

/// Has the agent run a program in the workspace.
fn tool(script: &str) -> String {
    format!("!tool Bash {}", json!({"command": script, "timeout": 600_000}))
}

/// What a folder takes, by a walk of the test's own: bytes and names.
fn takes(folder: &Path) -> Result<(u64, u64)> {
    let mut sum = (0, 0);
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let meta = fs::symlink_metadata(&path)?;
        sum = (sum.0 + meta.blocks() * 512, sum.1 + 1);
        if meta.is_dir() {
            let inner = takes(&path)?;
            sum = (sum.0 + inner.0, sum.1 + inner.1);
        }
    }
    Ok(sum)
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value.get(field).and_then(Value::as_str).unwrap_or_default()
}

/// The run must have failed for its quota, and nothing of its cell be left.
fn stopped(house: &House, run: &Value, words: &str) -> Result {
    assert_eq!(text(run, "status"), "failed", "{run}");
    assert!(text(run, "error").starts_with("quota: "), "{run}");
    assert!(text(run, "error").contains(words), "{run}");
    until("its cell is gone", || house.containers().ok().filter(Vec::is_empty)).map(drop)
}

/// The space that was kept with a run that is over.
fn kept(house: &House, run: &Value) -> Result<Value> {
    until("its workspace was counted", || {
        let run = house.show(run).ok()?;
        run.get("workspace").filter(|space| space.is_object()).cloned()
    })
}

/// Writes 4 MiB forty times a second, so that the test knows how much a moment adds.
const BYTES: &str =
    "for i in $(seq 200); do head -c 4M /dev/zero >f$i; sleep 0.025; done; echo done";
const BYTES_PER_SECOND: u64 = 160 * MIB;

#[test]
fn a_workspace_that_is_filled_by_bytes_ends_its_run() -> Result {
    let house = House::start(&["--workspace-size", "64", "--cells-per-user", "1"])?;
    let workspace = house.workspace("bob");
    let begun = Instant::now();
    let run = house.run(&["-u", "bob", &tool(BYTES)])?;
    stopped(&house, &run, "the workspace takes")?;
    assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
    let (bytes, _) = takes(&workspace)?;
    println!("stopped at {} of 64 MiB", bytes / MIB);
    assert!(bytes > 64 * MIB, "it was stopped too early: {bytes}");
    assert!(bytes < 64 * MIB + BYTES_PER_SECOND * LATE && !workspace.join("f200").exists());
    let space = kept(&house, &run)?;
    let counted = space["bytes"].as_u64().ok_or("no bytes")?;
    assert!((bytes..bytes + MIB).contains(&counted), "{counted}, not {bytes} and the folder's own");

    // The owner is told, wherever they look.
    let news = exits(&house.noclaw(&[]).output()?, 0);
    let percent = counted * 100 / (64 * MIB);
    assert!(news.contains(&format!("the workspace of bob is {percent} % full")), "{news}");
    let list = exits(&house.noclaw(&["user", "list"]).output()?, 0);
    let row = list.lines().find(|line| line.starts_with("bob")).ok_or("no bob")?;
    assert!(row.contains(&format!(" MiB ({percent} %)")), "{row}");
    let show = exits(&house.noclaw(&["user", "show", "bob"]).output()?, 0);
    assert!(show.contains("may take      64.0 MiB in 200000 files"), "{show}");
    assert!(show.contains(&workspace.display().to_string()), "{show}");
    assert!(house.logged().contains("this user's workspace takes"), "{}", house.logged());

    // The agent is told, too. It may clean up, and not add.
    let more = house.run(&["-u", "bob", &tool("head -c 60M /dev/zero >more; sleep 60")])?;
    stopped(&house, &more, "the workspace takes")?;
    let blocks = "!tool Bash {\"command\":\"rm -f f* more; sleep 6; echo clean\"}";
    let cleaned = house.run(&["-u", "bob", blocks])?;
    assert_eq!(text(&cleaned, "reply"), "clean", "{cleaned}");
    let space = kept(&house, &cleaned)?;
    assert!(space["bytes"].as_u64() < Some(MIB), "{space}");
    let news = exits(&house.noclaw(&[]).output()?, 0);
    assert!(!news.contains("% full"), "{news}");
    let twin = tool("head -c 40M /dev/zero >f; sleep 6; rm f; head -c 40M /dev/zero >g; echo done");
    assert_eq!(house.send(&["-u", "bob", &twin])?, "done");
    Ok(())
}

#[test]
fn a_workspace_that_is_filled_by_files_ends_its_run() -> Result {
    let house = House::start(&["--workspace-files", "2000"])?;
    let many = "python3 -c 'import os\nfor i in range(1000000):\n  os.close(os.open(str(i), 65))'";
    let begun = Instant::now();
    let run = house.run(&["-u", "bob", &tool(many)])?;
    stopped(&house, &run, "are allowed")?;
    let (_, files) = takes(&house.workspace("bob"))?;
    println!("stopped at {files} of 2000 files, after {:?}", begun.elapsed());
    assert!(files > 2000 && files < 900_000, "{files}");
    let directories =
        tool("for i in $(seq 400); do mkdir -p d$i/a/b/c; done; rm -rf d*; echo done");
    let full = house.run(&["-u", "bob", &directories])?;
    stopped(&house, &full, "are allowed")?;
    // Another user is not concerned: four directories each are 1600.
    assert_eq!(house.send(&["-u", "eve", &directories])?, "done");
    Ok(())
}

#[test]
fn what_hides_from_a_count_does_not_hide() -> Result {
    let house = House::start(&["--workspace-size", "64"])?;
    // In a directory that is closed, in a workspace that is.
    let closed = "mkdir -p a/b; cd a/b; chmod 0 /workspace/a /workspace; \
                  for i in $(seq 200); do head -c 4M /dev/zero >f$i; sleep 0.025; done";
    let run = house.run(&["-u", "bob", &tool(closed)])?;
    stopped(&house, &run, "the workspace takes")?;
    // Where the agent keeps its transcripts.
    let beside = BYTES.replace(">f", ">/transcripts/f");
    let run = house.run(&["-u", "eve", &tool(&beside)])?;
    stopped(&house, &run, "the folder of transcripts takes")?;
    assert_eq!(house.send(&["-u", "eve", "hello"])?, "You said: hello");
    // Nested deeper than can be counted.
    let deep = "import os,time\nfor i in range(3000):\n  os.mkdir(\"d\"); os.chdir(\"d\")\n\
                time.sleep(60)";
    let run = house.run(&["-u", "ann", &tool(&format!("python3 -c '{deep}'"))])?;
    stopped(&house, &run, "nested too deep")?;
    // Moved about while it is counted: either a count sees it all, or they never do.
    let moving = r#"import os
top = "/workspace/"
for depth in range(12): os.makedirs(top + "a/" * (depth + 1))
def move(depth):
    at = top + "a/" * depth
    while True:
        for one, other in (("a", "b"), ("b", "a")):
            try: os.rename(at + one, at + other)
            except OSError: pass
for depth in (0, 1, 2):
    if os.fork() == 0: move(depth)
os.chdir("/workspace")
while True:
    try:
        at = os.open("a/" * 12, os.O_RDONLY); break
    except OSError: pass
for n in range(400):
    file = os.open(f"f{n}", os.O_CREAT | os.O_WRONLY, 0o600, dir_fd=at)
    for _ in range(4): os.write(file, bytes(1 << 20))
    os.close(file)"#;
    let run = house.run(&["-u", "joe", &tool(&format!("python3 -c '{moving}'"))])?;
    stopped(&house, &run, "the workspace ")
}

#[test]
fn a_full_workspace_of_before_is_told_to_the_agent_and_may_stay() -> Result {
    let recorder = Recorder::start(|number, request| match (number, request.results().last()) {
        (2, None) => Say::Tool("Bash", json!({"command": "echo x >note; sleep 7; cat note"})),
        (_, Some(result)) => Say::Text(format!("it said {result}")),
        _ => Say::Text("hello".to_owned()),
    })?;
    let mut house = House::closed(&ground("NOCLAW_PODMAN")?, &["--model-api", &recorder.url])?;
    house.key("canary")?;
    house.args(&["--workspace-size", "16"]);
    house.open()?;
    let run = house.run(&["-u", "bob", "-c", "one", "hello"])?;
    kept(&house, &run)?;
    // Its owner puts something there: more than may be, and no run's doing.
    fs::write(house.workspace("bob").join("film"), vec![7; 40 << 20])?;
    let run = house.run(&["-u", "bob", "-c", "two", "hello"])?;
    let space = kept(&house, &run)?;
    assert!(space["bytes"].as_u64() > Some(40 * MIB), "{space}");
    let run = house.run(&["-u", "bob", "-c", "three", "work"])?;
    assert_eq!(text(&run, "reply"), "it said x", "a little may be added: {run}");
    let told: Vec<_> = recorder.requests().iter().map(|r| r.body.to_string()).collect();
    let [one, two, three, ..] = told.as_slice() else { return Err("too few requests".into()) };
    // Before it was counted nobody knew.
    assert!(!one.contains("<noclaw:workspace>") && !two.contains("<noclaw:workspace>"));
    for word in ["<noclaw:workspace>", "40.0 MiB in 1 files", "16.0 MiB in 200000 files", "250"] {
        assert!(three.contains(word), "{word}: {three}");
    }
    Ok(())
}

#[test]
fn a_disk_that_is_nearly_full_ends_runs_and_refuses_messages() -> Result {
    // A disk that few others write to.
    let shm = tempfile::Builder::new().prefix("noclaw-quota-").tempdir_in("/dev/shm")?;
    fs::set_permissions(shm.path(), fs::Permissions::from_mode(0o700))?;
    let free = || -> Result<u64> {
        let stat = nix::sys::statvfs::statvfs(shm.path())?;
        Ok(stat.blocks_available() * stat.fragment_size() / MIB)
    };
    let floor = |room: u64| -> Result<String> { Ok((free()? - room).to_string()) };
    let mut house = House::closed(&ground("NOCLAW_PODMAN")?, &["--model-api", "demo"])?;
    std::os::unix::fs::symlink(shm.path(), house.path("state"))?;
    house.env("NOCLAW_DISK_FREE", &floor(256)?);
    house.open()?;
    let write = |mib: u64| format!("head -c {mib}M /dev/zero >f; sleep 2; rm -f f; echo done");
    assert_eq!(house.send(&["-u", "bob", &tool(&write(64))])?, "done");
    // Files that are deleted and still open are in no folder.
    let hidden = "exec 3>f; rm f; head -c 512M /dev/zero >&3; sleep 60";
    let run = house.run(&["-u", "bob", &tool(hidden)])?;
    stopped(&house, &run, "of the disk are free")?;
    assert_eq!(house.send(&["-u", "bob", &tool(&write(64))])?, "done");
    let run = house.run(&["-u", "bob", &tool(&write(512).replace("sleep 2", "sleep 60"))])?;
    stopped(&house, &run, "of the disk are free")?;
    // What it wrote is still there, so there is no room for another run.
    let refused = house.post("/webhook", r#"{"message":"hello"}"#)?;
    assert_eq!((refused.status, refused.problem()?.as_str()), (507, "storage-full"));
    assert!(refused.json()?["hint"].to_string().contains("--disk-free"), "{refused:?}");
    exits(&house.noclaw(&["send", "hello"]).output()?, 75);
    fs::remove_file(house.workspace("bob").join("f"))?;
    assert_eq!(house.send(&["hello"])?, "You said: hello");
    Ok(())
}
