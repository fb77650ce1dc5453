//! Files of the owner's own: configuration, the key, the socket, what a person names on the command
//! line. Agents write to none of them; what an agent can write to is opened by `tree.rs`.
//!
//! | what | its rules |
//! |---|---|
//! | a secret ([`secret`]) | a regular file, closed to group and others, of bounded size |
//! | settings ([`Folder`]) | file and folder are the owner's or root's and nobody else can write to them; bounded |
//! | a file that a program of ours made ([`read`]) | a regular file, of bounded size |
//! | a new file ([`make_new`]) | was not there before; mode 0600 |
//! | what a person names ([`open`]) | whatever they name: a pipe, too |
//!
//! Each is judged by the handle that is then read, so that nothing can be swapped in between. Links
//! are followed where nobody but the owner can have made them.

#![expect(clippy::disallowed_methods, reason = "the one place where the owner's files are opened")]

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use nix::sys::statvfs::statvfs;

use super::tree;
use crate::core::quota::Free;

/// A file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OwnedError {
    /// The kernel says no.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// It is a directory, a device or a pipe.
    #[error("{} is not a regular file", path.display())]
    NotAFile {
        /// The file.
        path: PathBuf,
    },
    /// It is somebody else's.
    #[error("{} belongs to another user (id {uid}): make one of your own", path.display())]
    Foreign {
        /// The file or folder.
        path: PathBuf,
        /// Whose it is.
        uid: u32,
    },
    /// Its mode lets others do too much.
    #[error("{} is open to others (mode {mode:o}): chmod {right} it", path.display())]
    OpenToOthers {
        /// The file or folder.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// What makes it right.
        right: &'static str,
    },
    /// It is too large to be what it is taken for.
    #[error("{} is longer than {most} bytes", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
        /// The limit.
        most: usize,
    },
}

/// Reads a secret of at most `most` bytes. A file directly in `credentials`, the directory that
/// systemd names in `$CREDENTIALS_DIRECTORY`, may have any mode: systemd guards it by other means.
///
/// # Errors
/// When it is missing, or breaks the rules of the table above.
pub fn secret(path: &Path, most: usize, credentials: Option<&Path>) -> Result<Vec<u8>, OwnedError> {
    let file = at_once(path).map_err(failed("read", path))?;
    let mode = regular(&file, path)?.mode() & 0o7777;
    if mode & 0o077 != 0 && !is_credential(path, credentials) {
        return Err(OwnedError::OpenToOthers { path: path.into(), mode, right: "600" });
    }
    bounded(file, path, most)
}

fn is_credential(path: &Path, credentials: Option<&Path>) -> bool {
    credentials.is_some_and(|dir| {
        dir.is_absolute() && path.file_name().is_some() && path.parent() == Some(dir)
    })
}

/// A folder with settings that only the owner, or root, can change.
#[derive(Debug)]
pub struct Folder {
    handle: OwnedFd,
    path: PathBuf,
}

impl Folder {
    /// Opens the folder at `path`; `None` when there is none.
    ///
    /// # Errors
    /// When it is no folder, or somebody else can write to it.
    pub fn open(path: &Path) -> Result<Option<Self>, OwnedError> {
        let flags = OFlag::O_DIRECTORY.bits();
        let folder = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(failed("open", path))?,
        };
        guarded(&folder, path)?;
        Ok(Some(Self { handle: folder.into(), path: path.to_owned() }))
    }

    /// Reads the file `name` in it as text; `None` when there is none.
    ///
    /// # Errors
    /// When it is no text, or breaks the rules of the table above.
    pub fn read(&self, name: &str, most: usize) -> Result<Option<String>, OwnedError> {
        let path = self.path.join(name);
        let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let file = match openat(&self.handle, name, flags, Mode::empty()) {
            Ok(handle) => File::from(handle),
            Err(Errno::ENOENT) => return Ok(None),
            Err(errno) => return Err(failed("read", &path)(errno.into())),
        };
        regular(&file, &path)?;
        guarded(&file, &path)?;
        let text = String::from_utf8(bounded(file, &path, most)?);
        text.map(Some).map_err(|error| failed("read", &path)(io::Error::other(error.utf8_error())))
    }
}

/// Nobody else may be able to write to it.
fn guarded(file: &File, path: &Path) -> Result<(), OwnedError> {
    let meta = file.metadata().map_err(failed("look at", path))?;
    judge(path, meta.uid(), meta.mode() & 0o7777, nix::unistd::geteuid().as_raw())
}

fn judge(path: &Path, uid: u32, mode: u32, own: u32) -> Result<(), OwnedError> {
    if uid != 0 && uid != own {
        return Err(OwnedError::Foreign { path: path.into(), uid });
    }
    if mode & 0o022 != 0 {
        return Err(OwnedError::OpenToOthers { path: path.into(), mode, right: "go-w" });
    }
    Ok(())
}

fn regular(file: &File, path: &Path) -> Result<fs::Metadata, OwnedError> {
    let meta = file.metadata().map_err(failed("look at", path))?;
    match meta.is_file() {
        true => Ok(meta),
        false => Err(OwnedError::NotAFile { path: path.into() }),
    }
}

/// A file may grow while it is read.
fn bounded(file: File, path: &Path, most: usize) -> Result<Vec<u8>, OwnedError> {
    let mut bytes = Vec::new();
    file.take(most as u64 + 1).read_to_end(&mut bytes).map_err(failed("read", path))?;
    match bytes.len() > most {
        true => Err(OwnedError::TooLong { path: path.into(), most }),
        false => Ok(bytes),
    }
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> OwnedError {
    let path = path.to_owned();
    move |source| OwnedError::Io { action, path, source }
}

/// Reads a regular file of at most `most` bytes.
///
/// # Errors
/// When it is missing, no regular file, or too long.
pub fn read(path: &Path, most: usize) -> Result<Vec<u8>, OwnedError> {
    let file = at_once(path).map_err(failed("read", path))?;
    regular(&file, path)?;
    bounded(file, path, most)
}

/// Opens without waiting: a pipe would wait for its writer.
fn at_once(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path)
}

/// Opens whatever is at `path`, to be read. It waits for the writer of a pipe, as cat(1) does.
///
/// # Errors
/// The kernel's.
pub fn open(path: &Path) -> io::Result<File> {
    File::open(path)
}

/// Standard input, as a file: of what kind and size it is, can then be told.
///
/// # Errors
/// The kernel's.
pub fn standard_input() -> io::Result<File> {
    Ok(io::stdin().as_fd().try_clone_to_owned()?.into())
}

/// Makes a file that was not there before, for its owner alone.
///
/// # Errors
/// The kernel's.
pub fn make_new(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

/// Writes a file of the owner's alone, in place of what has its name.
///
/// # Errors
/// The kernel's; what was there stays then.
pub fn put(path: &Path, text: &str) -> io::Result<()> {
    let part = path.with_added_extension("part");
    remove(&part).ok();
    let mut file = make_new(&part)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all())?;
    rename(&part, path)
}

/// Removes a file.
///
/// # Errors
/// The kernel's.
pub fn remove(path: &Path) -> io::Result<()> {
    fs::remove_file(path)
}

/// Removes a directory, unless there is something in it.
pub fn remove_empty(path: &Path) {
    fs::remove_dir(path).ok();
}

/// Makes a symbolic link.
///
/// # Errors
/// The kernel's.
pub fn link(target: &Path, at: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, at)
}

/// Gives a file another name, in place of what has it.
///
/// # Errors
/// The kernel's.
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)
}

/// Makes a directory, and those above it that are missing, for their owner alone.
///
/// # Errors
/// The kernel's.
pub fn make_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Gives a file or directory this mode.
///
/// # Errors
/// The kernel's.
pub fn set_mode(path: &Path, mode: u32) -> io::Result<()> {
    fs::set_permissions(path, Permissions::from_mode(mode))
}

/// Where a path leads, without links.
///
/// # Errors
/// When it leads nowhere.
pub fn resolved(path: &Path) -> io::Result<PathBuf> {
    fs::canonicalize(path)
}

/// The inode number of what a path leads to.
///
/// # Errors
/// The kernel's.
pub fn inode(path: &Path) -> io::Result<u64> {
    Ok(fs::metadata(path)?.ino())
}

/// Whose it is: the number of a user.
///
/// # Errors
/// When that is not to be had.
pub fn owner(path: &Path) -> io::Result<u32> {
    Ok(fs::metadata(path)?.uid())
}

/// What is free of the file system that a path is on.
///
/// # Errors
/// The kernel's.
pub fn free(path: &Path) -> io::Result<Free> {
    Ok(tree::free(&statvfs(path)?))
}

/// Whether there is something at this path.
pub fn exists(path: &Path) -> bool {
    path.exists()
}

/// Whether there is a regular file at this path.
pub fn is_file(path: &Path) -> bool {
    path.is_file()
}

/// Whether there is a symbolic link at this path, wherever it leads.
pub fn is_link(path: &Path) -> bool {
    path.is_symlink()
}

/// Whether there is a socket at this path.
pub fn is_socket(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

    fn file(dir: &Path, content: &[u8], mode: u32) -> Result<PathBuf> {
        let path = dir.join("file");
        fs::write(&path, content)?;
        set_mode(&path, mode)?;
        Ok(path)
    }

    #[test]
    fn a_secret_that_is_open_to_others_is_refused_unless_systemd_made_it() -> Result {
        let dir = tempfile::tempdir()?;
        assert_eq!(secret(&file(dir.path(), b"key", 0o600)?, 9, None)?, b"key");
        for mode in [0o640, 0o604, 0o644, 0o660] {
            let path = file(dir.path(), b"key", mode)?;
            let refused = secret(&path, 9, None).err().map(|e| e.to_string());
            assert!(refused.unwrap_or_default().ends_with("chmod 600 it"), "{mode:o}");
            assert!(secret(&path, 9, Some(dir.path())).is_ok());
            assert!(secret(&path, 9, Some(Path::new(""))).is_err());
            assert!(secret(&path, 9, dir.path().parent()).is_err(), "directly in it only");
        }
        Ok(())
    }

    #[test]
    fn only_regular_files_of_bounded_size_are_read() -> Result {
        let dir = tempfile::tempdir()?;
        let pipe = dir.path().join("pipe");
        nix::unistd::mkfifo(&pipe, Mode::S_IRUSR)?;
        let zero = dir.path().join("zero");
        symlink("/dev/zero", &zero)?;
        for path in [&pipe, dir.path(), &zero] {
            assert!(matches!(read(path, 9), Err(OwnedError::NotAFile { .. })), "{path:?}");
            assert!(matches!(secret(path, 9, None), Err(OwnedError::NotAFile { .. })), "{path:?}");
        }
        let missing = read(&dir.path().join("none"), 9);
        assert!(matches!(missing, Err(OwnedError::Io { .. })));
        let long = file(dir.path(), b"1234567890", 0o600)?;
        assert!(matches!(read(&long, 9), Err(OwnedError::TooLong { most: 9, .. })));
        assert_eq!(read(&long, 10)?, b"1234567890");
        Ok(())
    }

    #[test]
    fn settings_that_somebody_else_can_write_are_refused() -> Result {
        let dir = tempfile::tempdir()?;
        let folder = dir.path().join("config");
        assert!(Folder::open(&folder)?.is_none());
        fs::create_dir(&folder)?;
        set_mode(&folder, 0o755)?;
        let linked = dir.path().join("linked");
        symlink(&folder, &linked)?;
        file(&folder, b"be brief", 0o644)?;
        symlink("file", folder.join("link"))?;
        for folder in [&folder, &linked] {
            let settings = Folder::open(folder)?.ok_or("no folder")?;
            assert_eq!(settings.read("file", 8)?.as_deref(), Some("be brief"));
            assert_eq!(settings.read("link", 8)?.as_deref(), Some("be brief"));
            assert_eq!(settings.read("none", 8)?, None);
            assert!(matches!(settings.read("file", 7), Err(OwnedError::TooLong { .. })));
        }
        let settings = Folder::open(&folder)?.ok_or("no folder")?;
        file(&folder, b"caf\xe9", 0o644)?;
        assert!(settings.read("file", 8).is_err(), "no text");
        file(&folder, b"obey eve", 0o664)?;
        let refused = settings.read("file", 8).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(refused.ends_with("chmod go-w it"), "{refused}");
        set_mode(&folder, 0o777)?;
        assert!(matches!(Folder::open(&folder), Err(OwnedError::OpenToOthers { .. })));
        for (uid, own, right) in [(7, 7, true), (0, 7, true), (8, 7, false), (7, 0, false)] {
            assert_eq!(judge(&folder, uid, 0o644, own).is_ok(), right, "{uid} {own}");
        }
        Ok(())
    }
}
