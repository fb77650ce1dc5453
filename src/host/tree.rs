//! Files in trees that an agent can write, opened beneath a directory handle and never through a
//! link: openat2(2) with RESOLVE_BENEATH, NO_SYMLINKS and NO_MAGICLINKS.
//!
//! A path that was checked and then used by name could be swapped for a link in between; a handle
//! cannot. What is no regular file, or too large, is not read; a FIFO does not block.

pub mod count;

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::NixPath;
use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2, renameat};
use nix::sys::stat::{FchmodatFlags, Mode, SFlag, fchmodat, fstatat};
use nix::unistd::{UnlinkatFlags, unlinkat};

/// How many directories are open at the same time; the agent can make any depth.
const DEPTH: usize = 32;

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

    /// Removes everything in it, and the directory itself.
    ///
    /// # Errors
    /// When something cannot be removed.
    pub fn remove(self) -> Result<(), TreeError> {
        self.keep_only(&[])?;
        std::fs::remove_dir(&self.path).map_err(|source| fail("remove", &self.path, source))
    }

    /// Puts a file with this text in the place of the file `name` in the directory `folder`.
    /// Nothing may write to the tree meanwhile.
    ///
    /// # Errors
    /// When it cannot be written; the old one is there then.
    pub fn replace(&self, folder: &str, name: &str, text: &str) -> Result<(), TreeError> {
        const ASIDE: &str = "noclaw.new";
        let write = || {
            let open = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
            let folder = beneath(&self.handle, folder, open)?;
            unlinkat(&folder, ASIDE, UnlinkatFlags::NoRemoveDir).ok();
            let new = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW;
            let mode = Mode::S_IRUSR | Mode::S_IWUSR;
            let file = openat(&folder, ASIDE, new | OFlag::O_CLOEXEC, mode)?;
            File::from(file).write_all(text.as_bytes())?;
            Ok(renameat(&folder, ASIDE, &folder, name)?)
        };
        write().map_err(|source: std::io::Error| fail("write", &self.path.join(folder), source))
    }

    /// Removes everything but the regular file `keep`, a path of directories and a file's name.
    /// Returns whether that file is there. Nothing may write to the tree meanwhile.
    ///
    /// # Errors
    /// When something cannot be removed.
    pub fn keep_only(&self, keep: &[&str]) -> Result<bool, TreeError> {
        let mut pruner = Pruner { top: &self.handle, moved: 0 };
        loop {
            let before = pruner.moved;
            let kept = pruner.prune(&self.handle, keep, DEPTH);
            let kept = kept.map_err(|errno| fail("tidy", &self.path, errno.into()))?;
            if pruner.moved == before {
                return Ok(kept);
            }
        }
    }
}

pub(super) fn beneath<P>(directory: impl AsFd, name: &P, flags: OFlag) -> Result<OwnedFd, Errno>
where
    P: NixPath + ?Sized,
{
    let resolve = ResolveFlag::RESOLVE_BENEATH
        | ResolveFlag::RESOLVE_NO_SYMLINKS
        | ResolveFlag::RESOLVE_NO_MAGICLINKS;
    openat2(directory, name, OpenHow::new().flags(flags).resolve(resolve))
}

/// Removes trees of any depth with few open handles: what is too deep is moved to the top first.
struct Pruner<'a> {
    top: &'a OwnedFd,
    moved: u32,
}

impl Pruner<'_> {
    fn prune(&mut self, directory: &OwnedFd, keep: &[&str], depth: usize) -> Result<bool, Errno> {
        let mut kept = false;
        for (name, is_directory) in list(directory)? {
            let wanted = keep.first().is_some_and(|keep| keep.as_bytes() == name.to_bytes());
            match (is_directory, keep) {
                (false, [_]) if wanted && is_regular(directory, &name)? => kept = true,
                (false, _) => unlinkat(directory, name.as_c_str(), UnlinkatFlags::NoRemoveDir)?,
                (true, _) if depth == 0 => {
                    let aside = format!("{}-{}", std::process::id(), self.moved);
                    renameat(directory, name.as_c_str(), self.top, aside.as_str())?;
                    self.moved += 1;
                }
                (true, _) => {
                    let inner = enter(directory, &name)?;
                    let rest = if wanted { keep.get(1..).unwrap_or_default() } else { &[] };
                    if self.prune(&inner, rest, depth - 1)? {
                        kept = true;
                    } else if list(&inner)?.is_empty() {
                        unlinkat(directory, name.as_c_str(), UnlinkatFlags::RemoveDir)?;
                    }
                }
            }
        }
        Ok(kept)
    }
}

/// The names in a directory, and which of them are directories.
fn list(directory: &OwnedFd) -> Result<Vec<(CString, bool)>, Errno> {
    let open = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let mut listing = Dir::from_fd(beneath(directory, ".", open)?)?;
    let mut names = Vec::new();
    for entry in listing.iter() {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            let kind = match entry.file_type() {
                Some(kind) => kind == Type::Directory,
                // Some file systems do not tell.
                None => mode(directory, name)? == SFlag::S_IFDIR,
            };
            names.push((name.to_owned(), kind));
        }
    }
    Ok(names)
}

fn mode(directory: &OwnedFd, name: &CStr) -> Result<SFlag, Errno> {
    let stat = fstatat(directory, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
    Ok(SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT)
}

fn is_regular(directory: &OwnedFd, name: &CStr) -> Result<bool, Errno> {
    Ok(mode(directory, name)? == SFlag::S_IFREG)
}

/// Opens a directory, also one that the agent has closed to its owner.
fn enter(directory: &OwnedFd, name: &CStr) -> Result<OwnedFd, Errno> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
    fchmodat(directory, name, Mode::S_IRWXU, FchmodatFlags::FollowSymlink)?;
    openat(directory, name, flags, Mode::empty())
}

fn fail(action: &'static str, path: &Path, source: std::io::Error) -> TreeError {
    TreeError { action, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

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
        assert!(tree.keep_only(&["-workspace", "a.jsonl"])?);
        let left: Vec<_> = fs::read_dir(path)?
            .chain(fs::read_dir(path.join("-workspace"))?)
            .map(|e| e.map(|e| e.file_name().into_string()))
            .collect::<std::io::Result<_>>()?;
        assert_eq!(left, [Ok("-workspace".into()), Ok("a.jsonl".into())]);
        assert!(outside.path().join("precious").exists());
        assert!(!tree.keep_only(&["-workspace", "gone.jsonl"])?);
        assert_eq!(fs::read_dir(path)?.count(), 0);
        Ok(())
    }

    #[test]
    fn a_link_in_place_of_the_transcript_is_removed() -> Result<()> {
        let directory = tempfile::tempdir()?;
        fs::create_dir(directory.path().join("w"))?;
        symlink("/etc/passwd", directory.path().join("w/a"))?;
        assert!(!Tree::open(directory.path())?.keep_only(&["w", "a"])?);
        assert_eq!(fs::read_dir(directory.path())?.count(), 0);
        Ok(())
    }

    #[test]
    fn trees_of_any_depth_and_mode_are_removed() -> Result<()> {
        let directory = tempfile::tempdir()?;
        let mut handle = OwnedFd::from(File::open(directory.path())?);
        for _ in 0..5000 {
            nix::sys::stat::mkdirat(&handle, "d", Mode::S_IRWXU)?;
            let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
            handle = openat(&handle, "d", flags, Mode::empty())?;
        }
        fs::create_dir_all(directory.path().join("closed/inner"))?;
        fs::set_permissions(directory.path().join("closed"), fs::Permissions::from_mode(0o000))?;
        Tree::open(directory.path())?.keep_only(&[])?;
        assert_eq!(fs::read_dir(directory.path())?.count(), 0);
        Ok(())
    }
}
