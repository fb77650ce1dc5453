//! What a folder holds: blocked names, of which its owner is told, since a folder is granted whole;
//! and sockets, with which it is not granted. A cell could connect to one, also where the folder is
//! read-only: only Landlock's ABI 9 and newer restrict that.
//!
//! The service may not look into the owner's folders (`host/sandbox.rs`): whoever asks it for one
//! looks before. It refuses for itself what holds a socket that a program has (`sockets.rs`).
//!
//! The tree may be an agent's work: it is opened beneath a handle, no link is followed, and there
//! is an end to looking.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Instant;

use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::OFlag;

use super::open::Opened;
use crate::core::limits::{FOLDER_PATH_BYTES, INSIDE_ENTRIES, INSIDE_NAMED, INSIDE_TIME};
use crate::core::mounts::Refusal;
use crate::core::mounts::blocked::Blocked;
use crate::host::tree::beneath;

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inside {
    /// What is blocked elsewhere and would be seen here, by its path in the folder; the first ones.
    pub blocked: Vec<String>,
    /// Sockets; the first ones.
    pub sockets: Vec<String>,
    /// Whether everything was looked at.
    pub complete: bool,
}

impl Inside {
    /// What its owner should know, in words.
    ///
    /// # Errors
    /// When there is a socket in it.
    pub fn notes(&self) -> Result<Vec<String>, Refusal> {
        if !self.sockets.is_empty() {
            return Err(Refusal::Socket { socket: self.sockets.join(", ") });
        }
        let mut notes = Vec::new();
        if !self.blocked.is_empty() {
            let list = self.blocked.join(", ");
            notes.push(format!("it holds what is blocked elsewhere: {list}"));
        }
        if !self.complete {
            let words = "not all that it holds could be looked at for blocked names and sockets";
            notes.push(words.to_owned());
        }
        Ok(notes)
    }
}

/// Looks through a folder, the nearest first. What is blocked is not looked into.
pub fn look(folder: &Opened, blocked: &[Blocked]) -> Inside {
    look_at(folder, blocked, INSIDE_ENTRIES)
}

fn look_at(folder: &Opened, blocked: &[Blocked], most: usize) -> Inside {
    let began = Instant::now();
    let mut inside = Inside { complete: true, ..Inside::default() };
    let mut left = VecDeque::from([PathBuf::from(".")]);
    let mut entries = 0;
    while let Some(path) = left.pop_front() {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let opened = beneath(folder, &path, flags).and_then(Dir::from_fd);
        let mut listing = match opened {
            Ok(listing) => listing,
            // It is no directory, or no longer there.
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => continue,
            Err(_) => {
                inside.complete = false;
                continue;
            }
        };
        for entry in listing.iter().flatten() {
            let name = entry.file_name().to_bytes();
            if matches!(name, b"." | b"..") {
                continue;
            }
            entries += 1;
            if entries > most || began.elapsed() > INSIDE_TIME {
                inside.complete = false;
                return inside;
            }
            let there = path.join(OsStr::from_bytes(name));
            let shown = there.strip_prefix(".").unwrap_or(&there).to_string_lossy().into_owned();
            let names: Vec<_> = shown.split('/').collect();
            let is_blocked = blocked.iter().any(|blocked| blocked.pattern.ends(&names));
            match entry.file_type() {
                _ if is_blocked => name_it(&mut inside.blocked, shown),
                Some(Type::Socket) => name_it(&mut inside.sockets, shown),
                // Some file systems do not tell.
                Some(Type::Directory) | None if shown.len() < FOLDER_PATH_BYTES => {
                    left.push_back(there);
                }
                _ => {}
            }
        }
    }
    inside
}

fn name_it(list: &mut Vec<String>, found: String) {
    match list.len() {
        few if few < INSIDE_NAMED => list.push(found),
        INSIDE_NAMED => list.push("…".to_owned()),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_methods, reason = "a test makes the files that it looks at")]

    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

    #[test]
    fn what_is_blocked_and_sockets_are_found_and_no_link_is_followed() -> Result<()> {
        let directory = tempfile::tempdir()?;
        let base = directory.path().canonicalize()?;
        let folder = base.join("granted");
        for path in ["app/.config/gh", "app/src/deep", ".ssh/inner/.ssh", "ü"] {
            fs::create_dir_all(folder.join(path))?;
        }
        fs::create_dir_all(base.join("outside"))?;
        for file in ["app/.env", "app/src/deep/SERVER.PEM", "app/main.rs", "../outside/id_rsa"] {
            fs::write(folder.join(file), "x")?;
        }
        symlink(base.join("outside"), folder.join("way-out"))?;
        let socket = std::os::unix::net::UnixListener::bind(folder.join("app/s.sock"))?;
        let blocked = Blocked::built_in()?;
        let mut found = look(&Opened::folder(&folder)?, &blocked);
        found.blocked.sort();
        assert_eq!(
            found.blocked,
            [".ssh", "app/.config/gh", "app/.env", "app/src/deep/SERVER.PEM"]
        );
        assert_eq!(found.sockets, ["app/s.sock"]);
        assert!(found.complete);
        assert_eq!(found.notes(), Err(Refusal::Socket { socket: "app/s.sock".to_owned() }));
        drop(socket);
        fs::remove_file(folder.join("app/s.sock"))?;
        assert_eq!(look(&Opened::folder(&folder)?, &blocked).notes()?.len(), 1);
        let nothing = look(&Opened::folder(&folder.join("app/src"))?, &[]);
        assert_eq!(nothing, Inside { complete: true, ..Inside::default() });
        assert_eq!(nothing.notes()?, [""; 0]);
        for number in 0..2 * INSIDE_NAMED {
            fs::write(folder.join(format!("{number}.key")), "x")?;
        }
        let many = look(&Opened::folder(&folder)?, &blocked).blocked;
        assert_eq!((many.len(), many.last().map(String::as_str)), (INSIDE_NAMED + 1, Some("…")));
        Ok(())
    }

    #[test]
    fn there_is_an_end_to_looking() -> Result<()> {
        let directory = tempfile::tempdir()?;
        let base = directory.path().canonicalize()?;
        for name in ["a", "b", "c"] {
            fs::create_dir(base.join(name))?;
        }
        let folder = Opened::folder(&base)?;
        assert!(look_at(&folder, &[], 3).complete);
        let found = look_at(&folder, &[], 2);
        assert_eq!((found.complete, found.notes()?.len()), (false, 1));
        Ok(())
    }
}
