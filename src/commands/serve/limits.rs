//! The flags that turn limits. What they turn, and why it has its default, is in `core/limits.rs`.

use std::time::Duration;

use crate::commands::Failure;
use crate::core::limits::{Limits, MIB, Rate};
use crate::core::plan::Controller;
use crate::core::problem::ExitStatus;
use crate::host::machine;

/// The limits that the owner may turn; the defaults and reasons are `core/limits.rs`'s.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Limits")]
pub(super) struct LimitArgs {
    /// Limits to do without where the kernel has no controller: memory, pids, cpu
    #[arg(long, value_name = "LIST", env = "NOCLAW_ACCEPT_WITHOUT", value_delimiter = ',')]
    pub(super) accept_without: Vec<Controller>,
    /// Cells at a time
    #[arg(long, value_name = "N", env = "NOCLAW_MAX_CELLS")]
    max_cells: Option<std::num::NonZeroUsize>,
    /// Cells at a time for one user
    #[arg(long, value_name = "N", env = "NOCLAW_CELLS_PER_USER")]
    cells_per_user: Option<std::num::NonZeroUsize>,
    /// Seconds that a run may take
    #[arg(long, value_name = "S", env = "NOCLAW_RUN_TIMEOUT")]
    run_timeout: Option<u64>,
    /// Seconds that the agent may be silent
    #[arg(long, value_name = "S", env = "NOCLAW_SILENCE")]
    silence: Option<u64>,
    /// Seconds that a request waits for its reply
    #[arg(long, value_name = "S", env = "NOCLAW_WAIT")]
    wait: Option<u64>,
    /// Mebibytes of memory of a cell
    #[arg(long, value_name = "MIB", env = "NOCLAW_CELL_MEMORY")]
    cell_memory: Option<u64>,
    /// Processes of a cell
    #[arg(long, value_name = "N", env = "NOCLAW_CELL_PIDS")]
    cell_pids: Option<u64>,
    /// CPUs of a cell, as 1.5
    #[arg(long, value_name = "N", env = "NOCLAW_CELL_CPUS")]
    cell_cpus: Option<f64>,
    /// Messages of a user that may wait
    #[arg(long, value_name = "N", env = "NOCLAW_QUEUE_PER_USER")]
    queue_per_user: Option<usize>,
    /// Messages that may wait in all
    #[arg(long, value_name = "N", env = "NOCLAW_QUEUE")]
    queue: Option<usize>,
    /// Messages of a user a minute
    #[arg(long, value_name = "N", env = "NOCLAW_RATE")]
    rate: Option<u32>,
    /// Messages of a user at once
    #[arg(long, value_name = "N", env = "NOCLAW_BURST")]
    burst: Option<u32>,
    /// Requests of a token a minute
    #[arg(long, value_name = "N", env = "NOCLAW_TOKEN_RATE")]
    token_rate: Option<u32>,
    /// US dollars that a run may spend
    #[arg(long, value_name = "USD", env = "NOCLAW_BUDGET_RUN")]
    budget_run: Option<f64>,
    /// US dollars that a user may spend a day
    #[arg(long, value_name = "USD", env = "NOCLAW_BUDGET_USER")]
    budget_user: Option<f64>,
    /// US dollars that all may spend a day
    #[arg(long, value_name = "USD", env = "NOCLAW_BUDGET")]
    budget: Option<f64>,
    /// Seconds that runs have to end when the service stops
    #[arg(long, value_name = "S", env = "NOCLAW_STOP_TIME", default_value_t = 30)]
    pub(super) stop_time: u64,
}

impl LimitArgs {
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
        set(&mut limits.queue_per_user, self.queue_per_user);
        set(&mut limits.queue, self.queue);
        set(&mut limits.rate.per_minute, self.rate);
        set(&mut limits.rate.burst, self.burst);
        let token_rate = |rate| Rate { per_minute: rate, burst: rate };
        set(&mut limits.token_rate, self.token_rate.map(token_rate));
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
        return Err(Failure::new(ExitStatus::Usage, format!("{flag} must be above 0")));
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked above")]
    Ok(Some((value * scale).round() as u64))
}
