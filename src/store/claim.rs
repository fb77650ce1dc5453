//! Claiming: which run is next, and all that is needed to begin it.
//!
//! Runs are taken in the order they were accepted, except that a run waits while an older run of
//! its conversation is not over, while its user has as many cells as one may have, and while all
//! cells are taken. So the runs of one conversation are begun one after the other, in order.

use std::collections::BTreeSet;

use sea_orm::sea_query::Expr;
use sea_orm::{
    ColumnTrait, EntityTrait, FromQueryResult, QueryFilter, QueryOrder, QuerySelect, raw_sql,
};

use super::Store;
use super::entities::{contexts, conversations, message_history, runs};
use super::error::{Cause, Error, Named};
use super::record::{
    attempts, count, invalid, memory, parse_conversation, parse_run, parse_user, space,
};
use super::writer::{Operation, Tx};
use crate::core::ids::{ConversationName, RunId, UserName};
use crate::core::message::Shown;
use crate::core::quota::Space;
use crate::core::run::{Memory, RunState};

/// Milliseconds of a day. Days are UTC's, which has no other length.
const DAY: i64 = 86_400_000;

/// How many runs may be active.
#[derive(Debug, Clone, Copy)]
pub struct ActiveLimits {
    /// In all.
    pub cells: usize,
    /// Of one user.
    pub per_user: usize,
}

/// A run that is now `starting`, and what it needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claimed {
    /// Its id.
    pub run: RunId,
    /// Whose it is.
    pub user: UserName,
    /// Its conversation's number: the name of the folder with its transcripts.
    pub conversation_id: i64,
    /// Its conversation's name.
    pub conversation: ConversationName,
    /// The conversation's head; `None` before its first answer.
    pub head: Option<String>,
    /// The attachments in the head's transcript that are the agent's own.
    pub head_attachments: BTreeSet<String>,
    /// Whether it goes on from there.
    pub memory: Memory,
    /// The model that was asked for.
    pub model: Option<String>,
    /// The messages that it answers, oldest first.
    pub messages: Vec<Shown>,
    /// How often it has been begun, this time included.
    pub attempts: u32,
    /// The owner's instructions for this user.
    pub user_instructions: String,
    /// The user's time zone; `None` is the machine's.
    pub time_zone: Option<String>,
    /// What the user's runs have cost today: those that ended since midnight (UTC) and those that
    /// have not ended, as far as written. Millionths of a US dollar.
    pub spent_today_user: u64,
    /// The same of all users.
    pub spent_today_all: u64,
    /// What the user's workspace took of the disk when it was last counted.
    pub workspace: Option<Space>,
}

impl Store {
    /// Takes the next run that may begin, if there is one.
    ///
    /// Await it to its end: a claim whose answer nobody takes leaves a run `starting`.
    ///
    /// # Errors
    /// [`Error::Claim`], [`Error::Full`]; [`Error::Row`] for a row that does not read back.
    pub async fn claim(&self, limits: ActiveLimits, now_ms: i64) -> Result<Option<Claimed>, Error> {
        self.writer.carry_out(Claim { limits, now_ms }).await
    }
}

struct Claim {
    limits: ActiveLimits,
    now_ms: i64,
}

#[derive(FromQueryResult)]
struct Spent {
    of_user: i64,
    of_all: i64,
}

impl Operation for Claim {
    type Output = Option<Claimed>;
    type Error = Error;

    async fn apply(&self, tx: &Tx) -> Result<Option<Claimed>, Error> {
        let Some(row) = self.next(tx).await? else {
            return Ok(None);
        };
        let failed = Error::claiming();
        let conversation = conversations::Entity::find_by_id(row.conversation_id).one(tx);
        let conversation = conversation.await.named(failed)?;
        let conversation = conversation.ok_or(invalid("runs", "conversation_id"))?;
        let user = contexts::Entity::find_by_id(&row.user).one(tx).await.named(failed)?;
        let user = user.ok_or(invalid("runs", "user"))?;
        let spent = self.spent(tx, &row.user).await?;
        let workspace = last_workspace(tx, &row.user).await.named(failed)?;
        let messages = messages(tx, &row.id).await?;
        let memory = memory(row.anew)?;
        let attachments = conversation.head_attachments.as_deref().unwrap_or("[]");
        let attachments = serde_json::from_str(attachments);
        let head_attachments =
            attachments.map_err(|_| invalid("conversations", "head_attachments"))?;
        let forked = conversation.head.clone().filter(|_| memory == Memory::Conversation);
        self.begin(tx, &row, forked).await?;
        Ok(Some(Claimed {
            run: parse_run(&row.id)?,
            user: parse_user("runs", &row.user)?,
            conversation_id: conversation.id,
            conversation: parse_conversation(&conversation.name)?,
            head: conversation.head,
            head_attachments,
            memory,
            model: row.model,
            messages,
            attempts: attempts(row.attempts + 1)?,
            user_instructions: user.instructions,
            time_zone: user.time_zone,
            spent_today_user: count("runs", "cost_microusd", spent.of_user)?,
            spent_today_all: count("runs", "cost_microusd", spent.of_all)?,
            workspace: workspace.map_or(Ok(None), |(bytes, files)| space(bytes, files))?,
        }))
    }

    fn wrote(claimed: &Option<Claimed>) -> bool {
        claimed.is_some()
    }
}

impl Claim {
    async fn next(&self, tx: &Tx) -> Result<Option<runs::Model>, Error> {
        let cells = as_count(self.limits.cells);
        let per_user = as_count(self.limits.per_user);
        // Of the runs that are not gone, those that do not wait hold a cell. An older run of the
        // same conversation is asked for by itself: nothing but order may decide between the two.
        let next = runs::Entity::find().from_raw_sql(raw_sql!(
            Sqlite,
            r#"SELECT r.* FROM runs AS r
               WHERE r.state = 'queued' AND r.gone_at IS NULL
               AND NOT EXISTS (
                   SELECT 1 FROM runs AS o
                   WHERE o.conversation_id = r.conversation_id AND o.gone_at IS NULL
                   AND (o.state <> 'queued' OR o.seq < r.seq))
               AND {per_user} > (
                   SELECT count(*) FROM runs AS u
                   WHERE u.user = r.user AND u.gone_at IS NULL
                   AND u.state IN ('starting', 'running', 'finishing'))
               AND {cells} > (
                   SELECT count(*) FROM runs AS a
                   WHERE a.gone_at IS NULL
                   AND a.state IN ('starting', 'running', 'finishing'))
               ORDER BY r.seq LIMIT 1"#
        ));
        next.one(tx).await.named(Error::claiming())
    }

    async fn spent(&self, tx: &Tx, user: &str) -> Result<Spent, Error> {
        let midnight = self.now_ms - self.now_ms.rem_euclid(DAY);
        let spent = Spent::find_by_statement(raw_sql!(
            Sqlite,
            r#"SELECT coalesce(sum(cost_microusd) FILTER (WHERE user = {user}), 0) AS of_user,
                      coalesce(sum(cost_microusd), 0) AS of_all
               FROM (SELECT user, cost_microusd FROM runs WHERE ended_at >= {midnight}
                     UNION ALL
                     SELECT user, cost_microusd FROM runs
                     WHERE gone_at IS NULL AND ended_at IS NULL)"#
        ));
        let spent = spent.one(tx).await.named(Error::claiming())?;
        spent.ok_or(invalid("runs", "cost_microusd"))
    }

    async fn begin(&self, tx: &Tx, row: &runs::Model, forked: Option<String>) -> Result<(), Error> {
        let update = runs::Entity::update_many()
            .col_expr(runs::Column::State, Expr::value(RunState::Starting.as_str()))
            .col_expr(runs::Column::Attempts, Expr::value(row.attempts + 1))
            .col_expr(runs::Column::ClaimedAt, Expr::value(self.now_ms))
            .col_expr(runs::Column::ForkedFrom, Expr::value(forked))
            .filter(runs::Column::Seq.eq(row.seq));
        update.exec(tx).await.named(Error::claiming())?;
        Ok(())
    }
}

async fn messages(tx: &Tx, run: &str) -> Result<Vec<Shown>, Error> {
    let rows = message_history::Entity::find()
        .select_only()
        .column(message_history::Column::Text)
        .column(message_history::Column::Context)
        .filter(message_history::Column::RunId.eq(run))
        .order_by_asc(message_history::Column::Id)
        .into_tuple::<(String, Option<String>)>();
    let rows = rows.all(tx).await.named(Error::claiming())?;
    let shown = |(text, context)| Shown { text, context };
    Ok(rows.into_iter().map(shown).collect())
}

async fn last_workspace(
    tx: &Tx,
    user: &str,
) -> Result<Option<(Option<i64>, Option<i64>)>, sea_orm::DbErr> {
    runs::Entity::find()
        .select_only()
        .column(runs::Column::WorkspaceBytes)
        .column(runs::Column::WorkspaceFiles)
        .filter(runs::Column::User.eq(user))
        .filter(runs::Column::WorkspaceBytes.is_not_null())
        .order_by_desc(runs::Column::Seq)
        .into_tuple()
        .one(tx)
        .await
}

fn as_count(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

impl Error {
    fn claiming() -> impl FnOnce(Cause) -> Self + Copy {
        |source| Self::Claim { source }
    }
}
