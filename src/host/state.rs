//! The state directory: one process at a time, a lock, an instance id, a place for each user.
//!
//! ```text
//! state/            0700
//!   lock            held by the process that serves; its pid is in it
//!   instance        the id that containers are labelled with
//!   noclaw.db       the store
//!   launcher        pid 1 of the cells, as it was when the service started
//!   seccomp-….json  the cells' system call filter, which Podman reads
//!   users/U/workspace/
//!   users/U/conversations/ID/transcripts/
//!   removed/U@TIME/  what a removed user leaves, until it is deleted (state/removed.rs)
//! ```

#![expect(
    clippy::disallowed_methods,
    reason = "only the owner can write above what cells are given"
)]

pub mod removed;

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use nix::sys::statvfs::{FsFlags, statvfs};

use super::owned;
use crate::core::ids::{InstanceId, UserName};

/// What can go wrong with the state directory.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// A file or directory cannot be used.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// Another process serves it.
    #[error("{} is in use by process {pid}", path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
        /// Who has it.
        pid: String,
    },
    /// Others can write to it.
    #[error("{} must belong to you and be closed to others (chmod 700)", path.display())]
    Open {
        /// The directory.
        path: PathBuf,
    },
    /// The instance id is damaged.
    #[error("{} does not hold an instance's id", path.display())]
    Instance {
        /// The file.
        path: PathBuf,
    },
}

/// A state directory that this process has to itself.
#[derive(Debug)]
pub struct State {
    path: PathBuf,
    instance: InstanceId,
    _lock: Flock<File>,
}

impl State {
    /// Makes the directory if it is missing, locks it, and reads or draws its instance id.
    ///
    /// # Errors
    /// See [`StateError`]; a second process learns which one has it.
    pub fn open(path: &Path, fresh: &InstanceId) -> Result<Self, StateError> {
        make(path)?;
        // What is mounted from it is opened without following links.
        let path = &path.canonicalize().map_err(io("find", path))?;
        let meta = fs::metadata(path).map_err(io("read", path))?;
        if meta.uid() != nix::unistd::geteuid().as_raw() || meta.permissions().mode() & 0o077 != 0 {
            return Err(StateError::Open { path: path.to_owned() });
        }
        let lock = lock(path)?;
        let instance = instance(&path.join("instance"), fresh)?;
        Ok(Self { path: path.to_owned(), instance, _lock: lock })
    }

    /// The label of this NoClaw's containers.
    pub const fn instance(&self) -> &InstanceId {
        &self.instance
    }

    /// The store's file.
    pub fn database(&self) -> PathBuf {
        self.path.join("noclaw.db")
    }

    /// A user's workspace; made if it is missing.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn workspace(&self, user: &UserName) -> Result<PathBuf, StateError> {
        let path = self.workspace_path(user);
        make_for_cells(&path)?;
        Ok(path)
    }

    /// Where a user's workspace is, if there is one.
    pub fn workspace_path(&self, user: &UserName) -> PathBuf {
        self.user(user).join("workspace")
    }

    /// A conversation's transcripts; made if they are missing.
    ///
    /// # Errors
    /// When they cannot be made.
    pub fn transcripts(&self, user: &UserName, conversation: i64) -> Result<PathBuf, StateError> {
        let path = self.transcripts_path(user, conversation);
        make_for_cells(&path)?;
        Ok(path)
    }

    /// Where a conversation's transcripts are, if there are any.
    pub fn transcripts_path(&self, user: &UserName, conversation: i64) -> PathBuf {
        let conversations = self.user(user).join("conversations");
        conversations.join(conversation.to_string()).join("transcripts")
    }

    /// Has a file of this content in the directory, and says where: see [`place`].
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn place(&self, name: &str, text: &str) -> Result<PathBuf, StateError> {
        place(&self.path, name, text)
    }

    /// Has a copy of the launcher's program in the directory, and says where. An upgrade puts
    /// another one in place of what is installed, and a service that goes on meanwhile cannot speak
    /// with that.
    ///
    /// # Errors
    /// When it cannot be written, or could not be run there.
    pub fn launcher(&self, program: &[u8]) -> Result<PathBuf, StateError> {
        let mounted = statvfs(&self.path).map_err(|errno| io("read", &self.path)(errno.into()))?;
        if mounted.flags().contains(FsFlags::ST_NOEXEC) {
            return Err(io("run a program in", &self.path)(ErrorKind::PermissionDenied.into()));
        }
        let path = self.path.join("launcher");
        if !fs::read(&path).is_ok_and(|found| found == program) {
            write(&path, program)?;
        }
        owned::set_mode(&path, 0o755).map_err(io("open", &path))?;
        Ok(path)
    }

    fn user(&self, user: &UserName) -> PathBuf {
        self.path.join("users").join(user.as_str())
    }
}

/// Has a file of this content in a directory, for another program to read, and says where. Both are
/// made if they are missing.
///
/// # Errors
/// When they cannot be made.
pub fn place(directory: &Path, name: &str, text: &str) -> Result<PathBuf, StateError> {
    let path = directory.join(name);
    if !fs::read(&path).is_ok_and(|found| found == text.as_bytes()) {
        make(directory)?;
        write(&path, text)?;
    }
    Ok(path)
}

/// Written aside and renamed: a crash in between leaves none, never half of one.
fn write(path: &Path, text: impl AsRef<[u8]>) -> Result<(), StateError> {
    let aside = path.with_extension("new");
    fs::write(&aside, text).map_err(io("write", &aside))?;
    fs::rename(&aside, path).map_err(io("write", path))
}

fn make(path: &Path) -> Result<(), StateError> {
    owned::make_directory(path).map_err(io("make", path))
}

/// An agent may have closed its folder to its owner. Nobody else can have put another one there:
/// what is above it is never in a cell.
fn make_for_cells(path: &Path) -> Result<(), StateError> {
    make(path)?;
    owned::set_mode(path, 0o700).map_err(io("open", path))
}

fn lock(directory: &Path) -> Result<Flock<File>, StateError> {
    let path = directory.join("lock");
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let mut file = file.open(&path).map_err(io("open", &path))?;
    let mut pid = String::new();
    file.read_to_string(&mut pid).map_err(io("read", &path))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(mut lock) => {
            let write = |lock: &mut File| {
                lock.set_len(0)?;
                lock.rewind()?;
                lock.write_all(std::process::id().to_string().as_bytes())
            };
            write(&mut lock).map_err(io("write", &path))?;
            Ok(lock)
        }
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => {
            let pid = if pid.is_empty() { "?".to_owned() } else { pid };
            Err(StateError::InUse { path: directory.to_owned(), pid })
        }
        Err((_, errno)) => Err(io("lock", &path)(errno.into())),
    }
}

fn instance(path: &Path, fresh: &InstanceId) -> Result<InstanceId, StateError> {
    match fs::read_to_string(path) {
        Ok(text) => text.parse().map_err(|_| StateError::Instance { path: path.to_owned() }),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            write(path, fresh.as_str())?;
            Ok(fresh.clone())
        }
        Err(error) => Err(io("read", path)(error)),
    }
}

fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> StateError {
    let path = path.to_owned();
    move |source| StateError::Io { action, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

    fn id(n: u128) -> Result<InstanceId> {
        Ok(uuid::Uuid::from_u128(n).to_string().parse()?)
    }

    #[test]
    fn one_process_at_a_time_and_the_id_stays() -> Result<()> {
        let directory = tempfile::tempdir()?;
        let path = directory.path().join("state");
        let state = State::open(&path, &id(1)?)?;
        let second = State::open(&path, &id(2)?).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(second.ends_with(&format!("in use by process {}", std::process::id())), "{second}");
        drop(state);
        assert_eq!(State::open(&path, &id(3)?)?.instance(), &id(1)?);
        Ok(())
    }

    #[test]
    fn a_state_behind_a_link_has_paths_without() -> Result<()> {
        let directory = tempfile::tempdir()?;
        fs::create_dir(directory.path().join("real"))?;
        let link = directory.path().join("link");
        std::os::unix::fs::symlink("real", &link)?;
        let state = State::open(&link.join("state"), &id(1)?)?;
        let workspace = state.workspace(&"ann".parse()?)?;
        let real = directory.path().canonicalize()?.join("real/state/users/ann/workspace");
        assert_eq!(workspace, real);
        crate::host::mounts::open::Opened::folder(&workspace)?;
        Ok(())
    }

    #[test]
    fn a_directory_that_others_can_read_is_refused() -> Result<()> {
        let directory = tempfile::tempdir()?;
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755))?;
        assert!(matches!(State::open(directory.path(), &id(1)?), Err(StateError::Open { .. })));
        Ok(())
    }
}
