//! The owner's folders in a user's cells. What the owner wants is in the store; whether a cell gets
//! it is asked anew before each run: the allowlist is read, the folder opened and judged.
//!
//! A folder that is no longer allowed, or not there, does not keep a run from beginning: it goes on
//! without it, the log says why, and the agent is told that it is missing, but not why: reasons
//! speak of the host.

use std::sync::Arc;
use std::time::Duration;

use noclaw_cell::job::{Access, Rule};

use super::Assistant;
use crate::cell::MOUNTS;
use crate::cell::engine::Info;
use crate::core::ids::{MountName, UserName};
use crate::core::journal::WITHOUT_FOLDER;
use crate::core::limits::{DISK_LOOK, MOUNTS_TIME};
use crate::core::mounts::access;
use crate::core::mounts::folder::FolderPath;
use crate::core::plan::PlannedMount;
use crate::core::problem::{Problem, chain};
use crate::core::quota::{self, Exceeded};
use crate::host::machine::now;
use crate::host::mounts::file::AllowlistError;
use crate::host::mounts::open::Opened;
use crate::host::mounts::{Denied, Guard, Rules};
use crate::store::error::{Error, NotAdded};
use crate::store::mounts::NewMount;
use crate::store::record::MountRecord;

/// Why a user is not granted a folder.
#[derive(Debug, thiserror::Error)]
pub enum GrantError {
    /// The mount policy says no.
    #[error("{path} is not granted")]
    Denied {
        /// The folder.
        path: FolderPath,
        /// Why not.
        #[source]
        denied: Box<Denied>,
        /// What to do about it.
        hint: String,
    },
    /// There is no policy.
    #[error(transparent)]
    Allowlist(#[from] AllowlistError),
    /// Podman does not say where its storage is.
    #[error(transparent)]
    NotReady(Problem),
    /// A disk does not answer.
    #[error("the folders were not opened within {} s", .0.as_secs())]
    Slow(Duration),
    /// The store says no.
    #[error(transparent)]
    NotAdded(#[from] NotAdded),
}

/// A granted folder, and what the policy says of it now.
#[derive(Debug)]
pub struct Standing {
    /// What is granted.
    pub mount: MountRecord,
    /// The folder, or why a run would be without it.
    pub now: Result<Opened, String>,
}

/// The folders of a run's user. While this lives, no other folder has the inode of one of them.
#[derive(Debug, Default)]
pub(super) struct Folders(Vec<Standing>);

impl Assistant {
    /// Grants a user a folder, from the next run on. Whoever asks has looked at what it holds.
    ///
    /// # Errors
    /// See [`GrantError`]; nothing has changed then.
    pub async fn grant(
        &self,
        user: &UserName,
        folder: &FolderPath,
        read_write: bool,
    ) -> Result<MountRecord, GrantError> {
        let podman = self.ready.podman().await.map_err(GrantError::NotReady)?;
        let path = self.settings.guard.whole(folder);
        let asked = path.clone();
        let judge = move |rules: Rules| match rules.judge(&asked, read_write).result {
            Ok(_) => Ok(()),
            Err(denied) => {
                let hint = rules.hint(&denied);
                Err(GrantError::Denied { path: asked, denied: Box::new(denied), hint })
            }
        };
        self.ask(&podman, judge).await??;
        let new = NewMount { user: user.clone(), path, read_write, now_ms: now() };
        let mount = self.store.add_mount(new).await?;
        let (folder, access) = (&mount.path, access(read_write));
        tracing::info!(user_id = %user, %folder, access, "granted");
        Ok(mount)
    }

    /// The folders that a user is granted, as a run would get them now.
    ///
    /// # Errors
    /// The store's.
    pub async fn granted(&self, user: &UserName) -> Result<Vec<Standing>, Error> {
        // Without Podman its storage is not known to be where it always is; no run begins then.
        let podman = self.ready.podman().await;
        self.stand(user, podman.as_ref().map_err(ToString::to_string)).await
    }

    /// The same for a run that begins.
    pub(super) async fn folders(&self, user: &UserName, podman: &Info) -> Result<Folders, Error> {
        let all = self.stand(user, Ok(podman)).await?;
        for Standing { mount, now } in &all {
            if let Err(reason) = now {
                let (message_id, folder) = (WITHOUT_FOLDER, &mount.path);
                tracing::warn!(message_id, %folder, reason, "a run is without a folder");
            }
        }
        Ok(Folders(all))
    }

    async fn stand(
        &self,
        user: &UserName,
        podman: Result<&Info, String>,
    ) -> Result<Vec<Standing>, Error> {
        let mounts = self.store.mounts(user).await?;
        if mounts.is_empty() {
            return Ok(Vec::new());
        }
        let wanted: Vec<_> = mounts.iter().map(|m| (m.path.clone(), m.read_write)).collect();
        let floor = self.settings.limits.disk_free;
        let judge = move |rules: Rules| -> Vec<Result<Opened, String>> {
            let judge = |(path, write): &(FolderPath, bool)| {
                let opened = rules.judge(path, *write).result.map_err(|denied| chain(&denied))?;
                if *write {
                    let free = opened.free().map_err(|error| chain(&error))?;
                    quota::enough(free, floor).map_err(|low| chain(&low))?;
                }
                Ok(opened)
            };
            wanted.iter().map(judge).collect()
        };
        let judged = match podman {
            Ok(podman) => self.ask(podman, judge).await.map_err(|error| chain(&error)),
            Err(reason) => Err(reason),
        };
        let standing = |(mount, now)| Standing { mount, now };
        Ok(match judged {
            Ok(judged) => mounts.into_iter().zip(judged).map(standing).collect(),
            Err(reason) => {
                let same = std::iter::repeat_with(|| Err(reason.clone()));
                mounts.into_iter().zip(same).map(standing).collect()
            }
        })
    }

    /// Reads the policy and asks it. A folder may lie on a disk that sleeps, or on a server that is
    /// gone: no worker waits for it.
    async fn ask<T: Send + 'static>(
        &self,
        podman: &Info,
        question: impl FnOnce(Rules) -> T + Send + 'static,
    ) -> Result<T, GrantError> {
        let (guard, storage): (Arc<Guard>, _) =
            (Arc::clone(&self.settings.guard), podman.storage.clone());
        let work = tokio::task::spawn_blocking(move || guard.rules(&storage).map(question));
        match tokio::time::timeout(MOUNTS_TIME, work).await {
            Ok(Ok(answer)) => Ok(answer?),
            // The service stops, or the disk does not answer.
            Ok(Err(_)) | Err(_) => Err(GrantError::Slow(MOUNTS_TIME)),
        }
    }
}

impl Folders {
    /// As mounts of the run's cell.
    pub(super) fn mounts(&self) -> Vec<PlannedMount> {
        let mount = |(opened, mount): (&Opened, &MountRecord)| {
            opened.mount(destination(&mount.name), !mount.read_write)
        };
        self.there().map(mount).collect()
    }

    /// What the cell's Landlock table must have beside: it lets the agent read everything.
    pub(super) fn rules(&self) -> Vec<Rule> {
        let rule = |(_, mount): (&Opened, &MountRecord)| Rule {
            path: destination(&mount.name),
            access: Access::All,
            reason: String::new(),
        };
        self.there().filter(|(_, mount)| mount.read_write).map(rule).collect()
    }

    /// Looks at the disks of those that the cell may write until one is nearly full. One may be
    /// slow to tell, or never do: no worker waits for it.
    pub(super) async fn full(&self, floor: u64) -> Exceeded {
        let written = self.there().filter(|(_, mount)| mount.read_write);
        let written: Vec<_> =
            written.map(|(opened, mount)| (opened.clone(), destination(&mount.name))).collect();
        if written.is_empty() {
            return std::future::pending().await;
        }
        let written = Arc::new(written);
        loop {
            let written = Arc::clone(&written);
            let look = move || written.iter().try_for_each(|one| enough(one, floor));
            if let Ok(Err(exceeded)) = tokio::task::spawn_blocking(look).await {
                return exceeded;
            }
            tokio::time::sleep(DISK_LOOK).await;
        }
    }

    /// What the agent is told.
    pub(super) fn told(&self) -> String {
        if self.0.is_empty() {
            return String::new();
        }
        let line = |Standing { mount, now }: &Standing| {
            let what = match now {
                Ok(_) if mount.read_write => "read and write; what you change stays changed",
                Ok(_) => "read only",
                Err(_) => "not there now; the owner can see why: `noclaw user mount list`",
            };
            format!("- `{}`: {what}", destination(&mount.name))
        };
        let lines: Vec<_> = self.0.iter().map(line).collect();
        format!("# Folders of the owner's, beside your workspace\n\n{}", lines.join("\n"))
    }

    fn there(&self) -> impl Iterator<Item = (&Opened, &MountRecord)> {
        self.0.iter().filter_map(|standing| Some((standing.now.as_ref().ok()?, &standing.mount)))
    }
}

fn enough((opened, destination): &(Opened, String), floor: u64) -> Result<(), Exceeded> {
    // One that does not tell any more is gone, and takes nothing.
    let Ok(free) = opened.free() else { return Ok(()) };
    let low = |low| Exceeded::Granted { folder: destination.clone(), low };
    quota::enough(free, floor).map_err(low)
}

/// Where a granted folder is in a cell.
pub fn destination(name: &MountName) -> String {
    format!("{MOUNTS}/{name}")
}
