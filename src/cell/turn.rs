//! Takes turns at Podman's create.
//!
//! Podman 4.3 looks up a user's ids by a library that two threads may not use at a time: two
//! containers made at once can crash its service, and end every cell with it. So creates wait for
//! each other: within a process by a mutex, between processes by a lock on the folder of Podman's
//! socket.
//!
//! | what fails | what happens |
//! |---|---|
//! | the folder cannot be opened or locked | only this process's creates wait for each other |
//! | another process holds the lock for [`CREATE_TURN`] | the same: a stopped one must not stop all |

#![expect(clippy::disallowed_methods, reason = "a folder of the owner's is locked, not read")]

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg, OFlag, open};
use nix::sys::stat::Mode;
use tokio::sync::{Mutex, OwnedMutexGuard};

use crate::core::limits::CREATE_TURN;

/// How often a lock of another process is tried again. A create takes some 50 ms.
const AGAIN: Duration = Duration::from_millis(5);

/// Where creates wait for each other.
#[derive(Debug, Clone)]
pub(super) struct Turns {
    folder: Arc<PathBuf>,
    here: Arc<Mutex<()>>,
}

/// A turn; it ends when it is dropped.
pub(super) struct Turn {
    _here: OwnedMutexGuard<()>,
    _everywhere: Option<Flock<OwnedFd>>,
}

impl Turns {
    /// Of the Podman at this socket.
    pub(super) fn at(socket: &Path) -> Self {
        let folder = socket.parent().unwrap_or(Path::new("/")).to_owned();
        Self { folder: Arc::new(folder), here: Arc::default() }
    }

    /// Waits for a turn.
    pub(super) async fn take(&self) -> Turn {
        let here = Arc::clone(&self.here).lock_owned().await;
        let everywhere = tokio::time::timeout(CREATE_TURN, self.everywhere()).await;
        if everywhere.is_err() {
            let words =
                "another process holds the turn at Podman, and is not waited for any longer";
            tracing::warn!(folder = %self.folder.display(), "{words}");
        }
        Turn { _here: here, _everywhere: everywhere.ok().flatten() }
    }

    async fn everywhere(&self) -> Option<Flock<OwnedFd>> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let opened = open(&*self.folder, flags, Mode::empty()).inspect_err(|errno| {
            let words = "turns are not taken with other services at this Podman";
            tracing::warn!(folder = %self.folder.display(), error = errno.desc(), "{words}; was \
                this folder made anew? then restart this service");
        });
        let mut folder = opened.ok()?;
        loop {
            match Flock::lock(folder, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => return Some(lock),
                Err((back, nix::errno::Errno::EWOULDBLOCK)) => folder = back,
                Err(_) => return None,
            }
            tokio::time::sleep(AGAIN).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn two_at_one_podman_take_turns() -> Result<(), std::io::Error> {
        let directory = tempfile::tempdir()?;
        let socket = directory.path().join("podman.sock");
        // As two processes would: nothing is shared but the folder.
        let (one, other) = (Turns::at(&socket), Turns::at(&socket));
        let turn = one.take().await;
        let mut waiting = std::pin::pin!(other.take());
        let early = tokio::time::timeout(AGAIN * 4, &mut waiting).await;
        assert!(early.is_err(), "a second turn at the same time");
        drop(turn);
        let turn = waiting.await;
        assert!(turn._everywhere.is_some());
        Ok(())
    }

    #[tokio::test]
    async fn without_a_folder_turns_are_taken_within_the_process() {
        let turns = Turns::at(Path::new("/nowhere/podman.sock"));
        let turn = turns.take().await;
        assert!(turn._everywhere.is_none());
        assert!(turns.here.try_lock().is_err());
    }
}
