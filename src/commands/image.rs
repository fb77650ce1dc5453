//! `noclaw image`: makes the image that cells are made of, and tells about it.
//!
//! The recipe (`containerfiles/build.sh`) fetches the pinned agent, finds or makes a base, and
//! builds under a candidate's name. Only a candidate that passes its self-test, in a container as
//! confined as a cell, takes the place of the image that serves. One that another machine has made
//! comes as an archive (`archive.rs`), and must pass the same.

mod archive;
mod building;

use std::path::{Path, PathBuf};
use std::process::{Command as Process, Stdio};

use super::{Ended, Failure, block_on, print, print_json};
use crate::cell::Cells;
use crate::cell::image::{self, AgentImage, CANDIDATE, CURRENT};
use crate::cell::start::StartLine;
use crate::core::limits::MIB;
use crate::core::problem::{ExitStatus, Problem, ProblemKind, chain};
use crate::host::{owned, paths, state};

/// `noclaw image`
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Make the image, unless the one that serves is of this recipe already
    Build(Build),
    /// Write the image that serves to an archive, for another machine
    Save(archive::Save),
    /// Load an image from an archive; it serves once it has passed its self-test
    Load(archive::Load),
    /// Show the image that serves
    Status(Status),
}

#[derive(Debug, clap::Args)]
struct SelfTest {
    /// State, where the new image finds the cells' system call filter for its self-test
    #[arg(long, value_name = "DIR", env = "NOCLAW_STATE", default_value_os_t = paths::state())]
    state: PathBuf,
}

#[derive(Debug, clap::Args)]
struct AtPodman {
    /// Podman's socket
    #[arg(long, value_name = "PATH", env = "NOCLAW_PODMAN", default_value_os_t = paths::podman())]
    podman: PathBuf,
}

#[derive(Debug, clap::Args)]
struct Places {
    #[command(flatten)]
    at: AtPodman,
    /// The folder with the recipe
    #[arg(
        long,
        value_name = "DIR",
        env = "NOCLAW_CONTAINERFILES",
        default_value_os_t = paths::containerfiles()
    )]
    containerfiles: PathBuf,
}

/// `noclaw image build`
#[derive(Debug, clap::Args)]
pub struct Build {
    /// Also when the image that serves is of this recipe
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    test: SelfTest,
    #[command(flatten)]
    places: Places,
}

/// `noclaw image status`
#[derive(Debug, clap::Args)]
pub struct Status {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    places: Places,
}

/// Builds, saves, loads or shows.
pub fn run(command: Command) -> Ended {
    match command {
        Command::Build(args) => build(&args),
        Command::Save(args) => archive::save(&args),
        Command::Load(args) => archive::load(&args),
        Command::Status(args) => status(&args),
    }
}

fn build(args: &Build) -> Ended {
    let places = &args.places;
    let recipe = recipe(&places.containerfiles)?;
    let cells = Cells::at(&places.at.podman);
    if let Some(image) = block_on(current(&cells))?
        && image.recipe == recipe
        && !args.force
    {
        eprintln!("the image is up to date: agent {}", image.agent);
        return Ok(ExitStatus::Ok);
    }
    let status = building::run(
        Process::new(places.containerfiles.join("build.sh"))
            .arg(CANDIDATE)
            .env("NOCLAW_PODMAN", &places.at.podman)
            .env("NOCLAW_RECIPE", &recipe)
            .stdin(Stdio::null()),
    );
    let status = status.map_err(|error| {
        let message = format!("the recipe's build.sh cannot be started: {error}");
        Failure::new(ExitStatus::Config, message)
            .hint("`make install` puts it in its place; or name its folder: --containerfiles DIR")
    })?;
    if !status.success() {
        return Err(Failure::new(
            ExitStatus::Failed,
            format!("the image was not built ({status})"),
        )
        .hint("what went wrong stands above; the old image, if there was one, serves on"));
    }
    promote(&cells, &args.test)
}

/// Tests the candidate; if it passes, it serves from now on.
fn promote(cells: &Cells, test: &SelfTest) -> Ended {
    eprintln!("self-test: the agent and its tools, in a container without network");
    let start = StartLine::shipped().map_err(|e| Failure::of(ExitStatus::Config, &e))?;
    let profile = state::place(&test.state, &start.profile.file_name(), start.profile.text());
    let profile = profile.map_err(|error| Failure::of(ExitStatus::Config, &error))?;
    let profile = profile.to_string_lossy();
    block_on(async {
        let tested = image::self_test(cells, &start.cell, &profile).await;
        tested.map_err(|error| {
            Failure::of(ExitStatus::Failed, &error)
                .hint("the old image, if there was one, serves on; `noclaw doctor` looks further")
        })
    })?;
    eprintln!("done: {CURRENT}");
    Ok(ExitStatus::Ok)
}

fn status(args: &Status) -> Ended {
    let recipe = recipe(&args.places.containerfiles)?;
    let cells = Cells::at(&args.places.at.podman);
    let image = block_on(serving(&cells))?;
    let fresh = image.recipe == recipe;
    if args.json {
        print_json(&serde_json::json!({
            "image": image.id, "agent": image.agent, "created": image.created,
            "size": image.size, "recipe": image.recipe, "up_to_date": fresh,
        }));
    } else {
        let row = |name: &str, value: &str| print(format_args!("{name:<10} {value}"));
        row("image", &image.id);
        row("agent", &image.agent);
        row("created", &image.created);
        row("size", &format!("{} MB", image.size / 1_000_000));
        row("recipe", if fresh { "up to date" } else { "outdated: noclaw image build" });
    }
    Ok(if fresh { ExitStatus::Ok } else { ExitStatus::Config })
}

async fn current(cells: &Cells) -> Result<Option<AgentImage>, Failure> {
    image::current(cells.podman()).await.map_err(|error| {
        let problem = Problem::new(ProblemKind::PodmanUnavailable, chain(&error));
        Failure::from(problem.hint("systemctl --user start podman.socket, or `noclaw doctor`"))
    })
}

async fn serving(cells: &Cells) -> Result<AgentImage, Failure> {
    current(cells).await?.ok_or_else(|| {
        let message = format!("there is no image {CURRENT}");
        Failure::new(ExitStatus::Config, message).hint("noclaw image build")
    })
}

fn recipe(folder: &Path) -> Result<String, Failure> {
    let recipe = image::recipe(|file| owned::read(&folder.join(file), MIB));
    recipe.map_err(|error| {
        let message = format!("no recipe in {}: {}", folder.display(), chain(&error));
        Failure::new(ExitStatus::Config, message)
            .hint("`make install` puts it in its place; or name its folder: --containerfiles DIR")
    })
}
