//! What happens to a run after it was claimed. Every change asks `core` whether it may follow, and
//! finds the row as it believed it to be, or fails and changes nothing.
//!
//! | verb | from | to |
//! |---|---|---|
//! | `container_made` | starting | |
//! | `measured` | starting | running, if the measurements held |
//! | `delivered`, `touched` | running | |
//! | `spent` | starting, running, finishing | |
//! | `finish` | starting, running | finishing |
//! | `gone` | finishing | the outcome's state |
//! | `workspace` | any | |
//! | `again` | starting, running | queued; cancelled, if somebody asked for it meanwhile |
//! | `cancel` | queued; starting, running | cancelled; asked for |

use std::collections::BTreeSet;

use sea_orm::sea_query::Expr;

use super::Store;
use super::entities::runs;
use super::error::Error;
use super::record::{memory_number, stored};
use super::standing::{Standing, add, end, requeue};
use super::writer::{Operation, Tx};
use crate::core::ids::RunId;
use crate::core::money::Usage;
use crate::core::quota::Space;
use crate::core::run::{Cancel, Memory, Outcome, RunState, cancel};
use crate::core::timeline::Timeline;

/// What a run has used since this was last written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Spending {
    /// Tokens.
    pub usage: Usage,
    /// Their cost in millionths of a US dollar.
    pub cost_microusd: u64,
}

/// From where a conversation goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// The agent's session.
    pub session: String,
    /// The attachments in its transcript that are the agent's own.
    pub attachments: BTreeSet<String>,
}

/// How a run ended.
#[derive(Debug, Clone)]
pub struct Ending {
    /// With what.
    pub outcome: Outcome,
    /// What it used that [`Store::spent`] has not been told.
    pub spending: Spending,
    /// Where its time went.
    pub timeline: Timeline,
    /// From where the conversation goes on. Only an answer moves the head.
    pub new_head: Option<Head>,
}

/// The errors of these verbs: [`Error::NoSuchRun`], [`Error::Impossible`] when the run's state does
/// not allow the change, [`Error::Change`] and [`Error::Full`] when it cannot be written.
impl Store {
    /// Its container exists.
    ///
    /// # Errors
    /// See above.
    pub async fn container_made(&self, run: RunId, container_id: &str) -> Result<(), Error> {
        let container_id = container_id.to_owned();
        self.change(run, What::ContainerMade { container_id }).await
    }

    /// Keeps what its cell measured (as JSON), and what that came to (`isolation`, a line). If it
    /// `held`, the agent begins: the run is running.
    ///
    /// # Errors
    /// See above.
    pub async fn measured(
        &self,
        run: RunId,
        preflight: &str,
        isolation: &str,
        held: bool,
    ) -> Result<(), Error> {
        let (preflight, isolation) = (preflight.to_owned(), isolation.to_owned());
        self.change(run, What::Measured { preflight, isolation, held }).await
    }

    /// The message is about to go to the agent. Written before it does.
    ///
    /// # Errors
    /// See above.
    pub async fn delivered(&self, run: RunId, now_ms: i64) -> Result<(), Error> {
        self.change(run, What::Delivered { now_ms }).await
    }

    /// The agent's first tool call is about to be passed on. Written before it is.
    ///
    /// # Errors
    /// See above.
    pub async fn touched(&self, run: RunId, now_ms: i64) -> Result<(), Error> {
        self.change(run, What::Touched { now_ms }).await
    }

    /// Adds to what the run has used, so that budgets know of it before the run ends.
    ///
    /// # Errors
    /// See above.
    pub async fn spent(&self, run: RunId, spending: Spending) -> Result<(), Error> {
        self.change(run, What::Spent { spending }).await
    }

    /// Its outcome is known. Outcome, usage and the conversation's head are one transaction.
    ///
    /// # Errors
    /// See above.
    pub async fn finish(&self, run: RunId, ending: Ending, now_ms: i64) -> Result<(), Error> {
        self.change(run, What::Finish { ending, now_ms }).await
    }

    /// Its container was seen gone; its outcome's state is final.
    ///
    /// # Errors
    /// See above.
    pub async fn gone(&self, run: RunId, now_ms: i64) -> Result<(), Error> {
        self.change(run, What::Gone { now_ms }).await
    }

    /// What its user's workspace takes of the disk, now that it is over.
    ///
    /// # Errors
    /// See above.
    pub async fn workspace(&self, run: RunId, used: Space) -> Result<(), Error> {
        self.change(run, What::Workspace { used }).await
    }

    /// The agent refused the conversation's transcript: the run waits again, in its old place, to
    /// begin anew. Its container must have been seen absent. Returns where it stands now:
    /// cancelled, if somebody asked for that meanwhile.
    ///
    /// # Errors
    /// See above.
    pub async fn again(&self, run: RunId, now_ms: i64) -> Result<RunState, Error> {
        self.writer.carry_out(Again { run, now_ms }).await
    }

    /// Somebody wants it cancelled. `Stop` is kept, so that it also holds after a crash.
    ///
    /// # Errors
    /// See above.
    pub async fn cancel(&self, run: RunId, now_ms: i64) -> Result<Cancel, Error> {
        self.writer.carry_out(CancelRun { run, now_ms }).await
    }

    async fn change(&self, run: RunId, what: What) -> Result<(), Error> {
        self.writer.carry_out(Change { run, what }).await
    }
}

struct Again {
    run: RunId,
    now_ms: i64,
}

impl Operation for Again {
    type Output = RunState;
    type Error = Error;

    async fn apply(&self, tx: &Tx) -> Result<RunState, Error> {
        let run = Standing::of(tx, self.run).await?;
        if run.is_to_be_cancelled() {
            run.write(tx, run.cancelled(self.now_ms)?).await?;
            return Ok(RunState::Cancelled);
        }
        let update = requeue(run.becomes(RunState::Queued)?)
            .col_expr(runs::Column::Anew, Expr::value(memory_number(Memory::Refused)));
        run.write(tx, update).await?;
        Ok(RunState::Queued)
    }
}

struct CancelRun {
    run: RunId,
    now_ms: i64,
}

impl Operation for CancelRun {
    type Output = Cancel;
    type Error = Error;

    async fn apply(&self, tx: &Tx) -> Result<Cancel, Error> {
        let run = Standing::of(tx, self.run).await?;
        let what = cancel(run.state());
        let update = match what {
            Cancel::Now => run.cancelled(self.now_ms)?,
            Cancel::Stop => run
                .stays_active("one to cancel")?
                .col_expr(runs::Column::CancelAt, Expr::value(self.now_ms)),
            Cancel::TooLate => return Ok(what),
        };
        run.write(tx, update).await?;
        Ok(what)
    }

    fn wrote(what: &Cancel) -> bool {
        *what != Cancel::TooLate
    }
}

struct Change {
    run: RunId,
    what: What,
}

enum What {
    ContainerMade { container_id: String },
    Measured { preflight: String, isolation: String, held: bool },
    Delivered { now_ms: i64 },
    Touched { now_ms: i64 },
    Spent { spending: Spending },
    Finish { ending: Ending, now_ms: i64 },
    Gone { now_ms: i64 },
    Workspace { used: Space },
}

impl Operation for Change {
    type Output = ();
    type Error = Error;

    async fn apply(&self, tx: &Tx) -> Result<(), Error> {
        let run = Standing::of(tx, self.run).await?;
        let update = match &self.what {
            What::ContainerMade { container_id } => run
                .stays(RunState::Starting, "the owner of a container")?
                .col_expr(runs::Column::ContainerId, Expr::value(container_id)),
            What::Measured { preflight, isolation, held } => {
                let update = match held {
                    true => run.becomes(RunState::Running)?,
                    false => run.stays(RunState::Starting, "measured")?,
                };
                update
                    .col_expr(runs::Column::Preflight, Expr::value(preflight))
                    .col_expr(runs::Column::Isolation, Expr::value(isolation))
            }
            What::Delivered { now_ms } => run
                .stays(RunState::Running, "delivered")?
                .col_expr(runs::Column::DeliveredAt, Expr::value(*now_ms)),
            What::Touched { now_ms } => run
                .stays(RunState::Running, "touched")?
                .col_expr(runs::Column::TouchedAt, Expr::value(*now_ms)),
            What::Spent { spending } => add(run.stays_active("one that spends")?, spending),
            What::Finish { ending, now_ms } => {
                let update = run.becomes(RunState::Finishing)?;
                if ending.outcome.reply().is_some() {
                    run.move_head(tx, ending.new_head.as_ref()).await?;
                }
                // Our own type, with string keys: it always serializes.
                let timeline = serde_json::to_string(&ending.timeline).unwrap_or_default();
                let update = update.col_expr(runs::Column::Timeline, Expr::value(timeline));
                end(add(update, &ending.spending), &ending.outcome, *now_ms)
            }
            What::Gone { now_ms } => {
                run.becomes_outcome()?.col_expr(runs::Column::GoneAt, Expr::value(*now_ms))
            }
            What::Workspace { used } => run
                .stays_as_it_is()
                .col_expr(runs::Column::WorkspaceBytes, Expr::value(stored(used.bytes)))
                .col_expr(runs::Column::WorkspaceFiles, Expr::value(stored(used.files))),
        };
        run.write(tx, update).await
    }
}
