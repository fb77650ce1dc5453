//! `noclaw generate`: man pages and completions, from the one definition of the command line. For
//! whoever packages it.

use std::path::{Path, PathBuf};

use clap::CommandFactory;
use clap_complete::Shell;

use super::{Cli, Ended, Failure, print_part};
use crate::core::problem::ExitStatus;
use crate::host::{owned, paths};

/// `noclaw generate`
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Write the man pages into a folder, one a command
    Man {
        /// The folder
        dir: PathBuf,
        /// Where the program will be installed
        #[arg(long, value_name = "DIR", default_value = "/usr")]
        prefix: PathBuf,
    },
    /// Print what a shell completes commands by
    Completions {
        /// The shell
        shell: Shell,
    },
}

/// Writes or prints them.
pub fn run(command: Command) -> Ended {
    let mut cli = Cli::command();
    match command {
        Command::Man { dir, prefix } => {
            let failed = |error: std::io::Error| {
                let message = format!("{}: {error}", dir.display());
                Failure::new(ExitStatus::Failed, message).hint("may you write there?")
            };
            owned::make_directory(&dir).map_err(failed)?;
            clap_mangen::generate_to(anybodys(cli, &prefix), &dir).map_err(failed)?;
        }
        Command::Completions { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut cli, "noclaw", &mut text);
            print_part(&String::from_utf8_lossy(&text));
        }
    }
    Ok(ExitStatus::Ok)
}

/// The command line with its defaults as they are for anybody, not for whoever makes the pages.
fn anybodys(command: clap::Command, prefix: &Path) -> clap::Command {
    let told = |arg: clap::Arg| {
        let defaults = arg.get_default_values().iter();
        let told: Vec<_> = defaults.map(|path| paths::told(Path::new(path), prefix)).collect();
        match told.is_empty() {
            true => arg,
            false => arg.default_values(told.into_iter().map(PathBuf::into_os_string)),
        }
    };
    command.mut_args(told).mut_subcommands(|command| anybodys(command, prefix))
}
