//! Where a service has what is its own: flags that `serve` shares with the commands that need no
//! service.

use std::path::{Path, PathBuf};

use super::Failure;
use crate::core::problem::ExitStatus;
use crate::host::mounts::{Guard, Own};
use crate::host::paths;

/// The places of a service.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Places")]
pub struct Places {
    /// State: the store, workspaces, transcripts
    #[arg(long, value_name = "DIR", env = "NOCLAW_STATE", default_value_os_t = paths::state())]
    pub state: PathBuf,
    /// Configuration: instructions.md, prices.json, mount-allowlist.json
    #[arg(long, value_name = "DIR", env = "NOCLAW_CONFIG", default_value_os_t = paths::config())]
    pub config: PathBuf,
    /// The service's socket, for you alone
    #[arg(long, value_name = "PATH", env = "NOCLAW_SOCKET", default_value_os_t = paths::socket())]
    pub socket: PathBuf,
    /// Podman's socket
    #[arg(long, value_name = "PATH", env = "NOCLAW_PODMAN", default_value_os_t = paths::podman())]
    pub podman: PathBuf,
    /// The program that is pid 1 of a cell
    #[arg(
        long,
        value_name = "PATH",
        env = "NOCLAW_LAUNCHER",
        default_value_os_t = paths::launcher()
    )]
    pub launcher: PathBuf,
}

impl Places {
    /// What guards them from cells, and the file of the model's key, where that is known.
    pub fn guard(&self, key: Option<&Path>) -> Result<Guard, Failure> {
        let whole = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let own = Own {
            state: whole(&self.state),
            config: whole(&self.config),
            socket: whole(&self.socket),
            podman: whole(&self.podman),
            launcher: whole(&self.launcher),
            key: key.map(whole),
        };
        Guard::of(own).map_err(|error| Failure::of(ExitStatus::Config, &error))
    }
}
