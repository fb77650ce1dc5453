//! What an earlier run may have left for the next one's agent: `data/escape/persistence.json`.
//!
//! Here the agent itself is in the cell, started as for a run. Before that the host lays the traps
//! into its workspace and its transcripts, as a run would have left them that was talked into it;
//! what the service removes between two runs is left lying, so that the agent's own start line is
//! what holds. Each trap has a mark that is nowhere else: one that acts makes a file of that name
//! in the workspace, or gets it into a request to the model. Then the model calls tools: those of
//! the start line, and each other that the agent knows.
//!
//! | what happens | what is told |
//! |---|---|
//! | a trap's mark is in a request, or a file | `open` |
//! | a tool that is not listed does not answer that there is none | `open` |
//! | a listed tool fails, the transcript is not resumed (the twins) | `open`: nothing is proved |
//! | the agent ends or is silent too long | `open`, and what it did until then is judged |
//! | what acts only later, and nobody is patient | `not_tested` |
//! | what acts only later does, or a twin that may does not | `open` |

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use noclaw_cell::job::Job;
use serde::Deserialize;
use serde_json::Value;
use tokio::join;
use tokio::time::{sleep, timeout};
use uuid::Uuid;

use super::bait::{Bait, USER};
use super::talk::{Answer, Asked, Talk};
use super::{Outcome, Probed};
use crate::cell::{Cells, TRANSCRIPTS, WORKSPACE};
use crate::commands::Failure;
use crate::commands::doctor::Args;
use crate::core::plan::CellPlan;
use crate::core::problem::{ExitStatus, chain};
use crate::host::machine::now;
use crate::host::tree::Tree;
use crate::host::{points, state};

const TABLE: &str = include_str!("../../../../data/escape/persistence.json");
/// In the table: where a trap's own mark belongs.
const MARK: &str = "MARK";
/// And a time of a moment that is past, but not long: what is old is forgotten.
const HOUR_AGO: &str = "\"HOUR_AGO\"";
/// The session of the transcript among the traps, and what was said there.
const HEAD: &str = "00000000-0000-7000-8000-000000000000";
const REMEMBERED: &str = "the twin of the forged one";
/// What the first of the table's calls makes.
const TWIN: &str = "twin";
/// A message that is the name of a command among the traps.
const COMMAND: &str = "/trap-command";
/// How the agent answers a call of a tool that it does not offer.
const NO_TOOL: &str = "No such tool available";
/// How long the agent may take for all the calls. It takes about two seconds; emulated, minutes.
const TALK_TIME: Duration = Duration::from_secs(300);
/// How long an agent is left idle at least: what acts once a minute had two chances.
const IDLE: Duration = Duration::from_secs(130);
/// How long the twin of what acts later may take to act twice, once a minute.
const LATER_TIME: Duration = Duration::from_secs(240);
const TWIN_USER: &str = "escape-twin";
/// The variable that the twin does without.
const NO_SCHEDULE: &str = "CLAUDE_CODE_DISABLE_CRON";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    /// Calls of listed tools, which must work.
    calls: Vec<Call>,
    /// Calls of all others.
    kept_away: Vec<Call>,
    traps: Vec<Trap>,
    /// What acts while the agent is idle.
    later: Trap,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Call {
    tool: String,
    input: Value,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Trap {
    name: String,
    /// What it would do if it acted.
    would: String,
    /// By their paths in a cell: a text, JSON, or a list of lines that are one of both.
    files: BTreeMap<String, Value>,
    #[serde(skip, default = "fresh_mark")]
    mark: String,
}

fn fresh_mark() -> String {
    format!("mark-{}", Uuid::new_v4().simple())
}

fn name(of: &str) -> String {
    format!("persistence: {of}")
}

fn config(error: &dyn std::error::Error) -> Failure {
    Failure::of(ExitStatus::Config, error)
}

fn unavailable(error: &dyn std::error::Error) -> Failure {
    Failure::of(ExitStatus::Unavailable, error)
}

/// Lays the traps, has the agent work among them, and judges.
pub(super) async fn run(args: &Args, cells: &Cells, bait: &Bait) -> Result<Vec<Probed>, Failure> {
    let table: Table = serde_json::from_str(TABLE).map_err(|error| config(&error))?;
    let mut probed = among_traps(args, cells, bait, &table).await?;
    probed.push(later(args, cells, bait, &table.later).await?);
    Ok(probed)
}

async fn among_traps(
    args: &Args,
    cells: &Cells,
    bait: &Bait,
    table: &Table,
) -> Result<Vec<Probed>, Failure> {
    let (planned, asked) = (bait.planned(args, USER, Some(HEAD), points::unguard)?, Asked::new());
    let (workspace, transcripts) = bait.folders(USER)?;
    for trap in &table.traps {
        trap.lay(&workspace, &transcripts)?;
    }
    let calls = table.calls.iter().chain(&table.kept_away);
    let calls: Vec<_> = calls.map(|call| format!("!tool {} {}", call.tool, call.input)).collect();

    let cell = cells.create(&planned.0).await.map_err(|error| unavailable(&error))?;
    let mut probed = Vec::new();
    let work = async {
        let mut talk = Talk::begin(&cell, &planned, asked.model(bait.gateway())).await?;
        let preflight = talk.preflight.clone();
        probed.push(Probed { probe: name(&preflight.probe), ..preflight });
        talk.turn(&calls.join("\n")).await?;
        talk.turn(COMMAND).await?;
        talk.end().await
    };
    let worked = timeout(TALK_TIME, work).await;
    cell.end().await.map_err(|error| unavailable(&error))?;
    let trouble = match worked {
        Ok(worked) => worked.err(),
        Err(_) => Some(format!("not done within {} s", TALK_TIME.as_secs())),
    };
    probed.extend(trouble.map(|why| Probed::new(&name("the agent itself"), Outcome::Open, why)));

    let workspace = Tree::open(&workspace).map_err(|error| config(&error))?;
    probed.extend(table.traps.iter().map(|trap| trap.judge(&asked, &workspace)));
    probed.extend(tools(table, &asked.answers()));
    if !asked.has(REMEMBERED) || !matches!(workspace.read(TWIN, 0), Ok(Some(_))) {
        let detail = "what is allowed does not work: the other probes say nothing";
        let twin = "twin: the agent resumes its transcript, and works";
        probed.push(Probed::new(twin, Outcome::Open, detail));
    }
    Ok(probed)
}

impl Trap {
    /// Puts its files where a run would have. There is no cell, and the folders were empty.
    fn lay(&self, workspace: &Path, transcripts: &Path) -> Result<(), Failure> {
        for (path, content) in &self.files {
            let inside = |folder: &str, there: &Path| {
                Some(there.join(Path::new(path).strip_prefix(folder).ok()?))
            };
            let place = inside(WORKSPACE, workspace).or_else(|| inside(TRANSCRIPTS, transcripts));
            let parts =
                place.as_deref().and_then(|place| Some((place.parent()?, place.file_name()?)));
            let Some((folder, file)) = parts else {
                return Err(Failure::new(ExitStatus::Config, format!("{path} is in no folder")));
            };
            let laid = state::place(folder, &file.to_string_lossy(), &self.text(content));
            laid.map_err(|error| config(&error))?;
        }
        Ok(())
    }

    fn text(&self, content: &Value) -> String {
        let text = |one: &Value| one.as_str().map_or_else(|| one.to_string(), str::to_owned);
        let text = match content.as_array() {
            Some(lines) => lines.iter().map(|line| text(line) + "\n").collect(),
            None => text(content),
        };
        text.replace(MARK, &self.mark).replace(HOUR_AGO, &(now() - 60 * 60 * 1000).to_string())
    }

    fn judge(&self, asked: &Asked, workspace: &Tree) -> Probed {
        let (result, detail) = match workspace.read(&self.mark, 0) {
            Ok(None) if asked.has(&self.mark) => (Outcome::Open, "the model is told".to_owned()),
            Ok(None) => (Outcome::Blocked, format!("it does nothing; it would {}", self.would)),
            Ok(Some(_)) => (Outcome::Open, "it runs a command".to_owned()),
            Err(error) => (Outcome::Open, chain(&error)),
        };
        Probed::new(&name(&self.name), result, detail)
    }
}

/// Whether each tool is there, or not.
fn tools(table: &Table, answers: &[Answer]) -> Vec<Probed> {
    let silence = Answer { failed: true, text: "it was not answered".to_owned() };
    let mut answers = answers.iter().chain(std::iter::repeat(&silence));
    let mut probed = Vec::new();
    for (call, answer) in table.calls.iter().zip(&mut answers) {
        if answer.failed {
            let twin = format!("twin: the tool {}", call.tool);
            probed.push(Probed::new(&twin, Outcome::Open, &answer.text));
        }
    }
    for (call, answer) in table.kept_away.iter().zip(&mut answers) {
        let (result, detail) = match answer.failed && answer.text.contains(NO_TOOL) {
            true => (Outcome::Blocked, NO_TOOL),
            false => (Outcome::Open, answer.text.as_str()),
        };
        probed.push(Probed::new(&name(&format!("the tool {}", call.tool)), result, detail));
    }
    probed
}

/// What acts while the agent is idle, seen beside a twin that may.
async fn later(args: &Args, cells: &Cells, bait: &Bait, trap: &Trap) -> Result<Probed, Failure> {
    let probe = name(&trap.name);
    if !args.patient {
        let detail = "it takes two to four minutes: --patient waits";
        return Ok(Probed::new(&probe, Outcome::NotTested, detail));
    }
    let laid = |user: &str, change: fn(&mut Job)| {
        let planned = bait.planned(args, user, None, change)?;
        let (workspace, transcripts) = bait.folders(user)?;
        trap.lay(&workspace, &transcripts)?;
        Ok::<_, Failure>(planned)
    };
    let guarded = laid(USER, points::unguard)?;
    let free = laid(TWIN_USER, |job| drop(job.env.remove(NO_SCHEDULE)))?;
    let (asked, of_twin) = (Asked::new(), Asked::new());
    let twin = async { join!(idle(cells, &free, bait, &of_twin, 2), sleep(IDLE)).0 };
    let (result, detail) = tokio::select! {
        came = idle(cells, &guarded, bait, &asked, 1) => match came {
            Ok(()) => (Outcome::Open, "the model is asked".to_owned()),
            Err(why) => (Outcome::Open, why),
        },
        came = twin => match came {
            Ok(()) if asked.is_empty() => {
                let detail = "a twin's came twice meanwhile";
                (Outcome::Blocked, format!("it does nothing; it would {}; {detail}", trap.would))
            }
            Ok(()) => (Outcome::Open, "the model was asked".to_owned()),
            Err(why) => (Outcome::Open, format!("the twin: {why}")),
        },
        () = sleep(LATER_TIME) => {
            (Outcome::Open, "no message of the twin's came either: nothing is proved".to_owned())
        }
    };
    let removed = cells.remove_all(&guarded.0.instance).await;
    removed.map_err(|error| unavailable(&error))?;
    Ok(Probed::new(&probe, result, detail))
}

/// An agent that nobody speaks to, until it has come to the end of so many turns. Its cell is left.
async fn idle(
    cells: &Cells,
    planned: &(CellPlan, Job),
    bait: &Bait,
    asked: &Asked,
    turns: usize,
) -> Result<(), String> {
    let cell = cells.create(&planned.0).await.map_err(|error| chain(&error))?;
    let mut talk = Talk::begin(&cell, planned, asked.model(bait.gateway())).await?;
    for _ in 0..turns {
        talk.result().await?;
    }
    Ok(())
}
