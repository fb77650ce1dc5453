//! `noclaw halt` and `noclaw unhalt`: nothing goes on until you say so.

use jiff::Timestamp;

use super::client::Client;
use super::{Ended, block_on, local, print, print_json};
use crate::channels::halt::{HaltBody, HaltView, StandView};
use crate::core::problem::ExitStatus;

/// `noclaw halt`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Why: one line, shown wherever the halt is
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    client: Client,
}

/// `noclaw unhalt`
#[derive(Debug, clap::Args)]
pub struct UnhaltArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    client: Client,
}

/// Halts. When it returns with 0, nothing reaches the model any more.
pub fn run(args: Args) -> Ended {
    let body = HaltBody { reason: args.reason };
    let stand = block_on(async { args.client.put("/v1/halt", &body).await?.json() })?;
    tell(&stand, args.json);
    Ok(ExitStatus::Ok)
}

/// Takes it back.
pub fn unhalt(args: &UnhaltArgs) -> Ended {
    let stand = block_on(async { args.client.delete("/v1/halt").await?.json() })?;
    tell(&stand, args.json);
    Ok(ExitStatus::Ok)
}

fn tell(stand: &StandView, json: bool) {
    if json {
        return print_json(stand);
    }
    let StandView { halt, active, queued } = stand;
    print(match halt {
        Some(halt) => {
            let since = since(halt);
            format!("halted {since}\nruns ending: {active}, waiting for `noclaw unhalt`: {queued}")
        }
        None => format!("not halted\nruns going on: {active}, waiting: {queued}"),
    });
}

/// Since when and why, as people are told.
pub(super) fn since(halt: &HaltView) -> String {
    let since = local(Timestamp::from_millisecond(halt.since).unwrap_or_default());
    match &halt.reason {
        Some(reason) => format!("since {since}: {reason}"),
        None => format!("since {since}"),
    }
}
