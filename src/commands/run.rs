//! `noclaw run`: what became of messages.

use std::fmt::Write;

use noclaw_cell::preflight::{Measured, Preflight};

use super::client::Client;
use super::{Ended, block_on, print, print_json};
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
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    client: Client,
}

/// Lists or shows.
pub fn run(command: Command) -> Ended {
    match command {
        Command::List(args) => list(&args),
        Command::Show(args) => show(&args),
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
    if args.json {
        print_json(&run);
    } else {
        print(describe(&run).trim_end());
    }
    Ok(ExitStatus::Ok)
}

fn describe(run: &RunView) -> String {
    let mut text = String::new();
    let mut row = |name: &str, value: &str| {
        let value = value.replace('\n', "\n              ");
        // Writing to a string does not fail.
        writeln!(text, "{name:<13} {value}").ok();
    };
    row("run", &run.run.to_string());
    row("user", run.user.as_str());
    row("conversation", run.conversation.as_str());
    row("status", run.status.as_str());
    row("accepted", &run.created_at.to_string());
    if let Some(ms) = run.duration_ms {
        row("took", &format!("{ms} ms, {} attempt(s)", run.attempts));
    }
    row("cost", &format!("${:.6}, {}", run.cost_usd, tokens(run)));
    row("container", run.container.as_deref().unwrap_or("none"));
    if let Some(gone) = run.gone_at {
        row("gone", &gone.to_string());
    }
    for message in run.messages.iter().flatten() {
        row("message", message);
    }
    if let Some(reply) = &run.reply {
        row("reply", reply);
    }
    if let Some(error) = &run.error {
        row("error", error);
    }
    if let Some(preflight) = &run.preflight {
        match serde_json::from_value::<Preflight>(preflight.clone()) {
            Ok(preflight) => text.push_str(&table(&preflight)),
            Err(_) => row("preflight", &preflight.to_string()),
        }
    }
    text
}

fn tokens(run: &RunView) -> String {
    let usage = &run.usage;
    format!(
        "{} requests, {} tokens in, {} out",
        usage.requests,
        usage.prompt(),
        usage.output_tokens
    )
}

/// The preflight as a table: what, pid 1, the agent.
fn table(preflight: &Preflight) -> String {
    let mut text = format!("\n{:<22} {:<24} {}\n", "preflight", "launcher", "agent");
    let (launcher, agent) = (&preflight.launcher, &preflight.agent);
    let mut row = |name: &str, value: fn(&Measured) -> String| {
        writeln!(text, "{name:<22} {:<24} {}", value(launcher), value(agent)).ok();
    };
    row("user", |m| m.uids.first().map_or_else(String::new, u32::to_string));
    row("no new privileges", |m| m.no_new_privs.to_string());
    row("seccomp", |m| format!("mode {}, {} filter(s)", m.seccomp_mode, m.seccomp_filters));
    row("capabilities", |m| {
        let sets = &m.capabilities;
        let any = sets.inheritable | sets.permitted | sets.effective | sets.bounding | sets.ambient;
        format!("{any:#x}")
    });
    row("interfaces", |m| m.interfaces.join(" "));
    row("Landlock", |m| match &m.landlock {
        Some(l) => format!("ABI {}, {} rules", l.abi, l.rules),
        None => "(not applied here)".to_owned(),
    });
    row("memory.max", |m| limit(m.limits.memory_max.as_ref()));
    row("memory.swap.max", |m| limit(m.limits.memory_swap_max.as_ref()));
    row("pids.max", |m| limit(m.limits.pids_max.as_ref()));
    row("cpu.max", |m| limit(m.limits.cpu_max.as_ref()));
    row("open files", |m| number(m.limits.nofile));
    row("file size", |m| number(m.limits.fsize));
    row("mounts", |m| m.mounts.len().to_string());
    text
}

fn limit(value: Option<&String>) -> String {
    value.map_or_else(|| "not enforced".to_owned(), Clone::clone)
}

fn number(value: Option<u64>) -> String {
    value.map_or_else(|| "unlimited".to_owned(), |n| n.to_string())
}
