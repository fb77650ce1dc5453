//! Making and removing users: rows and folders together.
//!
//! | a removal's step | whoever is killed after it finds at the next start |
//! |---|---|
//! | the folder is moved aside | the row: the folder is moved back, nothing has happened |
//! | the rows are deleted | no row: the folder is deleted, the removal is complete |
//! | the folder is deleted | nothing |
//!
//! So a later user of the same name inherits nothing, at any moment.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Assistant;
use crate::core::ids::UserName;
use crate::core::limits::CELL_END;
use crate::core::problem::chain;
use crate::host::machine::now;
use crate::host::points;
use crate::host::state::StateError;
use crate::host::state::removed::{self, Aside};
use crate::host::tree::TreeError;
use crate::host::tree::count::Count;
use crate::store::error::{Error, NotRemoved};
use crate::store::removal::RemovedRows;
use crate::store::users::NewUser;

/// Between two looks whether a container is gone.
const AGAIN: Duration = Duration::from_millis(20);

/// Why a user was not made or not removed.
#[derive(Debug, thiserror::Error)]
pub enum PeopleError {
    /// There is one of that name.
    #[error("there is a user {user} already")]
    Exists {
        /// The name.
        user: UserName,
    },
    /// The owner's own user always exists.
    #[error("{user} is the owner's own user, which always exists")]
    Owner {
        /// The name.
        user: UserName,
    },
    /// The store says no.
    #[error(transparent)]
    NotRemoved(#[from] NotRemoved),
    /// A folder cannot be made or moved.
    #[error(transparent)]
    State(#[from] StateError),
    /// A folder cannot be counted or deleted.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// The task that carried it out ended early.
    #[error("the service is stopping")]
    Stopping,
}

impl From<Error> for PeopleError {
    fn from(error: Error) -> Self {
        Self::NotRemoved(NotRemoved::Store(error))
    }
}

/// What a removal has deleted.
#[derive(Debug, Clone, Copy)]
pub struct Removed {
    /// From the store.
    pub rows: RemovedRows,
    /// From the workspace.
    pub files: Count,
}

impl Assistant {
    /// Makes a user, with a workspace.
    ///
    /// # Errors
    /// [`PeopleError::Exists`], or what cannot be written.
    pub async fn add_user(&self, new: NewUser) -> Result<(), PeopleError> {
        // One at a time with those who remove.
        let _alone = self.running.lock().await;
        let user = new.name.clone();
        if !self.store.add_user(new).await? {
            return Err(PeopleError::Exists { user });
        }
        self.state.workspace(&user)?;
        tracing::info!(user_id = %user, "a user was made");
        Ok(())
    }

    /// Removes a user and everything that is theirs. It goes on even if its caller stops waiting.
    ///
    /// # Errors
    /// The owner's own user, one that there is not, and one with a run that is not over are
    /// refused. When a folder cannot be deleted the user is gone, and the next start tries again.
    pub async fn remove_user(self: &Arc<Self>, user: &UserName) -> Result<Removed, PeopleError> {
        let (assistant, user) = (Arc::clone(self), user.clone());
        let removal = tokio::spawn(async move { assistant.remove(user).await });
        removal.await.unwrap_or(Err(PeopleError::Stopping))
    }

    async fn remove(&self, user: UserName) -> Result<Removed, PeopleError> {
        if user == self.settings.owner {
            return Err(PeopleError::Owner { user });
        }
        self.outlive_cells(&user).await?;
        let files = self.count_workspace(&user).await?;
        // Nothing is claimed meanwhile: a run would find its folder missing, and make another.
        let alone = self.running.lock().await;
        let found = self.store.user(&user).await?;
        let found = found.ok_or_else(|| NotRemoved::NoSuchUser { user: user.clone() })?;
        let aside = Aside { user, created_at: found.created_at };
        // Asked again with the deletion; asked here so that nothing is moved in vain.
        let open = self.store.open_runs(&aside.user).await?;
        let runs = open.undecided + open.finishing;
        if runs > 0 {
            return Err(NotRemoved::Busy { user: aside.user, runs }.into());
        }
        self.state.set_aside(&aside)?;
        points::reached("user_moved").await;
        let rows = self.store.remove_user(&aside.user, aside.created_at).await;
        if rows.is_err()
            && let Err(error) = self.settle_removal(&aside).await
        {
            tracing::error!(user_id = %aside.user, error = chain(&error), "cannot undo a removal");
        }
        // The folder is nobody's any more; others need not wait until it is deleted.
        drop(alone);
        let rows = rows?;
        points::reached("user_rows_removed").await;
        tracing::info!(user_id = %aside.user, "a user was removed");
        self.settle_removal(&aside).await?;
        Ok(Removed { rows, files })
    }

    /// To people a run is over with its outcome, a moment before its container is gone. Waits for
    /// that moment, if it is all that a removal would be refused for.
    async fn outlive_cells(&self, user: &UserName) -> Result<(), Error> {
        let deadline = Instant::now() + CELL_END;
        loop {
            let open = self.store.open_runs(user).await?;
            if open.undecided > 0 || open.finishing == 0 || Instant::now() > deadline {
                return Ok(());
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// At the start, before anything is claimed or accepted: the owner's own user exists, and
    /// removals that were interrupted are undone or completed. What cannot be settled stays aside.
    pub async fn settle_people(&self) {
        if let Err(error) = self.store.ensure_user(&self.settings.owner, now()).await {
            tracing::error!(error = chain(&error), "cannot make the owner's user");
        }
        let left = self.state.aside().unwrap_or_else(|error| {
            tracing::error!(error = chain(&error), "cannot look for removed users' folders");
            Vec::new()
        });
        for aside in left {
            match self.settle_removal(&aside).await {
                Ok(()) => tracing::info!(user_id = %aside.user, "settled an interrupted removal"),
                Err(error) => {
                    let error = chain(&error);
                    tracing::error!(user_id = %aside.user, error, "cannot settle a removal");
                }
            }
        }
    }

    /// The rows decide: while this very user has one, its folder is moved back, else deleted.
    async fn settle_removal(&self, aside: &Aside) -> Result<(), PeopleError> {
        let row = self.store.user(&aside.user).await?;
        if row.is_some_and(|row| row.created_at == aside.created_at) {
            return Ok(self.state.put_back(aside)?);
        }
        on_disk(self.state.aside_path(aside), |path| removed::delete(&path)).await
    }
}

/// A workspace may hold a great deal: no worker waits for its disk.
pub(super) async fn on_disk<T: Send + 'static>(
    path: PathBuf,
    work: impl FnOnce(PathBuf) -> Result<T, TreeError> + Send + 'static,
) -> Result<T, PeopleError> {
    let done = tokio::task::spawn_blocking(move || work(path)).await;
    Ok(done.map_err(|_| PeopleError::Stopping)??)
}
