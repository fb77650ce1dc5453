//! `noclaw chat`: a line in, the reply as it is written. Ctrl-C cancels the run, a second one
//! leaves.

use std::io::{BufRead, IsTerminal};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use super::client::{Client, Miss};
use super::reply::{self, Envelope, Patience};
use super::stream::{Stream, Told};
use super::{Ended, Failure, block_on, complain, harmless, print_part};
use crate::channels::view::RunView;
use crate::core::ids::RunId;
use crate::core::problem::ExitStatus;
use crate::core::run::RunState;

/// `noclaw chat`
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    envelope: Envelope,
}

/// Speaks until the end of standard input. Where that is no terminal, each line is a message, and
/// the exit status is the last one's.
pub fn run(args: Args) -> Ended {
    block_on(async {
        let failed = |error: std::io::Error| Failure::of(ExitStatus::Failed, &error);
        let interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
        Chat { args, interrupt, lines: lines(), last: ExitStatus::Ok }.go().await
    })
}

/// Standard input, line by line, from a thread of its own: reading it cannot be given up.
fn lines() -> mpsc::Receiver<String> {
    let (sender, lines) = mpsc::channel(1);
    std::thread::spawn(move || {
        let read = std::io::stdin().lock().lines().map_while(Result::ok);
        read.into_iter().try_for_each(|line| sender.blocking_send(line))
    });
    lines
}

struct Chat {
    args: Args,
    interrupt: Signal,
    lines: mpsc::Receiver<String>,
    last: ExitStatus,
}

impl Chat {
    async fn go(mut self) -> Ended {
        let terminal = std::io::stdin().is_terminal();
        if terminal {
            eprintln!("Ctrl-C cancels what is being answered, Ctrl-D ends.");
        }
        loop {
            if terminal {
                eprint!("you> ");
            }
            let line = tokio::select! {
                line = self.lines.recv() => line,
                _ = self.interrupt.recv() => {
                    eprintln!();
                    return Ok(ExitStatus::Cancelled);
                }
            };
            match line {
                Some(line) if line.trim().is_empty() => {}
                Some(line) => match self.say(line).await {
                    Ok(status) => self.last = status,
                    // What is wrong with one message need not be with the next.
                    Err(failure) if terminal && failure.status != ExitStatus::Cancelled => {
                        complain(&failure.message, failure.hint.as_deref());
                    }
                    Err(failure) => return Err(failure),
                },
                None => {
                    if terminal {
                        eprintln!();
                    }
                    return Ok(if terminal { ExitStatus::Ok } else { self.last });
                }
            }
        }
    }

    async fn say(&mut self, message: String) -> Ended {
        let body = self.args.envelope.body(message);
        let client = &self.args.envelope.client;
        let stream = reply::once(async |key| client.post_and_follow(key, &body).await).await?;
        // Said once: what follows belongs to the conversation that began.
        self.args.envelope.new = false;
        let run = self.listen(stream).await?;
        Ok(run.status.into())
    }

    /// Prints the reply as it comes, to its end.
    async fn listen(&mut self, mut stream: Stream) -> Result<RunView, Failure> {
        let run = stream.run().ok_or_else(|| {
            Failure::new(ExitStatus::Failed, "the service did not name the run")
                .hint("service and client differ in version?")
        })?;
        let mut said = Said::default();
        let mut cancelled = false;
        loop {
            let told = tokio::select! {
                told = stream.next() => told,
                _ = self.interrupt.recv() => {
                    if cancelled {
                        said.break_line();
                        return Err(reply::goes_on(run, ExitStatus::Cancelled, "left"));
                    }
                    cancelled = true;
                    said.break_line();
                    eprintln!("cancelling; Ctrl-C again leaves");
                    cancel(self.args.envelope.client.clone(), run);
                    continue;
                }
            };
            match told {
                Some(Told::Result(run)) => {
                    said.end(&run);
                    return Ok(*run);
                }
                Some(told) => said.hear(told),
                None => stream = again(&self.args.envelope.client, run, stream.last()).await?,
            }
        }
    }
}

/// Follows a run again after the connection was lost.
async fn again(client: &Client, run: RunId, last: Option<&str>) -> Result<Stream, Failure> {
    let mut patience = Patience::default();
    loop {
        match client.follow(run, last).await {
            Ok(stream) => return Ok(stream),
            Err(Miss::Refused(failure)) => return Err(failure),
            Err(miss) => {
                let went = |_| reply::goes_on(run, ExitStatus::Later, "the service went away");
                patience.again(miss).await.map_err(went)?;
            }
        }
    }
}

/// Cancels the run; its result tells how that ended.
fn cancel(client: Client, run: RunId) {
    tokio::spawn(async move {
        match client.delete(&format!("/v1/runs/{run}")).await {
            Ok(_) => {}
            Err(miss) => {
                let failure = Failure::from(miss);
                complain(&failure.message, failure.hint.as_deref());
            }
        }
    });
}

/// What was printed of a reply.
#[derive(Default)]
struct Said {
    // Since the last tool, or from the beginning.
    text: String,
    attempts: u32,
}

impl Said {
    fn hear(&mut self, told: Told) {
        match told {
            Told::Delta(delta) => {
                print_part(&delta.text);
                self.text.push_str(&delta.text);
            }
            Told::Tool(tool) => {
                self.break_line();
                eprintln!("[{}: {}]", harmless(&tool.name), harmless(&tool.summary));
            }
            Told::State(state) => {
                if self.attempts != 0 && state.attempts > self.attempts {
                    self.break_line();
                    eprintln!("[begun again]");
                }
                self.attempts = state.attempts;
            }
            Told::Result(_) => {}
        }
    }

    /// Prints what is left of the reply, or why there is none.
    fn end(&mut self, run: &RunView) {
        match (&run.reply, &run.error) {
            (Some(reply), _) => match reply.strip_prefix(self.text.as_str()) {
                Some(rest) => print_part(&format!("{rest}\n")),
                None => {
                    self.break_line();
                    print_part(&format!("{reply}\n"));
                }
            },
            (None, error) => {
                self.break_line();
                if run.status == RunState::Cancelled {
                    eprintln!("[cancelled]");
                } else {
                    let hint = format!("noclaw run show {}", run.run);
                    complain(error.as_deref().unwrap_or("no reply"), Some(&hint));
                }
            }
        }
    }

    fn break_line(&mut self) {
        if !self.text.is_empty() {
            print_part("\n");
        }
        self.text.clear();
    }
}
