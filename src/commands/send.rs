//! `noclaw send`: a message in, the reply on standard output and nothing else.

use std::io::{IsTerminal, Read};

use super::reply::Envelope;
use super::{Ended, Failure, block_on, print, print_json, reply};
use crate::channels::view::RunView;
use crate::core::limits::MESSAGE_BYTES;
use crate::core::problem::ExitStatus;

/// `noclaw send`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The message; standard input is appended when it is not a terminal
    #[arg(value_name = "TEXT")]
    text: Vec<String>,
    /// Print the run's id at once and do not wait for the reply
    #[arg(long)]
    detach: bool,
    /// Print the run as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    envelope: Envelope,
}

/// Sends the message and prints the reply.
pub fn run(args: &Args) -> Ended {
    let body = args.envelope.body(text(&args.text)?);
    let client = &args.envelope.client;
    let run: RunView = block_on(async {
        let run = reply::deliver(client, &body).await?;
        if args.detach { Ok(run) } else { reply::wait(client, run).await }
    })?;
    match (args.detach, args.json) {
        (false, json) => return reply::show(&run, json),
        (true, true) => print_json(&run),
        (true, false) => print(run.run),
    }
    Ok(ExitStatus::Ok)
}

fn text(words: &[String]) -> Result<String, Failure> {
    let mut text = words.join(" ");
    let mut input = String::new();
    if !std::io::stdin().is_terminal() {
        // One byte more than is allowed is enough for the service to say what is wrong.
        let most = MESSAGE_BYTES as u64 + 1;
        std::io::stdin().take(most).read_to_string(&mut input).map_err(|error| {
            Failure::new(ExitStatus::Data, format!("standard input cannot be read: {error}"))
        })?;
    }
    if !text.is_empty() && !input.trim().is_empty() {
        text.push_str("\n\n");
    }
    text.push_str(&input);
    if text.trim().is_empty() {
        return Err(Failure::new(ExitStatus::Usage, "there is no message")
            .hint("noclaw send \"how are you?\", or: git diff | noclaw send \"review this\""));
    }
    Ok(text)
}
