//! Files in trees that an agent can write, opened beneath a directory handle and never through a
//! link: openat2(2) with RESOLVE_BENEATH, NO_SYMLINKS, NO_MAGICLINKS and NO_XDEV.
//!
//! A path that was checked and then used by name could be swapped for a link in between; a handle
//! cannot. It holds while an agent swaps what is there as fast as it can (`tests/swaps.rs`).
//!
//! | what is there | read | replace | keep, remove | count |
//! |---|---|---|---|---|
//! | a link | refused | replaced by itself | removed by itself | one file |
//! | a FIFO, a socket, a device | refused, without waiting | the same | the same | one file |
//! | a file with other hard links | refused: it may be another's | its name is | its name is | its blocks once |
//! | a file that is too large, or grows | refused, read no further | the same | the same | its blocks |
//! | a directory closed to its owner | refused | refused | opened and removed | opened meanwhile |
//! | a file system of the owner's mounted there | refused | refused | refused | not counted |
//!
//! Hard links: a cell cannot make one to a file outside its mounts (link(2) does not cross them).
//! Who made one to a workspace's file can write to both, so nothing of it becomes instructions.

pub mod count;
mod prune;

use std::fs::File;
use std::io::{Error, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::NixPath;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat, openat2, renameat};
use nix::sys::stat::{FchmodatFlags, FileStat, Mode, fchmodat, fstat};
use nix::sys::statvfs::{Statvfs, fstatvfs};
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::points;
use crate::core::mounts::Identity;
use crate::core::quota::Free;

/// How a directory is opened to be listed.
const LISTED: OFlag = OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_CLOEXEC);
/// How a directory is opened to have what is beneath it opened. It need not be readable.
const HANDLE: OFlag = OFlag::O_PATH.union(OFlag::O_DIRECTORY).union(OFlag::O_CLOEXEC);

/// What can go wrong in a tree.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}", path.display())]
pub struct TreeError {
    action: &'static str,
    path: PathBuf,
    #[source]
    source: Error,
}

/// A handle to a directory.
#[derive(Debug)]
pub struct Tree {
    handle: OwnedFd,
    path: PathBuf,
}

impl Tree {
    /// Opens the directory `path`, which the service made; only its last component may not be a
    /// link.
    ///
    /// # Errors
    /// When it is no directory.
    pub fn open(path: &Path) -> Result<Self, TreeError> {
        let how = OpenHow::new()
            .flags(HANDLE | OFlag::O_NOFOLLOW)
            .resolve(ResolveFlag::RESOLVE_NO_MAGICLINKS);
        let handle =
            openat2(AT_FDCWD, path, how).map_err(|errno| fail("open", path, errno.into()))?;
        Ok(Self { handle, path: path.to_owned() })
    }

    /// The same, and `None` where there is nothing.
    ///
    /// # Errors
    /// When it is no directory.
    pub fn find(path: &Path) -> Result<Option<Self>, TreeError> {
        match Self::open(path) {
            Err(error) if error.source.kind() == std::io::ErrorKind::NotFound => Ok(None),
            opened => opened.map(Some),
        }
    }

    /// What is free of the file system that it is on.
    ///
    /// # Errors
    /// The kernel's.
    pub fn free(&self) -> Result<Free, TreeError> {
        let stat = fstatvfs(&self.handle).map_err(|errno| self.failed("look at", errno))?;
        Ok(free(&stat))
    }

    /// Reads the regular file `name` as text, at most `most` bytes; `None` when there is none.
    ///
    /// # Errors
    /// When it is a link, no regular file, one with other hard links, too large, or no UTF-8.
    pub fn read(&self, name: &str, most: usize) -> Result<Option<String>, TreeError> {
        let path = self.path.join(name);
        if let Some(text) = points::credulous(&path, most) {
            return Ok(Some(text));
        }
        // A FIFO's writer, a device's medium: nothing is waited for.
        let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        let file = match beneath(&self.handle, name, flags) {
            Ok(handle) => File::from(handle),
            Err(Errno::ENOENT) => return Ok(None),
            Err(errno) => return Err(fail("open", &path, errno.into())),
        };
        read(&file, most).map(Some).map_err(|source| fail("read", &path, source))
    }

    /// Puts a file with this text in the place of the file `name` in the directory `folder`.
    ///
    /// # Errors
    /// When it cannot be written; the old one is there then.
    pub fn replace(&self, folder: &str, name: &str, text: &str) -> Result<(), TreeError> {
        const ASIDE: &str = "noclaw.new";
        let write = || {
            let folder = beneath(&self.handle, folder, HANDLE)?;
            unlinkat(&folder, ASIDE, UnlinkatFlags::NoRemoveDir).ok();
            let new = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW;
            let mode = Mode::S_IRUSR | Mode::S_IWUSR;
            let file = openat(&folder, ASIDE, new | OFlag::O_CLOEXEC, mode)?;
            File::from(file).write_all(text.as_bytes())?;
            Ok(renameat(&folder, ASIDE, &folder, name)?)
        };
        write().map_err(|source: Error| fail("write", &self.path.join(folder), source))
    }

    fn failed(&self, action: &'static str, errno: Errno) -> TreeError {
        fail(action, &self.path, errno.into())
    }
}

fn read(file: &File, most: usize) -> Result<String, Error> {
    let meta = file.metadata()?;
    let too_long = || Error::other(format!("it is longer than {most} bytes"));
    if !meta.is_file() {
        return Err(Error::other("it is not a regular file"));
    }
    if meta.nlink() > 1 {
        let links = meta.nlink();
        return Err(Error::other(format!(
            "it has {links} hard links, so it may be another's file"
        )));
    }
    if meta.len() > most as u64 {
        return Err(too_long());
    }
    // It may grow meanwhile.
    let mut text = String::new();
    file.take(most as u64 + 1).read_to_string(&mut text)?;
    if text.len() > most { Err(too_long()) } else { Ok(text) }
}

/// Which file it is.
pub(super) const fn identity(stat: &FileStat) -> Identity {
    Identity { device: stat.st_dev, inode: stat.st_ino }
}

pub(super) fn beneath<P>(directory: impl AsFd, name: &P, flags: OFlag) -> Result<OwnedFd, Errno>
where
    P: NixPath + ?Sized,
{
    let resolve = ResolveFlag::RESOLVE_BENEATH
        | ResolveFlag::RESOLVE_NO_SYMLINKS
        | ResolveFlag::RESOLVE_NO_MAGICLINKS
        | ResolveFlag::RESOLVE_NO_XDEV;
    openat2(directory, name, OpenHow::new().flags(flags).resolve(resolve))
}

/// Opens a directory to be listed, with the owner's rights `needed` on it: an agent may have closed
/// it. Returns what it was before.
fn enter<P>(directory: impl AsFd, name: &P, needed: Mode) -> Result<(OwnedFd, FileStat), Errno>
where
    P: NixPath + ?Sized,
{
    listed(&beneath(directory, name, HANDLE)?, needed)
}

/// The same of a directory that there is a handle of.
fn listed(directory: &OwnedFd, needed: Mode) -> Result<(OwnedFd, FileStat), Errno> {
    let before = fstat(directory)?;
    let mode = Mode::from_bits_truncate(before.st_mode);
    if !mode.contains(needed) {
        set_mode(directory, mode | needed)?;
    }
    Ok((beneath(directory, ".", LISTED)?, before))
}

/// Sets a directory's mode. fchmod(2) does not take such a handle; by its name in /proc it is the
/// same directory, whatever has taken its place meanwhile.
fn set_mode(directory: &OwnedFd, mode: Mode) -> Result<(), Errno> {
    let itself = format!("/proc/self/fd/{}", directory.as_raw_fd());
    fchmodat(AT_FDCWD, itself.as_str(), mode, FchmodatFlags::FollowSymlink)
}

/// What a file system tells to be free.
pub(super) fn free(stat: &Statvfs) -> Free {
    Free {
        bytes: stat.blocks_available().saturating_mul(stat.fragment_size()),
        // One that makes inodes as it needs them may say that it has none at all.
        files: (stat.files() > 0).then(|| stat.files_available()),
    }
}

fn fail(action: &'static str, path: &Path, source: Error) -> TreeError {
    TreeError { action, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_methods, reason = "a test makes the files that it looks at")]

    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

    #[test]
    fn links_fifos_and_giants_are_not_read() -> Result<()> {
        let directory = tempfile::tempdir()?;
        let path = directory.path();
        fs::write(path.join("real"), "text")?;
        fs::write(path.join("giant"), "x".repeat(9))?;
        fs::write(path.join("bytes"), b"\xff")?;
        symlink("/etc/passwd", path.join("link"))?;
        symlink("real", path.join("inner"))?;
        symlink("/dev/zero", path.join("zero"))?;
        symlink(path, path.join("loop"))?;
        nix::unistd::mkfifo(&path.join("fifo"), Mode::S_IRWXU)?;
        let _socket = std::os::unix::net::UnixListener::bind(path.join("socket"))?;
        let tree = Tree::open(path)?;
        assert_eq!(tree.read("real", 8)?.as_deref(), Some("text"));
        assert_eq!(tree.read("missing", 8)?, None);
        let bad = ["link", "inner", "zero", "loop/real", "fifo", "socket", "giant", "bytes"];
        for bad in bad.into_iter().chain(["..", ".", "../x", "/etc/passwd", "/proc/self/environ"]) {
            assert!(tree.read(bad, 8).is_err(), "{bad}");
        }
        Ok(())
    }

    #[test]
    fn a_file_with_another_hard_link_is_not_read() -> Result<()> {
        let (outside, directory) = (tempfile::tempdir()?, tempfile::tempdir()?);
        let (canary, name) = (outside.path().join("canary"), directory.path().join("CLAUDE.md"));
        fs::write(&canary, "secret")?;
        fs::hard_link(&canary, &name)?;
        let tree = Tree::open(directory.path())?;
        let refused = tree.read("CLAUDE.md", 99).err().map(|e| e.source.to_string());
        assert_eq!(refused.as_deref(), Some("it has 2 hard links, so it may be another's file"));
        // Its name may be taken by another file; the file itself stays as it is.
        tree.replace(".", "CLAUDE.md", "mine")?;
        assert_eq!(tree.read("CLAUDE.md", 99)?.as_deref(), Some("mine"));
        fs::remove_file(&name)?;
        fs::hard_link(&canary, &name)?;
        tree.keep_only(&[])?;
        assert_eq!((name.exists(), fs::read_to_string(&canary)?), (false, "secret".to_owned()));
        fs::hard_link(&canary, &name)?;
        fs::remove_file(&canary)?;
        assert_eq!(tree.read("CLAUDE.md", 99)?.as_deref(), Some("secret"), "it is the only one");
        Ok(())
    }

    #[test]
    fn what_is_free_is_told_of_its_own_file_system() -> Result<()> {
        let directory = tempfile::tempdir()?;
        let stat = nix::sys::statvfs::statvfs(directory.path())?;
        let free = Tree::open(directory.path())?.free()?;
        let whole = stat.blocks() * stat.fragment_size();
        assert!((1..=whole).contains(&free.bytes), "{free:?}");
        assert!(Tree::find(&directory.path().join("none"))?.is_none());
        Ok(())
    }
}
