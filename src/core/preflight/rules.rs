//! `data/cell.json`: what may be in any cell beside what is planned for its run, each entry with
//! its reason.

use serde::Deserialize;

const SHIPPED: &str = include_str!("../../../data/cell.json");

/// What may be in any cell.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CellRules {
    /// File systems of the kernel's and of the cell's own.
    pub mounts: Vec<KernelMount>,
    /// Files that Podman makes for each container, and mounts read-only.
    pub podman_files: Vec<PodmanFile>,
    /// All that may be in `/dev`.
    pub devices: Vec<Device>,
    /// All that may be in the launcher's environment, by name.
    pub launcher_environment: Vec<String>,
}

/// A file system that comes from no folder of the host's.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KernelMount {
    /// Where.
    pub at: String,
    /// Which types it may be of.
    pub kinds: Vec<String>,
    /// What of its file system is mounted; `/` and what is of the same name as its place may be.
    #[serde(default)]
    pub root: Option<String>,
    /// Options of the mount that must be there.
    pub options: Vec<String>,
    /// Options of which any one does, if there are some: what versions of Podman do differently.
    #[serde(default)]
    pub one_of: Vec<String>,
    /// The size of a file system that the cell can fill, in KiB. Podman is asked for these.
    #[serde(default)]
    pub size_kib: Option<u64>,
    /// Whether a cell may be without.
    pub needed: Needed,
    /// Why; for readers of the data.
    pub reason: String,
}

/// Whether a cell may be without a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Needed {
    /// Every cell has it.
    Always,
    /// It covers a place, or makes it read-only, where the kernel has such a place.
    IfThere,
    /// Not every Podman has it.
    No,
}

/// A file that Podman makes.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PodmanFile {
    /// Where.
    pub at: String,
    /// Its name in the container's folder of Podman's.
    pub name: String,
    /// Why; for readers of the data.
    pub reason: String,
}

/// An entry of `/dev`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Device {
    /// Its name.
    pub name: String,
    /// What it may be: `c 1:3`, `directory`, `-> /proc/self/fd`.
    pub is: Vec<String>,
    /// Why; for readers of the data.
    pub reason: String,
}

impl CellRules {
    /// What is shipped.
    ///
    /// # Errors
    /// When the data is not of its form; a test reads it.
    pub fn shipped() -> Result<Self, serde_json::Error> {
        serde_json::from_str(SHIPPED)
    }

    /// Places that must be covered, or made read-only, where there are such.
    pub fn places(&self) -> impl Iterator<Item = &str> {
        let covers = self.mounts.iter().filter(|mount| mount.needed == Needed::IfThere);
        covers.map(|mount| mount.at.as_str())
    }

    /// Those that are covered; others are made read-only.
    pub fn covered(&self) -> impl Iterator<Item = &str> {
        let covers = |mount: &&KernelMount| {
            mount.needed == Needed::IfThere && mount.kinds.iter().any(|kind| kind == "tmpfs")
        };
        self.mounts.iter().filter(covers).map(|mount| mount.at.as_str())
    }

    /// File systems in memory that the cell can fill.
    pub fn scratch(&self) -> impl Iterator<Item = (&KernelMount, u64)> {
        self.mounts.iter().filter_map(|mount| Some((mount, mount.size_kib?)))
    }
}
