//! What is not kept for ever (`core/limits.rs` says what is, and for how long).

use sea_orm::sea_query::Expr;
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter};

use super::Store;
use super::entities::{idempotency_keys, runs};
use super::error::{Error, Named};
use super::writer::{Operation, Tx};

impl Store {
    /// Forgets the preflights of runs that had ended by then, and the keys of messages that had
    /// been accepted. Returns how many there were.
    ///
    /// # Errors
    /// [`Error::Forget`] or [`Error::Full`].
    pub async fn forget(&self, before_ms: i64) -> Result<u64, Error> {
        self.writer.carry_out(Forget { before_ms }).await
    }
}

struct Forget {
    before_ms: i64,
}

impl Operation for Forget {
    type Output = u64;
    type Error = Error;

    async fn apply(&self, tx: &Tx) -> Result<u64, Error> {
        let nothing: Option<String> = None;
        let forget = runs::Entity::update_many()
            .col_expr(runs::Column::Preflight, Expr::value(nothing))
            .filter(runs::Column::Preflight.is_not_null())
            .filter(runs::Column::EndedAt.lt(self.before_ms));
        let forgotten = forget.exec(tx).await.named(|source| Error::Forget { source })?;
        let keys = idempotency_keys::Entity::delete_many()
            .filter(idempotency_keys::Column::CreatedAt.lt(self.before_ms));
        let keys = keys.exec(tx).await.named(|source| Error::Forget { source })?;
        Ok(forgotten.rows_affected + keys.rows_affected)
    }

    fn wrote(forgotten: &u64) -> bool {
        *forgotten > 0
    }
}
