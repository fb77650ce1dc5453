//! Floor 3: the command line, one file a subcommand. Data goes to standard output, everything else
//! to standard error; an error is one line, with a `hint:` line where there is something to do.

mod chat;
mod client;
mod demo_model;
mod doctor;
mod generate;
mod halt;
mod history;
mod image;
mod logs;
mod mount;
mod news;
mod notice;
mod places;
mod progress;
mod reply;
mod run;
mod send;
mod serve;
mod setup;
mod status;
mod stream;
mod token;
mod user;

use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::{Parser, Subcommand};

use crate::core::ids::InvalidId;
use crate::core::plan::Controller;
use crate::core::problem::{ExitStatus, Problem, chain};
use crate::gateway::key::{ApiKey, KEY_BYTES};
use crate::host::owned;

/// A personal assistant that answers every message in a fresh, measured rootless container.
///
/// Without a command: what happened since you last looked.
#[derive(Debug, Parser)]
#[command(name = "noclaw", version, max_term_width = 100, args_conflicts_with_subcommands = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    news: news::Args,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Set it up for you: from installed to the first reply
    Setup(setup::Args),
    /// Run the service
    Serve(Box<serve::Args>),
    /// Send a message and print the reply
    Send(send::Args),
    /// Speak with the assistant; replies appear as they are written
    Chat(chat::Args),
    /// Look at runs, cancel them, try them again
    #[command(subcommand)]
    Run(run::Command),
    /// Show the messages of a user, and what was replied
    History(history::Args),
    /// Make, change and remove users
    #[command(subcommand)]
    User(user::Command),
    /// Look at what may be granted of your own folders
    #[command(subcommand)]
    Mount(mount::Command),
    /// Make and look at the image of the cells
    #[command(subcommand)]
    Image(image::Command),
    /// Make and remove tokens for HTTP over TCP
    #[command(subcommand)]
    Token(token::Command),
    /// Let nothing go on: end what is running, begin nothing, reach no model
    Halt(halt::Args),
    /// Take a halt back: what waits begins
    Unhalt(halt::UnhaltArgs),
    /// What the service is and does
    Status(status::Args),
    /// Check what this machine needs to run NoClaw
    Doctor(doctor::Args),
    /// Show the log of a service that systemd runs, by run, task or user
    Logs(logs::Args),
    /// Serve the demo model: a small deterministic stand-in for the Messages API
    DemoModel(demo_model::Args),
    /// Make man pages and completions
    #[command(subcommand)]
    Generate(generate::Command),
    /// What systemd calls when a unit has failed
    #[command(subcommand, hide = true)]
    Notice(notice::Command),
}

/// Why a command failed: what is printed, and the exit status.
#[derive(Debug)]
pub struct Failure {
    status: ExitStatus,
    message: String,
    hint: Option<String>,
}

impl Failure {
    fn new(status: ExitStatus, message: impl std::fmt::Display) -> Self {
        Self { status, message: message.to_string(), hint: None }
    }

    /// An error with its causes.
    fn of(status: ExitStatus, error: &dyn std::error::Error) -> Self {
        Self::new(status, chain(error))
    }

    fn hint(mut self, hint: impl std::fmt::Display) -> Self {
        self.hint = Some(hint.to_string());
        self
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        let again = |seconds| format!("try again in {seconds} s");
        let hint = problem.hint.or_else(|| problem.retry_after.map(again));
        Self { status: problem.kind.exit(), message: problem.detail, hint }
    }
}

/// What a command ends with: an exit status, or a failure that is printed first.
type Ended = Result<ExitStatus, Failure>;

/// Parses the command line, carries it out, and returns the exit status.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are answers, not errors.
            let status = if error.use_stderr() { ExitStatus::Usage } else { ExitStatus::Ok };
            error.print().ok();
            return ExitCode::from(status as u8);
        }
    };
    let ended = match cli.command {
        None => news::run(&cli.news),
        Some(Command::Serve(args)) => serve::run(*args),
        Some(Command::Send(args)) => send::run(&args),
        Some(Command::Chat(args)) => chat::run(args),
        Some(Command::Run(command)) => run::run(command),
        Some(Command::History(args)) => history::run(&args),
        Some(Command::User(command)) => user::run(command),
        Some(Command::Mount(command)) => mount::run(command),
        Some(Command::Image(command)) => image::run(command),
        Some(Command::Token(command)) => token::run(command),
        Some(Command::Halt(args)) => halt::run(args),
        Some(Command::Unhalt(args)) => halt::unhalt(&args),
        Some(Command::Status(args)) => status::run(&args),
        Some(Command::Doctor(args)) => doctor::run(&args),
        Some(Command::Logs(args)) => logs::run(&args),
        Some(Command::Setup(args)) => setup::run(&args),
        Some(Command::Generate(command)) => generate::run(command),
        Some(Command::DemoModel(args)) => demo_model::run(&args),
        Some(Command::Notice(command)) => notice::run(&command),
    };
    let status = match ended {
        // What nobody could read was not done.
        Ok(ExitStatus::Ok) if OUTPUT_FAILED.load(Ordering::Relaxed) => ExitStatus::Failed,
        Ok(status) => status,
        Err(failure) => {
            complain(&failure.message, failure.hint.as_deref());
            failure.status
        }
    };
    ExitCode::from(status as u8)
}

/// Standard output could not be written.
static OUTPUT_FAILED: AtomicBool = AtomicBool::new(false);
/// The reader of standard output has gone away. That is no error, but nobody has read it.
static READER_GONE: AtomicBool = AtomicBool::new(false);

/// Whether everything that was printed has reached its reader, as far as this process can know.
fn all_printed() -> bool {
    !OUTPUT_FAILED.load(Ordering::Relaxed) && !READER_GONE.load(Ordering::Relaxed)
}

/// Reads the model's key from its file.
fn read_key(file: &Path, credentials: Option<&Path>) -> Result<ApiKey, Failure> {
    let bytes = owned::secret(file, KEY_BYTES, credentials);
    let bytes = bytes.map_err(|error| Failure::of(ExitStatus::Config, &error))?;
    ApiKey::parse(&bytes).map_err(|error| {
        Failure::new(ExitStatus::Config, format!("the key file {} {error}", file.display()))
    })
}

/// Reads the name of a limit to do without; an empty one is none.
fn limit(name: &str) -> Result<String, String> {
    let known = |error: InvalidId| error.to_string();
    accepted_one(name).map_err(known).map(|_| name.to_owned())
}

fn accepted_one(name: &str) -> Result<Option<Controller>, InvalidId> {
    match name {
        "" => Ok(None),
        name => name.parse().map(Some),
    }
}

/// The controllers that the owner does without, by their names. An empty variable names none.
fn accepted(names: &[String]) -> Result<Vec<Controller>, Failure> {
    let named = names.iter().filter_map(|name| accepted_one(name).transpose());
    named.collect::<Result<Vec<_>, _>>().map_err(|error| Failure::of(ExitStatus::Usage, &error))
}

/// Runs a client's or a small server's future to its end, on this thread.
fn block_on<T>(future: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| Failure::of(ExitStatus::Failed, &error))?.block_on(future)
}

/// Writes an error, and what to do about it, to standard error. It may hold words of an agent's.
fn complain(message: &str, hint: Option<&str>) {
    eprintln!("noclaw: {}", harmless(message));
    if let Some(hint) = hint {
        eprintln!("hint: {}", harmless(hint));
    }
}

/// Writes data to standard output, to a terminal without what would steer it. A reader that has
/// gone away is no error; any other failure is told once, and is the command's ([`main`]).
fn print(text: impl std::fmt::Display) {
    print_part(&format!("{text}\n"));
}

/// Writes a part of a text to standard output, as [`print()`] does a whole one.
fn print_part(text: &str) {
    use std::io::{IsTerminal, Write};
    let mut out = std::io::stdout().lock();
    let shown = if out.is_terminal() { harmless(text) } else { text.to_owned() };
    match out.write_all(shown.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {
            READER_GONE.store(true, Ordering::Relaxed);
        }
        Err(error) => {
            if !OUTPUT_FAILED.swap(true, Ordering::Relaxed) {
                let hint = "is there room where it goes? `noclaw run list` still has the replies";
                complain(&format!("standard output cannot be written: {error}"), Some(hint));
            }
        }
    }
}

/// A text in which control characters, but newline and tab, are only shown: a terminal obeys them,
/// and an agent could have written them. So are those that turn the direction of writing: they make
/// what is read something else than what is there.
fn harmless(text: &str) -> String {
    let shown = |c: char| match c {
        '\n' | '\t' => c.to_string(),
        '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}' | '\u{61c}' => {
            c.escape_unicode().to_string()
        }
        c if c.is_control() => c.escape_default().to_string(),
        c => c.to_string(),
    };
    text.chars().map(shown).collect()
}

/// A moment as a person's clock shows it.
fn local(moment: jiff::Timestamp) -> impl std::fmt::Display {
    let zoned = moment.to_zoned(jiff::tz::TimeZone::system());
    zoned.strftime("%Y-%m-%d %H:%M:%S").to_string()
}

/// Writes a value as JSON.
fn print_json(value: &impl serde::Serialize) {
    print(serde_json::to_string_pretty(value).unwrap_or_default());
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_steers_a_terminal_is_only_shown() {
        assert_eq!(super::harmless("a\tb\nc"), "a\tb\nc");
        let shown = super::harmless("\u{1b}]0;pwned\u{7}\r\u{9b}31m");
        assert_eq!(shown, "\\u{1b}]0;pwned\\u{7}\\r\\u{9b}31m");
        for turns in ('\u{202a}'..='\u{202e}').chain('\u{2066}'..='\u{2069}') {
            assert_eq!(super::harmless(&turns.to_string()), turns.escape_unicode().to_string());
        }
        assert_eq!(super::harmless("\u{200e}\u{200f}\u{61c}"), "\\u{200e}\\u{200f}\\u{61c}");
        // Words that are written from right to left need none of these.
        assert_eq!(super::harmless("שלום – سلام"), "שלום – سلام");
    }
}
