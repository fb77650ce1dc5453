//! Where a removed user's folder waits to be deleted: beside `users/`, under a name that no user
//! can have and that says which user of that name it was, by the time it was made.
//!
//! A rename is one step: whoever is killed leaves the folder here or there, whole. Both directories
//! are synced before anything relies on it, or a power cut could bring a folder back to life.

#![expect(clippy::disallowed_methods, reason = "only the owner can write above a user's folder")]

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::{State, StateError, io, make};
use crate::core::ids::UserName;
use crate::host::tree::{Tree, TreeError};

/// A folder that was set aside: whose it was, and when that user was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Aside {
    /// The user's name.
    pub user: UserName,
    /// When the user was made, in milliseconds since the epoch.
    pub created_at: i64,
}

impl State {
    /// Moves a user's folder aside, if there is one.
    ///
    /// # Errors
    /// When it cannot be moved; it is where it was.
    pub fn set_aside(&self, aside: &Aside) -> Result<(), StateError> {
        make(&self.removed())?;
        self.rename(&self.user(&aside.user), &self.aside_path(aside))
    }

    /// Moves it back, if there is one.
    ///
    /// # Errors
    /// When the user has got another folder meanwhile, or it cannot be moved; both stay.
    pub fn put_back(&self, aside: &Aside) -> Result<(), StateError> {
        let (from, to) = (self.aside_path(aside), self.user(&aside.user));
        if from.exists() && fs::symlink_metadata(&to).is_ok() {
            let there = std::io::Error::from(ErrorKind::AlreadyExists);
            return Err(io("move back", &to)(there));
        }
        self.rename(&from, &to)
    }

    /// All folders that wait.
    ///
    /// # Errors
    /// When they cannot be listed.
    pub fn aside(&self) -> Result<Vec<Aside>, StateError> {
        let removed = self.removed();
        let entries = match fs::read_dir(&removed) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(io("read", &removed))?,
        };
        let mut found = Vec::new();
        for entry in entries {
            let name = entry.map_err(io("read", &removed))?.file_name();
            // What is not of this form is nothing of ours, and stays.
            let parts = name.to_str().and_then(|name| name.split_once('@'));
            let aside = parts.and_then(|(user, created_at)| {
                Some(Aside { user: user.parse().ok()?, created_at: created_at.parse().ok()? })
            });
            found.extend(aside);
        }
        Ok(found)
    }

    /// Where a folder waits.
    pub fn aside_path(&self, aside: &Aside) -> PathBuf {
        self.removed().join(format!("{}@{}", aside.user, aside.created_at))
    }

    fn removed(&self) -> PathBuf {
        self.path.join("removed")
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), StateError> {
        match fs::rename(from, to) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            renamed => renamed.map_err(io("move", from))?,
        }
        for directory in [self.removed(), self.path.join("users")] {
            let synced = File::open(&directory).and_then(|directory| directory.sync_all());
            synced.map_err(io("sync", &directory))?;
        }
        Ok(())
    }
}

/// Deletes a folder that waits, whatever an agent has left in it; it may be gone already.
///
/// # Errors
/// When something in it cannot be deleted.
pub fn delete(path: &Path) -> Result<(), TreeError> {
    let name = path.file_name().and_then(OsStr::to_str);
    match (path.parent().map(Tree::find).transpose()?.flatten(), name) {
        (Some(folder), Some(name)) => folder.remove(name),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

    #[test]
    fn a_folder_is_aside_or_in_its_place_and_never_anothers() -> Result<()> {
        let directory = tempfile::tempdir()?;
        let instance = uuid::Uuid::from_u128(1).to_string().parse()?;
        let state = State::open(&directory.path().join("state"), &instance)?;
        let (bob, other) = ("bob".parse()?, "bob.removed".parse()?);
        let aside = Aside { user: bob, created_at: 7 };
        state.set_aside(&aside)?;
        assert_eq!(state.aside()?, [], "there was nothing to move");
        let note = state.workspace(&aside.user)?.join("note");
        state.workspace(&other)?;
        fs::write(&note, "x")?;
        state.set_aside(&aside)?;
        assert!(!note.exists());
        assert_eq!(state.aside()?, std::slice::from_ref(&aside));
        state.workspace(&aside.user)?;
        assert!(state.put_back(&aside).is_err(), "another bob's workspace stays his");
        assert!(!note.exists());
        fs::remove_dir_all(state.user(&aside.user))?;
        state.put_back(&aside)?;
        assert!(note.exists());
        state.set_aside(&aside)?;
        fs::write(state.removed().join("strange"), "x")?;
        delete(&state.aside_path(&aside))?;
        delete(&state.aside_path(&aside))?;
        assert_eq!(state.aside()?, []);
        assert!(state.workspace_path(&other).exists());
        Ok(())
    }
}
