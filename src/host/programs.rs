//! Programs of the system's that are asked for something: systemctl, loginctl, busctl. One that
//! does not answer in time is ended: behind a bus that is dead it would wait for ever.

use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

use super::paths;

/// What it said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// Whether it ended with status 0.
    pub well: bool,
    /// Its standard output, without white space around it.
    pub out: String,
    /// The last line of its standard error, or that there was none.
    pub why: String,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// It cannot be started.
    #[error("{called} cannot be started")]
    Start {
        /// The command line.
        called: String,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// It was ended.
    #[error("{called} has not answered within {} s", most.as_secs())]
    Slow {
        /// The command line.
        called: String,
        /// How long it had.
        most: Duration,
    },
}

/// Asks a program, which has so much time.
///
/// # Errors
/// See [`ProgramError`]; that it said no is none.
pub async fn ask(program: &str, args: &[&str], most: Duration) -> Result<Said, ProgramError> {
    let called = || [&[program], args].concat().join(" ");
    let mut command = Command::new(program);
    // Who came by su(1) has no such variable, and may have the directory all the same.
    command.args(args).stdin(Stdio::null()).env("XDG_RUNTIME_DIR", paths::runtime());
    let answered = timeout(most, command.kill_on_drop(true).output()).await;
    let output = answered.map_err(|_| ProgramError::Slow { called: called(), most })?;
    let output = output.map_err(|source| ProgramError::Start { called: called(), source })?;
    let text = |bytes| String::from_utf8_lossy(bytes).trim().to_owned();
    let why = text(&output.stderr).lines().last().map(str::to_owned);
    Ok(Said {
        well: output.status.success(),
        out: text(&output.stdout),
        why: why.unwrap_or_else(|| format!("it ended with {}", output.status)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn what_a_program_says_is_told_and_why_it_failed() -> Result<(), ProgramError> {
        let said = ask("sh", &["-c", "echo ' out '"], LONG).await?;
        assert_eq!((said.well, said.out.as_str()), (true, "out"));
        let said = ask("sh", &["-c", "echo a >&2; echo b >&2; exit 3"], LONG).await?;
        assert_eq!((said.well, said.why.as_str()), (false, "b"));
        let said = ask("sh", &["-c", "exit 3"], LONG).await?;
        assert!(said.why.contains('3'), "{}", said.why);
        Ok(())
    }

    #[tokio::test]
    async fn one_that_does_not_answer_is_ended_and_one_that_is_missing_is_named() {
        let Err(error) = ask("sleep", &["1000"], Duration::from_millis(1)).await else {
            panic!("it answered");
        };
        assert_eq!(error.to_string(), "sleep 1000 has not answered within 0 s");
        let error = ask("no-such-program", &[], LONG).await.err().map(|e| e.to_string());
        assert_eq!(error.as_deref(), Some("no-such-program cannot be started"));
    }
}
