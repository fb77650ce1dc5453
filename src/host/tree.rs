//! Files in trees that an agent can write, opened beneath a directory handle and never through a
//! link: openat2(2) with RESOLVE_BENEATH, NO_SYMLINKS and NO_MAGICLINKS.
//!
//! A path that was checked and then used by name could be swapped for a link in between; a handle
//! cannot. What is no regular file, or too large, is not read; a FIFO does not block.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat2};
use nix::unistd::{UnlinkatFlags, unlinkat};

/// How deep a tree is removed; the agent could make any depth.
const DEPTH: usize = 64;

/// What can go wrong in a tree.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}", path.display())]
pub struct TreeError {
    action: &'static str,
    path: PathBuf,
    #[source]
    source: std::io::Error,
}

/// A handle to a directory.
#[derive(Debug)]
pub struct Tree {
    handle: OwnedFd,
    path: PathBuf,
}

/// What a handle is a handle of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// Device number.
    pub device: u64,
    /// Inode number.
    pub inode: u64,
}

/// The identity of a file that only the owner of the service can replace.
///
/// # Errors
/// When there is none.
pub fn identity(path: &Path) -> Result<Identity, TreeError> {
    let meta = std::fs::metadata(path).map_err(|source| fail("look at", path, source))?;
    Ok(Identity { device: meta.dev(), inode: meta.ino() })
}

impl Tree {
    /// Opens the directory `path`, which the service made; only its last component may not be a
    /// link.
    ///
    /// # Errors
    /// When it is no directory.
    pub fn open(path: &Path) -> Result<Self, TreeError> {
        let how = OpenHow::new()
            .flags(OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_NO_MAGICLINKS);
        let handle =
            openat2(AT_FDCWD, path, how).map_err(|errno| fail("open", path, errno.into()))?;
        Ok(Self { handle, path: path.to_owned() })
    }

    /// What the handle is a handle of.
    ///
    /// # Errors
    /// The kernel's.
    pub fn identity(&self) -> Result<Identity, TreeError> {
        let stat = nix::sys::stat::fstat(&self.handle)
            .map_err(|errno| fail("look at", &self.path, errno.into()))?;
        Ok(Identity { device: stat.st_dev, inode: stat.st_ino })
    }

    /// Reads the regular file `name` as text, at most `most` bytes; `None` when there is none.
    ///
    /// # Errors
    /// When it is a link, no regular file, too large, or no UTF-8.
    pub fn read(&self, name: &str, most: usize) -> Result<Option<String>, TreeError> {
        let path = self.path.join(name);
        let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let file = match beneath(&self.handle, name, flags) {
            Ok(handle) => File::from(handle),
            Err(Errno::ENOENT) => return Ok(None),
            Err(errno) => return Err(fail("open", &path, errno.into())),
        };
        let read = || {
            let meta = file.metadata()?;
            if !meta.is_file() {
                return Err(std::io::Error::other("it is not a regular file"));
            }
            let mut text = String::new();
            (&file).take(most as u64 + 1).read_to_string(&mut text)?;
            if text.len() > most {
                return Err(std::io::Error::other(format!("it is longer than {most} bytes")));
            }
            Ok(text)
        };
        read().map(Some).map_err(|source| fail("read", &path, source))
    }

    /// Removes everything but the regular file `keep`, a path of directories and a file's name.
    /// Returns whether that file is there.
    ///
    /// # Errors
    /// When something cannot be removed.
    pub fn keep_only(&self, keep: Option<&[&str]>) -> Result<bool, TreeError> {
        prune(&self.handle, keep.unwrap_or_default(), DEPTH)
            .map_err(|errno| fail("tidy", &self.path, errno.into()))
    }
}

fn beneath(directory: impl AsFd, name: &str, flags: OFlag) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlag::RESOLVE_BENEATH
        | ResolveFlag::RESOLVE_NO_SYMLINKS
        | ResolveFlag::RESOLVE_NO_MAGICLINKS;
    openat2(directory, name, OpenHow::new().flags(flags).resolve(resolve))
}

fn prune(directory: &OwnedFd, keep: &[&str], depth: usize) -> Result<bool, Errno> {
    if depth == 0 {
        return Err(Errno::ELOOP);
    }
    let open = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
    let mut kept = false;
    let mut listing = Dir::from_fd(beneath(directory, ".", open)?)?;
    let names: Vec<_> =
        listing.iter().map(|e| e.map(|e| (e.file_name().to_owned(), e.file_type()))).collect();
    for entry in names {
        let (name, kind) = entry?;
        let Ok(text) = name.to_str() else {
            unlinkat(directory, name.as_c_str(), UnlinkatFlags::NoRemoveDir)?;
            continue;
        };
        if text == "." || text == ".." {
            continue;
        }
        let wanted = keep.first() == Some(&text);
        match (kind, keep) {
            (Some(Type::File), [_]) if wanted => kept = true,
            (Some(Type::Directory), [_, rest @ ..]) => {
                let inner = beneath(directory, text, open)?;
                let rest = if wanted && !rest.is_empty() { rest } else { &[] };
                if prune(&inner, rest, depth - 1)? {
                    kept = true;
                } else {
                    unlinkat(directory, name.as_c_str(), UnlinkatFlags::RemoveDir)?;
                }
            }
            (Some(Type::Directory), []) => {
                prune(&beneath(directory, text, open)?, &[], depth - 1)?;
                unlinkat(directory, name.as_c_str(), UnlinkatFlags::RemoveDir)?;
            }
            _ => unlinkat(directory, name.as_c_str(), UnlinkatFlags::NoRemoveDir)?,
        }
    }
    Ok(kept)
}

fn fail(action: &'static str, path: &Path, source: std::io::Error) -> TreeError {
    TreeError { action, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
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
        symlink("/etc/passwd", path.join("link"))?;
        symlink("real", path.join("inner"))?;
        nix::unistd::mkfifo(&path.join("fifo"), nix::sys::stat::Mode::S_IRWXU)?;
        let tree = Tree::open(path)?;
        assert_eq!(tree.read("real", 8)?.as_deref(), Some("text"));
        assert_eq!(tree.read("missing", 8)?, None);
        for bad in ["link", "inner", "fifo", "giant", "..", "../x", "/etc/passwd"] {
            assert!(tree.read(bad, 8).is_err(), "{bad}");
        }
        Ok(())
    }

    #[test]
    fn only_what_is_kept_stays_and_links_are_not_followed() -> Result<()> {
        let outside = tempfile::tempdir()?;
        fs::write(outside.path().join("precious"), "x")?;
        let directory = tempfile::tempdir()?;
        let path = directory.path();
        fs::create_dir_all(path.join("-workspace/memory/deep"))?;
        fs::create_dir_all(path.join("other"))?;
        for file in ["-workspace/a.jsonl", "-workspace/b.jsonl", "-workspace/memory/deep/M.md", "x"]
        {
            fs::write(path.join(file), "x")?;
        }
        symlink(outside.path(), path.join("way-out"))?;
        symlink(outside.path(), path.join("-workspace/way-out"))?;
        let tree = Tree::open(path)?;
        assert!(tree.keep_only(Some(&["-workspace", "a.jsonl"]))?);
        let left: Vec<_> = fs::read_dir(path)?
            .chain(fs::read_dir(path.join("-workspace"))?)
            .map(|e| e.map(|e| e.file_name().into_string()))
            .collect::<std::io::Result<_>>()?;
        assert_eq!(left, [Ok("-workspace".into()), Ok("a.jsonl".into())]);
        assert!(outside.path().join("precious").exists());
        assert!(!tree.keep_only(Some(&["-workspace", "gone.jsonl"]))?);
        assert_eq!(fs::read_dir(path)?.count(), 0);
        Ok(())
    }

    #[test]
    fn a_link_in_place_of_the_transcript_is_removed() -> Result<()> {
        let directory = tempfile::tempdir()?;
        fs::create_dir(directory.path().join("w"))?;
        symlink("/etc/passwd", directory.path().join("w/a"))?;
        assert!(!Tree::open(directory.path())?.keep_only(Some(&["w", "a"]))?);
        assert_eq!(fs::read_dir(directory.path())?.count(), 0);
        Ok(())
    }
}
