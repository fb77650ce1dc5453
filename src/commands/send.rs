//! `noclaw send`: a message in, the reply on standard output and nothing else.

use std::io::{IsTerminal, Read};

use super::client::Client;
use super::{Ended, Failure, block_on, print, print_json};
use crate::channels::view::RunView;
use crate::core::limits::MESSAGE_BYTES;
use crate::core::message::MessageBody;
use crate::core::problem::ExitStatus;

/// Seconds that one request waits; the next one goes on waiting.
const WAIT: u64 = 50;

/// `noclaw send`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The message; standard input is appended when it is not a terminal
    #[arg(value_name = "TEXT")]
    text: Vec<String>,
    /// Whom the message is from
    #[arg(long, short)]
    user: Option<String>,
    /// The conversation it belongs to
    #[arg(long, short)]
    conversation: Option<String>,
    /// The model that is to answer
    #[arg(long)]
    model: Option<String>,
    /// Print the run's id at once and do not wait for the reply
    #[arg(long)]
    detach: bool,
    /// Print the run as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    client: Client,
}

/// Sends the message and prints the reply.
pub fn run(args: Args) -> Ended {
    let body = MessageBody {
        user: args.user,
        message: text(&args.text)?,
        context: None,
        conversation: args.conversation,
        model: args.model,
    };
    let first = if args.detach { 0 } else { WAIT };
    let run: RunView = block_on(async {
        let answer = args.client.post(&format!("/webhook?wait={first}"), &body).await?;
        let run: RunView = answer.json()?;
        if args.detach { Ok(run) } else { wait(&args.client, run).await }
    })?;
    if args.json {
        print_json(&run);
    } else if args.detach {
        print(run.run);
    }
    if args.detach {
        return Ok(ExitStatus::Ok);
    }
    match (&run.reply, &run.error) {
        (Some(reply), _) if !args.json => print(reply),
        (None, Some(error)) => {
            eprintln!("noclaw: {error}");
            eprintln!("hint: noclaw run show {}", run.run);
        }
        _ => {}
    }
    Ok(run.status.into())
}

/// Asks again until the run has ended. Ctrl-C ends the waiting, not the run.
async fn wait(client: &Client, mut run: RunView) -> Result<RunView, Failure> {
    let path = format!("/v1/runs/{}?wait={WAIT}", run.run);
    while !run.status.is_final() {
        run = tokio::select! {
            answer = client.get(&path) => answer?.json()?,
            _ = tokio::signal::ctrl_c() => {
                let message = format!("not waiting any longer; run {} goes on", run.run);
                let hint = format!("noclaw run show {}", run.run);
                return Err(Failure::new(ExitStatus::Cancelled, message).hint(hint));
            }
        };
    }
    Ok(run)
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
