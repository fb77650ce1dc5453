//! What a process in a cell measures of its own confinement.
//!
//! Everything is read from `/proc`, `/sys` and by `stat`, by an ordinary user without capabilities,
//! in under a millisecond. The service compares it with its plan, field by field; nothing here
//! judges.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Namespaces that a cell has of its own. (It has no time of its own.)
pub const NAMESPACES: [&str; 7] = ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"];

/// Both halves: pid 1, and the process that will become the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Preflight {
    /// Pid 1.
    pub launcher: Measured,
    /// The confined process, after everything that confines it was applied.
    pub agent: Measured,
}

/// One process, as the kernel shows it to itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measured {
    /// Real, effective, saved and file-system user.
    pub uids: Vec<u32>,
    /// The same of the group.
    pub gids: Vec<u32>,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// `/proc/self/uid_map`.
    pub uid_map: Vec<IdRange>,
    /// `/proc/self/gid_map`.
    pub gid_map: Vec<IdRange>,
    /// `NoNewPrivs`.
    pub no_new_privs: bool,
    /// `Seccomp`: 0 off, 2 filter.
    pub seccomp_mode: u32,
    /// `Seccomp_filters`: how many are stacked.
    pub seccomp_filters: u32,
    /// The error number by which personality(2) refused the job's fingerprint; 0 when it did not.
    pub seccomp_answer: i32,
    /// Capability sets.
    pub capabilities: Capabilities,
    /// Its process id: 1, or one of the same namespace's.
    pub pid: u32,
    /// Namespaces by kind: the inode numbers of `/proc/self/ns`.
    pub namespaces: BTreeMap<String, u64>,
    /// Every mount in sight.
    pub mounts: Vec<Mount>,
    /// Of the job's places to be covered, those that there are.
    pub places: Vec<String>,
    /// Network interfaces.
    pub interfaces: Vec<String>,
    /// Open files by number: what `/proc/self/fd` says they are.
    pub descriptors: BTreeMap<u32, String>,
    /// Names of the environment's variables, sorted.
    pub environment: Vec<String>,
    /// What is in `/dev`, by name.
    pub devices: BTreeMap<String, String>,
    /// Limits of the cgroup and of the process.
    pub limits: Limits,
    /// Landlock, where it was applied.
    pub landlock: Option<Landlock>,
    /// The error number by which a file was refused in a folder that only Landlock keeps a process
    /// from; 0 when it was made.
    pub landlock_answer: i32,
}

/// A line of a user namespace's map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdRange {
    /// The first id in the cell.
    pub inside: u32,
    /// What it is in the namespace around it.
    pub outside: u32,
    /// How many.
    pub count: u32,
}

/// Capability sets as bit masks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Capabilities {
    /// `CapInh`.
    pub inheritable: u64,
    /// `CapPrm`.
    pub permitted: u64,
    /// `CapEff`.
    pub effective: u64,
    /// `CapBnd`.
    pub bounding: u64,
    /// `CapAmb`.
    pub ambient: u64,
}

/// A line of `/proc/self/mountinfo` and what `stat` says of the place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mount {
    /// Where it is mounted.
    pub destination: String,
    /// What of its file system is mounted.
    pub root: String,
    /// Per-mount options: `ro,nosuid,…`.
    pub options: String,
    /// Whose mounts and unmounts it follows, or is followed by: `master:1`. Nothing: nobody's.
    pub propagation: String,
    /// The file system's type.
    pub kind: String,
    /// The file system's own options: `rw,size=65536k,…`.
    pub super_options: String,
    /// Device number by `stat`; `None` when the place cannot be reached.
    pub device: Option<u64>,
    /// Inode number by `stat`.
    pub inode: Option<u64>,
}

/// Limits as the kernel shows them; `None` where it shows none (the controller is missing).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// `memory.max`.
    pub memory_max: Option<String>,
    /// `memory.swap.max`.
    pub memory_swap_max: Option<String>,
    /// `pids.max`.
    pub pids_max: Option<String>,
    /// `cpu.max`.
    pub cpu_max: Option<String>,
    /// Hard limit of open files; `None` is unlimited.
    pub nofile: Option<u64>,
    /// Hard limit of a file's size in bytes; `None` is unlimited.
    pub fsize: Option<u64>,
    /// Hard limit of a core dump's size in bytes; `None` is unlimited.
    pub core: Option<u64>,
}

/// What Landlock enforces on the process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Landlock {
    /// The ABI in use: the kernel's, as far as the launcher knows it.
    pub abi: u32,
    /// Whether every right that ABI 2 knows is handled and enforced.
    pub floor_enforced: bool,
    /// Whether abstract sockets and signals are scoped (ABI 6 and newer).
    pub scoped: bool,
    /// Whether TCP is denied by Landlock, too, but for named ports (ABI 4 and newer).
    pub tcp_denied: bool,
    /// How many rules were added.
    pub rules: usize,
}
