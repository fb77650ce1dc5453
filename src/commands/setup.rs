//! `noclaw setup`: from installed to the first reply. What can be known to go wrong is looked at
//! before anything is changed (`before.rs`); then each step looks whether it is done, does what is
//! missing, and says so in a line. So it can be run again, and then changes nothing.
//!
//! | step | what it makes so | when it cannot |
//! |---|---|---|
//! | you | an ordinary user, whose service manager runs | it ends: as root, `--user NAME` |
//! | (questions) | at a terminal: what no flag has said | it ends; nothing was changed |
//! | linger | the service goes on while you are logged out | a warning |
//! | storage | Podman stores by overlay, from its first use on | it ends, with what to do |
//! | podman | Podman's socket is on | it ends |
//! | machine | what `noclaw doctor` checks, but key and image | it ends, after the failed check |
//! | key | a key that the model's side takes, in a file of yours; or the demo model | it ends |
//! | settings | what was answered, as a drop-in of the service, which has it | it ends |
//! | image | loaded from a file, or built | it ends |
//! | socket | the service's socket is on | it ends |
//! | zone | your own user's time zone | it ends |
//! | message | a first message has its reply | it ends |

pub(super) mod answers;
mod ask;
mod before;
mod key;
mod machine;
mod owner;
mod user;

use std::fmt::Display;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use self::answers::{Answers, dollars};
use self::ask::{Question, ask};
use self::owner::Zone;
use super::{Ended, Failure, limit, print};
use crate::core::problem::ExitStatus;
use crate::gateway::key::ApiKey;

/// Instead of an image's file: standard input.
const STANDARD: &str = "-";
/// How often the first message is sent at most.
const HELLOS: u32 = 3;

/// `noclaw setup`
#[derive(Debug, Default, Clone, clap::Args)]
pub struct Args {
    /// Ask nothing: what is not said here stays as it is, or is as usual
    #[arg(long)]
    yes: bool,
    /// Take the built-in stand-in for the model, which needs no key
    #[arg(long, conflicts_with = "api_key_file")]
    demo: bool,
    /// The file that holds the key; it is copied to your configuration
    #[arg(long, value_name = "FILE")]
    api_key_file: Option<PathBuf>,
    /// The Messages API, if it is another one
    #[arg(long, value_name = "URL", conflicts_with = "demo")]
    model_api: Option<String>,
    /// The model of a message that names none
    #[arg(long, value_name = "MODEL")]
    model: Option<String>,
    /// US dollars that all users may spend a day
    #[arg(long, value_name = "USD", value_parser = dollars)]
    budget: Option<f64>,
    /// Your time zone, as Europe/Berlin; an empty one is the machine's
    #[arg(long, value_name = "ZONE")]
    zone: Option<Zone>,
    /// An image that `noclaw image save` has written, instead of building one
    #[arg(long, value_name = "FILE")]
    image: Option<PathBuf>,
    /// Limits to do without, as for `serve`
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = limit)]
    accept_without: Option<Vec<String>>,
    /// As root: set it up for this user
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// Turn it off again, and say what stays
    #[arg(
        long,
        conflicts_with_all = [
            "demo", "api_key_file", "model_api", "model", "budget", "zone", "image",
            "accept_without"
        ]
    )]
    undo: bool,
}

/// What became of a step.
enum Done {
    /// It was so already.
    Already(String),
    /// It was done now.
    Now(String),
    /// It is not so, and need not be.
    Not(String, String),
}

type Step = Result<Done, Failure>;

/// Sets up, or undoes it.
pub fn run(args: &Args) -> Ended {
    match (&args.user, nix::unistd::geteuid().is_root()) {
        (Some(user), true) => return user::become_user(user, args),
        (None, true) => {
            let message = "noclaw is set up for a user, never for root";
            return Err(Failure::new(ExitStatus::NotAllowed, message)
                .hint("as that user: noclaw setup; or as root: noclaw setup --user NAME"));
        }
        (Some(_), false) => {
            let message = "--user is for root";
            return Err(Failure::new(ExitStatus::Usage, message).hint("leave it out"));
        }
        (None, false) => {}
    }
    before::flags(args)?;
    tell("you", machine::manager())?;
    match args.undo {
        true => undo(),
        false => set_up(args),
    }
}

fn set_up(args: &Args) -> Ended {
    before::check(args)?;
    let mut answers = Answers::now();
    answers.take(args);
    let mut zone = args.zone.clone();
    let typed = questions(&mut answers, &mut zone, args)?;
    key::is_named(&answers, args, typed.as_ref())?;
    let mut is_new = tell("linger", machine::linger())?;
    is_new |= tell("storage", machine::storage())?;
    is_new |= tell("podman", machine::podman())?;
    tell("machine", machine::check(&answers.accepted()))?;
    let key_is_new = tell("key", key::keep(&mut answers, args, typed))?;
    let changed = answers.write()?;
    let taken = machine::settings(key_is_new || changed.is_new())?;
    is_new |= tell("settings", Ok(changed.told()))? | key_is_new | taken;
    is_new |= tell("image", image(args))?;
    is_new |= tell("socket", machine::socket())?;
    is_new |= tell("zone", owner::zone(zone.as_ref()))?;
    if !is_new && owner::was_answered()? {
        tell("message", Ok(Done::Already("answered before: noclaw history".to_owned())))?;
        eprintln!("\nnothing was changed: noclaw is set up.");
        return Ok(ExitStatus::Ok);
    }
    say_hello()?;
    eprintln!("\nnoclaw is set up. What to do next:");
    for (command, what) in [
        ("noclaw send \"…\"", "a message; `noclaw chat` for more than one"),
        ("noclaw doctor --escape", "attack a cell on this machine, and see it hold"),
        ("noclaw mount list", "let cells see folders of yours"),
        (
            "systemctl --user stop noclaw && systemctl --user enable --now noclaw-http.socket",
            "HTTP on this machine, by token; systemd gives no socket to a service that runs",
        ),
        ("noclaw setup --undo", "turn it off again"),
    ] {
        eprintln!("  {command:<50} {what}");
    }
    Ok(ExitStatus::Ok)
}

/// Asks whoever sits at a terminal for what no flag has said; a key that was typed is returned.
fn questions(
    answers: &mut Answers,
    zone: &mut Option<Zone>,
    args: &Args,
) -> Result<Option<ApiKey>, Failure> {
    if !key::is_asked(args) {
        return Ok(None);
    }
    let prices = answers::prices()?;
    let typed = key::ask(answers, args)?;
    let (mut input, mut output) = (std::io::stdin().lock(), std::io::stderr());
    answers.ask(args, &prices, (&mut input, &mut output))?;
    if zone.is_none() {
        let usual = owner::zone_before()?.to_string();
        let about = "The time zone that you live in: what time it is there, the agent is told.";
        let question = Question { about, word: "zone", usual: &usual };
        *zone = ask((&mut input, &mut output), &question, str::parse)?;
    }
    eprintln!();
    Ok(typed)
}

fn undo() -> Ended {
    tell("socket", machine::no_socket())?;
    if tell("settings", answers::remove())? {
        machine::asked("systemctl", &["--user", "daemon-reload"])?;
    }
    print("What stays, and how it goes:");
    for (what, how) in machine::what_stays()? {
        print(format_args!("  {what:<40} {how}"));
    }
    Ok(ExitStatus::Ok)
}

fn image(args: &Args) -> Step {
    if is_fresh()? {
        return Ok(Done::Already("there is one of this recipe".to_owned()));
    }
    match &args.image {
        Some(file) => own(&["image", "load", &file.to_string_lossy()])?,
        None => own(&["image", "build"])?,
    }
    if is_fresh()? {
        return Ok(Done::Now("it is there, and has passed its self-test".to_owned()));
    }
    let hint = "the service makes its own when it starts; or save one by this version of noclaw";
    Ok(Done::Not("it is of another recipe than this version's".to_owned(), hint.to_owned()))
}

/// Whether the image that serves is of this version's recipe.
fn is_fresh() -> Result<bool, Failure> {
    let mut command = Command::new(program()?);
    command.args(["image", "status"]).stdin(Stdio::null());
    let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
    Ok(status.is_ok_and(|status| status.success()))
}

/// The first message. Refused for now, it is sent again: a Podman that has just stored an image may
/// take long to answer.
fn say_hello() -> Result<(), Failure> {
    let refused = [ExitStatus::Unavailable, ExitStatus::Later].map(|status| status as i32);
    let mut left = HELLOS;
    loop {
        eprintln!("message    > hello");
        let status = ran(&["send", "hello"])?.code();
        left -= 1;
        match status {
            Some(0) => return Ok(()),
            Some(status) if left > 0 && refused.contains(&status) => {}
            _ => return Err(failed(&["send", "hello"])),
        }
    }
}

/// This program, for what it has as a command.
fn own(args: &[&str]) -> Result<(), Failure> {
    match ran(args)?.success() {
        true => Ok(()),
        false => Err(failed(args)),
    }
}

fn ran(args: &[&str]) -> Result<std::process::ExitStatus, Failure> {
    let status = Command::new(program()?).args(args).status();
    status.map_err(|error| Failure::of(ExitStatus::Failed, &error))
}

fn failed(args: &[&str]) -> Failure {
    let message = format!("noclaw {} has failed", args.join(" "));
    Failure::new(ExitStatus::Failed, message).hint("it says above why")
}

fn program() -> Result<PathBuf, Failure> {
    std::env::current_exe().map_err(|error| Failure::of(ExitStatus::Failed, &error))
}

/// Says what became of a step; returns whether it has changed anything.
fn tell(step: &str, done: Step) -> Result<bool, Failure> {
    let line = |mark: &str, what: &dyn Display| eprintln!("{step:<10} {mark:<5} {what}");
    let done = done?;
    match &done {
        Done::Already(what) => line("ok", what),
        Done::Now(what) => line("done", what),
        Done::Not(what, hint) => {
            line("warn", what);
            eprintln!("{:<16} hint: {hint}", "");
        }
    }
    Ok(matches!(done, Done::Now(_)))
}
