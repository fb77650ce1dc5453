//! `noclaw user mount`: which of the owner's folders a user's cells see.

use std::path::Path;

use super::super::client::Client;
use super::super::{Ended, Failure, block_on, complain, mount, print, print_json};
use crate::channels::mounts::{MountBody, MountList, MountView};
use crate::core::ids::UserName;
use crate::core::mounts::access;
use crate::core::mounts::blocked::Blocked;
use crate::core::mounts::folder::FolderPath;
use crate::core::problem::ExitStatus;
use crate::host::mounts::inside;
use crate::host::mounts::open::Opened;

/// `noclaw user mount`
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Grant a folder and print where the user's cells have it; `noclaw mount check` tries first
    ///
    /// The folder is granted whole, with everything in it but what is mounted below it. What a cell
    /// may write there, your own programs may run: hooks of Git, makefiles, scripts.
    Add(Add),
    /// List the folders of a user, and which of them a run would be without
    List(List),
    /// Take a folder back; the next run is without it
    Remove(Remove),
}

/// `noclaw user mount add`
#[derive(Debug, clap::Args)]
pub struct Add {
    /// The user's name
    user: UserName,
    /// The folder
    path: String,
    /// Let cells write there; the allowlist must allow it, too
    #[arg(long)]
    rw: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    client: Client,
}

/// `noclaw user mount list`
#[derive(Debug, clap::Args)]
pub struct List {
    /// The user's name
    user: UserName,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    client: Client,
}

/// `noclaw user mount remove`
#[derive(Debug, clap::Args)]
pub struct Remove {
    /// The user's name
    user: UserName,
    /// The folder, or its name in the user's cells
    path: String,
    #[command(flatten)]
    client: Client,
}

/// Grants, lists or takes back.
pub fn run(command: Command) -> Ended {
    match command {
        Command::Add(args) => add(&args),
        Command::List(args) => list(&args),
        Command::Remove(args) => remove(&args),
    }
}

fn at(user: &UserName) -> String {
    format!("/v1/users/{user}/mounts")
}

fn add(args: &Add) -> Ended {
    let body = MountBody { path: mount::folder(&args.path)?, read_write: args.rw };
    let notes = look(&body.path)?;
    let made: MountView =
        block_on(async { args.client.post(&at(&args.user), &body).await?.json() })?;
    match args.json {
        true => print_json(&made),
        false => {
            print(&made.in_cell);
            notes.iter().for_each(|note| complain(note, None));
        }
    }
    Ok(ExitStatus::Ok)
}

/// What a folder holds: the service may not look. What cannot be opened it refuses itself.
fn look(path: &FolderPath) -> Result<Vec<String>, Failure> {
    let Ok(opened) = Opened::folder(Path::new(path.as_str())) else { return Ok(Vec::new()) };
    let blocked = Blocked::built_in().map_err(|error| Failure::of(ExitStatus::Failed, &error))?;
    inside::look(&opened, &blocked).notes().map_err(|refusal| {
        let message = format!("{path} is not granted: {refusal}");
        Failure::new(ExitStatus::NotAllowed, message).hint(refusal.hint())
    })
}

fn list(args: &List) -> Ended {
    let list: MountList = block_on(async { args.client.get(&at(&args.user)).await?.json() })?;
    if args.json {
        print_json(&list);
        return Ok(ExitStatus::Ok);
    }
    for MountView { path, read_write, in_cell, refused, .. } in list.mounts {
        print(format_args!("{in_cell:<30} {:<15} {path}", access(read_write)));
        if let Some(reason) = refused {
            print(format_args!("{:<30} a run would be without it: {reason}", ""));
        }
    }
    Ok(ExitStatus::Ok)
}

fn remove(args: &Remove) -> Ended {
    let at = at(&args.user);
    block_on(async {
        let list: MountList = args.client.get(&at).await?.json()?;
        let path = mount::folder(&args.path).ok();
        let is_meant = |mount: &&MountView| {
            mount.name.as_str() == args.path || path.as_ref() == Some(&mount.path)
        };
        let Some(found) = list.mounts.iter().find(is_meant) else {
            let message = format!("{} has no folder {}", args.user, args.path);
            return Err(Failure::new(ExitStatus::Data, message)
                .hint(format!("noclaw user mount list {}", args.user)));
        };
        args.client.delete(&format!("{at}/{}", found.name)).await?;
        Ok(ExitStatus::Ok)
    })
}
