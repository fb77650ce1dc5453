//! Those who send: they repeat the same request until it is accepted; some wait, some hang up, some
//! follow, cancel or retry what they have begun.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use super::ledger::{Ledger, Sent};
use super::random::Random;
use super::support::{Answer, Result, exchange, post, until};

const USERS: [&str; 3] = ["ada", "bob", "cyd"];
/// Between two messages of a sender, at most.
const PAUSE_MS: u64 = 1000;
/// Bytes of a large message: several pages of the database.
const LARGE: usize = 16_000;
/// Longer than any request of ours waits.
const SILENCE: Duration = Duration::from_secs(30);

/// What the round wants of its messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    Any,
    /// At least one calls a tool.
    Tool,
    /// At least one takes a while.
    Slow,
    /// All of them take room.
    Large,
}

pub struct Sender {
    pub socket: PathBuf,
    pub ledger: Ledger,
    pub random: Random,
    pub round: u64,
    pub number: usize,
    pub wish: Wish,
}

/// What a sender does with its message.
#[derive(Debug, Clone, Copy)]
enum Manner {
    Leave,
    Wait,
    HangUp,
    /// Hangs up and never comes back.
    Abandon,
    Follow,
    Cancel,
    CancelAndRetry,
}

impl Sender {
    /// Sends some messages, one after the other.
    pub fn send(mut self, messages: u64) -> Result {
        for n in 0..messages {
            let (sent, manner) = self.draw(n);
            if n > 0 {
                self.random.pass(PAUSE_MS);
            }
            let number = self.ledger.add(sent.clone());
            self.deliver(number, &sent, manner)?;
        }
        Ok(())
    }

    fn draw(&mut self, n: u64) -> (Sent, Manner) {
        let random = &mut self.random;
        let name = format!("m-{}-{}-{n}", self.round, self.number);
        let wish = if n == 0 && self.number == 0 { self.wish } else { Wish::Any };
        let steer = match (wish, random.below(100)) {
            (Wish::Tool, _) | (Wish::Any, 0..25) => {
                format!("!tool Bash {{\"command\":\"echo {name} >> /workspace/tools; echo done\"}}")
            }
            (Wish::Slow, _) => "!sleep 2".to_owned(),
            (_, 25..40) => "!sleep 0.2".to_owned(),
            (_, 40..55) => "!words 10".to_owned(),
            (_, 55..63) => "!error 400".to_owned(),
            _ => String::new(),
        };
        let size = if self.wish == Wish::Large { LARGE } else { 0 };
        let manner = match (wish, random.below(100)) {
            (Wish::Any, 0..8) => Manner::HangUp,
            (Wish::Any, 8..14) => Manner::Abandon,
            (Wish::Any, 14..26) => Manner::Follow,
            (Wish::Any, 26..34) => Manner::Cancel,
            (Wish::Any, 34..42) => Manner::CancelAndRetry,
            (Wish::Any, 42..60) => Manner::Wait,
            _ => Manner::Leave,
        };
        let conversation = match (wish, random.percent(50)) {
            // What is wished for shares its run with nothing that fails or is cancelled.
            (Wish::Tool | Wish::Slow, _) => "wish",
            (_, true) => "work",
            (_, false) => "home",
        };
        let user = USERS.get(self.number % USERS.len()).copied().unwrap_or("ada");
        let sent = Sent {
            user: user.to_owned(),
            conversation: conversation.to_owned(),
            text: format!("{name}\n{steer}\n{}", "x".repeat(size)).trim_end().to_owned(),
            tool: steer.starts_with("!tool"),
            hung_up: matches!(manner, Manner::HangUp | Manner::Abandon),
            name,
            run: None,
        };
        (sent, manner)
    }

    fn deliver(&mut self, number: usize, sent: &Sent, manner: Manner) -> Result {
        if sent.hung_up {
            self.hang_up(sent).ok();
        }
        if matches!(manner, Manner::Abandon) {
            return Ok(());
        }
        let wait = if matches!(manner, Manner::Wait) { 4 } else { 0 };
        let run = accepted(&self.socket, &self.ledger, sent, wait)?;
        self.ledger.named(number, &run)?;
        match manner {
            Manner::Follow => self.follow(&run),
            Manner::Cancel => drop(self.cancel(&run)),
            Manner::CancelAndRetry if self.cancel(&run) == Some(200) => {
                retry(&self.socket, &self.ledger, &run)?;
                retry(&self.socket, &self.ledger, &run)?;
            }
            _ => {}
        }
        Ok(())
    }

    /// Closes the connection somewhere in the request, or after it.
    fn hang_up(&mut self, sent: &Sent) -> Result {
        let request = request(sent, 4);
        let most = request.len();
        let far = usize::try_from(self.random.below(2 * most as u64))?.min(most);
        let mut stream = UnixStream::connect(&self.socket)?;
        Ok(stream.write_all(request.as_bytes().get(..far).unwrap_or_default())?)
    }

    /// Reads a run's events, as long as there are any.
    fn follow(&self, run: &str) {
        let request = format!("GET /v1/runs/{run}/events HTTP/1.1\r\nhost: n\r\n");
        let Ok(answer) = ask(&self.socket, &format!("{request}connection: close\r\n\r\n")) else {
            return;
        };
        let mut lines = answer.body.lines().skip_while(|line| *line != "event: result");
        let data = lines.find_map(|line| line.strip_prefix("data: "));
        let result: Option<Value> = data.and_then(|data| serde_json::from_str(data).ok());
        if let Some(status) = result.and_then(|run| Some(run.get("status")?.as_str()?.to_owned())) {
            self.ledger.told(run, &status, "events");
        }
    }

    /// Asks once; the service may die before it answers.
    fn cancel(&self, run: &str) -> Option<u16> {
        let request = format!("DELETE /v1/runs/{run} HTTP/1.1\r\nhost: n\r\n");
        let answer = ask(&self.socket, &format!("{request}connection: close\r\n\r\n")).ok()?;
        let status = answer.json().ok()?.get("status")?.as_str()?.to_owned();
        self.ledger.told(run, &status, "cancel");
        Some(answer.status)
    }
}

fn request(sent: &Sent, wait: u64) -> String {
    let key = format!("idempotency-key: {}\r\n", sent.name);
    post(&format!("/webhook?wait={wait}"), &key, &sent.body())
}

fn ask(socket: &Path, request: &str) -> Result<Answer> {
    let stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(SILENCE))?;
    exchange(stream, request.as_bytes())
}

/// Sends the same request until it is accepted, and returns the run.
pub fn accepted(socket: &Path, ledger: &Ledger, sent: &Sent, wait: u64) -> Result<String> {
    insist(&sent.name, socket, ledger, &request(sent, wait))
}

/// Has a run tried again, and returns the new one.
pub fn retry(socket: &Path, ledger: &Ledger, run: &str) -> Result {
    let request = post(&format!("/v1/runs/{run}/retry"), "", "");
    let new = insist(&format!("retry {run}"), socket, ledger, &request)?;
    ledger.retried(run, &new)
}

fn insist(what: &str, socket: &Path, ledger: &Ledger, request: &str) -> Result<String> {
    until(&format!("{what} is accepted"), || {
        let answer = ask(socket, request).ok()?;
        let Ok(json) = answer.json() else { return None };
        if let Some(run) = json.get("run").and_then(Value::as_str) {
            let status = json.get("status").and_then(Value::as_str).unwrap_or_default();
            ledger.told(run, status, "answer");
            return Some(Ok(run.to_owned()));
        }
        let problem = answer.problem().unwrap_or_default();
        ledger.refused(problem.clone());
        match problem.as_str() {
            "podman-unavailable" | "stopping" | "storage-full" => None,
            _ => Some(Err(format!("{what}: {answer:?}").into())),
        }
    })?
}
