//! `noclaw logs`: the service's log, as the journal keeps it. journalctl shows it: it follows,
//! pages, and knows times better than we would.

use std::os::unix::process::CommandExt;
use std::process::Command;

use super::{Ended, Failure};
use crate::core::ids::{RunId, TaskId, UserName};
use crate::core::problem::ExitStatus;

/// The unit whose log it is.
const UNIT: &str = "noclaw.service";

/// `noclaw logs`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What is told of one run
    #[arg(long, value_name = "ID")]
    run: Option<RunId>,
    /// What is told of one user
    #[arg(long, short, value_name = "NAME")]
    user: Option<UserName>,
    /// What is told of one task
    #[arg(long, value_name = "ID")]
    task: Option<TaskId>,
    /// Wait for what comes
    #[arg(long, short)]
    follow: bool,
    /// So many lines, the last ones
    #[arg(long, short = 'n', value_name = "N")]
    lines: Option<u32>,
    /// Explain what is told, from the journal's catalog
    #[arg(long, short = 'x')]
    explain: bool,
    /// Print JSON, a line an entry
    #[arg(long)]
    json: bool,
}

/// Becomes journalctl.
pub fn run(args: &Args) -> Ended {
    // It only returns when it could not.
    let error = journalctl(args).exec();
    let message = format!("journalctl cannot be started: {error}");
    Err(Failure::new(ExitStatus::Unavailable, message)
        .hint("a service that systemd does not run logs to its standard error"))
}

fn journalctl(args: &Args) -> Command {
    let mut command = Command::new("journalctl");
    command.arg(format!("--user-unit={UNIT}"));
    let flags = [
        (args.follow, "--follow"),
        (args.explain, "--catalog"),
        (args.json, "--output=json"),
        (!args.json, "--output=short-iso"),
    ];
    command.args(flags.iter().filter(|(wanted, _)| *wanted).map(|(_, flag)| flag));
    command.args(args.lines.map(|lines| format!("--lines={lines}")));
    command.args(args.run.as_ref().map(|run| format!("RUN_ID={run}")));
    command.args(args.user.as_ref().map(|user| format!("USER_ID={user}")));
    command.args(args.task.as_ref().map(|task| format!("TASK_ID={task}")));
    command
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn the_journal_is_asked_by_the_fields_that_the_service_writes() -> Result<()> {
        let id = "01a2059b-b2fc-7518-956a-cb1435016353";
        for (typed, asked) in [
            (vec![], "--user-unit=noclaw.service --output=short-iso".to_owned()),
            (
                vec!["--run", id, "-fx"],
                format!(
                    "--user-unit=noclaw.service --follow --catalog --output=short-iso RUN_ID={id}"
                ),
            ),
            (
                vec!["-u", "ann", "-n", "5", "--json"],
                "--user-unit=noclaw.service --output=json --lines=5 USER_ID=ann".to_owned(),
            ),
            (
                vec!["-u", "ann", "--task", "paper-3"],
                "--user-unit=noclaw.service --output=short-iso USER_ID=ann TASK_ID=paper-3"
                    .to_owned(),
            ),
        ] {
            let cli = Cli::try_parse_from([vec!["logs"], typed].concat())?;
            let command = journalctl(&cli.args);
            let words: Vec<_> = command.get_args().filter_map(|word| word.to_str()).collect();
            assert_eq!(words.join(" "), asked);
        }
        for strange in ["", "a b", "-x", "a=b", "../a"] {
            assert!(Cli::try_parse_from(["logs", "--task", strange]).is_err(), "{strange:?}");
        }
        Ok(())
    }
}
