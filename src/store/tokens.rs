//! Tokens: what lets a client in over TCP. Only hashes are kept; the secret is seen once, by
//! whoever made it.

use sea_orm::{ColumnTrait, Condition, EntityTrait, QueryFilter, QueryOrder, Set};

use super::entities::tokens;
use super::error::{Error, Named};
use super::record::{TokenRecord, parse_user};
use super::writer::{Operation, Tx};
use super::{Store, users};
use crate::core::ids::UserName;

/// The SHA-256 of a token. Tokens are random and long, so a hash needs neither salt nor stretching.
pub type TokenHash = [u8; 32];

/// A token to be made.
#[derive(Debug, Clone)]
pub struct NewToken {
    /// What it is good for: `owner`, `user:U`, `channel:NAME`, `metrics`.
    pub scope: String,
    /// The user it speaks for, if it does for one only; made if missing.
    pub user: Option<UserName>,
    /// Its hash.
    pub hash: TokenHash,
    /// What the owner calls it.
    pub label: String,
    /// From when on it is no longer good.
    pub expires_at: Option<i64>,
    /// Now.
    pub now_ms: i64,
}

impl Store {
    /// Keeps a token; returns its number.
    ///
    /// # Errors
    /// [`Error::Token`], also when the same token is there already; [`Error::Full`].
    pub async fn create_token(&self, new: NewToken) -> Result<i64, Error> {
        self.writer.carry_out(Create { new }).await
    }

    /// The token with this hash, if it is still good.
    ///
    /// The database compares hashes, and not in constant time. That could tell how a stored hash
    /// begins, which does not help to find a token: they are random and as long as the hash.
    ///
    /// # Errors
    /// [`Error::Read`], [`Error::Row`].
    pub async fn find_token(
        &self,
        hash: &TokenHash,
        now_ms: i64,
    ) -> Result<Option<TokenRecord>, Error> {
        let good = Condition::any()
            .add(tokens::Column::ExpiresAt.is_null())
            .add(tokens::Column::ExpiresAt.gt(now_ms));
        let found =
            tokens::Entity::find().filter(tokens::Column::Hash.eq(hash.to_vec())).filter(good);
        let row = found.one(&self.readers).await;
        let row = row.named(Error::reading("the token"))?;
        row.map(TokenRecord::of).transpose()
    }

    /// All tokens, oldest first, expired ones too.
    ///
    /// # Errors
    /// [`Error::Read`], [`Error::Row`].
    pub async fn tokens(&self) -> Result<Vec<TokenRecord>, Error> {
        let all = tokens::Entity::find().order_by_asc(tokens::Column::Id);
        let rows = all.all(&self.readers).await;
        let rows = rows.named(Error::reading("the tokens"))?;
        rows.into_iter().map(TokenRecord::of).collect()
    }

    /// Removes a token; whether there was one.
    ///
    /// # Errors
    /// [`Error::Token`] or [`Error::Full`].
    pub async fn delete_token(&self, id: i64) -> Result<bool, Error> {
        self.writer.carry_out(Delete { id }).await
    }
}

struct Create {
    new: NewToken,
}

impl Operation for Create {
    type Output = i64;
    type Error = Error;

    async fn apply(&self, tx: &Tx) -> Result<i64, Error> {
        let failed = |source| Error::Token { source };
        if let Some(user) = &self.new.user {
            users::ensure(tx, user, self.new.now_ms).await.named(failed)?;
        }
        let row = tokens::ActiveModel {
            scope: Set(self.new.scope.clone()),
            user: Set(self.new.user.as_ref().map(ToString::to_string)),
            hash: Set(self.new.hash.to_vec()),
            label: Set(self.new.label.clone()),
            created_at: Set(self.new.now_ms),
            expires_at: Set(self.new.expires_at),
            ..Default::default()
        };
        let inserted = tokens::Entity::insert(row).exec(tx).await.named(failed)?;
        Ok(inserted.last_insert_id)
    }
}

struct Delete {
    id: i64,
}

impl Operation for Delete {
    type Output = bool;
    type Error = Error;

    async fn apply(&self, tx: &Tx) -> Result<bool, Error> {
        let deleted = tokens::Entity::delete_by_id(self.id).exec(tx).await;
        let deleted = deleted.named(|source| Error::Token { source })?;
        Ok(deleted.rows_affected > 0)
    }

    fn wrote(deleted: &bool) -> bool {
        *deleted
    }
}

impl TokenRecord {
    fn of(row: tokens::Model) -> Result<Self, Error> {
        let user = row.user.as_deref();
        Ok(Self {
            id: row.id,
            user: user.map(|user| parse_user("tokens", user)).transpose()?,
            scope: row.scope,
            label: row.label,
            created_at: row.created_at,
            expires_at: row.expires_at,
        })
    }
}
