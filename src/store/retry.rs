//! Trying a run again by hand: its messages, as they were, in a new run. A run is retried once;
//! whoever asks again is told the same new run.

use sea_orm::{ConnectionTrait, FromQueryResult, raw_sql};

use super::Store;
use super::accept::{Accepted, QueueLimits, refuse_if_full, refuse_if_gone};
use super::error::{Error, Named, Refused};
use super::record::{invalid, parse_run, parse_state, status};
use super::tokens::TokenHash;
use super::writer::{Operation, Tx};
use crate::core::ids::RunId;

/// The way by which a message that is tried again came.
pub const CHANNEL: &str = "retry";

impl Store {
    /// Accepts the messages of `run` again, as those of `new`, for whoever has this token.
    ///
    /// # Errors
    /// [`Refused::TokenGone`] when the token was removed; [`Refused::NotRetried`] unless the run
    /// ended without an answer; [`Refused::QueueFull`]; [`Error::NoSuchRun`] and what else the
    /// store can say. Nothing was written then.
    pub async fn retry(
        &self,
        run: RunId,
        new: RunId,
        token: Option<TokenHash>,
        limits: QueueLimits,
        now_ms: i64,
    ) -> Result<Accepted, Refused> {
        self.writer.carry_out(Retry { run, new, token, limits, now_ms }).await
    }
}

struct Retry {
    run: RunId,
    new: RunId,
    token: Option<TokenHash>,
    limits: QueueLimits,
    now_ms: i64,
}

#[derive(FromQueryResult)]
struct Look {
    // Tokens of the asker's hash: one, or none any more.
    tokens: i64,
    state: String,
    outcome: Option<String>,
    // The run that tries it again.
    retried: Option<String>,
    waiting: i64,
    waiting_of_user: i64,
}

impl Operation for Retry {
    type Output = Accepted;
    type Error = Refused;

    async fn apply(&self, tx: &Tx) -> Result<Accepted, Refused> {
        let look = self.look(tx).await?;
        refuse_if_gone(self.token, look.tokens)?;
        if let Some(run) = &look.retried {
            return Ok(Accepted { run: parse_run(run)?, joined: false, repeated: true });
        }
        let outcome = look.outcome.as_deref().map(|word| parse_state("outcome", word));
        let state = status(parse_state("state", &look.state)?, outcome.transpose()?);
        if !state.may_be_retried() {
            return Err(Refused::NotRetried { run: self.run, state });
        }
        refuse_if_full(look.waiting_of_user, look.waiting, self.limits)?;
        self.copy(tx).await?;
        Ok(Accepted { run: self.new, joined: false, repeated: false })
    }

    fn wrote(accepted: &Accepted) -> bool {
        !accepted.repeated
    }
}

impl Retry {
    async fn look(&self, tx: &Tx) -> Result<Look, Error> {
        let id = self.run.to_string();
        let token = self.token.map(Vec::from);
        let found = Look::find_by_statement(raw_sql!(
            Sqlite,
            r#"SELECT (SELECT count(*) FROM tokens WHERE hash = {token}) AS tokens,
                      r.state, r.outcome, n.id AS retried, w.waiting, w.waiting_of_user
               FROM runs AS r
               LEFT JOIN runs AS n ON n.retry_of = r.id
               JOIN (SELECT coalesce(sum(q.messages), 0) AS waiting,
                            coalesce(sum(q.messages) FILTER (WHERE q.user =
                                (SELECT user FROM runs WHERE id = {id})), 0) AS waiting_of_user
                     FROM runs AS q WHERE q.state = 'queued' AND q.gone_at IS NULL) AS w
               WHERE r.id = {id}"#
        ));
        let look = found.one(tx).await.named(self.failed())?;
        look.ok_or(Error::NoSuchRun { run: self.run })
    }

    async fn copy(&self, tx: &Tx) -> Result<(), Error> {
        let (old, new, now) = (self.run.to_string(), self.new.to_string(), self.now_ms);
        let channel = CHANNEL;
        // Whether its sender wanted it to begin anew is kept; what an agent refused is tried anew.
        let copy = raw_sql!(
            Sqlite,
            r#"INSERT INTO runs (id, user, conversation_id, state, model, messages, created_at,
                                 anew, retry_of)
               SELECT {new}, user, conversation_id, 'queued', model, messages, {now},
                      anew = 1, id
               FROM runs WHERE id = {old};
               INSERT INTO message_history
                   (conversation_id, run_id, text, context, channel, created_at)
               SELECT conversation_id, {new}, text, context, {channel}, {now}
               FROM message_history WHERE run_id = {old} ORDER BY id"#
        );
        let copied = tx.execute_raw(copy).await.named(self.failed())?;
        // At least one message: a run without any could not be answered.
        if copied.rows_affected() == 0 { Err(invalid("runs", "messages")) } else { Ok(()) }
    }

    fn failed(&self) -> impl FnOnce(super::error::Cause) -> Error {
        let run = self.run;
        move |source| Error::Change { run, source }
    }
}
