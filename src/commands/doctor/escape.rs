//! `noclaw doctor --escape`: attacks from inside a real cell on this machine, and what came of
//! each.
//!
//! The cell is made as every cell is: the same plan, the same job. Only its program is another: in
//! the agent's place stand the probes of `data/escape/`, which python runs. Around the cell stand
//! things to be found (`escape/bait.rs`): a key, a file, sockets, a port of the host's.
//!
//! ```text
//! bait ──> create ──> door: hello, preflight, the probes' lines, exit ──> end
//!      ──> what the host makes of what they left, and of other things in its way: `escape/host.rs`
//!      ──> a whole service, whose agents' tools attack it: `escape/service.rs`, `escape/leaks.rs`
//!      ──> traps ──> another cell, with the agent itself in it: `escape/persistence.rs`
//! ```
//!
//! | what happens | what is told |
//! |---|---|
//! | a probe does something forbidden | `open`, and the command fails |
//! | what is allowed does not work (a probe's twin) | `open`: the probes prove nothing then |
//! | it fails for a reason that is no layer's | `open`: nothing is proved |
//! | the preflight falls short of the plan | `open`, and the probes run all the same: they show what of it matters |
//! | a layer that this machine lacks, and the owner accepted to do without | `not_tested`, with its name |
//! | nobody keeps a journal, or we may not read it | `not_tested`: it may hold anything |
//! | the probes stop early, or say something else | `open` |
//! | the machine lacks what a run needs, or a cell cannot be made | the command fails; what was |
//! |  | tried stands, the rest is one line more, `not_tested`, with the reason |

mod bait;
mod host;
mod leaks;
mod names;
mod persistence;
mod server;
mod service;
mod talk;

use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use noclaw_cell::job::Job;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::time::timeout;

use self::bait::Bait;
use super::Args;
use crate::assistant::ready;
use crate::cell::door::{Door, Model};
use crate::cell::{Cell, Cells, LABEL_INSTANCE};
use crate::commands::{Failure, accepted};
use crate::core::limits::CELL_START;
use crate::core::plan::CellPlan;
use crate::core::problem::{ExitStatus, chain};
use crate::host::points;

/// How long one probe may take; the slowest fills memory.
const PROBE_TIME: Duration = Duration::from_secs(120);
/// How soon an ended cell must be gone. It takes 0.1 s; an emulated machine took 2.4 s.
const GONE_TIME: Duration = Duration::from_secs(10);
/// All that the probes say.
const SAID_BYTES: usize = 1 << 20;

/// Stands for the probes that could not be tried. Their names are not made up: some are known only
/// once they run.
const REST: &str = "the other probes";

/// What came of a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The cell held.
    Blocked,
    /// It did not.
    Open,
    /// This machine lacks what would be tested.
    NotTested,
}

/// A probe and what came of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Probed {
    /// What was tried.
    pub probe: String,
    /// What came of it.
    pub result: Outcome,
    /// In words.
    pub detail: String,
}

impl Probed {
    fn new(probe: &str, result: Outcome, detail: impl ToString) -> Self {
        Self { probe: probe.to_owned(), result, detail: detail.to_string() }
    }

    /// Blocked when it went wrong, as it should: for one of these reasons.
    fn refused<T, E: std::error::Error>(
        probe: &str,
        attempt: Result<T, E>,
        reasons: &[&str],
    ) -> Self {
        match attempt.map_err(|error| chain(&error)) {
            Ok(_) => Self::new(probe, Outcome::Open, "it succeeded"),
            Err(why) if reasons.iter().any(|reason| why.contains(reason)) => {
                Self::new(probe, Outcome::Blocked, why)
            }
            Err(why) => Self::new(probe, Outcome::Open, format!("nothing is proved: {why}")),
        }
    }
}

/// What came of all probes.
pub struct Report {
    /// A line for each, and one more for those that could not be tried.
    pub probed: Vec<Probed>,
    /// Why some could not be.
    pub failure: Option<Failure>,
}

/// Runs all probes.
pub async fn run(args: &Args) -> Report {
    let mut probed = Vec::new();
    let failure = probe(args, &mut probed).await.err();
    if let Some(failure) = &failure {
        let hint = failure.hint.as_ref().map(|hint| format!("; {hint}")).unwrap_or_default();
        let why = format!("{}{hint}", failure.message);
        probed.push(Probed::new(REST, Outcome::NotTested, why));
    }
    Report { probed, failure }
}

async fn probe(args: &Args, probed: &mut Vec<Probed>) -> Result<(), Failure> {
    let failed = |error: &dyn std::error::Error| Failure::of(ExitStatus::Unavailable, error);
    let cells = Cells::at(&args.podman);
    let podman = ready::podman(&cells).await?;
    ready::judge(&podman, &accepted(&args.accept_without)?)?;
    let bait = Bait::lay(args, &cells).await?;
    let (plan, job) = bait.cell(args)?;
    // What an earlier one left when it was killed.
    cells.remove_all(&plan.instance).await.map_err(|error| failed(&error))?;
    let cell = cells.create(&plan).await.map_err(|error| failed(&error))?;
    let attacked = attack(&cell, &job, &bait, &plan, probed).await;
    let ended = ended(&cells, &cell, plan.instance.as_str()).await;
    attacked?;
    probed.push(ended);
    probed.extend(host::traps(&bait)?);
    probed.extend(host::allowlists(&bait)?);
    probed.push(host::exchange(args, &cells, &bait).await?);
    probed.extend(service::run(args, &cells, &bait).await?);
    probed.extend(persistence::run(args, &cells, &bait).await?);
    probed.push(bait.server().judge().await);
    Ok(())
}

async fn attack(
    cell: &Cell,
    job: &Job,
    bait: &Bait,
    plan: &CellPlan,
    probed: &mut Vec<Probed>,
) -> Result<(), Failure> {
    let (preflight, mut door, said, _down) = opened(cell, job, bait.model(), plan).await?;
    probed.push(preflight);
    listen(said, probed).await;
    let closing = timeout(PROBE_TIME, door.exit()).await;
    if !matches!(closing, Ok(Ok(ref exit)) if exit.status == Some(0)) {
        let detail = match closing {
            Ok(Ok(exit)) => format!("the probes ended with {:?}: {}", exit.status, exit.stderr),
            Ok(Err(error)) => chain(&error),
            Err(_) => "the probes did not end".to_owned(),
        };
        probed.push(Probed::new("the probes themselves", Outcome::Open, detail));
    }
    Ok(())
}

/// Opens a cell's door and lets its program start, whatever its preflight says: that comes first.
async fn opened(
    cell: &Cell,
    job: &Job,
    model: Model,
    plan: &CellPlan,
) -> Result<(Probed, Door, Incoming, mpsc::Sender<Bytes>), Failure> {
    let failed = |error: &dyn std::error::Error| Failure::of(ExitStatus::Unavailable, error);
    let mut door = cell.open(job, model).await.map_err(|error| failed(&error))?;
    let preflight = timeout(CELL_START, door.preflight()).await;
    let preflight = preflight.map_err(|_| door.lost("before its preflight"));
    let (mut preflight, verdict) =
        preflight.and_then(|found| found).map_err(|error| failed(&error))?;
    points::overlook(plan, &mut preflight);
    let preflight = match plan.judge(cell.id(), &preflight) {
        Ok(()) => Probed::new("preflight", Outcome::Blocked, "the cell is as planned"),
        Err(shortfall) => Probed::new("preflight", Outcome::Open, shortfall),
    };
    verdict.go();
    let (said, down) = door.agent().await.map_err(|error| failed(&error))?;
    Ok((preflight, door, said, down))
}

/// Takes the probes' lines, one for each, and what goes wrong with them.
async fn listen(mut said: Incoming, probed: &mut Vec<Probed>) {
    let mut buffer = Vec::new();
    let mut bytes = 0;
    loop {
        let frame = match timeout(PROBE_TIME, said.frame()).await {
            Ok(Some(Ok(frame))) => frame,
            Ok(None) => break,
            Ok(Some(Err(error))) => {
                return probed.push(Probed::new("the probes' words", Outcome::Open, chain(&error)));
            }
            Err(_) => {
                let detail = format!("nothing came for {} s", PROBE_TIME.as_secs());
                return probed.push(Probed::new("the next probe", Outcome::Open, detail));
            }
        };
        let Ok(data) = frame.into_data() else { continue };
        bytes += data.len();
        if bytes > SAID_BYTES {
            let detail = "they said too much";
            return probed.push(Probed::new("the probes' words", Outcome::Open, detail));
        }
        buffer.extend_from_slice(&data);
        while let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = buffer.drain(..=end).collect();
            probed.push(serde_json::from_slice(&line).unwrap_or_else(|_| {
                let line = String::from_utf8_lossy(&line).into_owned();
                Probed::new("the probes' words", Outcome::Open, line.trim())
            }));
        }
    }
}

/// Ends the cell, in which a daemon ignores every signal that it can, and looks whether it is gone.
async fn ended(cells: &Cells, cell: &Cell, instance: &str) -> Probed {
    const PROBE: &str = "end: a daemon that ignores signals";
    let list = || cells.engine().list(LABEL_INSTANCE, instance);
    // The twin: while it is there, it is seen.
    if !matches!(list().await, Ok(there) if !there.is_empty()) {
        let detail = "nothing is proved: the cell was not seen while it was there";
        return Probed::new(PROBE, Outcome::Open, detail);
    }
    let begun = Instant::now();
    if let Err(error) = cell.end().await {
        return Probed::new(PROBE, Outcome::Open, chain(&error));
    }
    match list().await {
        Ok(left) if left.is_empty() && begun.elapsed() <= GONE_TIME => {
            let detail = format!("gone after {} ms", begun.elapsed().as_millis());
            Probed::new(PROBE, Outcome::Blocked, detail)
        }
        Ok(left) => {
            let took = begun.elapsed().as_millis();
            Probed::new(PROBE, Outcome::Open, format!("{} left after {took} ms", left.len()))
        }
        Err(error) => Probed::new(PROBE, Outcome::Open, chain(&error)),
    }
}
