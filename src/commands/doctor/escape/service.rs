//! A whole service, attacked by what its agents' tools do: `data/escape/service.json`.
//!
//! `noclaw serve` runs as it always does, with places, a key and a demo model of its own, and with
//! a small quota of the workspace: what fills it shall not fill the owner's disk. Each attack is a
//! user's. First it does what is permitted, which must be answered; then what is not, and gives up
//! by itself after a while, so that it ends where nothing holds it. All of them go on at a time, as
//! far as the service lets them. Then the key is looked for: `escape/leaks.rs`.
//!
//! | what happens | what is told |
//! |---|---|
//! | the run is ended, and says why | `blocked` |
//! | it is answered, fails in another way, or the service does | `open` |
//! | what is permitted is not answered | `open`: nothing is proved |
//! | the service does not begin, or answers nothing at all | that is `open`; the rest `not_tested` |
//!
//! It ends with this process, whatever that is killed by: we hold its standard input. Its users are
//! removed, with their files, before it ends. What one leaves that could not do so is cleared away
//! by the next.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::join;
use tokio::process::{Child, ChildStdin, Command};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use uuid::Uuid;

use super::super::Args;
use super::bait::Bait;
use super::{Outcome, Probed, leaks};
use crate::cell::Cells;
use crate::commands::Failure;
use crate::commands::client::Client;
use crate::core::ids::InvalidId;
use crate::core::limits::CELL_START;
use crate::core::problem::{ExitStatus, chain};
use crate::host::state::{State, StateError};
use crate::host::tree::Tree;
use crate::host::{owned, points};

const TABLE: &str = include_str!("../../../../data/escape/service.json");
/// In the table: the model that may be asked, and the program that asks it.
const MODEL: &str = "MODEL";
const WHOLE: &str = "WHOLE";
/// The last word of what is permitted.
const DONE: &str = "done";
/// What a workspace may hold: MiB and files. The attacks would write five and twenty times that.
const QUOTA: (u32, u32) = (32, 1000);
/// The same where a test wants to see them succeed.
const ROOM: (u32, u32) = (1024, 100_000);
/// How long a run may take. The longest is 41 s; emulated, and one after the other, minutes.
const RUN_TIME: &str = "300";
const WAIT_TIME: &str = "600";
/// How long it may say nothing: a little longer.
const SILENCE: Duration = Duration::from_secs(630);
/// How long it may take to end. It has 30 s for its runs.
const STOP_TIME: Duration = Duration::from_secs(45);
/// Between two looks at something that is not there yet.
pub(super) const LOOK: Duration = Duration::from_millis(20);
/// What systemd tells a unit, which may be ours, but is not this service.
const SYSTEMD: [&str; 8] = [
    "JOURNAL_STREAM",
    "CREDENTIALS_DIRECTORY",
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "LISTEN_PID",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
];
const TWIN: &str = "twin: a service answers";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    /// The program that sends a request and waits for its answer.
    whole: Vec<String>,
    attacks: Vec<Attack>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Attack {
    probe: String,
    /// Lines of a shell. There are none where the forbidden ones begin with it: a long attack shall
    /// not wait for its turn twice.
    permitted: Vec<String>,
    forbidden: Vec<String>,
    /// How the error begins of a run that is ended for it, by the limit that it ran into. A door
    /// that was lost is none: whatever breaks the launcher looks so.
    #[serde(default)]
    ends: Vec<String>,
    /// Or what the forbidden thing says when it came to nothing.
    says: Option<String>,
}

/// A run, as the service tells it.
#[derive(Debug, Deserialize)]
pub(super) struct Run {
    /// Its id.
    pub(super) run: String,
    status: String,
    reply: Option<String>,
    /// Why it failed.
    pub(super) error: Option<String>,
}

/// A service of one's own.
pub(super) struct Service {
    /// Speaks to it.
    pub(super) client: Client,
    /// Where its files are.
    pub(super) folder: PathBuf,
}

/// Runs all attacks on a service.
pub(super) async fn run(args: &Args, cells: &Cells, bait: &Bait) -> Result<Vec<Probed>, Failure> {
    let table: Table =
        serde_json::from_str(TABLE).map_err(|error| Failure::of(ExitStatus::Config, &error))?;
    let folder = bait.inside("service");
    let service = Service { client: Client::at(folder.join("sock"), SILENCE), folder };
    let users: Vec<_> = (0..table.attacks.len()).map(user).chain([leaks::USER.into()]).collect();
    let cleared = service.clear(&users).await;
    let (mut child, held) = match cleared.and_then(|()| service.start(args, bait)) {
        Ok(started) => started,
        Err(why) => return Ok(untried(&table, &why)),
    };
    let begun = service.begun(&mut child).await;
    let service = Arc::new(service);
    let mut probed = match begun {
        Ok(()) => {
            let attacks = attack(&service, table, bait.model_name());
            let (mut probed, told) = join!(attacks, leaks::ask(&service, cells));
            probed.extend(leaks::look(told, &service, bait).await);
            if let Err(miss) = service.client.get("/readyz").await {
                let why = Failure::from(miss).message;
                probed.push(Probed::new("twin: it answers afterwards", Outcome::Open, why));
            }
            probed
        }
        Err(why) => untried(&table, &why),
    };
    service.remove(&users).await;
    let ended = end(child).await;
    drop(held);
    if let Err(why) = ended {
        probed.push(Probed::new("twin: the service ends", Outcome::Open, why));
    }
    Ok(probed)
}

/// Nothing can be said about attacks on a service that answers nobody.
fn untried(table: &Table, why: &str) -> Vec<Probed> {
    let names = table.attacks.iter().map(|attack| attack.probe.as_str()).chain(leaks::PROBES);
    let untried = names.map(|name| Probed::new(name, Outcome::NotTested, "no run is answered"));
    std::iter::once(Probed::new(TWIN, Outcome::Open, why)).chain(untried).collect()
}

fn user(number: usize) -> String {
    format!("escape-{number}")
}

async fn attack(service: &Arc<Service>, table: Table, model: &str) -> Vec<Probed> {
    let whole = table.whole.join("\n").replace(MODEL, model);
    let mut attacks = JoinSet::new();
    for (number, attack) in table.attacks.into_iter().enumerate() {
        let (service, whole) = (Arc::clone(service), whole.clone());
        attacks.spawn(async move { (number, service.attacked(number, &attack, &whole).await) });
    }
    let mut probed = attacks.join_all().await;
    probed.sort_by_key(|(number, _)| *number);
    probed.into_iter().map(|(_, probed)| probed).collect()
}

impl Service {
    /// Waits for the end of an earlier one, and begins anew: its messages may still wait, and its
    /// users' files lie there.
    async fn clear(&self, users: &[String]) -> Result<(), String> {
        let fresh = Uuid::new_v4().to_string().parse().map_err(|e: InvalidId| chain(&e))?;
        let late = Instant::now() + STOP_TIME;
        let state = loop {
            match State::open(&self.state(), &fresh) {
                Err(StateError::InUse { .. }) if Instant::now() < late => sleep(LOOK).await,
                opened => break opened.map_err(|error| chain(&error))?,
            }
        };
        for name in ["noclaw.db", "noclaw.db-wal", "noclaw.db-shm"] {
            owned::remove(&state.database().with_file_name(name)).ok();
        }
        for user in users {
            let user = user.parse().map_err(|error: InvalidId| chain(&error))?;
            for folder in [state.workspace(&user), state.transcripts(&user, 1)] {
                let folder = folder.map_err(|error| chain(&error))?;
                let emptied = Tree::open(&folder).and_then(|tree| tree.keep_only(&[]));
                emptied.map_err(|error| chain(&error))?;
            }
        }
        Ok(())
    }

    /// Starts it. Once the other value is gone, it ends by itself.
    fn start(&self, args: &Args, bait: &Bait) -> Result<(Child, ChildStdin), String> {
        let told = |error: std::io::Error| format!("{}: {error}", self.folder.display());
        owned::make_directory(&self.folder).map_err(told)?;
        let log = self.log();
        owned::remove(&log).ok();
        let log = owned::make_new(&log).map_err(told)?;
        let (mib, files) = if points::boundless() { ROOM } else { QUOTA };
        let mut command = Command::new(std::env::current_exe().map_err(told)?);
        // What the owner sets is for another service.
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy();
            let ours = name.starts_with("NOCLAW_") && !name.starts_with("NOCLAW_TEST_");
            if ours || SYSTEMD.contains(&&*name) {
                command.env_remove(&*name);
            }
        }
        command.args(["serve", "--end-with-parent", "--log", "debug"]);
        for (flag, place) in [
            ("--state", self.state()),
            ("--config", self.folder.join("config")),
            ("--socket", self.folder.join("sock")),
            ("--podman", args.podman.clone()),
            ("--launcher", args.launcher.clone()),
            ("--api-key-file", bait.inside("key")),
        ] {
            command.arg(flag).arg(place);
        }
        for (flag, value) in [
            ("--model-api", bait.server().url()),
            ("--model", bait.model_name().to_owned()),
            ("--accept-without", args.accept_without.join(",")),
            ("--workspace-size", mib.to_string()),
            ("--workspace-files", files.to_string()),
            ("--run-timeout", RUN_TIME.to_owned()),
            // However often this is done in a day, it is not out of money.
            ("--budget-user", "1000000".to_owned()),
            ("--budget", "1000000".to_owned()),
        ] {
            command.arg(flag).arg(value);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log).kill_on_drop(true);
        let mut child = command.spawn().map_err(told)?;
        // Not the child's: that one lets go of it when it is waited for.
        let held = child.stdin.take().ok_or("it has no standard input")?;
        Ok((child, held))
    }

    /// Its state.
    pub(super) fn state(&self) -> PathBuf {
        self.folder.join("state")
    }

    /// Its log.
    pub(super) fn log(&self) -> PathBuf {
        self.folder.join("log")
    }

    /// Waits until it is ready, and a message is answered.
    async fn begun(&self, child: &mut Child) -> Result<(), String> {
        let ready = async {
            loop {
                match (self.client.get("/readyz").await, child.try_wait()) {
                    (Ok(_), _) => return Ok(()),
                    (Err(miss), Ok(None)) => match timeout(LOOK, child.wait()).await {
                        Err(_) => drop(miss),
                        Ok(_) => return Err(Failure::from(miss).message),
                    },
                    (Err(miss), _) => return Err(Failure::from(miss).message),
                }
            }
        };
        let late = format!("it was not ready within {} s", CELL_START.as_secs());
        let ready = timeout(CELL_START, ready).await.unwrap_or(Err(late));
        ready.map_err(|why| format!("{why}; its log is {}", self.log().display()))?;
        match self.send(leaks::USER, "hello").await? {
            Run { status, .. } if status == "answered" => Ok(()),
            other => Err(other.told()),
        }
    }

    /// Removes users with all that is theirs. One that a cell may still write for stays.
    async fn remove(&self, users: &[String]) {
        for user in users {
            self.client.delete(&format!("/v1/users/{user}")).await.ok();
        }
    }

    /// Has a message answered.
    pub(super) async fn send(&self, user: &str, message: &str) -> Result<Run, String> {
        self.post(user, message, WAIT_TIME).await
    }

    /// Sends a message, and waits so many seconds for its run's end.
    pub(super) async fn post(&self, user: &str, message: &str, wait: &str) -> Result<Run, String> {
        let body = json!({"user": user, "message": message});
        let answer = self.client.post(&format!("/webhook?wait={wait}"), &body).await;
        let run = answer.map_err(Failure::from).and_then(|answer| answer.json());
        run.map_err(|failure| format!("the service does not answer: {}", failure.message))
    }

    async fn tool(&self, user: &str, lines: &[String], whole: &str) -> Result<Run, String> {
        let line = |line: &String| if line == WHOLE { whole.to_owned() } else { line.clone() };
        let command = lines.iter().map(line).collect::<Vec<_>>().join("\n");
        self.send(user, &format!("!tool Bash {}", json!({ "command": command }))).await
    }

    async fn attacked(&self, number: usize, attack: &Attack, whole: &str) -> Probed {
        let user = user(number);
        let tell = |result, detail: String| Probed::new(&attack.probe, result, detail);
        if !attack.permitted.is_empty() {
            let permitted = self.tool(&user, &attack.permitted, whole).await;
            if !permitted.as_ref().is_ok_and(|run| run.says(DONE)) {
                let why = permitted.map_or_else(|why| why, |run| run.told());
                return tell(Outcome::Open, format!("what is allowed does not work: {why}"));
            }
        }
        let run = match self.tool(&user, &attack.forbidden, whole).await {
            Ok(run) => run,
            Err(why) => return tell(Outcome::Open, why),
        };
        let error = run.error.as_deref().unwrap_or_default();
        let ended = attack.ends.iter().any(|ends| error.starts_with(ends));
        let said = attack.says.as_ref().is_some_and(|says| run.says(says));
        match ended || said {
            true => tell(Outcome::Blocked, run.told()),
            false => tell(Outcome::Open, run.told()),
        }
    }
}

impl Run {
    fn says(&self, words: &str) -> bool {
        self.reply.as_deref().is_some_and(|reply| reply.trim().starts_with(words))
    }

    /// In a line.
    fn told(&self) -> String {
        let words = self.error.as_deref().or(self.reply.as_deref()).unwrap_or(&self.status);
        // What comes then says what to do, or is the agent's.
        let found = words.split("; delete").next().unwrap_or_default();
        let found = found.split("\n\n").next().unwrap_or_default();
        found.trim().replace('\n', ", ").chars().take(120).collect()
    }
}

/// A file of the service's, as far as it has one.
pub(super) fn file(path: &Path) -> String {
    const MOST: usize = 256 << 20;
    match owned::read(path, MOST) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(_) => String::new(),
    }
}

/// What a request tells, as text.
pub(super) async fn told(client: &Client, path: &str) -> Result<Value, String> {
    let answer = client.get(path).await.map_err(Failure::from);
    answer.and_then(|answer| answer.json()).map_err(|failure| failure.message)
}

async fn end(mut child: Child) -> Result<(), String> {
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
    let pid = pid.ok_or("it had ended by itself")?;
    kill(Pid::from_raw(pid), Signal::SIGTERM).map_err(|errno| errno.to_string())?;
    match timeout(STOP_TIME, child.wait()).await {
        Ok(Ok(status)) if status.success() => Ok(()),
        Ok(Ok(status)) => Err(format!("it ended with {status}")),
        Ok(Err(error)) => Err(chain(&error)),
        Err(_) => Err(format!("not within {} s", STOP_TIME.as_secs())),
    }
}
