//! Failures in a row, a small file a unit, beside the sockets of the owner's session: the runtime
//! directory is there when the disk is full, and is gone after a reboot, when they are over anyway.

use std::path::PathBuf;

use super::owned::{self, Folder};
use super::paths;
use crate::core::ids::UnitName;
use crate::core::notice::Streak;

/// Such a file has about a hundred bytes.
const BYTES: usize = 4096;

fn folder() -> PathBuf {
    paths::runtime().join("noclaw-failures")
}

/// The unit's failures in a row, the last ones. A file that is not of its form is none: the next
/// failure writes it anew.
///
/// # Errors
/// When somebody else could have written it, or it cannot be read.
pub fn read(unit: &UnitName) -> Result<Option<Streak>, owned::OwnedError> {
    let Some(folder) = Folder::open(&folder())? else { return Ok(None) };
    let text = folder.read(unit.as_str(), BYTES)?;
    Ok(text.and_then(|text| serde_json::from_str(&text).ok()))
}

/// Keeps them.
///
/// # Errors
/// The kernel's.
pub fn keep(unit: &UnitName, streak: &Streak) -> std::io::Result<()> {
    let folder = folder();
    owned::make_directory(&folder)?;
    let text = serde_json::to_string(streak).map_err(std::io::Error::other)?;
    owned::put(&folder.join(unit.as_str()), &text)
}
