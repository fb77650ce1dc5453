//! What a run's cell takes of the disk: looked at while the agent works, counted when it has ended.
//! `core/quota.rs` decides; here is the disk that it decides about.
//!
//! | what goes wrong | what follows |
//! |---|---|
//! | a folder holds too much, or a disk that the cell writes to is nearly full | the run ends at once: failed, quota |
//! | a folder cannot be counted, or not in time | the log says so; what must stay free still holds |
//! | two runs of a user fill their workspace together | both end |
//!
//! A run that must end is not asked to stop first: its tools would write on meanwhile.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tokio_util::task::AbortOnDropHandle;

use super::Assistant;
use super::grants::Folders;
use super::people::{PeopleError, on_disk};
use crate::core::ids::UserName;
use crate::core::limits::{
    COUNT_FILES, COUNT_TIME, DISK_LOOK, Limits, QUOTA_NOTICE_PERCENT, TRANSCRIPTS,
};
use crate::core::problem::chain;
use crate::core::quota::{self, Count, Counted, Exceeded, Guard, Space};
use crate::host::tree::count::{self, Bound, Stop};
use crate::host::tree::{Tree, TreeError};
use crate::store::claim::Claimed;

/// One count at a time: a disk is no faster with two, and a core is left for the cells.
static COUNTING: Semaphore = Semaphore::const_new(1);
/// A count that failed is not tried again at once.
const AFTER_FAILURE: Duration = Duration::from_secs(1);

/// The disk, as far as one run's cell can fill it.
pub(super) struct Disk {
    floor: u64,
    folders: [Folder; 2],
}

/// A folder that a cell writes to: what may be there, and what was there when it was last counted.
struct Folder {
    name: &'static str,
    path: PathBuf,
    quota: Space,
    used: Space,
}

impl Disk {
    /// Looks at it until the run must end. The folders exist. The owner's are not counted; of
    /// theirs, too, something must stay free.
    pub(super) async fn full(&self, granted: &Folders) -> Exceeded {
        tokio::select! {
            exceeded = self.own_full() => exceeded,
            exceeded = granted.full(self.floor) => exceeded,
        }
    }

    async fn own_full(&self) -> Exceeded {
        let start = Instant::now();
        let mut watched = Vec::new();
        for folder in &self.folders {
            match Watched::open(folder, start) {
                Ok(one) => watched.push(one),
                Err(error) => {
                    tracing::error!(error = chain(&error), "a cell's folder is not watched");
                }
            }
        }
        loop {
            for one in &mut watched {
                match one.look(self.floor).await {
                    Ok(Ok(())) => {}
                    Ok(Err(exceeded)) => return exceeded,
                    Err(error) => {
                        tracing::warn!(error = chain(&error), "a cell's disk is not looked at");
                    }
                }
            }
            tokio::time::sleep(DISK_LOOK).await;
        }
    }
}

/// A folder that is watched.
struct Watched {
    tree: Arc<Tree>,
    guard: Guard,
    start: Instant,
    counting: Option<AbortOnDropHandle<Count>>,
}

impl Watched {
    fn open(folder: &Folder, start: Instant) -> Result<Self, TreeError> {
        let tree = Tree::open(&folder.path)?;
        let guard = Guard::new(folder.name, folder.quota, folder.used, tree.free()?);
        Ok(Self { tree: tree.into(), guard, start, counting: None })
    }

    async fn look(&mut self, floor: u64) -> Result<Result<(), Exceeded>, TreeError> {
        let free = self.tree.free()?;
        if let Err(low) = quota::enough(free, floor) {
            return Ok(Err(low.into()));
        }
        let done = self.counting.take_if(|counting| counting.is_finished());
        if let Some(done) = done
            // The only other end is the service's.
            && let Ok(count) = done.await
            && let Err(exceeded) = self.guard.take(count)
        {
            return Ok(Err(exceeded));
        }
        if self.counting.is_none() && self.guard.wants_count(free, self.start.elapsed()) {
            let counting = count_in_turn(Arc::clone(&self.tree), self.guard.bound(), self.start);
            self.counting = Some(AbortOnDropHandle::new(tokio::spawn(counting)));
        }
        Ok(Ok(()))
    }
}

/// Counts when nobody else does. It tells even of a failure how long it took.
async fn count_in_turn(tree: Arc<Tree>, files: u64, start: Instant) -> Count {
    let failed = |free| {
        let began = start.elapsed();
        Count { found: Counted::Unknown, free, began, took: AFTER_FAILURE }
    };
    let turn = COUNTING.acquire().await;
    let work = move || {
        // Until it is done, whoever waits for it.
        let _turn = turn;
        let free = tree.free()?;
        let (began, now) = (start.elapsed(), Instant::now());
        let found = tree.count(Bound { files, until: now + COUNT_TIME })?;
        Ok::<_, TreeError>(Count { found: found.into(), free, began, took: now.elapsed() })
    };
    let none = quota::Free { bytes: 0, files: None };
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(count)) => {
            tracing::debug!(found = ?count.found, took = ?count.took, "counted a cell's folder");
            count
        }
        Ok(Err(error)) => {
            tracing::warn!(error = chain(&error), "a cell's folder is not counted");
            failed(none)
        }
        Err(_) => failed(none),
    }
}

impl From<count::Count> for Counted {
    fn from(found: count::Count) -> Self {
        let space = found.space();
        match found.stop {
            None => Self::Whole(space),
            Some(Stop::Files) => Self::More(space),
            Some(Stop::Depth) => Self::TooDeep,
            Some(Stop::Time) => Self::Unknown,
            Some(Stop::Moved) => Self::Moved(space),
        }
    }
}

impl Assistant {
    /// What a run's cell may fill.
    pub(super) fn disk(&self, run: &Claimed) -> Disk {
        let limits: &Limits = &self.settings.limits;
        let workspace = Folder {
            name: quota::WORKSPACE,
            path: self.state.workspace_path(&run.user),
            quota: limits.workspace,
            used: run.workspace.unwrap_or_default(),
        };
        let transcripts = Folder {
            name: quota::TRANSCRIPTS,
            path: self.state.transcripts_path(&run.user, run.conversation_id),
            quota: TRANSCRIPTS,
            used: Space::default(),
        };
        Disk { floor: limits.disk_free, folders: [workspace, transcripts] }
    }

    /// Counts what is in a user's workspace.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn count_workspace(&self, user: &UserName) -> Result<count::Count, PeopleError> {
        let turn = COUNTING.acquire().await;
        let files = COUNT_FILES.max(self.settings.limits.workspace.files);
        on_disk(self.state.workspace_path(user), move |path| {
            let _turn = turn;
            let bound = Bound { files, until: Instant::now() + COUNT_TIME };
            Tree::find(&path)?.map_or_else(|| Ok(count::Count::default()), |tree| tree.count(bound))
        })
        .await
    }

    /// Keeps with a run that is over what its workspace takes now. Nobody waits for it.
    pub(super) async fn record_space(&self, run: &Claimed) {
        let used = match self.count_workspace(&run.user).await {
            Ok(count) => count.space(),
            Err(error) => {
                let error = chain(&error);
                return tracing::warn!(error, "a workspace is not counted");
            }
        };
        if let Err(error) = self.store.workspace(run.run, used).await {
            let error = chain(&error);
            tracing::warn!(error, "what a workspace takes is not kept");
        }
        let quota = self.settings.limits.workspace;
        let is_nearly_full = |used| quota.percent(used) >= QUOTA_NOTICE_PERCENT;
        if is_nearly_full(used) && !run.workspace.is_some_and(is_nearly_full) {
            tracing::warn!("this user's workspace takes {used} of {quota}");
        }
    }
}
