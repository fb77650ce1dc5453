//! `noclaw chat`: a line in, the reply as it is written. Ctrl-C cancels the run, a second one
//! leaves.

use std::io::{BufRead, IsTerminal, Result as Read};

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
        Chat { args, interrupt, lines: lines(), read: 0, last: ExitStatus::Ok }.go().await
    })
}

/// Standard input, line by line, from a thread of its own: reading it cannot be given up. Whether a
/// line is a text is not judged here, so that no line is lost on the way.
fn lines() -> mpsc::Receiver<Read<Vec<u8>>> {
    let (sender, lines) = mpsc::channel(1);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().split(b'\n') {
            // After an error nothing more can be read.
            let over = line.is_err();
            if sender.blocking_send(line).is_err() || over {
                return;
            }
        }
    });
    lines
}

/// The text of a line.
fn text(number: u64, mut line: Vec<u8>) -> Result<String, Failure> {
    line.pop_if(|last| *last == b'\r');
    String::from_utf8(line).map_err(|error| {
        let byte = error.utf8_error().valid_up_to() + 1;
        let message = format!("line {number} of standard input is not UTF-8, from byte {byte} on");
        Failure::new(ExitStatus::Data, message)
            .hint("nothing of this line was sent; `iconv -t UTF-8` converts a text")
    })
}

fn unread(error: &std::io::Error) -> Failure {
    Failure::new(ExitStatus::Data, format!("standard input cannot be read: {error}"))
}

struct Chat {
    args: Args,
    interrupt: Signal,
    lines: mpsc::Receiver<Read<Vec<u8>>>,
    // Lines so far.
    read: u64,
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
                Some(Err(error)) => return Err(unread(&error)),
                Some(Ok(line)) => match self.hear(line).await {
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

    /// A line of standard input. An empty one says nothing.
    async fn hear(&mut self, line: Vec<u8>) -> Ended {
        self.read += 1;
        let line = text(self.read, line)?;
        if line.trim().is_empty() { Ok(self.last) } else { self.say(line).await }
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
        let mut patience = Patience::default();
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
            let client = &self.args.envelope.client;
            let run = match told {
                Some(Told::Result(run)) => run,
                Some(told) => {
                    patience.is_back();
                    said.hear(told);
                    continue;
                }
                None => match again(client, run, stream.last(), &mut patience).await? {
                    Back::Stream(more) => {
                        stream = more;
                        continue;
                    }
                    Back::Over(run) => run,
                },
            };
            said.end(&run);
            return Ok(*run);
        }
    }
}

/// What a run is when it is followed again.
enum Back {
    Stream(Stream),
    /// Its result has been told to us before.
    Over(Box<RunView>),
}

/// Follows a run again after its stream has ended without a result. Only an event gives `patience`
/// back: a service may take every connection and end it at once.
async fn again(
    client: &Client,
    run: RunId,
    last: Option<&str>,
    patience: &mut Patience,
) -> Result<Back, Failure> {
    let mut miss = Miss::Lost(Failure::new(ExitStatus::Unavailable, "the stream ended"));
    loop {
        let went = |_| reply::goes_on(run, ExitStatus::Later, "the service went away");
        patience.again(miss).await.map_err(went)?;
        let answer = match client.follow(run, last).await {
            Ok(Some(stream)) => return Ok(Back::Stream(stream)),
            Ok(None) => client.get(&format!("/v1/runs/{run}")).await,
            Err(miss) => Err(miss),
        };
        match answer {
            Ok(answer) => return Ok(Back::Over(answer.json()?)),
            Err(Miss::Refused(failure)) => return Err(failure),
            Err(missed) => miss = missed,
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

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write};
    use std::os::unix::net::UnixListener;
    use std::path::Path;

    use super::*;

    type Checked = std::result::Result<(), Box<dyn std::error::Error>>;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    /// A service that answers every connection with the next of these, and with the last for ever.
    fn serve(socket: &Path, answers: Vec<String>) -> std::io::Result<mpsc::Receiver<String>> {
        let listener = UnixListener::bind(socket)?;
        let (sender, requests) = mpsc::channel(1000);
        std::thread::spawn(move || {
            let last = answers.last().cloned();
            for answer in
                answers.into_iter().chain(std::iter::repeat_with(|| last.clone()).flatten())
            {
                let (mut stream, _) = listener.accept()?;
                let mut request = [0; 4096];
                let read = stream.read(&mut request)?;
                let request = String::from_utf8_lossy(request.get(..read).unwrap_or_default());
                sender.blocking_send(request.into_owned()).ok();
                stream.write_all(answer.as_bytes())?;
            }
            std::io::Result::Ok(())
        });
        Ok(requests)
    }

    const RUN: &str = "01a00000-0000-7000-8000-000000000000";

    fn stream(events: &str) -> String {
        let kind = "content-type: text/event-stream";
        format!("HTTP/1.1 200 OK\r\n{kind}\r\nlocation: /v1/runs/{RUN}\r\n\r\n{events}")
    }

    fn delta(number: u32) -> String {
        format!("id: {RUN}:{number}\nevent: delta\ndata: {{\"text\":\"\"}}\n\n")
    }

    async fn say(socket: &Path) -> std::result::Result<Ended, Box<dyn std::error::Error>> {
        let socket = socket.display().to_string();
        let Line { args } = clap::Parser::try_parse_from(["chat", "--socket", &socket])?;
        let interrupt = signal(SignalKind::interrupt())?;
        let (_, lines) = mpsc::channel(1);
        let mut chat = Chat { args, interrupt, lines, read: 0, last: ExitStatus::Ok };
        Ok(chat.hear(b"hello".to_vec()).await)
    }

    fn last_seen(request: &str) -> Option<&str> {
        request.lines().find_map(|line| line.strip_prefix("last-event-id: "))
    }

    #[test]
    fn a_line_that_is_no_text_says_where() -> Checked {
        assert_eq!(
            text(1, b"gr\xc3\xbc\xc3\x9fe\r".to_vec()).ok().as_deref(),
            Some("gr\u{fc}\u{df}e")
        );
        let failure = text(7, b"ab\xe4".to_vec()).err().ok_or("read")?;
        assert_eq!(failure.status, ExitStatus::Data);
        assert_eq!(failure.message, "line 7 of standard input is not UTF-8, from byte 3 on");
        Ok(())
    }

    #[tokio::test]
    async fn streams_that_end_at_once_are_not_followed_for_ever() -> Checked {
        let dir = tempfile::tempdir()?;
        let socket = dir.path().join("socket");
        let answers = vec![stream(&delta(1)), stream(""), stream(&delta(2)), stream("")];
        let mut requests = serve(&socket, answers)?;
        let failure = say(&socket).await?.err().ok_or("it ended")?;
        assert_eq!(failure.status, ExitStatus::Later);
        assert!(failure.message.ends_with(&format!("accepted as run {RUN}")), "{failure:?}");
        let mut seen = Vec::new();
        while let Ok(request) = requests.try_recv() {
            seen.push(last_seen(&request).map(str::to_owned));
        }
        // The event in between gave it all its patience back.
        assert_eq!(seen.len(), 1 + 2 + 50);
        let ids = [None, Some(1), Some(1), Some(2), Some(2)];
        let ids = ids.map(|id| id.map(|number| format!("{RUN}:{number}")));
        assert_eq!(seen.get(..5), Some(&ids[..]), "what was seen is not asked for again");
        Ok(())
    }

    #[tokio::test]
    async fn a_result_that_was_told_before_is_fetched() -> Checked {
        let dir = tempfile::tempdir()?;
        let socket = dir.path().join("socket");
        let run = serde_json::json!({"run": RUN, "status": "failed", "user": "owner",
            "conversation": "main", "attempts": 1, "error": "internal: x", "cost_usd": 0.0,
            "created_at": "2026-11-22T10:00:00Z", "usage": crate::core::money::Usage::default()});
        let run = run.to_string();
        let json = format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n{run}");
        let nothing = "HTTP/1.1 204 No Content\r\n\r\n".to_owned();
        let mut requests = serve(&socket, vec![stream(&delta(1)), nothing, json])?;
        assert_eq!(say(&socket).await?.ok(), Some(ExitStatus::Failed));
        let mut last = String::new();
        while let Ok(request) = requests.try_recv() {
            last = request;
        }
        assert!(last.starts_with(&format!("GET /v1/runs/{RUN} HTTP")), "{last}");
        Ok(())
    }
}
