//! `noclaw run`: what became of messages, and to stop or repeat that.

mod show;

use super::client::Client;
use super::{Ended, block_on, print, print_json, reply};
use crate::channels::view::{RunList, RunView};
use crate::core::ids::{RunId, UserName};
use crate::core::problem::ExitStatus;
use crate::core::run::RunState;

/// How much of a reply or an error a list shows.
const SHOWN: usize = 60;

/// `noclaw run`
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// List runs, newest first
    List(List),
    /// Show a run: its messages, its reply, what its cell measured
    Show(Show),
    /// Cancel a run that waits or is being answered
    Cancel(One),
    /// Try a run again that ended without an answer, and print the reply
    Retry(Retry),
}

/// `noclaw run list`
#[derive(Debug, clap::Args)]
pub struct List {
    /// Only this user's
    #[arg(long, short)]
    user: Option<UserName>,
    /// Only those that stand here: queued, starting, running, answered, failed, timed_out,
    /// cancelled
    #[arg(long)]
    status: Option<RunState>,
    /// How many
    #[arg(long, default_value_t = 20)]
    limit: usize,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    client: Client,
}

/// `noclaw run show`
#[derive(Debug, clap::Args)]
pub struct Show {
    /// The run's id
    run: RunId,
    /// Show where its time went instead
    #[arg(long)]
    timeline: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    client: Client,
}

/// `noclaw run cancel`
#[derive(Debug, clap::Args)]
pub struct One {
    /// The run's id
    run: RunId,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    client: Client,
}

/// `noclaw run retry`
#[derive(Debug, clap::Args)]
pub struct Retry {
    /// Print the new run's id at once and do not wait for the reply
    #[arg(long)]
    detach: bool,
    #[command(flatten)]
    one: One,
}

/// Lists, shows, cancels or tries again.
pub fn run(command: Command) -> Ended {
    match command {
        Command::List(args) => list(&args),
        Command::Show(args) => show(&args),
        Command::Cancel(args) => cancel(&args),
        Command::Retry(args) => retry(&args),
    }
}

fn list(args: &List) -> Ended {
    let mut path = format!("/v1/runs?limit={}", args.limit);
    if let Some(user) = &args.user {
        path.push_str(&format!("&user={user}"));
    }
    if let Some(status) = args.status {
        path.push_str(&format!("&status={status}"));
    }
    let list: RunList = block_on(async { args.client.get(&path).await?.json() })?;
    if args.json {
        print_json(&list);
        return Ok(ExitStatus::Ok);
    }
    for run in &list.runs {
        let said = run.reply.as_deref().or(run.error.as_deref()).unwrap_or("");
        let line: String =
            said.chars().take(SHOWN).map(|c| if c.is_control() { ' ' } else { c }).collect();
        let at = run.created_at.strftime("%Y-%m-%d %H:%M:%S");
        print(format_args!(
            "{}  {at}  {:<9}  {}/{}  {line}",
            run.run, run.status, run.user, run.conversation
        ));
    }
    Ok(ExitStatus::Ok)
}

fn show(args: &Show) -> Ended {
    let path = format!("/v1/runs/{}", args.run);
    let run: RunView = block_on(async { args.client.get(&path).await?.json() })?;
    match (args.json, args.timeline) {
        (true, false) => print_json(&run),
        (true, true) => print_json(&run.timeline),
        (false, true) => print(show::timeline(&run).trim_end()),
        (false, false) => print(show::describe(&run).trim_end()),
    }
    Ok(ExitStatus::Ok)
}

fn cancel(args: &One) -> Ended {
    let path = format!("/v1/runs/{}", args.run);
    let run: RunView = block_on(async { args.client.delete(&path).await?.json() })?;
    if args.json {
        print_json(&run);
    }
    match run.status {
        RunState::Cancelled => Ok(ExitStatus::Ok),
        // It was asked for, and will be.
        _ => Ok(ExitStatus::Later),
    }
}

fn retry(args: &Retry) -> Ended {
    let One { run, json, client } = &args.one;
    let path = format!("/v1/runs/{run}/retry");
    let run: RunView = block_on(async {
        let run = client.post(&path, &serde_json::json!({})).await?.json()?;
        if args.detach { Ok(run) } else { reply::wait(client, run).await }
    })?;
    match (args.detach, json) {
        (false, json) => return reply::show(&run, *json),
        (true, true) => print_json(&run),
        (true, false) => print(run.run),
    }
    Ok(ExitStatus::Ok)
}
