//! Users: a row of `contexts` each. One is made with its first message, or ahead of it; what the
//! owner says about a user is kept with it.

use sea_orm::sea_query::{Expr, OnConflict};
use sea_orm::{
    ColumnTrait, DbErr, EntityTrait, FromQueryResult, QueryFilter, QueryOrder, Set, raw_sql,
};

use super::Store;
use super::entities::contexts;
use super::error::{Error, Named};
use super::record::{UserOverview, UserRecord, count, parse_user, space};
use super::writer::{Operation, Tx};
use crate::core::ids::UserName;

/// A user to be made.
#[derive(Debug, Clone)]
pub struct NewUser {
    /// The name.
    pub name: UserName,
    /// What the owner wants the agent to know.
    pub instructions: String,
    /// The time zone; `None` is the machine's.
    pub time_zone: Option<String>,
    /// Now.
    pub now_ms: i64,
}

/// What is to be another about a user; `None` leaves it.
#[derive(Debug, Clone, Default)]
pub struct UserChange {
    /// The owner's instructions.
    pub instructions: Option<String>,
    /// The time zone; its `None` is the machine's.
    pub time_zone: Option<Option<String>>,
}

impl Store {
    /// Makes the user if there is none of that name.
    ///
    /// # Errors
    /// [`Error::User`] or [`Error::Full`].
    pub async fn ensure_user(&self, user: &UserName, now_ms: i64) -> Result<(), Error> {
        let user = user.clone();
        self.writer.carry_out(EnsureUser { user, now_ms }).await
    }

    /// Makes a user; whether there was none of that name.
    ///
    /// # Errors
    /// [`Error::User`] or [`Error::Full`].
    pub async fn add_user(&self, new: NewUser) -> Result<bool, Error> {
        self.writer.carry_out(AddUser { new }).await
    }

    /// Changes what is kept of a user; whether there is one of that name. The next run that is
    /// claimed is given it.
    ///
    /// # Errors
    /// [`Error::User`] or [`Error::Full`].
    pub async fn change_user(&self, user: &UserName, change: UserChange) -> Result<bool, Error> {
        let user = user.clone();
        self.writer.carry_out(ChangeUser { user, change }).await
    }

    /// One user.
    ///
    /// # Errors
    /// [`Error::Read`], [`Error::Row`].
    pub async fn user(&self, user: &UserName) -> Result<Option<UserRecord>, Error> {
        let row = contexts::Entity::find_by_id(user.as_str()).one(&self.readers).await;
        row.named(Error::reading("the user"))?.map(UserRecord::of).transpose()
    }

    /// All users, by name.
    ///
    /// # Errors
    /// [`Error::Read`], or [`Error::Row`] for a name that is none.
    pub async fn users(&self) -> Result<Vec<UserRecord>, Error> {
        let all = contexts::Entity::find().order_by_asc(contexts::Column::Name);
        let rows = all.all(&self.readers).await;
        let rows = rows.named(Error::reading("the users"))?;
        rows.into_iter().map(UserRecord::of).collect()
    }

    /// All users, or the one of this name, with how much is kept of each; by name.
    ///
    /// # Errors
    /// [`Error::Read`], [`Error::Row`].
    pub async fn overviews(&self, only: Option<&UserName>) -> Result<Vec<UserOverview>, Error> {
        let name = only.map(UserName::as_str);
        let rows = OverviewRow::find_by_statement(raw_sql!(
            Sqlite,
            r#"SELECT u.name, u.instructions, u.time_zone, u.created_at,
                      (SELECT count(*) FROM conversations AS c WHERE c.user = u.name)
                        AS conversations,
                      (SELECT count(*) FROM message_history AS m
                       JOIN conversations AS c ON c.id = m.conversation_id
                       WHERE c.user = u.name) AS messages,
                      (SELECT count(*) FROM runs AS r WHERE r.user = u.name) AS runs,
                      (SELECT count(*) FROM tokens AS t WHERE t.user = u.name) AS tokens,
                      w.workspace_bytes, w.workspace_files
               FROM contexts AS u LEFT JOIN runs AS w ON w.seq =
                   (SELECT max(r.seq) FROM runs AS r
                    WHERE r.user = u.name AND r.workspace_bytes IS NOT NULL)
               WHERE {name} IS NULL OR u.name = {name} ORDER BY u.name"#
        ));
        let rows = rows.all(&self.readers).await;
        let rows = rows.named(Error::reading("the users"))?;
        rows.into_iter().map(UserOverview::of).collect()
    }
}

struct EnsureUser {
    user: UserName,
    now_ms: i64,
}

impl Operation for EnsureUser {
    type Output = ();
    type Error = Error;

    async fn apply(&self, tx: &Tx) -> Result<(), Error> {
        let failed = |source| Error::User { user: self.user.clone(), source };
        ensure(tx, &self.user, self.now_ms).await.named(failed)
    }
}

/// Makes the user's row if it is missing.
pub(super) async fn ensure(tx: &Tx, user: &UserName, now_ms: i64) -> Result<(), DbErr> {
    let row = contexts::ActiveModel {
        name: Set(user.to_string()),
        created_at: Set(now_ms),
        ..Default::default()
    };
    insert(tx, row).await.map(drop)
}

/// Whether the row was written: there was none of its name.
async fn insert(tx: &Tx, row: contexts::ActiveModel) -> Result<bool, DbErr> {
    let there = OnConflict::column(contexts::Column::Name).do_nothing().to_owned();
    let insert = contexts::Entity::insert(row).on_conflict(there);
    Ok(insert.exec_without_returning(tx).await? > 0)
}

struct AddUser {
    new: NewUser,
}

impl Operation for AddUser {
    type Output = bool;
    type Error = Error;

    async fn apply(&self, tx: &Tx) -> Result<bool, Error> {
        let new = &self.new;
        let row = contexts::ActiveModel {
            name: Set(new.name.to_string()),
            instructions: Set(new.instructions.clone()),
            time_zone: Set(new.time_zone.clone()),
            created_at: Set(new.now_ms),
        };
        let failed = |source| Error::User { user: new.name.clone(), source };
        insert(tx, row).await.named(failed)
    }

    fn wrote(added: &bool) -> bool {
        *added
    }
}

struct ChangeUser {
    user: UserName,
    change: UserChange,
}

impl Operation for ChangeUser {
    type Output = bool;
    type Error = Error;

    async fn apply(&self, tx: &Tx) -> Result<bool, Error> {
        // The name is written over itself, so that a change of nothing is a statement, too.
        let mut update = contexts::Entity::update_many()
            .col_expr(contexts::Column::Name, Expr::value(self.user.as_str()))
            .filter(contexts::Column::Name.eq(self.user.as_str()));
        if let Some(text) = &self.change.instructions {
            update = update.col_expr(contexts::Column::Instructions, Expr::value(text.as_str()));
        }
        if let Some(zone) = &self.change.time_zone {
            update = update.col_expr(contexts::Column::TimeZone, Expr::value(zone.clone()));
        }
        let failed = |source| Error::User { user: self.user.clone(), source };
        Ok(update.exec(tx).await.named(failed)?.rows_affected > 0)
    }

    fn wrote(changed: &bool) -> bool {
        *changed
    }
}

#[derive(FromQueryResult)]
struct OverviewRow {
    name: String,
    instructions: String,
    time_zone: Option<String>,
    created_at: i64,
    conversations: i64,
    messages: i64,
    runs: i64,
    tokens: i64,
    workspace_bytes: Option<i64>,
    workspace_files: Option<i64>,
}

impl UserRecord {
    fn of(row: contexts::Model) -> Result<Self, Error> {
        Ok(Self {
            name: parse_user("contexts", &row.name)?,
            instructions: row.instructions,
            time_zone: row.time_zone,
            created_at: row.created_at,
        })
    }
}

impl UserOverview {
    fn of(row: OverviewRow) -> Result<Self, Error> {
        let counted = |column, stored| count("contexts", column, stored);
        Ok(Self {
            conversations: counted("conversations", row.conversations)?,
            messages: counted("messages", row.messages)?,
            runs: counted("runs", row.runs)?,
            tokens: counted("tokens", row.tokens)?,
            workspace: space(row.workspace_bytes, row.workspace_files)?,
            user: UserRecord::of(contexts::Model {
                name: row.name,
                instructions: row.instructions,
                time_zone: row.time_zone,
                created_at: row.created_at,
            })?,
        })
    }
}
