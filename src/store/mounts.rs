//! Which of the owner's folders a user is granted. That a row is here says what the owner wants;
//! whether a cell gets the folder is the mount policy's, and asked before each run.

use sea_orm::{ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter, QueryOrder, Set};

use super::Store;
use super::entities::{contexts, mounts};
use super::error::{Cause, Error, Named, NotAdded};
use super::record::{MountRecord, invalid, parse};
use super::writer::{Operation, Tx};
use crate::core::ids::{MountName, UserName};
use crate::core::limits::MOUNTS_PER_USER;
use crate::core::mounts::folder::FolderPath;

/// A folder to be granted.
#[derive(Debug, Clone)]
pub struct NewMount {
    /// To whom.
    pub user: UserName,
    /// The folder, from `/`.
    pub path: FolderPath,
    /// Whether a cell may write there.
    pub read_write: bool,
    /// Now.
    pub now_ms: i64,
}

impl Store {
    /// Grants a folder, under a name that no other of the user's has.
    ///
    /// # Errors
    /// See [`NotAdded`].
    pub async fn add_mount(&self, new: NewMount) -> Result<MountRecord, NotAdded> {
        self.writer.carry_out(Add { new }).await
    }

    /// The folders that a user is granted, in the order in which they were.
    ///
    /// # Errors
    /// [`Error::Read`], or [`Error::Row`] for one that is none.
    pub async fn mounts(&self, user: &UserName) -> Result<Vec<MountRecord>, Error> {
        mounts(&self.readers, user, Error::reading("the user's folders")).await
    }

    /// Takes a folder back; whether the user had one of that name. The next run is without it.
    ///
    /// # Errors
    /// [`Error::Mount`] or [`Error::Full`].
    pub async fn remove_mount(&self, user: &UserName, name: &MountName) -> Result<bool, Error> {
        self.writer.carry_out(Remove { user: user.clone(), name: name.clone() }).await
    }
}

async fn mounts(
    db: &impl ConnectionTrait,
    user: &UserName,
    failed: impl FnOnce(Cause) -> Error,
) -> Result<Vec<MountRecord>, Error> {
    let rows = mounts::Entity::find()
        .filter(mounts::Column::User.eq(user.as_str()))
        .order_by_asc(mounts::Column::CreatedAt)
        .order_by_asc(mounts::Column::Name);
    let rows = rows.all(db).await.named(failed)?;
    rows.into_iter().map(MountRecord::of).collect()
}

struct Add {
    new: NewMount,
}

impl Operation for Add {
    type Output = MountRecord;
    type Error = NotAdded;

    async fn apply(&self, tx: &Tx) -> Result<MountRecord, NotAdded> {
        let NewMount { user, path, read_write, now_ms } = self.new.clone();
        let failed = |source| Error::Mount { user: user.clone(), source };
        let found = contexts::Entity::find_by_id(user.as_str()).one(tx).await;
        if found.named(failed)?.is_none() {
            return Err(NotAdded::NoSuchUser { user });
        }
        let there = mounts(tx, &user, failed).await?;
        if let Some(same) = there.iter().find(|mount| mount.path == path) {
            return Err(NotAdded::Exists { user, path, read_write: same.read_write });
        }
        if there.len() >= MOUNTS_PER_USER {
            return Err(NotAdded::TooMany { user });
        }
        let taken: Vec<_> = there.into_iter().map(|mount| mount.name).collect();
        let name = path.mount_name(&taken).ok_or_else(|| invalid("mounts", "name"))?;
        let row = mounts::ActiveModel {
            user: Set(user.to_string()),
            name: Set(name.to_string()),
            path: Set(path.to_string()),
            read_write: Set(read_write.into()),
            created_at: Set(now_ms),
        };
        let inserted = mounts::Entity::insert(row).exec_without_returning(tx).await;
        inserted.named(failed)?;
        Ok(MountRecord { name, path, read_write, created_at: now_ms })
    }
}

struct Remove {
    user: UserName,
    name: MountName,
}

impl Operation for Remove {
    type Output = bool;
    type Error = Error;

    async fn apply(&self, tx: &Tx) -> Result<bool, Error> {
        let key = (self.user.to_string(), self.name.to_string());
        let deleted = mounts::Entity::delete_by_id(key).exec(tx).await;
        let failed = |source| Error::Mount { user: self.user.clone(), source };
        Ok(deleted.named(failed)?.rows_affected > 0)
    }

    fn wrote(removed: &bool) -> bool {
        *removed
    }
}

impl MountRecord {
    fn of(row: mounts::Model) -> Result<Self, Error> {
        Ok(Self {
            name: parse("mounts", "name", &row.name)?,
            path: row.path.try_into().map_err(|_| invalid("mounts", "path"))?,
            read_write: match row.read_write {
                0 => false,
                1 => true,
                _ => return Err(invalid("mounts", "read_write")),
            },
            created_at: row.created_at,
        })
    }
}
