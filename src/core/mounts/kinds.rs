//! File systems that hold files of somebody's. All others are refused: what the kernel shows of
//! itself and of its processes can be mounted anywhere.

use serde::Deserialize;

const SHIPPED: &str = include_str!("../../../data/file-systems.json");

/// Types of file systems, as `/proc/self/mountinfo` names them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Kinds(Vec<Row>);

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    kinds: Vec<String>,
    // For whoever reads the file.
    #[serde(rename = "reason")]
    _reason: String,
}

impl Kinds {
    /// The shipped list.
    ///
    /// # Errors
    /// When it is broken; a test keeps that from happening.
    pub fn shipped() -> Result<Self, serde_json::Error> {
        serde_json::from_str(SHIPPED)
    }

    /// Whether a file system of this type holds files. A program's own has its name behind a dot:
    /// `fuse.sshfs`.
    pub fn hold_files(&self, kind: &str) -> bool {
        let kind = kind.split_once('.').map_or(kind, |(kind, _)| kind);
        self.0.iter().flat_map(|row| &row.kinds).any(|known| known == kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_hold_files_and_what_the_kernel_makes_up_does_not() -> Result<(), serde_json::Error> {
        let kinds = Kinds::shipped()?;
        for kind in ["ext4", "xfs", "btrfs", "zfs", "tmpfs", "nfs4", "fuse", "fuse.sshfs", "9p"] {
            assert!(kinds.hold_files(kind), "{kind}");
        }
        for kind in [
            "proc",
            "sysfs",
            "devtmpfs",
            "devpts",
            "cgroup",
            "cgroup2",
            "debugfs",
            "tracefs",
            "securityfs",
            "bpf",
            "configfs",
            "mqueue",
            "hugetlbfs",
            "binfmt_misc",
            "nsfs",
            "efivarfs",
            "pstore",
            "selinuxfs",
            "autofs",
            "fusectl",
            "resctrl",
            "",
            ".ext4",
            "ext4x",
        ] {
            assert!(!kinds.hold_files(kind), "{kind}");
        }
        Ok(())
    }
}
