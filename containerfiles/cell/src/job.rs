//! The launcher's greeting, what it is told to do, and how it says that the agent ended.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The first words through the door.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hello {
    /// [`crate::PROTOCOL`] of the launcher.
    pub protocol: u32,
    /// The launcher's version.
    pub launcher: String,
}

/// Everything a launcher needs to start the agent. It holds no secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Job {
    /// The agent's program and arguments.
    pub argv: Vec<String>,
    /// The agent's whole environment.
    pub env: BTreeMap<String, String>,
    /// The agent's working directory.
    pub cwd: String,
    /// Files to write before the agent starts, all below the cell's own tmpfs.
    pub files: Vec<File>,
    /// Links to make before the agent starts.
    pub links: Vec<Link>,
    /// What the agent's process gives up before it becomes the agent.
    pub confinement: Confinement,
    /// Where the launcher listens for the agent's model requests.
    pub model_socket: String,
    /// How long the cell may exist, in seconds. The service ends it earlier; where that stands
    /// still, the launcher does.
    pub most_seconds: u64,
    /// How many bytes of the agent's standard error are kept: the last ones.
    pub stderr_bytes: usize,
}

/// What the agent's process gives up before it becomes the agent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Confinement {
    /// What it may reach in the file system.
    pub landlock: Vec<Rule>,
    /// Its own system call filter, beside the cell's: seccompiler's JSON form, the filter `agent`.
    pub seccomp: String,
    /// The argument of personality(2) that the cell's filter answers in a way of its own.
    pub fingerprint: u32,
    /// Places that must be covered, or made read-only, where there are such.
    pub places: Vec<String>,
}

/// A file to write.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// Absolute path; missing directories above it are made.
    pub path: String,
    /// Its content.
    pub content: String,
}

/// A symbolic link to make.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Link {
    /// Absolute path of the link; missing directories above it are made.
    pub path: String,
    /// What it points to.
    pub target: String,
}

/// One row of the Landlock table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// The file, or the directory with all beneath it.
    pub path: String,
    /// What may be done there.
    pub access: Access,
    /// Why; for readers of the table.
    #[serde(default, skip_serializing)]
    pub reason: String,
}

/// What may be done beneath a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Access {
    /// Read and list.
    Read,
    /// List, and open a directory itself.
    List,
    /// Read, list, execute.
    ReadExecute,
    /// Connect to the Unix sockets there (restricted by ABI 9 and newer only).
    Connect,
    /// Make Unix sockets, connect to them, and remove files: nothing is read.
    Sockets,
    /// Read, write and control an existing file or device.
    ReadWrite,
    /// All but execute.
    AllButExecute,
    /// All.
    All,
}

/// How the agent ended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exit {
    /// Its exit status, if it exited.
    pub status: Option<i32>,
    /// The signal that killed it, if one did.
    pub signal: Option<i32>,
    /// Peak memory of the cell in bytes, where the kernel counts it.
    pub memory_peak: Option<u64>,
    /// Processes of the cell that the kernel killed for memory, where it counts them.
    pub oom_kills: Option<u64>,
    /// The last bytes of the agent's standard error.
    pub stderr: String,
}
