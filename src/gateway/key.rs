//! The model's key: read once from a file, sent to the model, shown nowhere.
//!
//! | what is wrong | what happens |
//! |---|---|
//! | not a regular file, too long, empty, several lines, not visible ASCII | refused |
//! | group or others may open it | refused, but for systemd's own credentials directory |
//!
//! It comes from a file and never from the command line or the environment, which other processes
//! of the same user can read. No error quotes the file's content.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use hyper::header::HeaderValue;
use nix::fcntl::OFlag;

/// Keys have about 110 characters; more than this is another file.
const KEY_BYTES: u64 = 4096;

/// A key. It has no `Display`, and its `Debug` does not show it.
#[derive(Clone)]
pub struct ApiKey(HeaderValue);

/// A key file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InvalidKey {
    /// It cannot be opened or read.
    #[error("cannot read the key file {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is a directory, a device or a pipe.
    #[error("the key file {} is not a regular file", path.display())]
    NotAFile {
        /// The file.
        path: PathBuf,
    },
    /// Its mode lets somebody else open it.
    #[error("the key file {} is open to others (mode {mode:o}): chmod 600 it", path.display())]
    OpenToOthers {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Its content is no key.
    #[error("the key file {} {problem}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: &'static str,
    },
}

impl ApiKey {
    /// Reads the key at `path`. White space around it does not count. A file directly in
    /// `credentials`, the directory that systemd names in `$CREDENTIALS_DIRECTORY`, may have any
    /// mode: systemd guards it by other means.
    ///
    /// # Errors
    /// When the file is not what the table above asks for.
    pub fn read(path: &Path, credentials: Option<&Path>) -> Result<Self, InvalidKey> {
        let read = |source| InvalidKey::Read { path: path.into(), source };
        // Opening a pipe for reading would wait for its writer; NONBLOCK does not.
        let flags = OFlag::O_NONBLOCK.bits();
        let file = File::options().read(true).custom_flags(flags).open(path).map_err(read)?;
        let meta = file.metadata().map_err(read)?;
        if !meta.is_file() {
            return Err(InvalidKey::NotAFile { path: path.into() });
        }
        let mode = meta.mode() & 0o7777;
        if mode & 0o077 != 0 && !is_credential(path, credentials) {
            return Err(InvalidKey::OpenToOthers { path: path.into(), mode });
        }
        let mut bytes = Vec::new();
        file.take(KEY_BYTES + 1).read_to_end(&mut bytes).map_err(read)?;
        Self::parse(&bytes).map_err(|problem| InvalidKey::Content { path: path.into(), problem })
    }

    fn parse(bytes: &[u8]) -> Result<Self, &'static str> {
        let key = bytes.trim_ascii();
        if bytes.len() as u64 > KEY_BYTES {
            return Err("is too long for a key");
        }
        if key.is_empty() {
            return Err("is empty");
        }
        if key.contains(&b'\n') {
            return Err("has more than one line");
        }
        if !key.iter().all(u8::is_ascii_graphic) {
            return Err("has a character that no key has");
        }
        let mut value = HeaderValue::from_bytes(key).map_err(|_| "is not a key")?;
        // Kept out of HTTP/2's header tables and of hyper's own debug output.
        value.set_sensitive(true);
        Ok(Self(value))
    }

    /// What the demo model takes in the place of a key; it takes anything.
    pub fn for_demo() -> Self {
        Self(HeaderValue::from_static("any-key-will-do"))
    }

    pub(super) fn header(&self) -> HeaderValue {
        self.0.clone()
    }

    /// `text` without the key, should an upstream quote it. A key as short as a word, as stand-ins
    /// take it, is no secret and would make holes in any text.
    pub(super) fn redact(&self, text: &str) -> String {
        match self.0.to_str() {
            Ok(key) if key.len() >= 8 => text.replace(key, "…"),
            _ => text.to_owned(),
        }
    }
}

fn is_credential(path: &Path, credentials: Option<&Path>) -> bool {
    credentials.is_some_and(|dir| {
        dir.is_absolute() && path.file_name().is_some() && path.parent() == Some(dir)
    })
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey(…)")
    }
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const KEY: &str = "sk-ant-canary-0123";

    fn file(dir: &Path, content: &[u8], mode: u32) -> io::Result<PathBuf> {
        let path = dir.join("api-key");
        std::fs::write(&path, content)?;
        std::fs::set_permissions(&path, Permissions::from_mode(mode))?;
        Ok(path)
    }

    #[test]
    fn a_private_file_with_one_line_is_a_key() -> Result<(), super::super::error::BoxError> {
        let dir = tempfile::tempdir()?;
        let key = ApiKey::read(&file(dir.path(), b" sk-ant-canary-0123\r\n", 0o600)?, None)?;
        assert_eq!(key.header(), KEY);
        assert!(key.header().is_sensitive());
        assert_eq!(format!("{key:?} {:?}", key.header()), "ApiKey(…) Sensitive");
        assert_eq!(key.redact("bad key sk-ant-canary-0123!"), "bad key …!");
        Ok(())
    }

    #[test]
    fn what_is_no_key_is_refused_and_not_quoted() -> Result<(), super::super::error::BoxError> {
        let dir = tempfile::tempdir()?;
        let long = vec![b'x'; 5000];
        for (content, problem) in [
            (&b" \n"[..], "is empty"),
            (b"", "is empty"),
            (b"sk-1\nsk-2\n", "has more than one line"),
            (b"sk-\xc3\xa4", "has a character that no key has"),
            (b"sk 1", "has a character that no key has"),
            (&long, "is too long for a key"),
        ] {
            let error = ApiKey::read(&file(dir.path(), content, 0o600)?, None).err();
            let text = error.map(|e| format!("{e} {e:?}")).unwrap_or_default();
            assert!(text.contains(problem), "{text}");
            assert!(!text.contains("sk"), "{text}");
        }
        Ok(())
    }

    #[test]
    fn a_file_open_to_others_is_refused_unless_systemd_made_it() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        for mode in [0o640, 0o604, 0o644, 0o660] {
            let path = file(dir.path(), KEY.as_bytes(), mode)?;
            let refused = ApiKey::read(&path, None).err().map(|e| e.to_string());
            assert!(refused.unwrap_or_default().ends_with("chmod 600 it"), "{mode:o}");
            assert!(ApiKey::read(&path, Some(dir.path())).is_ok());
            assert!(ApiKey::read(&path, Some(Path::new(""))).is_err());
            assert!(ApiKey::read(&path, dir.path().parent()).is_err(), "directly in it only");
        }
        Ok(())
    }

    #[test]
    fn only_regular_files_are_read() -> Result<(), super::super::error::BoxError> {
        let dir = tempfile::tempdir()?;
        let pipe = dir.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRUSR)?;
        assert!(matches!(ApiKey::read(&pipe, None), Err(InvalidKey::NotAFile { .. })));
        assert!(matches!(ApiKey::read(dir.path(), None), Err(InvalidKey::NotAFile { .. })));
        let missing = ApiKey::read(&dir.path().join("none"), None);
        assert!(matches!(missing, Err(InvalidKey::Read { .. })));
        Ok(())
    }
}
