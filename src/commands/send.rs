//! `noclaw send`: a message in, the reply on standard output and nothing else.

use std::io::{IsTerminal, Read};
use std::time::Duration;

use super::client::Client;
use super::{Ended, Failure, block_on, complain, print, print_json};
use crate::channels::view::RunView;
use crate::core::limits::MESSAGE_BYTES;
use crate::core::message::MessageBody;
use crate::core::problem::ExitStatus;

/// Seconds that one request waits; the next one goes on waiting.
const WAIT: u64 = 50;
/// A service that is started anew needs less than a second; one that ends its runs first, longer.
const PATIENCE: u32 = 50;
const AGAIN: Duration = Duration::from_millis(200);

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
    /// Have the agent forget the conversation so far
    #[arg(long)]
    new: bool,
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
        new: args.new,
    };
    let run: RunView = block_on(async {
        // Not waiting here: whatever happens later, its sender knows the run.
        let run: RunView = args.client.post("/webhook?wait=0", &body).await?.json()?;
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
            complain(error, Some(&format!("noclaw run show {}", run.run)));
        }
        _ => {}
    }
    Ok(run.status.into())
}

/// Asks again until the run has ended. Ctrl-C ends the waiting, not the run; a service that goes
/// away is given time to come back.
async fn wait(client: &Client, mut run: RunView) -> Result<RunView, Failure> {
    let path = format!("/v1/runs/{}?wait={WAIT}", run.run);
    let id = run.run;
    let goes_on = |status, why: &str| {
        let hint = format!("noclaw run show {id}");
        Failure::new(status, format!("{why}; accepted as run {id}")).hint(hint)
    };
    let mut failures = 0;
    while !run.status.is_final() {
        let asked = tokio::select! {
            answer = client.get(&path) => answer,
            _ = tokio::signal::ctrl_c() => {
                return Err(goes_on(ExitStatus::Cancelled, "not waiting any longer"));
            }
        };
        match asked.and_then(|answer| answer.json()) {
            Ok(newer) => (run, failures) = (newer, 0),
            Err(_) if failures < PATIENCE => {
                failures += 1;
                tokio::time::sleep(AGAIN).await;
            }
            Err(_) => return Err(goes_on(ExitStatus::Later, "the service went away")),
        }
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
