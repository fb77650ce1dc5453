//! Opens what is to be mounted, name by name from `/` and never through a link, and keeps the
//! handle: as long as it is open, no other folder can have its device and inode, which the cell
//! must find at its mount. And traces where a path leads, for those that must not be mounted.

#![expect(
    clippy::disallowed_methods,
    reason = "folders are looked up step by step, by handle where they are mounted"
)]

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2, readlinkat};
use nix::sys::stat::{Mode, SFlag, fstat};
use nix::sys::statvfs::fstatvfs;

use super::elsewhere::{self, Mounts};
use crate::core::mounts::{Identity, Way};
use crate::core::plan::PlannedMount;
use crate::core::quota::Free;
use crate::host::tree;

/// A place only: nothing is read, no pipe waits, no device is started.
const PLACE: OFlag = OFlag::O_PATH.union(OFlag::O_CLOEXEC);
/// As many links one after the other as the kernel follows.
const LINKS: u32 = 40;

/// Why a path is not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There is nothing.
    #[error("there is no {}", path.display())]
    Missing {
        /// The first part that is missing.
        path: PathBuf,
    },
    /// A part of it is a link.
    #[error("{} is a link to {target}", path.display())]
    Link {
        /// The link.
        path: PathBuf,
        /// Where it leads, as it says.
        target: String,
    },
    /// A part of it, or all of it, is something else.
    #[error("{} is not a {wanted}", path.display())]
    NotA {
        /// What it is to be: "folder", "file".
        wanted: &'static str,
        /// The part.
        path: PathBuf,
    },
    /// The kernel says no.
    #[error("{} cannot be opened", path.display())]
    Io {
        /// The part.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

impl OpenError {
    /// What the owner can do about it.
    pub const fn hint(&self) -> &'static str {
        match self {
            Self::Missing { .. } => "is it spelled right, and its disk mounted?",
            Self::Link { .. } => "name the folder itself: no link is followed",
            Self::NotA { .. } => "only whole folders can be granted",
            Self::Io { .. } => "may you enter it yourself?",
        }
    }
}

/// A folder or file that is open.
#[derive(Debug, Clone)]
pub struct Opened {
    // It keeps the inode from becoming another file's.
    handle: Arc<OwnedFd>,
    path: String,
    way: Way,
    own: Identity,
    mount: String,
    kind: String,
}

impl Opened {
    /// Opens a folder by its path from `/`.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn folder(path: &Path) -> Result<Self, OpenError> {
        Self::open(path, "folder")
    }

    /// Opens a regular file by its path from `/`.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn file(path: &Path) -> Result<Self, OpenError> {
        Self::open(path, "file")
    }

    /// Its path from `/`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Which one it is.
    pub const fn own(&self) -> Identity {
        self.own
    }

    /// The way to it.
    pub const fn way(&self) -> &Way {
        &self.way
    }

    /// The kernel's id of the mount that it is of; empty where nobody knows.
    pub fn mount_id(&self) -> &str {
        &self.mount
    }

    /// The type of its file system; empty where nobody knows.
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// What is free of its file system.
    ///
    /// # Errors
    /// The kernel's.
    pub fn free(&self) -> std::io::Result<Free> {
        Ok(tree::free(&fstatvfs(&self.handle)?))
    }

    /// As a mount of a cell: at `destination`, and the very folder that is open here.
    pub fn mount(&self, destination: String, read_only: bool) -> PlannedMount {
        PlannedMount {
            source: self.path.clone(),
            destination,
            read_only,
            kind: self.kind.clone(),
            device: self.own.device,
            inode: self.own.inode,
        }
    }

    fn open(path: &Path, wanted: &'static str) -> Result<Self, OpenError> {
        let top = Path::new("/");
        let opened = open(top, PLACE | OFlag::O_DIRECTORY, Mode::empty());
        let mut handle =
            opened.map_err(|errno| OpenError::Io { path: top.into(), source: errno.into() })?;
        let mut own = identity(&handle, top)?.0;
        let mut way = vec![(String::new(), own)];
        let mut here = top.to_owned();
        let mut names = path.components().skip_while(|part| *part == Component::RootDir).peekable();
        while let Some(name) = names.next() {
            let name: &Path = name.as_ref();
            here.push(name);
            let last = names.peek().is_none();
            handle = step(&handle, name, &here, !last || wanted == "folder")?;
            let (identity, kind) = identity(&handle, &here)?;
            if last && wanted == "file" && kind != SFlag::S_IFREG {
                return Err(OpenError::NotA { wanted, path: here });
            }
            own = identity;
            way.push((text(name)?, own));
        }
        let mounts = Mounts::read()
            .map_err(|source| OpenError::Io { path: elsewhere::FILE.into(), source })?;
        let (mount, kind) = mounts.of(&handle);
        let handle = Arc::new(handle);
        Ok(Self { handle, path: text(&here)?, way: Way(way), own, mount, kind })
    }
}

impl AsFd for Opened {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.handle.as_fd()
    }
}

/// Opens one name; `..` is none.
fn step(from: impl AsFd, name: &Path, here: &Path, folder: bool) -> Result<OwnedFd, OpenError> {
    let flags = if folder { PLACE | OFlag::O_DIRECTORY } else { PLACE };
    let resolve = ResolveFlag::RESOLVE_BENEATH
        | ResolveFlag::RESOLVE_NO_SYMLINKS
        | ResolveFlag::RESOLVE_NO_MAGICLINKS;
    let opened = openat2(&from, name, OpenHow::new().flags(flags).resolve(resolve));
    let path = here.to_owned();
    opened.map_err(|errno| match errno {
        Errno::ENOENT => OpenError::Missing { path },
        Errno::ENOTDIR => OpenError::NotA { wanted: "folder", path },
        Errno::ELOOP => {
            let target = readlinkat(&from, name).unwrap_or_default();
            OpenError::Link { path, target: target.to_string_lossy().into_owned() }
        }
        errno => OpenError::Io { path, source: errno.into() },
    })
}

fn identity(handle: &OwnedFd, path: &Path) -> Result<(Identity, SFlag), OpenError> {
    let failed = |errno: Errno| OpenError::Io { path: path.to_owned(), source: errno.into() };
    let stat = fstat(handle).map_err(failed)?;
    let kind = SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT;
    Ok((tree::identity(&stat), kind))
}

fn text(path: &Path) -> Result<String, OpenError> {
    let text = path.to_str().map(str::to_owned);
    text.ok_or_else(|| OpenError::Io {
        path: path.to_owned(),
        source: std::io::Error::other("its name is not UTF-8"),
    })
}

/// Which file or directory is at a path, a link for itself.
pub fn lookup(path: &Path) -> Option<Identity> {
    fs::symlink_metadata(path).ok().map(|meta| of(&meta))
}

/// Where a path leads.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Trace {
    /// Every directory on the way, also those of the links.
    pub above: Vec<Identity>,
    /// What is there, if anything is.
    pub own: Option<Identity>,
    /// The path without links, as far as there is one.
    pub path: PathBuf,
}

/// Follows a path from `/` as the kernel would. What is missing ends it: the directories up to
/// there are those in which somebody could make it.
pub fn trace(path: &Path) -> Trace {
    let mut found = Trace::default();
    let mut left: VecDeque<OsString> = path.iter().map(OsString::from).collect();
    let mut here = PathBuf::from("/");
    let mut links = 0;
    while let Some(name) = left.pop_front() {
        found.above.extend(lookup(&here));
        if name == ".." {
            here.pop();
            continue;
        }
        // An absolute name begins anew.
        let next = here.join(&name);
        match fs::symlink_metadata(&next) {
            Ok(meta) if meta.is_symlink() && links < LINKS => {
                links += 1;
                let target = fs::read_link(&next).unwrap_or_default();
                target.iter().rev().for_each(|name| left.push_front(name.to_owned()));
            }
            Ok(meta) if !meta.is_symlink() => here = next,
            _ => {
                found.path = here;
                return found;
            }
        }
    }
    found.own = lookup(&here);
    found.path = here;
    found
}

fn of(meta: &fs::Metadata) -> Identity {
    Identity { device: meta.dev(), inode: meta.ino() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

    fn stat(path: &Path) -> Result<Identity> {
        Ok(of(&fs::metadata(path)?))
    }

    #[test]
    fn a_folder_is_opened_with_its_way_and_nothing_else_is() -> Result<()> {
        let directory = tempfile::tempdir()?;
        let base = directory.path().canonicalize()?;
        fs::create_dir_all(base.join("real/inner"))?;
        fs::write(base.join("real/file"), "x")?;
        symlink("real", base.join("link"))?;
        nix::unistd::mkfifo(&base.join("fifo"), nix::sys::stat::Mode::S_IRWXU)?;
        let opened = Opened::folder(&base.join("real/./inner/"))?;
        let mount = opened.mount("/mounts/inner".to_owned(), true);
        let inner = stat(&base.join("real/inner"))?;
        assert_eq!(Path::new(&mount.source), base.join("real/inner"));
        assert_eq!((mount.device, mount.inode), (inner.device, inner.inode));
        let way: Vec<_> = opened.way().0.iter().rev().take(2).cloned().collect();
        let expected = [("inner", inner), ("real", stat(&base.join("real"))?)];
        assert_eq!(way, expected.map(|(name, identity)| (name.to_owned(), identity)));
        assert_eq!(opened.way().0.first(), Some(&(String::new(), stat(Path::new("/"))?)));
        assert_eq!(Opened::folder(Path::new("/"))?.way().0.len(), 1);
        Opened::file(&base.join("real/file"))?;

        let link = base.join("link").display().to_string();
        for (path, words) in [
            ("link", format!("{link} is a link to real")),
            ("link/inner", format!("{link} is a link to real")),
            ("missing/x", format!("there is no {}", base.join("missing").display())),
            ("real/file", "file is not a folder".to_owned()),
            ("real/file/x", "file is not a folder".to_owned()),
            ("fifo", "fifo is not a folder".to_owned()),
            ("real/../real", "cannot be opened".to_owned()),
        ] {
            let refused = Opened::folder(&base.join(path)).err();
            let said = refused.map(|e| (e.to_string(), e.hint())).ok_or(path)?;
            assert!(said.0.contains(&words) && !said.1.is_empty(), "{path}: {said:?}");
        }
        for path in ["real", "fifo", "link", "missing"] {
            assert!(Opened::file(&base.join(path)).is_err(), "{path}");
        }
        let magic = Opened::folder(Path::new("/proc/self/root/proc"));
        assert!(matches!(magic, Err(OpenError::Link { .. })), "{magic:?}");
        Ok(())
    }

    #[test]
    fn a_trace_passes_every_directory_that_could_lead_elsewhere() -> Result<()> {
        let directory = tempfile::tempdir()?;
        let base = directory.path().canonicalize()?;
        for folder in ["a/deep", "b", "c/real/inner"] {
            fs::create_dir_all(base.join(folder))?;
        }
        symlink("../b/second", base.join("a/first"))?;
        symlink(base.join("c/real"), base.join("b/second"))?;
        symlink("loop", base.join("loop"))?;
        let found = trace(&base.join("a/deep/../first/inner"));
        assert_eq!(found.own, Some(stat(&base.join("c/real/inner"))?));
        assert_eq!(found.path, base.join("c/real/inner"));
        for folder in ["", "a", "a/deep", "b", "c", "c/real"] {
            assert!(found.above.contains(&stat(&base.join(folder))?), "{folder}");
        }
        let missing = trace(&base.join("a/none/x"));
        assert_eq!((missing.own, missing.path), (None, base.join("a")));
        assert!(missing.above.contains(&stat(&base.join("a"))?));
        assert_eq!(trace(&base.join("loop/x")).own, None);
        assert_eq!(trace(Path::new("/")).own, Some(stat(Path::new("/"))?));
        Ok(())
    }
}
