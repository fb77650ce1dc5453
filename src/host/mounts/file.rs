//! Reads `mount-allowlist.json`. Whoever can write it decides what cells see: so it must be the
//! owner's alone, under one name, in a folder that nobody else can write to. All of that is asked
//! of the handle that is then read.

#![expect(clippy::disallowed_methods, reason = "the owner's own folder, judged by its handle")]

use std::fs::{File, Metadata};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::fstatat;

use crate::core::limits::ALLOWLIST_BYTES;
use crate::core::mounts::allowlist::{Allowlist, InvalidAllowlist};
use crate::host::points;
use crate::host::tree::beneath;

/// Its name in the configuration directory.
pub const NAME: &str = "mount-allowlist.json";
/// Its form.
pub const EXAMPLE: &str = r#"{"allowedRoots":[{"path":"~/projects","allowReadWrite":false}]}"#;
/// What its mode must be.
const MODE: u32 = 0o600;

/// Why the allowlist is not read. Nothing is granted then.
#[derive(Debug, thiserror::Error)]
#[error("the mount allowlist {} is not used", path.display())]
pub struct AllowlistError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    #[source]
    pub problem: Unfit,
}

/// What is wrong with the file.
#[derive(Debug, thiserror::Error)]
pub enum Unfit {
    /// It is a link.
    #[error("it is a link")]
    Link,
    /// It is a folder, a pipe, a device.
    #[error("it is not a regular file")]
    NotAFile,
    /// It belongs to somebody else.
    #[error("it belongs to the user {0}")]
    Owner(u32),
    /// Others may read or write it, or its owner more than that.
    #[error("it has the mode {0:04o}")]
    Mode(u32),
    /// It has other names, and one may lie where a cell can write.
    #[error("it has {0} names (hard links)")]
    Names(u64),
    /// Its folder belongs to somebody else, or others may write to it.
    #[error("it lies in a folder that others can write to (user {uid}, mode {mode:04o})")]
    Folder {
        /// Whose it is.
        uid: u32,
        /// Its mode.
        mode: u32,
    },
    /// It is too large.
    #[error("it has more than {ALLOWLIST_BYTES} bytes")]
    TooLarge,
    /// It is no allowlist.
    #[error("it is not of its form")]
    Form(#[source] InvalidAllowlist),
    /// Its folder is another one than when the service began, and closed to it.
    #[error("its folder was exchanged after the service had started, which may not open it")]
    Exchanged,
    /// It cannot be read.
    #[error("it cannot be read")]
    Io(#[source] std::io::Error),
}

impl From<Errno> for Unfit {
    fn from(errno: Errno) -> Self {
        Self::Io(errno.into())
    }
}

impl AllowlistError {
    /// What the owner can do about it.
    pub fn hint(&self) -> String {
        let path = self.path.display();
        match &self.problem {
            Unfit::Link => "put the file itself there: no link is followed".to_owned(),
            Unfit::NotAFile => "put a file of JSON there".to_owned(),
            Unfit::Owner(_) => format!("chown $(id -u) {path}"),
            Unfit::Mode(_) => format!("chmod 600 {path}"),
            Unfit::Names(_) => format!("copy it: cp {path} {path}.new && mv {path}.new {path}"),
            Unfit::Folder { .. } => {
                let folder = self.path.parent().unwrap_or(&self.path).display();
                format!("it must be yours, and: chmod go-w {folder}")
            }
            Unfit::TooLarge => "name folders that contain others".to_owned(),
            Unfit::Form(_) => format!("its form is {EXAMPLE}"),
            Unfit::Exchanged => "restart the service: systemctl --user restart noclaw".to_owned(),
            Unfit::Io(_) => "may you read it yourself?".to_owned(),
        }
    }
}

/// Reads the allowlist in this configuration directory; `None` when there is none.
///
/// # Errors
/// See [`Unfit`].
pub fn read(config: &Path) -> Result<Option<Allowlist>, AllowlistError> {
    let path = config.join(NAME);
    let text = match File::open(config) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied && is_mine(config) => {
            Err(Unfit::Exchanged)
        }
        Err(error) => Err(Unfit::Io(error)),
        Ok(folder) => match points::credulous(&path, ALLOWLIST_BYTES) {
            Some(text) => Ok(Some(text)),
            None => text(&folder),
        },
    };
    let parsed = text
        .and_then(|text| text.map(|text| Allowlist::parse(&text).map_err(Unfit::Form)).transpose());
    parsed.map_err(|problem| AllowlistError { path, problem })
}

/// Whether its owner could list it: then it is the service's own sandbox that says no.
fn is_mine(folder: &Path) -> bool {
    let own = nix::unistd::geteuid().as_raw();
    std::fs::metadata(folder).is_ok_and(|meta| meta.uid() == own && meta.mode() & 0o500 == 0o500)
}

fn text(folder: &File) -> Result<Option<String>, Unfit> {
    let own = nix::unistd::geteuid().as_raw();
    let around = folder.metadata().map_err(Unfit::Io)?;
    if around.uid() != own || around.mode() & 0o022 != 0 {
        return Err(Unfit::Folder { uid: around.uid(), mode: around.mode() & 0o7777 });
    }
    let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let file = match beneath(folder, NAME, flags) {
        Err(Errno::ENOENT) => return Ok(None),
        Err(Errno::ELOOP) => return Err(Unfit::Link),
        Err(Errno::ENXIO) => return Err(Unfit::NotAFile),
        Err(Errno::EACCES) => {
            let uid = fstatat(folder, NAME, AtFlags::AT_SYMLINK_NOFOLLOW)?.st_uid;
            return Err(if uid == own { Errno::EACCES.into() } else { Unfit::Owner(uid) });
        }
        opened => File::from(opened?),
    };
    fit(&file.metadata().map_err(Unfit::Io)?, own)?;
    let mut text = String::new();
    file.take(ALLOWLIST_BYTES as u64 + 1).read_to_string(&mut text).map_err(Unfit::Io)?;
    if text.len() > ALLOWLIST_BYTES {
        return Err(Unfit::TooLarge);
    }
    Ok(Some(text))
}

/// Whether a file of `own` may be the allowlist.
fn fit(meta: &Metadata, own: u32) -> Result<(), Unfit> {
    match meta.mode() & 0o7777 {
        _ if !meta.is_file() => Err(Unfit::NotAFile),
        _ if meta.uid() != own => Err(Unfit::Owner(meta.uid())),
        _ if meta.nlink() != 1 => Err(Unfit::Names(meta.nlink())),
        MODE => Ok(()),
        mode => Err(Unfit::Mode(mode)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::problem::chain;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, symlink};

    type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

    const GOOD: &str = r#"{"allowedRoots":[{"path":"/srv"}]}"#;

    fn mode(path: &Path, mode: u32) -> std::io::Result<()> {
        fs::set_permissions(path, Permissions::from_mode(mode))
    }

    fn config() -> Result<tempfile::TempDir> {
        let config = tempfile::tempdir()?;
        fs::write(config.path().join(NAME), GOOD)?;
        mode(&config.path().join(NAME), 0o600)?;
        Ok(config)
    }

    #[test]
    fn the_owners_file_is_read_and_none_is_none() -> Result<()> {
        let config = config()?;
        let read_roots = |path: &Path| read(path).map(|list| list.map(|list| list.roots.len()));
        assert_eq!(read_roots(config.path())?, Some(1));
        fs::remove_file(config.path().join(NAME))?;
        assert_eq!(read_roots(config.path())?, None);
        assert_eq!(read_roots(&config.path().join("missing"))?, None);
        Ok(())
    }

    #[test]
    fn any_other_file_is_refused_and_the_error_says_why() -> Result<()> {
        type Spoil = fn(&Path, &Path) -> Result<()>;
        let cases: [(Spoil, &str); 12] = [
            (|_, file| Ok(mode(file, 0o640)?), "has the mode 0640"),
            (|_, file| Ok(mode(file, 0o602)?), "has the mode 0602"),
            (|_, file| Ok(mode(file, 0o400)?), "has the mode 0400"),
            (|_, file| Ok(mode(file, 0o4600)?), "has the mode 4600"),
            (|config, _| Ok(mode(config, 0o770)?), "folder that others can write to"),
            (|config, _| Ok(mode(config, 0o702)?), "mode 0702"),
            (|config, file| Ok(fs::hard_link(file, config.join("other"))?), "has 2 names"),
            (
                |config, file| {
                    fs::rename(file, config.join("real"))?;
                    Ok(symlink("real", file)?)
                },
                "is a link",
            ),
            (
                |_, file| {
                    fs::remove_file(file)?;
                    Ok(nix::unistd::mkfifo(file, nix::sys::stat::Mode::S_IRWXU)?)
                },
                "is not a regular file",
            ),
            (
                |_, file| {
                    fs::remove_file(file)?;
                    Ok(fs::create_dir(file)?)
                },
                "is not a regular file",
            ),
            (|_, file| Ok(fs::write(file, " ".repeat(ALLOWLIST_BYTES + 1))?), "more than 65536"),
            (|_, file| Ok(fs::write(file, "{\"allowedRoots\":7}")?), "form: invalid type"),
        ];
        for (spoil, words) in cases {
            let config = config()?;
            let file = config.path().join(NAME);
            spoil(config.path(), &file)?;
            let error = read(config.path()).err().ok_or(words)?;
            assert!(chain(&error).contains(words), "{}, not {words}", chain(&error));
            assert!(!error.hint().is_empty());
        }
        let config = config()?;
        fs::write(config.path().join(NAME), b"\xff")?;
        assert!(read(config.path()).is_err_and(|e| chain(&e).contains("UTF-8")));
        Ok(())
    }

    #[test]
    fn another_users_file_is_refused() -> Result<()> {
        let config = config()?;
        let meta = fs::metadata(config.path().join(NAME))?;
        assert!(matches!(fit(&meta, meta.uid() + 1), Err(Unfit::Owner(uid)) if uid == meta.uid()));
        assert!(fit(&meta, meta.uid()).is_ok());
        Ok(())
    }
}
