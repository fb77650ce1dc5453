//! What the host itself does when something else lies in its way than it expects.

use std::path::Path;

use super::super::Args;
use super::bait::{Bait, NEIGHBOUR, USER};
use super::{Outcome, Probed, opened};
use crate::cell::Cells;
use crate::commands::Failure;
use crate::core::limits::KIB;
use crate::core::problem::{ExitStatus, chain};
use crate::host::mounts::file;
use crate::host::tree::Tree;
use crate::host::{owned, state};

/// Whose workspace becomes another's.
const EXCHANGED: &str = "escape-exchanged";
/// How the preflight names a workspace that is another one.
const ANOTHER: &str = "what is mounted at /workspace is";
/// What the kernel says of a link where none is followed.
const LINK: &str = "Too many levels of symbolic links";
const NOTHING_PROVED: &str = "what is allowed does not work: the other probes say nothing";

fn config(error: &dyn std::error::Error) -> Failure {
    Failure::of(ExitStatus::Config, error)
}

/// What the service would read of the traps that the probes left in the workspace.
pub(super) fn traps(bait: &Bait) -> Result<Vec<Probed>, Failure> {
    const MOST: usize = 64 * KIB;
    let (workspace, _) = bait.folders(USER)?;
    let workspace = Tree::open(&workspace).map_err(|error| config(&error))?;
    let read = |name| {
        let probe = format!("host: reads {name}");
        Probed::refused(&probe, workspace.read(name, MOST), &[LINK, "it is not a regular file"])
    };
    let mut probed: Vec<_> =
        ["way-out", "trap-zero", "trap-fifo", "trap-up/passwd"].map(read).into();
    // The twin.
    if !matches!(workspace.read("twin", MOST), Ok(Some(text)) if text.starts_with('x')) {
        probed.push(Probed::new("twin: the host reads a file", Outcome::Open, NOTHING_PROVED));
    }
    Ok(probed)
}

/// What an allowlist grants that is not the owner's alone. One that belongs to somebody else cannot
/// be made here: an ordinary user gives no file away.
pub(super) fn allowlists(bait: &Bait) -> Result<Vec<Probed>, Failure> {
    let folder = bait.inside("allowlists");
    let io = |error: std::io::Error| config(&error);
    let list = state::place(&folder, file::NAME, file::EXAMPLE).map_err(|error| config(&error))?;
    owned::set_mode(&folder, 0o700).and_then(|()| owned::set_mode(&list, 0o600)).map_err(io)?;
    let mut probed = Vec::new();
    if !matches!(file::read(&folder), Ok(Some(list)) if list.roots.len() == 1) {
        let twin = "twin: the host reads the owner's allowlist";
        probed.push(Probed::new(twin, Outcome::Open, NOTHING_PROVED));
    }
    let mut read = |what: &str, reason| {
        let probe = format!("host: an allowlist {what}");
        probed.push(Probed::refused(&probe, file::read(&folder), &[reason]));
    };
    owned::set_mode(&list, 0o660).map_err(io)?;
    read("that others can write to", "it has the mode 0660");
    owned::set_mode(&list, 0o600).and_then(|()| owned::set_mode(&folder, 0o770)).map_err(io)?;
    read("in a folder that others can write to", "it lies in a folder that others can write to");
    owned::set_mode(&folder, 0o700).map_err(io)?;
    let aside = folder.join("aside");
    owned::rename(&list, &aside).and_then(|()| owned::link(&aside, &list)).map_err(io)?;
    read("that is a link", "it is a link");
    owned::remove(&list).and_then(|()| owned::remove(&aside)).map_err(io)?;
    Ok(probed)
}

/// A workspace that becomes a link to another user's, after it was opened and before it is mounted.
pub(super) async fn exchange(args: &Args, cells: &Cells, bait: &Bait) -> Result<Probed, Failure> {
    const PROBE: &str = "host: a folder exchanged before it is mounted";
    let io = |error: std::io::Error| config(&error);
    let (own, _) = bait.folders(EXCHANGED)?;
    let aside = own.with_extension("aside");
    if owned::exists(&aside) {
        // An earlier one was killed.
        back(&own, &aside).map_err(io)?;
    }
    let planned = bait.planned(args, EXCHANGED, None, |job| job.argv = vec!["/bin/true".into()])?;
    let (plan, job) = planned;
    let (neighbours, _) = bait.folders(NEIGHBOUR)?;
    owned::rename(&own, &aside).and_then(|()| owned::link(&neighbours, &own)).map_err(io)?;
    let seen = async {
        let cell = cells.create(&plan).await.map_err(|error| chain(&error))?;
        let preflight = opened(&cell, &job, bait.model(), &plan).await;
        cell.end().await.map_err(|error| chain(&error))?;
        preflight.map(|(preflight, ..)| preflight).map_err(|failure| failure.message)
    };
    let seen = seen.await;
    back(&own, &aside).map_err(io)?;
    Ok(match seen {
        Ok(preflight) if preflight.detail.contains(ANOTHER) => {
            Probed::new(PROBE, Outcome::Blocked, preflight.detail)
        }
        Ok(preflight) if preflight.result == Outcome::Blocked => {
            Probed::new(PROBE, Outcome::Open, preflight.detail)
        }
        // What else falls short, or goes wrong, comes before this is looked at.
        Ok(Probed { detail: why, .. }) | Err(why) => {
            Probed::new(PROBE, Outcome::Open, format!("nothing is proved: {why}"))
        }
    })
}

fn back(own: &Path, aside: &Path) -> std::io::Result<()> {
    if owned::exists(own) {
        owned::remove(own)?;
    }
    owned::rename(aside, own)
}
