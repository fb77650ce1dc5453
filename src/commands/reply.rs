//! What `send`, `chat` and `run retry` have in common: a message that counts once, a wait for its
//! run's end that outlasts a restart, and the reply on standard output.

use std::time::Duration;

use uuid::Uuid;

use super::client::{Client, Miss};
use super::{Ended, Failure, complain, print, print_json};
use crate::channels::view::RunView;
use crate::core::ids::RunId;
use crate::core::message::MessageBody;
use crate::core::problem::ExitStatus;

/// Seconds that one request waits; the next one goes on waiting.
const WAIT: u64 = 50;
/// A service that is started anew needs less than a second; one that ends its runs first, longer.
const PATIENCE: u32 = 50;
const AGAIN: Duration = Duration::from_millis(if cfg!(test) { 2 } else { 200 });

/// Time for a service that went away to come back.
#[derive(Debug, Default)]
pub struct Patience {
    failures: u32,
}

impl Patience {
    /// Waits a little. An error when the service has been away for too long.
    pub async fn again(&mut self, miss: Miss) -> Result<(), Failure> {
        if self.failures >= PATIENCE {
            return Err(miss.into());
        }
        self.failures += 1;
        tokio::time::sleep(AGAIN).await;
        Ok(())
    }

    /// The service has answered.
    pub const fn is_back(&mut self) {
        self.failures = 0;
    }
}

/// Whom a message is from, and where it goes.
#[derive(Debug, clap::Args)]
pub struct Envelope {
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
    pub new: bool,
    #[command(flatten)]
    pub client: Client,
}

impl Envelope {
    /// The message in it.
    pub fn body(&self, message: String) -> MessageBody {
        MessageBody {
            user: self.user.clone(),
            message,
            context: None,
            conversation: self.conversation.clone(),
            model: self.model.clone(),
            new: self.new,
        }
    }
}

/// Asks for something that counts once, under a key that nothing else has: if the connection is
/// lost before the answer, it is asked for again under the same key.
pub async fn once<T>(ask: impl AsyncFn(&str) -> Result<T, Miss>) -> Result<T, Failure> {
    let key = Uuid::new_v4().to_string();
    let mut patience = Patience::default();
    let mut asked = false;
    loop {
        match ask(&key).await {
            Ok(answer) => return Ok(answer),
            Err(Miss::Refused(failure)) => return Err(failure),
            // Nobody was there to begin with.
            Err(Miss::Absent(failure)) if !asked => return Err(failure),
            Err(miss) => patience.again(miss).await?,
        }
        asked = true;
    }
}

/// Has a message accepted.
pub async fn deliver(client: &Client, body: &MessageBody) -> Result<RunView, Failure> {
    // Not waiting here: whatever happens later, its sender knows the run.
    once(async |key| client.post_once("/webhook?wait=0", key, body).await).await?.json()
}

/// Asks again until the run has ended. Ctrl-C ends the waiting, not the run; a service that goes
/// away is given time to come back.
pub async fn wait(client: &Client, mut run: RunView) -> Result<RunView, Failure> {
    let path = format!("/v1/runs/{}?wait={WAIT}", run.run);
    let id = run.run;
    let mut patience = Patience::default();
    while !run.status.is_final() {
        let asked = tokio::select! {
            answer = client.get(&path) => answer,
            _ = tokio::signal::ctrl_c() => {
                return Err(goes_on(id, ExitStatus::Cancelled, "not waiting any longer"));
            }
        };
        match asked {
            Ok(answer) => run = answer.json()?,
            Err(Miss::Refused(failure)) => return Err(failure),
            Err(miss) => {
                let went = |_| goes_on(id, ExitStatus::Later, "the service went away");
                patience.again(miss).await.map_err(went)?;
                continue;
            }
        }
        patience.is_back();
    }
    Ok(run)
}

/// Nobody waits any longer for a run that goes on.
pub fn goes_on(run: RunId, status: ExitStatus, why: &str) -> Failure {
    let hint = format!("noclaw run show {run}");
    Failure::new(status, format!("{why}; accepted as run {run}")).hint(hint)
}

/// Prints the reply, or why there is none, and returns the run's end as an exit status.
pub fn show(run: &RunView, json: bool) -> Ended {
    match (&run.reply, &run.error) {
        _ if json => print_json(run),
        (Some(reply), _) => print(reply),
        (None, Some(error)) => {
            complain(error, Some(&format!("noclaw run show {}", run.run)));
        }
        _ => {}
    }
    Ok(run.status.into())
}
