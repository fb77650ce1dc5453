//! After a crash: every run that was open is brought to a state that is true. The containers of the
//! dead service have been removed and seen absent before this is called.
//!
//! | found | becomes |
//! |---|---|
//! | finishing | its outcome's state: the outcome was written, the container is gone |
//! | starting, running | queued again, cancelled, or failed (`core::run::after_crash`) |
//! | queued | stays |
//! | a row that does not read back | stays, and the log names it; the others do not wait for it |

use sea_orm::sea_query::Expr;
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, QueryOrder};

use super::Store;
use super::entities::{conversations, runs};
use super::error::{Error, Named};
use super::halt::halted;
use super::record::{attempts, invalid, parse_conversation, parse_run, parse_state, parse_user};
use super::standing::{Standing, Update, end, requeue};
use super::writer::{Operation, Tx};
use crate::core::halt::Halt;
use crate::core::ids::{ConversationName, RunId, UserName};
use crate::core::problem::chain;
use crate::core::run::{Progress, RunState, Settle, after_crash};

/// A run that was open, and is no more.
#[derive(Debug)]
pub struct Settled {
    /// The run.
    pub run: RunId,
    /// Whose it is.
    pub user: UserName,
    /// Where it was said.
    pub conversation: ConversationName,
    /// What it was brought to.
    pub state: RunState,
}

impl Store {
    /// Settles all open runs, in one transaction. Returns them, oldest first. A run whose row does
    /// not read back, or says what cannot be, is left out: it stays as it is, and the log is told.
    ///
    /// # Errors
    /// [`Error::Recover`], [`Error::Change`], [`Error::Full`]. Then none was settled.
    pub async fn recover(&self, now_ms: i64) -> Result<Vec<Settled>, Error> {
        self.writer.carry_out(Recover { now_ms }).await
    }
}

struct Recover {
    now_ms: i64,
}

impl Operation for Recover {
    type Output = Vec<Settled>;
    type Error = Error;

    async fn apply(&self, tx: &Tx) -> Result<Self::Output, Error> {
        let open = runs::Entity::find()
            .filter(runs::Column::GoneAt.is_null())
            .filter(runs::Column::State.ne(RunState::Queued.as_str()))
            .order_by_asc(runs::Column::Seq);
        let open = open.all(tx).await.named(|source| Error::Recover { source })?;
        let halt = halted(tx).await?;
        let mut settled = Vec::with_capacity(open.len());
        for row in open {
            match self.settle(tx, &row, halt.as_ref()).await {
                Ok(one) => settled.push(one),
                // Nothing of it was written: its one write comes last.
                Err(error @ (Error::Row { .. } | Error::Impossible { .. })) => {
                    let (seq, id, error) = (row.seq, &row.id, chain(&error));
                    tracing::error!(seq, run_id = %id, error, "a run cannot be settled; it stays");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(settled)
    }

    fn wrote(settled: &Self::Output) -> bool {
        !settled.is_empty()
    }
}

impl Recover {
    async fn settle(
        &self,
        tx: &Tx,
        row: &runs::Model,
        halt: Option<&Halt>,
    ) -> Result<Settled, Error> {
        let run = parse_run(&row.id)?;
        let user = parse_user("runs", &row.user)?;
        let conversation = conversations::Entity::find_by_id(row.conversation_id).one(tx).await;
        let conversation = conversation.named(|source| Error::Recover { source })?;
        let conversation = conversation.ok_or(invalid("runs", "conversation_id"))?;
        let conversation = parse_conversation(&conversation.name)?;
        let standing = Standing::of(tx, run).await?;
        let over = |update: Update| update.col_expr(runs::Column::GoneAt, Expr::value(self.now_ms));
        let (state, update) = match &row.outcome {
            Some(outcome) => {
                let state = parse_state("outcome", outcome)?;
                (state, over(standing.becomes_outcome()?))
            }
            None => match rule(row, halt)? {
                Settle::Requeue => {
                    let state = RunState::Queued;
                    (state, requeue(standing.becomes(state)?))
                }
                Settle::End(outcome) => {
                    let state = outcome.state();
                    let ended = end(standing.becomes(state)?, &outcome, self.now_ms);
                    (state, over(ended))
                }
            },
        };
        standing.write(tx, update).await?;
        Ok(Settled { run, user, conversation, state })
    }
}

fn rule(row: &runs::Model, halt: Option<&Halt>) -> Result<Settle, Error> {
    // Only a finishing run has an outcome, and every finishing run has one.
    if row.state == RunState::Finishing.as_str() {
        return Err(invalid("runs", "outcome"));
    }
    let progress = Progress {
        attempts: attempts(row.attempts)?,
        delivered: row.delivered_at.is_some(),
        touched: row.touched_at.is_some(),
        cancel: row.cancel_at.is_some(),
    };
    Ok(after_crash(progress, halt))
}
