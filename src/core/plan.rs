//! What a cell must be. `preflight.rs` compares it with what a cell measured itself to be.

use std::collections::BTreeMap;
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
    /// The namespaces of the service, of which no cell may have one: kind and inode number.
    pub host_namespaces: BTreeMap<String, u64>,
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
    /// What makes the cell's mounts.
    pub runtime: Runtime,
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
    /// The type of its file system, as the host has it.
    pub kind: String,
    /// Device number of the handle that the host opened.
    pub device: u64,
    /// Inode number of the same.
    pub inode: u64,
}

/// The OCI runtime that Podman has containers made by.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Runtime {
    /// `crun`, `runc`.
    pub name: String,
    /// Its version: `1.8.1`.
    pub version: String,
}

impl Runtime {
    /// The first release of crun that sets them on what may be written, too.
    const CRUN: [u32; 3] = [1, 11, 1];

    /// From what it is called, and what it says of itself: `crun version 1.8.1`, and more lines.
    /// That it is crun it knows better than whoever has called it something else.
    pub fn new(called: &str, said: &str) -> Self {
        let mut words = said.split_whitespace();
        let name = words.next().unwrap_or(called).to_owned();
        let version = words.find(|word| word.starts_with(|c: char| c.is_ascii_digit()));
        Self { name, version: version.unwrap_or_default().to_owned() }
    }

    /// Whether a folder that a cell may write gets `nosuid` and `nodev`, as one that it may only
    /// read always does. In a user namespace an older crun leaves them out, and asks nobody.
    /// Without them a device file, which only root could have put there, is kept from the cell by
    /// its permissions alone; setuid does nothing in any cell.
    pub fn restricts_writable(&self) -> bool {
        if self.name != "crun" {
            return true;
        }
        let mut parts = self.version.split('.').map(|part| part.parse().unwrap_or_default());
        let found: [u32; 3] = std::array::from_fn(|_| parts.next().unwrap_or_default());
        found >= Self::CRUN
    }
}

impl fmt::Display for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, self.version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_crun_is_known_by_what_it_says_of_itself() {
        for (name, said, restricts) in [
            ("crun", "crun version 1.8.1\ncommit: f8a096be\nrundir: /run/user/1000/crun", false),
            ("crun", "crun version 1.11", false),
            ("crun", "crun version 1.11.1", true),
            ("crun", "crun version 1.21\ncommit: 10269840", true),
            ("crun", "crun version 2", true),
            // What does not say is taken for an old one.
            ("crun", "", false),
            ("wrapper", "crun version 1.8.1\ncommit: f8a096be", false),
            ("runc", "runc version 1.1.5+ds1\ncommit: 1.1.5", true),
        ] {
            let runtime = Runtime::new(name, said);
            assert_eq!(runtime.restricts_writable(), restricts, "{runtime}");
        }
        assert_eq!(Runtime::new("crun", "crun version 1.8.1\nx").to_string(), "crun 1.8.1");
    }
}
