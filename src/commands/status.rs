//! `noclaw status`: what the service is and does.

use std::collections::BTreeMap;

use noclaw_cell::preflight::Landlock;

use super::client::{Client, QUICK};
use super::{Ended, block_on, notice, print, print_json};
use crate::channels::health::Status;
use crate::core::ids::UnitName;
use crate::core::notice::Streak;
use crate::core::plan::Controller;
use crate::core::problem::{ExitStatus, Problem};

/// `noclaw status`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    client: Client,
}

/// What the service says, and what is known of it when it says nothing.
#[derive(serde::Serialize)]
struct Told<'a> {
    #[serde(flatten)]
    status: &'a Status,
    failures: BTreeMap<UnitName, Streak>,
}

/// Prints it. Exits as a message would be refused now.
pub fn run(args: &Args) -> Ended {
    if !args.json {
        notice::show(&args.client);
    }
    let client = args.client.within(QUICK);
    let status: Status = block_on(async { client.get("/v1/status").await?.json() })?;
    if args.json {
        let failures = notice::going_on(&args.client).into_iter().collect();
        print_json(&Told { status: &status, failures });
    } else {
        show(&status);
    }
    Ok(status.problem.map_or(ExitStatus::Ok, |document| Problem::from(document).kind.exit()))
}

fn show(status: &Status) {
    let row = |name: &str, value: &str| print(format_args!("{name:<16} {value}"));
    let up = status.uptime_s;
    row("noclaw", &format!("{}, process {}, up {up} s", status.version, status.pid));
    row(
        "runs",
        &format!("{} active of {}, {} waiting", status.active, status.cells, status.queued),
    );
    row("model", &format!("{} at {}", status.model, status.model_api));
    row("listening", &status.listening.join(", "));
    row("confined", &confined(&status.landlock));
    row("podman", status.podman.as_deref().unwrap_or("-"));
    row("image", status.image.as_deref().unwrap_or("-"));
    if !status.accepted_without.is_empty() {
        let list: Vec<_> =
            status.accepted_without.iter().copied().map(Controller::as_str).collect();
        row("NOT ENFORCED", &format!("{} (--accept-without)", list.join(", ")));
    }
    if let Some((problem, hint)) = &status.allowlist_problem {
        row("folders", &format!("none of yours in any cell: {problem}"));
        row("", hint);
    }
    match &status.problem {
        None => row("ready", "yes"),
        Some(problem) => {
            row("ready", &format!("no: {}", problem.detail));
            row("", problem.hint.as_deref().unwrap_or(""));
        }
    }
}

/// How the service itself is confined.
fn confined(landlock: &Landlock) -> String {
    let mut text = format!("Landlock ABI {}, {} rules", landlock.abi, landlock.rules);
    if !landlock.tcp_denied {
        text.push_str("; this kernel cannot refuse TCP");
    }
    if !landlock.scoped {
        text.push_str("; this kernel cannot refuse signals and abstract sockets");
    }
    text
}
