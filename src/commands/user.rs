//! `noclaw user`: who there is, and what the agent is to know about them.

mod editor;
mod mount;

use std::io::{BufRead, IsTerminal, Read};
use std::path::{Path, PathBuf};

use super::client::Client;
use super::{Ended, Failure, block_on, local, print, print_json};
use crate::channels::users::{
    ChangeBody, FilesView, Instructions, NewBody, RemovedView, UserList, UserView,
};
use crate::core::ids::UserName;
use crate::core::limits::INSTRUCTIONS_BYTES;
use crate::core::problem::ExitStatus;
use crate::core::quota::size;
use crate::host::owned;

/// `noclaw user`
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Make a user and print where its workspace is
    Add(Change),
    /// List users
    List(List),
    /// Show a user, and what its workspace takes
    Show(Show),
    /// Change a user; without a flag it opens your editor on the instructions
    Edit(Change),
    /// Remove a user, and everything that is theirs
    Remove(Remove),
    /// Grant a user folders of your own, and take them back
    #[command(subcommand)]
    Mount(mount::Command),
}

/// `noclaw user add`, `noclaw user edit`
#[derive(Debug, clap::Args)]
pub struct Change {
    /// The user's name
    name: UserName,
    /// The time zone, as Europe/Berlin; an empty one is the machine's
    #[arg(long)]
    zone: Option<String>,
    /// A file with what the agent is to know about this user; `-` is standard input
    #[arg(long, value_name = "FILE")]
    instructions: Option<PathBuf>,
    #[command(flatten)]
    client: Client,
}

/// `noclaw user list`
#[derive(Debug, clap::Args)]
pub struct List {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    client: Client,
}

/// `noclaw user show`
#[derive(Debug, clap::Args)]
pub struct Show {
    /// The user's name
    name: UserName,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    client: Client,
}

/// `noclaw user remove`
#[derive(Debug, clap::Args)]
pub struct Remove {
    /// The user's name
    name: UserName,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    client: Client,
}

/// Makes, lists, changes or removes.
pub fn run(command: Command) -> Ended {
    match command {
        Command::Add(args) => add(args),
        Command::List(args) => list(&args),
        Command::Show(args) => show(&args),
        Command::Edit(args) => edit(args),
        Command::Remove(args) => remove(&args),
        Command::Mount(command) => mount::run(command),
    }
}

fn add(args: Change) -> Ended {
    let body = NewBody {
        name: args.name,
        time_zone: args.zone.filter(|zone| !zone.is_empty()),
        instructions: args.instructions.as_deref().map(read).transpose()?.unwrap_or_default(),
    };
    let made: UserView = block_on(async { args.client.post("/v1/users", &body).await?.json() })?;
    print(made.workspace);
    Ok(ExitStatus::Ok)
}

fn list(args: &List) -> Ended {
    let list: UserList = block_on(async { args.client.get("/v1/users").await?.json() })?;
    if args.json {
        print_json(&list);
        return Ok(ExitStatus::Ok);
    }
    let (name, zone, path) = ("name", "zone", "workspace");
    print(format_args!(
        "{name:<20} {zone:<20} {:>13} {:>8} {:>16}  {path}",
        "conversations", "messages", "takes"
    ));
    for user in list.users {
        let zone = user.time_zone.as_deref().unwrap_or("-");
        let (name, path) = (user.name.as_str(), user.workspace);
        let (conversations, messages) = (user.conversations, user.messages);
        let used = user.used.map_or_else(
            || "-".to_owned(),
            |used| format!("{} ({} %)", size(used.bytes), user.quota.percent(used)),
        );
        print(format_args!(
            "{name:<20} {zone:<20} {conversations:>13} {messages:>8} {used:>16}  {path}"
        ));
    }
    Ok(ExitStatus::Ok)
}

fn show(args: &Show) -> Ended {
    let path = format!("/v1/users/{}", args.name);
    let user: UserView = block_on(async { args.client.get(&path).await?.json() })?;
    if args.json {
        print_json(&user);
        return Ok(ExitStatus::Ok);
    }
    let row = |name: &str, value: &dyn std::fmt::Display| {
        print(format_args!("{name:<13} {value}"));
    };
    row("name", &user.name);
    row("zone", &user.time_zone.as_deref().unwrap_or("the machine's"));
    row("made", &local(user.created_at));
    row("conversations", &user.conversations);
    row("messages", &user.messages);
    row("runs", &user.runs);
    row("tokens", &user.tokens);
    row("workspace", &user.workspace);
    if let Some(FilesView { space, more, closed, .. }) = user.files {
        let percent = user.quota.percent(space);
        let more = if more || closed > 0 { ", and more that was not counted" } else { "" };
        row("takes", &format_args!("{space}, {percent} %{more}"));
    }
    row("may take", &user.quota);
    Ok(ExitStatus::Ok)
}

fn edit(args: Change) -> Ended {
    let path = format!("/v1/users/{}", args.name);
    let at = format!("{path}/instructions");
    let instructions = args.instructions.as_deref().map(read).transpose()?;
    block_on(async {
        if instructions.is_none() && args.zone.is_none() {
            return editor::edit(&args.client, &args.name, &at).await;
        }
        if let Some(zone) = args.zone {
            let time_zone = Some(Some(zone).filter(|zone| !zone.is_empty()));
            args.client.patch(&path, &ChangeBody { time_zone }).await?;
        }
        if let Some(instructions) = instructions {
            args.client.put(&at, &Instructions { instructions }).await?;
        }
        Ok(ExitStatus::Ok)
    })
}

/// Reads instructions. What is too long is refused here, before anything was changed.
fn read(file: &Path) -> Result<String, Failure> {
    let unread = |error: std::io::Error| {
        let message = format!("the instructions in {} cannot be read: {error}", file.display());
        Failure::new(ExitStatus::Data, message).hint("--instructions FILE, a text file, or -")
    };
    let input: Box<dyn Read> = match file.as_os_str() == "-" {
        true => Box::new(std::io::stdin()),
        false => Box::new(owned::open(file).map_err(unread)?),
    };
    let mut text = String::new();
    input.take(INSTRUCTIONS_BYTES as u64 + 1).read_to_string(&mut text).map_err(unread)?;
    if text.len() > INSTRUCTIONS_BYTES {
        let message = format!("instructions: are longer than {INSTRUCTIONS_BYTES} bytes");
        return Err(Failure::new(ExitStatus::Data, message)
            .hint("a long text goes into the user's workspace, where the agent can read it"));
    }
    Ok(text)
}

fn remove(args: &Remove) -> Ended {
    let path = format!("/v1/users/{}", args.name);
    let user: UserView = block_on(async { args.client.get(&path).await?.json() })?;
    if !args.yes && !user.owner {
        ask(&user)?;
    }
    let removed: RemovedView = block_on(async { args.client.delete(&path).await?.json() })?;
    let RemovedView { removed: name, messages, runs, conversations, tokens, files } = removed;
    let rows =
        format!("{messages} messages, {runs} runs, {conversations} conversations, {tokens} tokens");
    let (count, bytes) = (files.files, files.bytes);
    print(format_args!("removed {name}: {rows}, {count} files of {bytes} bytes"));
    Ok(ExitStatus::Ok)
}

/// Says what will be deleted, and asks whoever sits at the terminal.
fn ask(user: &UserView) -> Result<(), Failure> {
    let name = &user.name;
    eprintln!("this deletes of {name}, for ever:");
    eprintln!("  {} messages with their replies, {} runs", user.messages, user.runs);
    eprintln!("  {} conversations, {} tokens", user.conversations, user.tokens);
    eprintln!("  the workspace {}", user.workspace);
    if let Some(files) = &user.files {
        let closed = match (files.closed, files.more) {
            (0, false) => String::new(),
            (0, true) => ", and more".to_owned(),
            (n, _) => format!(", and what is in {n} directories that are closed to you"),
        };
        eprintln!("  with {} files of {} bytes{closed}", files.files, files.bytes);
    }
    if !std::io::stdin().is_terminal() {
        let message = format!("{name} was not removed: there is no terminal to ask at");
        return Err(Failure::new(ExitStatus::Usage, message)
            .hint(format!("noclaw user remove {name} --yes")));
    }
    eprint!("remove {name}? [y/N] ");
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer).ok();
    match answer.trim().to_ascii_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(Failure::new(ExitStatus::Cancelled, format!("{name} was not removed"))),
    }
}
