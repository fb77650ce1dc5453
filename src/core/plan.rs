//! What a cell must be. `preflight.rs` compares it with what a cell measured itself to be.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::ids::{InstanceId, InvalidId, RunId, UserName};
use super::preflight::rules::CellRules;

/// The user and group of everything in a cell.
pub const CELL_UID: u32 = 1000;
/// The Landlock ABI below which no agent is started.
pub const LANDLOCK_FLOOR: u32 = 2;
/// The kernel's period of `cpu.max`, in microseconds.
pub const CPU_PERIOD: u64 = 100_000;

/// A cgroup controller that enforces a limit of a cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Controller {
    /// `memory.max`, `memory.swap.max`.
    Memory,
    /// `pids.max`.
    Pids,
    /// `cpu.max`.
    Cpu,
}

impl Controller {
    /// All that a cell needs.
    pub const ALL: [Self; 3] = [Self::Memory, Self::Pids, Self::Cpu];

    /// Its name in the kernel and on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Pids => "pids",
            Self::Cpu => "cpu",
        }
    }
}

impl fmt::Display for Controller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Controller {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let form = "memory, pids or cpu";
        let found = Self::ALL.into_iter().find(|controller| controller.as_str() == text);
        found.ok_or(InvalidId { what: "a limit to do without", form })
    }
}

/// What a cell must be.
#[derive(Debug, Clone)]
pub struct CellPlan {
    /// Which NoClaw it belongs to.
    pub instance: InstanceId,
    /// Which run it is for.
    pub run: RunId,
    /// Whose run that is.
    pub user: UserName,
    /// The image's id.
    pub image: String,
    /// Everything that is mounted from the host.
    pub mounts: Vec<PlannedMount>,
    /// Bytes of memory, swap included.
    pub memory: u64,
    /// Processes and threads.
    pub pids: u64,
    /// CPU time, in thousandths of a CPU.
    pub cpu_millis: u64,
    /// What may be in any cell, whatever its run.
    pub rules: Arc<CellRules>,
    /// The cell's system call filter: a file that Podman reads.
    pub seccomp_profile: String,
    /// Names of the agent's environment, sorted.
    pub environment: Vec<String>,
    /// Rules in the Landlock table.
    pub landlock_rules: usize,
    /// Limits that the owner accepted to do without.
    pub accept_without: Vec<Controller>,
}

/// A file or directory of the host's in a cell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedMount {
    /// Path on the host.
    pub source: String,
    /// Path in the cell.
    pub destination: String,
    /// Whether the cell may only read it.
    pub read_only: bool,
    /// Device number of the handle that the host opened.
    pub device: u64,
    /// Inode number of the same.
    pub inode: u64,
}
