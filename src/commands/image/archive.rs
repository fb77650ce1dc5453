//! `noclaw image save` and `load`: the image on its way to a machine that cannot or shall not make
//! it.
//!
//! | what goes wrong | what follows |
//! |---|---|
//! | the archive cannot be written whole | what was written is removed; an older file of the name stays |
//! | it is no archive, of several images, or of none of NoClaw's | status 65; what serves, serves on |
//! | its image fails the self-test | status 70; what serves, serves on |

use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};

use super::{AtPodman, SelfTest, promote, serving};
use crate::cell::archive::ArchiveError;
use crate::cell::image::{self, LoadError};
use crate::cell::podman::PodmanError;
use crate::cell::{CellError, Cells};
use crate::commands::progress::Progress;
use crate::commands::{Ended, Failure, block_on};
use crate::core::problem::{ExitStatus, chain};
use crate::host::owned;

/// Instead of a file's name: the standard stream.
const STANDARD: &str = "-";

/// `noclaw image save`
#[derive(Debug, clap::Args)]
pub struct Save {
    /// The archive to write, about 700 MB; `-` is standard output
    file: PathBuf,
    #[command(flatten)]
    at: AtPodman,
}

/// `noclaw image load`
#[derive(Debug, clap::Args)]
pub struct Load {
    /// The archive; `-` is standard input
    file: PathBuf,
    #[command(flatten)]
    test: SelfTest,
    #[command(flatten)]
    at: AtPodman,
}

/// Writes the image that serves. A file appears under its name when it is whole.
pub(super) fn save(args: &Save) -> Ended {
    let standard = args.file == Path::new(STANDARD);
    if standard && io::stdout().is_terminal() {
        let failure = Failure::new(ExitStatus::Usage, "an archive is nothing for a terminal");
        return Err(failure.hint("name a file, or redirect standard output"));
    }
    let cells = Cells::at(&args.at.podman);
    let image = block_on(serving(&cells))?;
    block_on(async {
        let written = match standard {
            true => cells.podman().save(&image.id, &mut io::stdout().lock()).await,
            false => to_file(&cells, &image.id, &args.file).await,
        };
        written.map_err(|error| unsaved(&args.file, &error))
    })?;
    eprintln!("saved: agent {}", image.agent);
    Ok(ExitStatus::Ok)
}

async fn to_file(cells: &Cells, image: &str, file: &Path) -> Result<(), ArchiveError> {
    let part = file.with_added_extension("part");
    // What a save left that was killed.
    owned::remove(&part).ok();
    let mut archive = owned::make_new(&part).map_err(ArchiveError::Write)?;
    let mut saved = cells.podman().save(image, &mut archive).await;
    if saved.is_ok() {
        let named = archive.sync_all().and_then(|()| owned::rename(&part, file));
        saved = named.map_err(ArchiveError::Write);
    }
    if saved.is_err() {
        owned::remove(&part).ok();
    }
    saved
}

fn unsaved(file: &Path, error: &ArchiveError) -> Failure {
    let failure = Failure::of(ExitStatus::Failed, error);
    match error {
        ArchiveError::Write(_) => failure
            .hint(format!("is there a folder, with room and for you, at {}?", file.display())),
        ArchiveError::Podman(_) => failure.hint("`noclaw doctor` looks further"),
    }
}

/// Loads an archive's image, which serves if it passes its self-test.
pub(super) fn load(args: &Load) -> Ended {
    let unread = |error: io::Error| {
        let message = format!("{} cannot be read: {error}", args.file.display());
        Failure::new(ExitStatus::Data, message).hint("`noclaw image save FILE` writes one")
    };
    let opened = match args.file == Path::new(STANDARD) {
        true => owned::standard_input(),
        false => owned::open(&args.file),
    };
    let archive = opened.map_err(unread)?;
    let size = archive.metadata().map_or(0, |meta| meta.len());
    let archive = Progress::new("loading the image", archive, size);
    let cells = Cells::at(&args.at.podman);
    let image = block_on(async {
        let loaded = image::load(&cells, archive).await;
        loaded.map_err(|error| unloaded(&error))
    })?;
    eprintln!("loaded: agent {}", image.agent);
    promote(&cells, &args.test)
}

fn unloaded(error: &LoadError) -> Failure {
    let status = match error {
        LoadError::Cell(CellError::Podman(PodmanError::Unreachable { .. })) => {
            ExitStatus::Unavailable
        }
        LoadError::Cell(CellError::Podman(PodmanError::Refused { .. }))
        | LoadError::Count(_)
        | LoadError::Foreign { .. } => ExitStatus::Data,
        LoadError::Cell(_) => ExitStatus::Failed,
    };
    let hint = match (status, error) {
        (ExitStatus::Unavailable, _) => "systemctl --user start podman.socket, or `noclaw doctor`",
        (_, LoadError::Foreign { .. }) => {
            "`podman rmi` removes it; `noclaw image save` writes ours"
        }
        (ExitStatus::Data, _) => "an archive that `noclaw image save` wrote is one",
        _ => "`noclaw doctor` looks further",
    };
    Failure::new(status, chain(error)).hint(hint)
}
