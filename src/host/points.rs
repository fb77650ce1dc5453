//! What a test may ask of the service: to stand still at a named point of a run, or to have a small
//! disk. Only builds with debug assertions have it; in a release build these are nothing at all.
//!
//! | variable | what it does |
//! |---|---|
//! | `NOCLAW_TEST_PAUSE=POINT:FILE` | at the point, makes the file and stands still while it is there |
//! | `NOCLAW_TEST_LEAVE=FILE` | the task that answers messages ends when the file is there |
//! | `NOCLAW_TEST_PAGES=FILE` | a connection that writes gets a database of at most as many pages as |
//! |  | the file says (4 KiB each), as on a full disk |
//! | `NOCLAW_TEST_UNCONFINED=1` | the process in a cell gives up nothing before it is the agent; |
//! |  | `landlock`, `seccomp`: only this it does not; `another`: its second filter is another one |
//! | `NOCLAW_TEST_AGENT=WORD,…` | `doctor --escape` starts the agent without a flag (`--tools`) or a |
//! |  | variable (`NAME`), or with another value of it (`NAME=VALUE`) |
//! | `NOCLAW_TEST_KEY=WORD` | the bait of `doctor --escape` has this key, which is told everywhere |
//! | `NOCLAW_TEST_UNGATED=1` | what its cell asks goes to the model's server as it comes, with the key |
//! | `NOCLAW_TEST_BOUNDLESS=1` | a run may ask the model without bounds, an agent writes lines of any |
//! |  | length and kind, and the workspace that `doctor --escape` fills has room for all of it |
//! | `NOCLAW_TEST_UNCOMPARED=1` | `doctor --escape` takes whatever is mounted in the place of something |
//! |  | of ours for that |
//! | `NOCLAW_TEST_CREDULOUS=1` | what an agent wrote, and the allowlist, are read by their path, |
//! |  | whatever is there and whoever can write to it |

use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::fcntl::OFlag;
use noclaw_cell::job::{Confinement, Job};
use noclaw_cell::preflight::Preflight;

use super::owned;
use crate::core::plan::CellPlan;

/// Stands still here if a test asked for it.
#[cfg(debug_assertions)]
pub async fn reached(point: &str) {
    let Ok(wanted) = std::env::var("NOCLAW_TEST_PAUSE") else {
        return;
    };
    if let Some((name, file)) = wanted.split_once(':')
        && name == point
    {
        #[expect(clippy::disallowed_methods, reason = "a test's own file")]
        std::fs::write(file, point).ok();
        while owned::exists(Path::new(file)) {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    }
}

/// Stands still here if a test asked for it: never, in this build.
#[cfg(not(debug_assertions))]
#[expect(clippy::unused_async, reason = "the same signature as in a test build")]
pub async fn reached(_point: &str) {}

/// Waits until a test has the task end that answers messages; for ever, if none does.
pub async fn left() {
    let Some(file) = asked("NOCLAW_TEST_LEAVE") else { return std::future::pending().await };
    while !owned::exists(std::path::Path::new(&file)) {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

/// What a test asked for: nothing, in a release build.
fn asked(name: &str) -> Option<String> {
    if cfg!(debug_assertions) { std::env::var(name).ok() } else { None }
}

/// The most pages that the database may have, if a test asked for it.
pub fn most_pages() -> Option<u32> {
    let file = asked("NOCLAW_TEST_PAGES")?;
    let text = owned::read(Path::new(&file), 99).ok()?;
    std::str::from_utf8(&text).ok()?.trim().parse().ok()
}

/// Has the agent's process give up nothing, or one thing less, if a test asked for it: the rest of
/// the cell must hold.
pub fn weaken(confinement: &mut Confinement) {
    let Some(asked) = asked("NOCLAW_TEST_UNCONFINED") else { return };
    if asked == "another" {
        // One call that nobody makes.
        r#"{"agent": {"mismatch_action": "allow", "match_action": {"errno": 38},
            "filter": [{"syscall": "vhangup"}]}}"#
            .clone_into(&mut confinement.seccomp);
        return;
    }
    if asked != "seccomp" {
        confinement.landlock.clear();
    }
    if asked != "landlock" {
        confinement.seccomp.clear();
    }
}

/// The key that is the bait, if a test asked for one.
pub fn key() -> Option<String> {
    asked("NOCLAW_TEST_KEY")
}

/// Whether a test asked for a cell without a gateway.
pub fn ungated() -> bool {
    asked("NOCLAW_TEST_UNGATED").is_some()
}

/// Whether a test asked for runs without bounds.
pub fn boundless() -> bool {
    asked("NOCLAW_TEST_BOUNDLESS").is_some()
}

/// Has a cell's measurement say of each of our mounts that it is what was planned, if a test asked
/// for it.
pub fn overlook(plan: &CellPlan, preflight: &mut Preflight) {
    if asked("NOCLAW_TEST_UNCOMPARED").is_none() {
        return;
    }
    let Preflight { launcher, agent } = preflight;
    for mount in launcher.mounts.iter_mut().chain(&mut agent.mounts) {
        let planned = plan.mounts.iter().find(|mine| mine.destination == mount.destination);
        if let Some(planned) = planned {
            (mount.device, mount.inode) = (Some(planned.device), Some(planned.inode));
        }
    }
}

/// What who believes a path reads there, if a test asked for it: no more than this, and nothing is
/// waited for.
pub fn credulous(path: &Path, most: usize) -> Option<String> {
    asked("NOCLAW_TEST_CREDULOUS")?;
    let mut how = OpenOptions::new();
    #[expect(clippy::disallowed_methods, reason = "what a test has laid there")]
    let file = how.read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path).ok()?;
    let mut bytes = Vec::new();
    file.take(most as u64).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// Takes from the agent's start line what a test names: what was left behind must act then.
pub fn unguard(job: &mut Job) {
    let words = asked("NOCLAW_TEST_AGENT");
    for word in words.iter().flat_map(|words| words.split(',')) {
        if let Some((name, value)) = word.split_once('=') {
            job.env.insert(name.to_owned(), value.to_owned());
        } else if let Some(at) = job.argv.iter().position(|arg| arg == word) {
            let values = job.argv.iter().skip(at + 1).take_while(|arg| !arg.starts_with("--"));
            let end = at + 1 + values.count();
            job.argv.drain(at..end);
        } else {
            job.env.remove(word);
        }
    }
}
