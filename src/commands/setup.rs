//! `noclaw setup`: from installed to the first reply. Each step looks whether it is done, does what
//! is missing, and says so in a line; so it can be run again, and then changes nothing.
//!
//! | step | what it makes so | when it cannot |
//! |---|---|---|
//! | you | an ordinary user, whose service manager runs | it ends: as root, `--user NAME` |
//! | linger | the service goes on while you are logged out | a warning |
//! | storage | Podman stores by overlay, from its first use on | it ends, with what to do |
//! | podman | Podman's socket is on | it ends |
//! | machine | what `noclaw doctor` checks, but key and image | it ends, after the failed checks |
//! | key | a key that the model's side takes, in a file of yours; or the demo model | it ends |
//! | settings | what was answered, as a drop-in of the service | it ends |
//! | image | loaded from a file, or built | it ends |
//! | socket | the service's socket is on; a service that runs has the settings | it ends |
//! | message | a first message has its reply | it ends |

mod answers;
mod machine;

use std::fmt::Display;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use self::answers::Answers;
use super::{Ended, Failure, print};
use crate::core::problem::ExitStatus;

/// `noclaw setup`
#[derive(Debug, clap::Args)]
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
    #[arg(long, value_name = "USD")]
    budget: Option<f64>,
    /// An image that `noclaw image save` has written, instead of building one
    #[arg(long, value_name = "FILE")]
    image: Option<PathBuf>,
    /// As root: set it up for this user
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// Turn it off again, and say what stays
    #[arg(long, conflicts_with_all = ["demo", "api_key_file", "model", "budget", "image"])]
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
        (Some(user), true) => return machine::become_user(user),
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
    tell("you", machine::manager())?;
    match args.undo {
        true => undo(),
        false => set_up(args),
    }
}

fn set_up(args: &Args) -> Ended {
    tell("linger", machine::linger())?;
    tell("storage", machine::storage())?;
    tell("podman", machine::podman())?;
    tell("machine", machine::check())?;
    let mut answers = Answers::now();
    // The key is tried with the model that it is for.
    answers.take(args)?;
    tell("key", answers.key(args))?;
    let changed = answers.write()?;
    tell("settings", Ok(changed.told()))?;
    tell("image", image(args))?;
    tell("socket", machine::socket(changed.is_new()))?;
    eprintln!("message    > hello");
    own(&["send", "hello"])?;
    eprintln!("\nnoclaw is set up. What to do next:");
    for (command, what) in [
        ("noclaw send \"…\"", "a message; `noclaw chat` for more than one"),
        ("noclaw doctor --escape", "attack a cell on this machine, and see it hold"),
        ("noclaw mount list", "let cells see folders of yours"),
        ("systemctl --user enable --now noclaw-http.socket", "HTTP on this machine, by token"),
    ] {
        eprintln!("  {command:<50} {what}");
    }
    Ok(ExitStatus::Ok)
}

fn undo() -> Ended {
    tell("socket", machine::no_socket())?;
    tell("settings", answers::remove())?;
    print("What stays, and how it goes:");
    for (what, how) in [
        ("messages, workspaces, transcripts", "rm -r ~/.local/state/noclaw"),
        ("your settings and the key", "rm -r ~/.config/noclaw"),
        ("the image of the cells", "podman image rm noclaw-agent"),
        ("Podman's socket", "systemctl --user disable --now podman.socket"),
        ("that your services outlast your login", "loginctl disable-linger"),
    ] {
        print(format_args!("  {what:<40} {how}"));
    }
    Ok(ExitStatus::Ok)
}

fn image(args: &Args) -> Step {
    let status = Command::new(program()?).args(["image", "status"]).stdout(Stdio::null()).status();
    if status.is_ok_and(|status| status.success()) {
        return Ok(Done::Already("there is one of this recipe".to_owned()));
    }
    match &args.image {
        Some(file) => own(&["image", "load", &file.to_string_lossy()])?,
        None => own(&["image", "build"])?,
    }
    Ok(Done::Now("it is there, and has passed its self-test".to_owned()))
}

/// This program, for what it has as a command.
fn own(args: &[&str]) -> Result<(), Failure> {
    let status = Command::new(program()?).args(args).status();
    let status = status.map_err(|error| Failure::of(ExitStatus::Failed, &error))?;
    match status.success() {
        true => Ok(()),
        false => {
            let message = format!("noclaw {} has failed", args.join(" "));
            Err(Failure::new(ExitStatus::Failed, message).hint("it says above why"))
        }
    }
}

fn program() -> Result<PathBuf, Failure> {
    std::env::current_exe().map_err(|error| Failure::of(ExitStatus::Failed, &error))
}

fn tell(step: &str, done: Step) -> Result<(), Failure> {
    let line = |mark: &str, what: &dyn Display| eprintln!("{step:<10} {mark:<5} {what}");
    match done? {
        Done::Already(what) => line("ok", &what),
        Done::Now(what) => line("done", &what),
        Done::Not(what, hint) => {
            line("warn", &what);
            eprintln!("{:<16} hint: {hint}", "");
        }
    }
    Ok(())
}
