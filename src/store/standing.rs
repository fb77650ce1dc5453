//! How a change is written: the run is looked up, `core` is asked whether the change may follow,
//! and the update is tied to the state that was found. `change.rs` and `recover.rs` build on it.

use sea_orm::sea_query::{Expr, ExprTrait, SimpleExpr};
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, QuerySelect, UpdateMany};

use super::change::{Head, Spending};
use super::entities::{conversations, runs};
use super::error::{Cause, Error, Named};
use super::record::{invalid, parse_state};
use super::writer::Tx;
use crate::core::ids::RunId;
use crate::core::run::{Outcome, RunState};

/// What is to be written into a run's row.
pub(super) type Update = UpdateMany<runs::Entity>;

/// Where a run stands at the beginning of a change.
pub(super) struct Standing {
    run: RunId,
    seq: i64,
    state: RunState,
    outcome: Option<String>,
    conversation_id: i64,
    cancel_at: Option<i64>,
}

impl Standing {
    pub(super) async fn of(tx: &Tx, run: RunId) -> Result<Self, Error> {
        let found = runs::Entity::find()
            .select_only()
            .column(runs::Column::Seq)
            .column(runs::Column::State)
            .column(runs::Column::Outcome)
            .column(runs::Column::ConversationId)
            .column(runs::Column::CancelAt)
            .filter(runs::Column::Id.eq(run.to_string()))
            .into_tuple::<(i64, String, Option<String>, i64, Option<i64>)>();
        let found = found.one(tx).await.named(changing(run))?;
        let (seq, state, outcome, conversation_id, cancel_at) =
            found.ok_or(Error::NoSuchRun { run })?;
        let state = parse_state("state", &state)?;
        Ok(Self { run, seq, state, outcome, conversation_id, cancel_at })
    }

    pub(super) const fn state(&self) -> RunState {
        self.state
    }

    /// Whether somebody has asked to cancel it.
    pub(super) const fn is_to_be_cancelled(&self) -> bool {
        self.cancel_at.is_some()
    }

    /// The update that ends it as cancelled. It has no container.
    pub(super) fn cancelled(&self, now_ms: i64) -> Result<Update, Error> {
        let update = end(self.becomes(RunState::Cancelled)?, &Outcome::Cancelled, now_ms);
        Ok(update.col_expr(runs::Column::GoneAt, Expr::value(now_ms)))
    }

    /// An update without a change of state, if the run is in `state`.
    pub(super) fn stays(&self, state: RunState, asked: &'static str) -> Result<Update, Error> {
        self.stays_if(self.state == state, asked)
    }

    /// An update without a change of state, if the run is active.
    pub(super) fn stays_active(&self, asked: &'static str) -> Result<Update, Error> {
        self.stays_if(self.state.is_active(), asked)
    }

    /// An update without a change of state, whatever that is.
    pub(super) fn stays_as_it_is(&self) -> Update {
        runs::Entity::update_many()
    }

    fn stays_if(&self, holds: bool, asked: &'static str) -> Result<Update, Error> {
        match holds {
            true => Ok(runs::Entity::update_many()),
            false => Err(self.impossible(asked)),
        }
    }

    /// The update that makes it `next`, if that may follow.
    pub(super) fn becomes(&self, next: RunState) -> Result<Update, Error> {
        let update = self.stays_if(self.state.may_become(next), next.as_str())?;
        Ok(update.col_expr(runs::Column::State, Expr::value(next.as_str())))
    }

    /// The update that makes it what its outcome says.
    pub(super) fn becomes_outcome(&self) -> Result<Update, Error> {
        match &self.outcome {
            Some(word) => self.becomes(parse_state("outcome", word)?),
            None => Err(self.impossible("gone")),
        }
    }

    fn impossible(&self, asked: &'static str) -> Error {
        Error::Impossible { run: self.run, state: self.state, asked }
    }

    /// The next run of the conversation will continue this session.
    pub(super) async fn move_head(&self, tx: &Tx, head: Option<&Head>) -> Result<(), Error> {
        // Strings always serialize.
        let attachments =
            head.map(|head| serde_json::to_string(&head.attachments).unwrap_or_default());
        let session = head.map(|head| head.session.as_str());
        let update = conversations::Entity::update_many()
            .col_expr(conversations::Column::Head, Expr::value(session))
            .col_expr(conversations::Column::HeadAttachments, Expr::value(attachments))
            .filter(conversations::Column::Id.eq(self.conversation_id));
        let moved = update.exec(tx).await.named(changing(self.run))?;
        exactly_one(moved.rows_affected, "conversation_id")
    }

    /// Writes the update, if the row is as it was found.
    pub(super) async fn write(&self, tx: &Tx, update: Update) -> Result<(), Error> {
        let update = update
            .filter(runs::Column::Seq.eq(self.seq))
            .filter(runs::Column::State.eq(self.state.as_str()));
        let changed = update.exec(tx).await.named(changing(self.run))?;
        exactly_one(changed.rows_affected, "state")
    }
}

fn exactly_one(rows: u64, column: &'static str) -> Result<(), Error> {
    match rows {
        1 => Ok(()),
        _ => Err(invalid("runs", column)),
    }
}

fn changing(run: RunId) -> impl FnOnce(Cause) -> Error {
    move |source| Error::Change { run, source }
}

/// Writes an outcome, but not the state.
pub(super) fn end(update: Update, outcome: &Outcome, now_ms: i64) -> Update {
    let reply = match outcome {
        Outcome::Answered { reply } => Some(reply.as_str()),
        _ => None,
    };
    update
        .col_expr(runs::Column::Outcome, Expr::value(outcome.state().as_str()))
        .col_expr(runs::Column::Reply, Expr::value(reply))
        .col_expr(runs::Column::Error, Expr::value(outcome.error()))
        .col_expr(runs::Column::EndedAt, Expr::value(now_ms))
}

/// Forgets the container, and nothing else: what the model has seen and cost, it has seen and cost.
pub(super) fn requeue(update: Update) -> Update {
    let nothing = || Expr::value(None::<String>);
    update
        .col_expr(runs::Column::ContainerId, nothing())
        .col_expr(runs::Column::Preflight, nothing())
}

/// Adds to what the run has used.
pub(super) fn add(update: Update, spending: &Spending) -> Update {
    let usage = &spending.usage;
    let more = [
        (runs::Column::InputTokens, usage.input_tokens),
        (runs::Column::OutputTokens, usage.output_tokens),
        (runs::Column::CacheWriteTokens, usage.cache_write_tokens),
        (runs::Column::CacheWrite1hTokens, usage.cache_write_1h_tokens),
        (runs::Column::CacheReadTokens, usage.cache_read_tokens),
        (runs::Column::Requests, usage.requests),
        (runs::Column::CostMicrousd, spending.cost_microusd),
    ];
    let add = |update: Update, (column, more)| update.col_expr(column, plus(column, more));
    more.into_iter().fold(update, add)
}

/// Bounded, so that no sum leaves SQLite's integers.
fn plus(column: runs::Column, more: u64) -> SimpleExpr {
    const MOST: u64 = 1 << 50;
    Expr::col(column).add(Ord::min(more, MOST))
}
