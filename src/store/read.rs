//! Reading: from connections that cannot write, without waiting for the writer. What a verb has
//! returned is seen by every read that begins later.

use sea_orm::sea_query::{Expr, ExprTrait};
use sea_orm::{
    ColumnTrait, Condition, EntityTrait, FromQueryResult, QueryFilter, QueryOrder, QuerySelect,
    QueryTrait, raw_sql,
};
use std::collections::HashMap;

use super::Store;
use super::entities::{conversations, message_history, runs};
use super::error::{Error, Named};
use super::record::{
    HistoryRecord, MessageRecord, RunRecord, count, parse_conversation, parse_run, parse_state,
    status,
};
use crate::core::ids::{ConversationName, RunId, UserName};
use crate::core::run::RunState;

/// The most rows of one page, whatever was asked for.
pub const PAGE_MOST: usize = 100;

/// Which runs are wanted; `None` is any.
#[derive(Debug, Clone, Default)]
pub struct RunFilter {
    /// Of this user.
    pub user: Option<UserName>,
    /// With this state, as people are told it.
    pub status: Option<RunState>,
    /// Accepted before this run, for the next page.
    pub before: Option<RunId>,
}

/// Which part of a history is wanted.
#[derive(Debug, Clone, Default)]
pub struct HistoryPage {
    /// Only this conversation.
    pub conversation: Option<ConversationName>,
    /// Before this [`HistoryRecord::id`], for the next page.
    pub before: Option<i64>,
    /// At most so many.
    pub limit: usize,
}

/// How many runs are not over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunCounts {
    /// They wait.
    pub queued: u64,
    /// A cell may exist for them.
    pub active: u64,
}

#[derive(FromQueryResult)]
struct HistoryRow {
    id: i64,
    conversation: String,
    run_id: String,
    text: String,
    context: Option<String>,
    channel: String,
    created_at: i64,
    state: String,
    outcome: Option<String>,
    reply: Option<String>,
    error: Option<String>,
    ended_at: Option<i64>,
}

impl Store {
    /// One run with everything that is known of it.
    ///
    /// # Errors
    /// [`Error::Read`], [`Error::Row`].
    pub async fn run(&self, run: RunId) -> Result<Option<RunRecord>, Error> {
        let by_id = Condition::all().add(runs::Column::Id.eq(run.to_string()));
        Ok(self.find(by_id, 1).await?.pop())
    }

    /// At most `limit` (and [`PAGE_MOST`]) runs, newest first.
    ///
    /// # Errors
    /// [`Error::Read`], [`Error::Row`].
    pub async fn runs(&self, filter: &RunFilter, limit: usize) -> Result<Vec<RunRecord>, Error> {
        let user = filter.user.as_ref().map(|user| runs::Column::User.eq(user.as_str()));
        let before = filter.before.map(|run| {
            let seq = runs::Entity::find()
                .select_only()
                .column(runs::Column::Seq)
                .filter(runs::Column::Id.eq(run.to_string()));
            Expr::col((runs::Entity, runs::Column::Seq)).lt(seq.into_query())
        });
        let wanted = Condition::all()
            .add_option(user)
            .add_option(filter.status.map(has_status))
            .add_option(before);
        self.find(wanted, limit).await
    }

    /// How many runs wait and how many are active.
    ///
    /// # Errors
    /// [`Error::Read`].
    pub async fn counts(&self) -> Result<RunCounts, Error> {
        let open = runs::Entity::find()
            .select_only()
            .column(runs::Column::State)
            .column_as(runs::Column::Seq.count(), "n")
            .filter(runs::Column::GoneAt.is_null())
            .group_by(runs::Column::State)
            .into_tuple::<(String, i64)>();
        let rows = open.all(&self.readers).await;
        let mut counts = RunCounts { queued: 0, active: 0 };
        for (state, n) in rows.named(Error::reading("the number of runs"))? {
            let n = count("runs", "state", n)?;
            match parse_state("state", &state)? {
                RunState::Queued => counts.queued += n,
                _ => counts.active += n,
            }
        }
        Ok(counts)
    }

    /// A user's messages, newest first, with what became of them.
    ///
    /// # Errors
    /// [`Error::Read`], [`Error::Row`].
    pub async fn history(
        &self,
        user: &UserName,
        page: HistoryPage,
    ) -> Result<Vec<HistoryRecord>, Error> {
        let user = user.as_str();
        let conversation = page.conversation.as_ref().map(ConversationName::as_str);
        let before = page.before.unwrap_or(i64::MAX);
        // One more than a page, for who wants to know whether there is another.
        let limit = page.limit.min(PAGE_MOST + 1) as u64;
        // The page is found by numbers alone, so that only its own texts are read.
        let rows = HistoryRow::find_by_statement(raw_sql!(
            Sqlite,
            r#"SELECT m.id, c.name AS conversation, m.run_id, m.text, m.context, m.channel,
                      m.created_at, r.state, r.outcome, r.reply, r.error, r.ended_at
               FROM message_history AS m
               JOIN conversations AS c ON c.id = m.conversation_id
               JOIN runs AS r ON r.id = m.run_id
               WHERE m.id IN (
                   SELECT p.id FROM message_history AS p
                   JOIN conversations AS q ON q.id = p.conversation_id
                   WHERE q.user = {user} AND p.id < {before}
                   AND ({conversation} IS NULL OR q.name = {conversation})
                   ORDER BY p.id DESC LIMIT {limit})
               ORDER BY m.id DESC"#
        ));
        let rows = rows.all(&self.readers).await;
        let rows = rows.named(Error::reading("the history"))?;
        rows.into_iter().map(HistoryRecord::of).collect()
    }

    async fn find(&self, wanted: Condition, limit: usize) -> Result<Vec<RunRecord>, Error> {
        let found = runs::Entity::find()
            .find_also_related(conversations::Entity)
            .filter(wanted)
            .order_by_desc(runs::Column::Seq)
            .limit(limit.min(PAGE_MOST) as u64);
        let found = found.all(&self.readers).await;
        let found = found.named(Error::reading("the runs"))?;
        let ids = found.iter().map(|(run, _)| run.id.as_str());
        let mut messages = self.messages_of(ids).await?;
        let mut records = Vec::with_capacity(found.len());
        for (run, conversation) in found {
            let messages = messages.remove(&run.id).unwrap_or_default();
            records.push(RunRecord::of(run, conversation.as_ref(), messages)?);
        }
        Ok(records)
    }

    async fn messages_of(
        &self,
        runs: impl Iterator<Item = &str>,
    ) -> Result<HashMap<String, Vec<MessageRecord>>, Error> {
        let rows = message_history::Entity::find()
            .filter(message_history::Column::RunId.is_in(runs))
            .order_by_asc(message_history::Column::Id);
        let rows = rows.all(&self.readers).await;
        let mut messages = HashMap::<_, Vec<_>>::new();
        for row in rows.named(Error::reading("the messages"))? {
            messages.entry(row.run_id.clone()).or_default().push(row.into());
        }
        Ok(messages)
    }
}

/// A finishing run counts as what it will be.
fn has_status(status: RunState) -> Condition {
    let wanted = Condition::all();
    if status.is_final() {
        wanted.add(runs::Column::Outcome.eq(status.as_str()))
    } else {
        wanted
            .add(runs::Column::State.eq(status.as_str()))
            .add(runs::Column::Outcome.is_null())
            .add(runs::Column::GoneAt.is_null())
    }
}

impl HistoryRecord {
    fn of(row: HistoryRow) -> Result<Self, Error> {
        let state = parse_state("state", &row.state)?;
        let outcome = row.outcome.as_deref();
        let outcome = outcome.map(|word| parse_state("outcome", word)).transpose()?;
        Ok(Self {
            id: row.id,
            conversation: parse_conversation(&row.conversation)?,
            message: MessageRecord {
                text: row.text,
                context: row.context,
                channel: row.channel,
                created_at: row.created_at,
            },
            run: parse_run(&row.run_id)?,
            status: status(state, outcome),
            reply: row.reply,
            error: row.error,
            ended_at: row.ended_at,
        })
    }
}
