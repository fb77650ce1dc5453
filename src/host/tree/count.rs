//! How much is in a tree, for whoever is asked whether it may be deleted. It changes nothing: a
//! directory that an agent has closed stays closed.
//!
//! Directories are opened by their path beneath a handle. Where that path becomes long, a new
//! handle takes over, so that few are open whatever the depth.

use std::os::fd::OwnedFd;
use std::rc::Rc;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::{SFlag, fstatat};

use super::{Tree, TreeError, beneath, fail, list};

/// Bytes of a path beneath a handle; the kernel takes 4096, and one name has up to 255.
const LONG: usize = 2048;

/// How much is in a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Count {
    /// Everything that is no directory. Links are counted, not followed.
    pub files: u64,
    /// The sizes of the regular files.
    pub bytes: u64,
    /// Directories that are closed even to their owner: what is in them is not counted.
    pub closed: u64,
}

impl Tree {
    /// Counts what is in it, which may change meanwhile.
    ///
    /// # Errors
    /// The kernel's.
    pub fn count(&self) -> Result<Count, TreeError> {
        count(&self.handle).map_err(|errno| fail("count", &self.path, errno.into()))
    }
}

/// A directory that is still to be looked at.
struct Left {
    beneath: Rc<OwnedFd>,
    path: Vec<u8>,
}

fn count(top: &OwnedFd) -> Result<Count, Errno> {
    let mut found = Count::default();
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let top = Rc::new(beneath(top, ".", flags)?);
    let mut all = vec![Left { beneath: top, path: b".".to_vec() }];
    while let Some(Left { beneath: handle, path }) = all.pop() {
        let look = || {
            let directory = beneath(&*handle, path.as_slice(), flags)?;
            let names = list(&directory)?;
            Ok((directory, names))
        };
        let (directory, names) = match look() {
            Ok(opened) => opened,
            Err(Errno::EACCES) => {
                found.closed += 1;
                continue;
            }
            // It has gone, or become something else, since it was listed.
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => continue,
            Err(errno) => return Err(errno),
        };
        for (name, _) in names.iter().filter(|(_, is_directory)| !is_directory) {
            found.files += 1;
            let stat = fstatat(&directory, name.as_c_str(), AtFlags::AT_SYMLINK_NOFOLLOW);
            let regular = stat
                .ok()
                .filter(|stat| stat.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFREG.bits());
            found.bytes += regular.and_then(|stat| u64::try_from(stat.st_size).ok()).unwrap_or(0);
        }
        let (handle, path) = match path.len() > LONG {
            true => (Rc::new(directory), b".".to_vec()),
            false => (handle, path),
        };
        all.extend(names.iter().filter(|(_, is_directory)| *is_directory).map(|(name, _)| Left {
            beneath: Rc::clone(&handle),
            path: [path.as_slice(), name.to_bytes()].join(&b'/'),
        }));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, symlink};

    type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

    #[test]
    fn what_is_there_is_counted_and_links_are_not_followed() -> Result<()> {
        let outside = tempfile::tempdir()?;
        fs::write(outside.path().join("precious"), "x".repeat(1000))?;
        let directory = tempfile::tempdir()?;
        let path = directory.path();
        fs::create_dir_all(path.join("a/b"))?;
        fs::write(path.join("a/b/five"), "12345")?;
        fs::write(path.join("three"), "123")?;
        symlink(outside.path(), path.join("way-out"))?;
        symlink(outside.path().join("precious"), path.join("a/way-out"))?;
        fs::create_dir(path.join("closed"))?;
        fs::write(path.join("closed/unseen"), "123")?;
        fs::set_permissions(path.join("closed"), Permissions::from_mode(0o000))?;
        let counted = Tree::open(path)?.count()?;
        // For root nothing is closed.
        let root = nix::unistd::geteuid().is_root();
        let (files, bytes, closed) = if root { (5, 11, 0) } else { (4, 8, 1) };
        assert_eq!(counted, Count { files, bytes, closed });
        fs::set_permissions(path.join("closed"), Permissions::from_mode(0o700))?;
        Ok(())
    }

    #[test]
    fn a_tree_of_any_depth_is_counted() -> Result<()> {
        let directory = tempfile::tempdir()?;
        let mut handle = OwnedFd::from(fs::File::open(directory.path())?);
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
        let name = "d".repeat(100);
        for _ in 0..1000 {
            let mode = nix::sys::stat::Mode::S_IRWXU;
            nix::sys::stat::mkdirat(&handle, name.as_str(), mode)?;
            handle = nix::fcntl::openat(&handle, name.as_str(), flags, mode)?;
        }
        nix::sys::stat::mknodat(&handle, "deep", SFlag::S_IFREG, super::super::Mode::S_IRWXU, 0)?;
        let tree = Tree::open(directory.path())?;
        assert_eq!(tree.count()?.files, 1);
        tree.keep_only(&[])?;
        Ok(())
    }
}
