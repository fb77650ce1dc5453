//! `noclaw-cell`: pid 1 of a cell. Without arguments it is the launcher; `noclaw-cell confine
//! ARGV…` is the half that gives up its rights, measures itself, waits for go and becomes the
//! agent.
//!
//! Standard input and output are the door (or, confined, the agent's streams): nothing is printed
//! there. What goes wrong is said on standard error, which the service keeps the last bytes of.

#![expect(
    clippy::disallowed_methods,
    reason = "a cell's file system is its own, and nobody else is in it yet"
)]

mod agent;
mod confine;
mod door;
mod launcher;
mod measure;
mod model;
mod reaper;

use std::io::Write;
use std::process::ExitCode;

/// The error's chain, each cause once.
fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// Says what went wrong, if there is still somebody to hear it: `eprintln!` would panic when
/// standard error is gone (whoever read it was killed), and pid 1 cannot even abort properly.
fn say(what: &str) {
    writeln!(std::io::stderr(), "noclaw-cell: {what}").ok();
}

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let result = match args.next().as_deref() {
        None => launcher::run(),
        Some("confine") => confine::run(&args.collect::<Vec<_>>()),
        Some(other) => {
            say(&format!("unknown argument {other:?}; the service starts this program"));
            return ExitCode::from(64);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&describe(&*error));
            ExitCode::from(70)
        }
    }
}
