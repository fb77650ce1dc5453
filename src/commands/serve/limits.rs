//! The flags that turn limits. What they turn, and why it has its default, is in `core/limits.rs`.

use std::num::NonZeroUsize;
use std::time::Duration;

use crate::commands::{Failure, accepted, limit};
use crate::core::limits::{Limits, MIB, Rate};
use crate::core::plan::Controller;
use crate::core::problem::ExitStatus;
use crate::host::machine;

/// The limits that the owner may turn; the defaults and reasons are `core/limits.rs`'s.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Limits")]
pub(super) struct LimitArgs {
    /// Limits to do without where the kernel has no controller: memory, pids, cpu
    #[arg(
        long,
        value_name = "LIST",
        env = "NOCLAW_ACCEPT_WITHOUT",
        value_delimiter = ',',
        value_parser = limit
    )]
    accept_without: Vec<String>,
    /// Cells at a time [default: 4, or fewer on a small machine]
    #[arg(long, value_name = "N", env = "NOCLAW_MAX_CELLS")]
    max_cells: Option<NonZeroUsize>,
    /// Cells at a time for one user [default: 2]
    #[arg(long, value_name = "N", env = "NOCLAW_CELLS_PER_USER")]
    cells_per_user: Option<NonZeroUsize>,
    /// Seconds that a run may take [default: 600]
    #[arg(
        long,
        value_name = "S",
        env = "NOCLAW_RUN_TIMEOUT",
        value_parser = clap::value_parser!(u64).range(1..=86_400)
    )]
    run_timeout: Option<u64>,
    /// Seconds that the agent may be silent [default: 180]
    #[arg(
        long,
        value_name = "S",
        env = "NOCLAW_SILENCE",
        value_parser = clap::value_parser!(u64).range(1..=86_400)
    )]
    silence: Option<u64>,
    /// Seconds that a request waits for its reply [default: 50]
    #[arg(
        long,
        value_name = "S",
        env = "NOCLAW_WAIT",
        value_parser = clap::value_parser!(u64).range(0..=600)
    )]
    wait: Option<u64>,
    /// Mebibytes of memory of a cell [default: 2048; 1536 on a small machine]
    #[arg(
        long,
        value_name = "MIB",
        env = "NOCLAW_CELL_MEMORY",
        value_parser = clap::value_parser!(u64).range(1024..=1_048_576)
    )]
    cell_memory: Option<u64>,
    /// Processes of a cell [default: 256]
    #[arg(
        long,
        value_name = "N",
        env = "NOCLAW_CELL_PIDS",
        value_parser = clap::value_parser!(u64).range(64..=32_768)
    )]
    cell_pids: Option<u64>,
    /// CPUs of a cell, as 1.5 [default: 2]
    #[arg(long, value_name = "N", env = "NOCLAW_CELL_CPUS")]
    cell_cpus: Option<f64>,
    /// Messages of a user that may wait [default: 20]
    #[arg(long, value_name = "N", env = "NOCLAW_QUEUE_PER_USER")]
    queue_per_user: Option<NonZeroUsize>,
    /// Messages that may wait in all [default: 200]
    #[arg(long, value_name = "N", env = "NOCLAW_QUEUE")]
    queue: Option<NonZeroUsize>,
    /// Messages of a user a minute [default: 30]
    #[arg(
        long,
        value_name = "N",
        env = "NOCLAW_RATE",
        value_parser = clap::value_parser!(u32).range(1..=1_000_000)
    )]
    rate: Option<u32>,
    /// Messages of a user at once [default: 10]
    #[arg(
        long,
        value_name = "N",
        env = "NOCLAW_BURST",
        value_parser = clap::value_parser!(u32).range(1..=1_000_000)
    )]
    burst: Option<u32>,
    /// Requests of a token a minute [default: 60]
    #[arg(
        long,
        value_name = "N",
        env = "NOCLAW_TOKEN_RATE",
        value_parser = clap::value_parser!(u32).range(1..=1_000_000)
    )]
    token_rate: Option<u32>,
    /// Mebibytes that a user's workspace may take [default: 10240]
    #[arg(
        long,
        value_name = "MIB",
        env = "NOCLAW_WORKSPACE_SIZE",
        value_parser = clap::value_parser!(u64).range(1..=1_073_741_824)
    )]
    workspace_size: Option<u64>,
    /// Files and directories that it may hold [default: 200000]
    #[arg(
        long,
        value_name = "N",
        env = "NOCLAW_WORKSPACE_FILES",
        value_parser = clap::value_parser!(u64).range(1..=1_000_000_000)
    )]
    workspace_files: Option<u64>,
    /// Mebibytes of the disk that must stay free [default: 1024]
    #[arg(
        long,
        value_name = "MIB",
        env = "NOCLAW_DISK_FREE",
        value_parser = clap::value_parser!(u64).range(0..=1_073_741_824)
    )]
    disk_free: Option<u64>,
    /// US dollars that a run may spend [default: 0.50]
    #[arg(long, value_name = "USD", env = "NOCLAW_BUDGET_RUN")]
    budget_run: Option<f64>,
    /// US dollars that a user may spend a day [default: 3]
    #[arg(long, value_name = "USD", env = "NOCLAW_BUDGET_USER")]
    budget_user: Option<f64>,
    /// US dollars that all may spend a day [default: 10]
    #[arg(long, value_name = "USD", env = "NOCLAW_BUDGET")]
    budget: Option<f64>,
    /// Seconds that runs have to end when the service stops
    #[arg(long, value_name = "S", env = "NOCLAW_STOP_TIME", default_value_t = 30)]
    pub(super) stop_time: u64,
}

impl LimitArgs {
    /// The controllers that are done without.
    pub(super) fn accept_without(&self) -> Result<Vec<Controller>, Failure> {
        accepted(&self.accept_without)
    }

    /// The limits of this machine, as the flags turn them.
    pub(super) fn limits(&self) -> Result<Limits, Failure> {
        let mut limits = Limits::for_machine(machine::cores(), machine::memory());
        set(&mut limits.cells, self.max_cells.map(Into::into));
        set(&mut limits.cells_per_user, self.cells_per_user.map(Into::into));
        set(&mut limits.run_timeout, self.run_timeout.map(Duration::from_secs));
        set(&mut limits.silence, self.silence.map(Duration::from_secs));
        set(&mut limits.wait, self.wait.map(Duration::from_secs));
        set(&mut limits.cell_memory, self.cell_memory.map(|mib| mib * MIB as u64));
        set(&mut limits.cell_pids, self.cell_pids);
        set(&mut limits.cell_cpu_millis, scaled("--cell-cpus", self.cell_cpus, 1e3)?);
        set(&mut limits.queue_per_user, self.queue_per_user.map(Into::into));
        set(&mut limits.queue, self.queue.map(Into::into));
        set(&mut limits.rate.per_minute, self.rate);
        set(&mut limits.rate.burst, self.burst);
        let token_rate = |rate| Rate { per_minute: rate, burst: rate };
        set(&mut limits.token_rate, self.token_rate.map(token_rate));
        set(&mut limits.workspace.bytes, self.workspace_size.map(|mib| mib * MIB as u64));
        set(&mut limits.workspace.files, self.workspace_files);
        set(&mut limits.disk_free, self.disk_free.map(|mib| mib * MIB as u64));
        set(&mut limits.budget_per_run, scaled("--budget-run", self.budget_run, 1e6)?);
        set(&mut limits.budget_per_user_day, scaled("--budget-user", self.budget_user, 1e6)?);
        set(&mut limits.budget_per_day, scaled("--budget", self.budget, 1e6)?);
        Ok(limits)
    }
}

fn set<T>(limit: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *limit = value;
    }
}

/// A number of a person's in the units of `Limits`.
fn scaled(flag: &str, value: Option<f64>, scale: f64) -> Result<Option<u64>, Failure> {
    let Some(value) = value else { return Ok(None) };
    if !(value > 0.0 && value <= 1e6) {
        let message = format!("{flag} must be above 0, and a million at most");
        return Err(Failure::new(ExitStatus::Usage, message));
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked above")]
    Ok(Some((value * scale).round() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;
    use clap::Parser;

    #[derive(Parser)]
    struct Flags {
        #[command(flatten)]
        limits: LimitArgs,
    }

    /// Help is text; what it tells of a default must be what `core/limits.rs` has.
    #[test]
    fn help_tells_the_defaults() -> Result<(), Box<dyn std::error::Error>> {
        let machine = Limits::for_machine(8, 64 << 30);
        let seconds = |time: Duration| time.as_secs().to_string();
        let dollars = |micro: u64| format!("{}", micro / 1_000_000);
        for (flag, default) in [
            ("max_cells", machine.cells.to_string()),
            ("cells_per_user", machine.cells_per_user.to_string()),
            ("run_timeout", seconds(machine.run_timeout)),
            ("silence", seconds(machine.silence)),
            ("wait", seconds(machine.wait)),
            ("cell_memory", (machine.cell_memory / MIB as u64).to_string()),
            ("cell_pids", machine.cell_pids.to_string()),
            ("cell_cpus", (machine.cell_cpu_millis / 1000).to_string()),
            ("queue_per_user", machine.queue_per_user.to_string()),
            ("queue", machine.queue.to_string()),
            ("rate", machine.rate.per_minute.to_string()),
            ("burst", machine.rate.burst.to_string()),
            ("token_rate", machine.token_rate.per_minute.to_string()),
            ("workspace_size", (machine.workspace.bytes / MIB as u64).to_string()),
            ("workspace_files", machine.workspace.files.to_string()),
            ("disk_free", (machine.disk_free / MIB as u64).to_string()),
            ("budget_user", dollars(machine.budget_per_user_day)),
            ("budget", dollars(machine.budget_per_day)),
        ] {
            let command = Flags::command();
            let arg = command.get_arguments().find(|arg| arg.get_id() == flag).ok_or(flag)?;
            let help = arg.get_help().ok_or(flag)?.to_string();
            let told = help.split("[default: ").nth(1).unwrap_or("");
            let told = told.split([']', ',', ';']).next().unwrap_or("");
            assert_eq!(told, default, "--{flag}: {help}");
        }
        let Flags { limits } = Flags::try_parse_from(["serve", "--run-timeout", "7"])?;
        let limits = limits.limits().map_err(|failure| format!("{failure:?}"))?;
        assert_eq!(limits.run_timeout, Duration::from_secs(7));
        Ok(())
    }
}
