//! Users: a row of `contexts` each. One is made with its first message, or ahead of it; what the
//! owner says about a user is kept with it.

use sea_orm::sea_query::OnConflict;
use sea_orm::{DbErr, EntityTrait, QueryOrder, Set};

use super::Store;
use super::entities::contexts;
use super::error::{Error, Named};
use super::record::{UserRecord, parse_user};
use super::writer::{Operation, Tx};
use crate::core::ids::UserName;

impl Store {
    /// Makes the user if there is none of that name.
    ///
    /// # Errors
    /// [`Error::User`] or [`Error::Full`].
    pub async fn ensure_user(&self, user: &UserName, now_ms: i64) -> Result<(), Error> {
        let user = user.clone();
        self.writer.carry_out(EnsureUser { user, now_ms }).await
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
    let there = OnConflict::column(contexts::Column::Name).do_nothing().to_owned();
    let insert = contexts::Entity::insert(row).on_conflict(there);
    insert.exec_without_returning(tx).await.map(drop)
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
