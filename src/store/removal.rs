//! Removing a user: all rows in one transaction, or none.
//!
//! A user with a run that is not over stays: a cell may exist for it. What is asked here is asked
//! inside the transaction, so that a message is accepted before (and the user stays) or after (and
//! is a fresh user's).

use sea_orm::{
    ColumnTrait, ConnectionTrait, DbErr, EntityTrait, PaginatorTrait, QueryFilter, Statement,
    raw_sql,
};

use super::Store;
use super::entities::{contexts, runs};
use super::error::{Cause, Error, Named, NotRemoved};
use super::writer::{Operation, Tx};
use crate::core::ids::UserName;

/// How many rows a removal has deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RemovedRows {
    /// Messages.
    pub messages: u64,
    /// Runs.
    pub runs: u64,
    /// Conversations.
    pub conversations: u64,
    /// Tokens.
    pub tokens: u64,
}

/// A user's runs that are not over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenRuns {
    /// They wait or go on.
    pub undecided: u64,
    /// Their outcome is known; their containers are being removed.
    pub finishing: u64,
}

impl Store {
    /// Deletes the user that was made at `created_at`, and everything that belongs to it.
    ///
    /// # Errors
    /// [`NotRemoved::NoSuchUser`], [`NotRemoved::Busy`], or the store's; nothing was deleted then.
    pub async fn remove_user(
        &self,
        user: &UserName,
        created_at: i64,
    ) -> Result<RemovedRows, NotRemoved> {
        self.writer.carry_out(RemoveUser { user: user.clone(), created_at }).await
    }

    /// The user's runs that are not over.
    ///
    /// # Errors
    /// [`Error::Read`].
    pub async fn open_runs(&self, user: &UserName) -> Result<OpenRuns, Error> {
        open_runs(&self.readers, user).await.named(Error::reading("the user's runs"))
    }
}

struct RemoveUser {
    user: UserName,
    created_at: i64,
}

impl Operation for RemoveUser {
    type Output = RemovedRows;
    type Error = NotRemoved;

    async fn apply(&self, tx: &Tx) -> Result<RemovedRows, NotRemoved> {
        let found = contexts::Entity::find_by_id(self.user.as_str())
            .filter(contexts::Column::CreatedAt.eq(self.created_at));
        if found.one(tx).await.named(self.failed())?.is_none() {
            return Err(NotRemoved::NoSuchUser { user: self.user.clone() });
        }
        let open = open_runs(tx, &self.user).await.named(self.failed())?;
        let runs = open.undecided + open.finishing;
        if runs > 0 {
            return Err(NotRemoved::Busy { user: self.user.clone(), runs });
        }
        Ok(self.delete(tx).await?)
    }
}

impl RemoveUser {
    fn failed(&self) -> impl FnOnce(Cause) -> Error {
        let user = self.user.clone();
        move |source| Error::User { user, source }
    }

    /// Whatever refers to a row goes before it.
    async fn delete(&self, tx: &Tx) -> Result<RemovedRows, Error> {
        let user = self.user.as_str();
        let messages = raw_sql!(
            Sqlite,
            r#"DELETE FROM message_history WHERE conversation_id IN
                   (SELECT id FROM conversations WHERE user = {user})"#
        );
        let keys = raw_sql!(
            Sqlite,
            r#"DELETE FROM idempotency_keys WHERE run_id IN
                   (SELECT id FROM runs WHERE user = {user})"#
        );
        let runs = raw_sql!(Sqlite, r#"DELETE FROM runs WHERE user = {user}"#);
        let conversations = raw_sql!(Sqlite, r#"DELETE FROM conversations WHERE user = {user}"#);
        let tokens = raw_sql!(Sqlite, r#"DELETE FROM tokens WHERE user = {user}"#);
        let mounts = raw_sql!(Sqlite, r#"DELETE FROM mounts WHERE user = {user}"#);
        let context = raw_sql!(Sqlite, r#"DELETE FROM contexts WHERE name = {user}"#);
        let messages = self.execute(tx, messages).await?;
        self.execute(tx, keys).await?;
        let runs = self.execute(tx, runs).await?;
        let conversations = self.execute(tx, conversations).await?;
        let tokens = self.execute(tx, tokens).await?;
        self.execute(tx, mounts).await?;
        self.execute(tx, context).await?;
        Ok(RemovedRows { messages, runs, conversations, tokens })
    }

    async fn execute(&self, tx: &Tx, statement: Statement) -> Result<u64, Error> {
        Ok(tx.execute_raw(statement).await.named(self.failed())?.rows_affected())
    }
}

async fn open_runs(db: &impl ConnectionTrait, user: &UserName) -> Result<OpenRuns, DbErr> {
    let open = runs::Entity::find()
        .filter(runs::Column::User.eq(user.as_str()))
        .filter(runs::Column::GoneAt.is_null());
    let finishing = open.clone().filter(runs::Column::Outcome.is_not_null()).count(db).await?;
    Ok(OpenRuns { undecided: open.count(db).await?.saturating_sub(finishing), finishing })
}
