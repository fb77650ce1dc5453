//! The halt that holds, if one does: a table with one row, or none. It outlives the service.

use sea_orm::sea_query::OnConflict;
use sea_orm::{ConnectionTrait, EntityTrait, Set};

use super::Store;
use super::entities::halt;
use super::error::{Cause, Error, Named};
use super::record::invalid;
use super::writer::{Operation, Tx};
use crate::core::halt::Halt;

/// The key of the one row.
const ONLY: i64 = 1;

impl Store {
    /// Writes that a halt holds. One that is written already stays as it is.
    ///
    /// # Errors
    /// [`Error::Halt`] or [`Error::Full`].
    pub async fn halt(&self, halt: &Halt) -> Result<(), Error> {
        self.writer.carry_out(Change { halt: Some(halt.clone()) }).await
    }

    /// Writes that none holds.
    ///
    /// # Errors
    /// [`Error::Halt`] or [`Error::Full`].
    pub async fn unhalt(&self) -> Result<(), Error> {
        self.writer.carry_out(Change { halt: None }).await
    }

    /// The halt that holds.
    ///
    /// # Errors
    /// [`Error::Read`], [`Error::Row`].
    pub async fn halted(&self) -> Result<Option<Halt>, Error> {
        halted(&self.readers).await
    }
}

/// The halt that holds, as this connection sees it.
pub(super) async fn halted(connection: &impl ConnectionTrait) -> Result<Option<Halt>, Error> {
    let row = halt::Entity::find_by_id(ONLY).one(connection).await;
    row.named(Error::reading("the halt"))?.map(Halt::try_from).transpose()
}

impl TryFrom<halt::Model> for Halt {
    type Error = Error;

    fn try_from(row: halt::Model) -> Result<Self, Error> {
        let reason = row.reason.as_deref().map(str::parse).transpose();
        let reason = reason.map_err(|_| invalid("halt", "reason"))?;
        Ok(Self { since_ms: row.since, reason })
    }
}

struct Change {
    halt: Option<Halt>,
}

impl Operation for Change {
    type Output = ();
    type Error = Error;

    async fn apply(&self, tx: &Tx) -> Result<(), Error> {
        let failed = |source: Cause| Error::Halt { source };
        let Some(Halt { since_ms, reason }) = &self.halt else {
            return halt::Entity::delete_by_id(ONLY).exec(tx).await.named(failed).map(drop);
        };
        let row = halt::ActiveModel {
            only: Set(ONLY),
            since: Set(*since_ms),
            reason: Set(reason.as_ref().map(|reason| reason.as_str().to_owned())),
        };
        let there = OnConflict::column(halt::Column::Only).do_nothing().to_owned();
        let insert = halt::Entity::insert(row).on_conflict(there);
        insert.exec_without_returning(tx).await.named(failed).map(drop)
    }
}
