//! What happened since the owner last looked, and that the owner has looked.
//!
//! The news of a time are what ended from its beginning on and before its end; what ends in the
//! very millisecond of its end belongs to the next. They are read by the writer, in turn: what
//! ended before `now_ms` was handed over before, and has been written.

use sea_orm::sea_query::{Expr, ExprTrait, OnConflict};
use sea_orm::{
    ColumnTrait, Condition, EntityTrait, FromQueryResult, QueryFilter, QueryOrder, QuerySelect,
    Set, raw_sql,
};

use super::Store;
use super::entities::{contexts, marks, runs};
use super::error::{Cause, Error, Named};
use super::record::{count, invalid, parse_run, parse_state, parse_user, space, stored};
use super::writer::{Operation, Tx};
use crate::core::ids::{RunId, UserName};
use crate::core::quota::Space;
use crate::core::run::RunState;

/// The row of `marks` that says when the owner last looked.
const LOOKED: &str = "looked";
/// Milliseconds of a day. Days are UTC's, as the budgets' are.
const DAY: i64 = 86_400_000;
/// Runs and users that are told one by one; beyond that, only how many.
pub const TOLD: u64 = 20;

/// What happened in `since..until`. Money is in millionths of a US dollar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct News {
    /// When the owner last looked; `None`: never.
    pub since: Option<i64>,
    /// When these news were read.
    pub until: i64,
    /// Runs that were answered.
    pub answered: u64,
    /// Runs that failed.
    pub failed: u64,
    /// Runs that took too long.
    pub timed_out: u64,
    /// Runs that were cancelled.
    pub cancelled: u64,
    /// Runs that failed or took too long, newest first, at most [`TOLD`].
    pub failures: Vec<ToldRun>,
    /// Runs that are going on now.
    pub active: u64,
    /// Runs that wait now.
    pub queued: u64,
    /// Of both, oldest first, at most [`TOLD`].
    pub open: Vec<ToldRun>,
    /// What the runs that ended since then have cost.
    pub spent_since: u64,
    /// What all runs have cost since midnight (UTC).
    pub spent_today: u64,
    /// Users that are new, oldest first, at most [`TOLD`].
    pub users: Vec<UserName>,
    /// Users whose workspace is nearly full now, by name, at most [`TOLD`], and what it takes.
    pub nearly_full: Vec<(UserName, Space)>,
}

/// A run, in a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToldRun {
    /// Its id.
    pub run: RunId,
    /// Whose it is.
    pub user: UserName,
    /// Where it stands.
    pub status: RunState,
    /// Why it has no reply.
    pub error: Option<String>,
    /// When it was accepted.
    pub created_at: i64,
}

impl Store {
    /// What happened since the owner last looked. The `owner` is no new user. A workspace that
    /// takes as much as `nearly_full`, in bytes or in files, is told.
    ///
    /// # Errors
    /// [`Error::Read`], [`Error::Row`].
    pub async fn news(
        &self,
        owner: &UserName,
        nearly_full: Space,
        now_ms: i64,
    ) -> Result<News, Error> {
        self.writer.carry_out(Read { owner: owner.clone(), nearly_full, now_ms }).await
    }

    /// Writes that the owner has seen the news until then; never earlier than what was seen before.
    ///
    /// # Errors
    /// [`Error::Seen`] or [`Error::Full`].
    pub async fn seen(&self, until_ms: i64) -> Result<(), Error> {
        self.writer.carry_out(Seen { until_ms }).await
    }
}

struct Seen {
    until_ms: i64,
}

impl Operation for Seen {
    type Output = ();
    type Error = Error;

    async fn apply(&self, tx: &Tx) -> Result<(), Error> {
        let row = marks::ActiveModel { name: Set(LOOKED.to_owned()), at: Set(self.until_ms) };
        let latest = Expr::cust("max(\"at\", excluded.\"at\")");
        let mut there = OnConflict::column(marks::Column::Name);
        there.value(marks::Column::At, latest);
        let insert = marks::Entity::insert(row).on_conflict(there);
        let inserted = insert.exec_without_returning(tx).await;
        inserted.named(|source| Error::Seen { source }).map(drop)
    }
}

struct Read {
    owner: UserName,
    nearly_full: Space,
    now_ms: i64,
}

#[derive(FromQueryResult)]
struct FullRow {
    user: String,
    workspace_bytes: Option<i64>,
    workspace_files: Option<i64>,
}

#[derive(FromQueryResult)]
struct Spent {
    since: i64,
    today: i64,
}

impl Operation for Read {
    type Output = News;
    type Error = Error;

    async fn apply(&self, tx: &Tx) -> Result<News, Error> {
        let mark = marks::Entity::find_by_id(LOOKED).one(tx).await.named(Error::telling())?;
        let since = mark.map(|mark| mark.at);
        let from = since.unwrap_or(i64::MIN);
        let ended = self.ended(tx, from).await?;
        let of = |state: RunState| {
            let found = ended.iter().find(|(outcome, _)| outcome == state.as_str());
            count("runs", "outcome", found.map_or(0, |(_, n)| *n))
        };
        let spent = self.spent(tx, from).await?;
        let open = self.open(tx).await?;
        let waits = |run: &&ToldRun| run.status == RunState::Queued;
        let queued = open.iter().filter(waits).count() as u64;
        Ok(News {
            since,
            until: self.now_ms,
            answered: of(RunState::Answered)?,
            failed: of(RunState::Failed)?,
            timed_out: of(RunState::TimedOut)?,
            cancelled: of(RunState::Cancelled)?,
            failures: self.failures(tx, from).await?,
            active: open.len() as u64 - queued,
            queued,
            open: open.into_iter().take(usize::try_from(TOLD).unwrap_or(0)).collect(),
            spent_since: count("runs", "cost_microusd", spent.since)?,
            spent_today: count("runs", "cost_microusd", spent.today)?,
            users: self.users(tx, from).await?,
            nearly_full: self.nearly_full(tx).await?,
        })
    }

    fn wrote(_: &News) -> bool {
        false
    }
}

impl Read {
    fn ended_since(&self, from: i64) -> Condition {
        Condition::all()
            .add(runs::Column::EndedAt.gte(from))
            .add(runs::Column::EndedAt.lt(self.now_ms))
    }

    async fn ended(&self, tx: &Tx, from: i64) -> Result<Vec<(String, i64)>, Error> {
        let ended = runs::Entity::find()
            .select_only()
            .column(runs::Column::Outcome)
            .column_as(runs::Column::Seq.count(), "n")
            .filter(self.ended_since(from))
            .filter(runs::Column::Outcome.is_not_null())
            .group_by(runs::Column::Outcome)
            .into_tuple();
        ended.all(tx).await.named(Error::telling())
    }

    async fn failures(&self, tx: &Tx, from: i64) -> Result<Vec<ToldRun>, Error> {
        let failed = [RunState::Failed.as_str(), RunState::TimedOut.as_str()];
        let failures = runs::Entity::find()
            .filter(self.ended_since(from))
            .filter(runs::Column::Outcome.is_in(failed))
            .order_by_desc(runs::Column::EndedAt)
            .limit(TOLD);
        let rows = failures.all(tx).await.named(Error::telling())?;
        rows.into_iter().map(ToldRun::of).collect()
    }

    /// All of them: they are at most as many as the queues hold.
    async fn open(&self, tx: &Tx) -> Result<Vec<ToldRun>, Error> {
        let open = runs::Entity::find()
            .filter(runs::Column::GoneAt.is_null())
            .filter(runs::Column::Outcome.is_null())
            .order_by_asc(runs::Column::Seq);
        let rows = open.all(tx).await.named(Error::telling())?;
        rows.into_iter().map(ToldRun::of).collect()
    }

    async fn spent(&self, tx: &Tx, from: i64) -> Result<Spent, Error> {
        let (until, midnight) = (self.now_ms, self.now_ms - self.now_ms.rem_euclid(DAY));
        let spent = Spent::find_by_statement(raw_sql!(
            Sqlite,
            r#"SELECT (SELECT coalesce(sum(cost_microusd), 0) FROM runs
                       WHERE ended_at >= {from} AND ended_at < {until}) AS since,
                      (SELECT coalesce(sum(cost_microusd), 0) FROM runs
                       WHERE ended_at >= {midnight})
                      + (SELECT coalesce(sum(cost_microusd), 0) FROM runs
                         WHERE gone_at IS NULL AND ended_at IS NULL) AS today"#
        ));
        let spent = spent.one(tx).await.named(Error::telling())?;
        spent.ok_or(invalid("runs", "cost_microusd"))
    }

    /// The last count of each user's workspace holds.
    async fn nearly_full(&self, tx: &Tx) -> Result<Vec<(UserName, Space)>, Error> {
        let (bytes, files) = (stored(self.nearly_full.bytes), stored(self.nearly_full.files));
        let most = stored(TOLD);
        let rows = FullRow::find_by_statement(raw_sql!(
            Sqlite,
            r#"SELECT r.user, r.workspace_bytes, r.workspace_files FROM runs AS r
               WHERE r.seq IN (SELECT max(seq) FROM runs WHERE workspace_bytes IS NOT NULL
                               GROUP BY user)
               AND (r.workspace_bytes >= {bytes} OR r.workspace_files >= {files})
               ORDER BY r.user LIMIT {most}"#
        ));
        let rows = rows.all(tx).await.named(Error::telling())?;
        let full = rows.into_iter().map(|row| {
            let space = space(row.workspace_bytes, row.workspace_files)?.unwrap_or_default();
            Ok((parse_user("runs", &row.user)?, space))
        });
        full.collect()
    }

    async fn users(&self, tx: &Tx, from: i64) -> Result<Vec<UserName>, Error> {
        let new = contexts::Entity::find()
            .filter(Expr::col(contexts::Column::CreatedAt).between(from, self.now_ms - 1))
            .filter(contexts::Column::Name.ne(self.owner.as_str()))
            .order_by_asc(contexts::Column::CreatedAt)
            .limit(TOLD);
        let rows = new.all(tx).await.named(Error::telling())?;
        rows.iter().map(|row| parse_user("contexts", &row.name)).collect()
    }
}

impl ToldRun {
    fn of(row: runs::Model) -> Result<Self, Error> {
        let column = if row.outcome.is_some() { "outcome" } else { "state" };
        Ok(Self {
            run: parse_run(&row.id)?,
            user: parse_user("runs", &row.user)?,
            status: parse_state(column, row.outcome.as_deref().unwrap_or(&row.state))?,
            error: row.error,
            created_at: row.created_at,
        })
    }
}

impl Error {
    fn telling() -> impl FnOnce(Cause) -> Self + Copy {
        Self::reading("the news")
    }
}
