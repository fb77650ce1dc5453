//! Other paths to the same place. A bind mount, or a second mount of a disk, shows a folder once
//! more: what contains it there contains it, though no directory of the one way is on the other.

use std::path::{Path, PathBuf};

use crate::host::machine;

/// A line of `/proc/self/mountinfo`, proc_pid_mountinfo(5).
#[derive(Debug)]
struct Mount {
    // Of the file system: `major:minor`.
    device: String,
    // What of it is mounted.
    root: PathBuf,
    // Where.
    point: PathBuf,
}

/// The mounts that this process sees.
#[derive(Debug, Default)]
pub struct Mounts(Vec<Mount>);

impl Mounts {
    /// Reads them. Without `/proc` there are none.
    pub fn read() -> Self {
        Self::parse(&machine::text("/proc/self/mountinfo"))
    }

    fn parse(text: &str) -> Self {
        let mount = |line: &str| {
            let mut fields = line.split(' ').skip(2);
            let device = fields.next()?.to_owned();
            let mut path = || fields.next().map(|field| PathBuf::from(unescape(field)));
            Some(Mount { device, root: path()?, point: path()? })
        };
        Self(text.lines().filter_map(mount).collect())
    }

    /// The other paths to a path that has no link on its way.
    pub fn others(&self, path: &Path) -> Vec<PathBuf> {
        let around = self.0.iter().filter(|mount| path.starts_with(&mount.point));
        // Of two at one point the later one is on top.
        let Some(here) = around.max_by_key(|mount| mount.point.components().count()) else {
            return Vec::new();
        };
        let Ok(below) = path.strip_prefix(&here.point) else { return Vec::new() };
        let inner = here.root.join(below);
        let same = self.0.iter().filter(|mount| mount.device == here.device);
        let there = same.filter_map(|mount| Some((mount, inner.strip_prefix(&mount.root).ok()?)));
        // A push of nothing would end the path in a slash.
        let whole = |(mount, below): (&Mount, &Path)| mount.point.iter().chain(below).collect();
        there.map(whole).filter(|other: &PathBuf| other != path).collect()
    }
}

/// The kernel writes space, tab, newline and backslash as three octal digits.
fn unescape(field: &str) -> String {
    let escapes = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
    escapes.iter().fold(field.to_owned(), |text, (octal, char)| text.replace(octal, char))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_found_wherever_its_file_system_is_mounted() {
        let mounts = Mounts::parse(
            "20 1 254:0 / / rw - ext4 /dev/vda rw\n\
             21 20 254:16 / /data rw shared:1 - ext4 /dev/vdb rw\n\
             22 20 254:16 /homes /homes rw shared:1 - ext4 /dev/vdb rw\n\
             23 22 0:40 / /homes/ann/cloud rw - fuse x rw\n\
             24 20 254:16 /my\\040things/x /mnt rw - ext4 /dev/vdb rw\n",
        );
        let others = |path: &str| -> Vec<String> {
            let found = mounts.others(Path::new(path));
            found.iter().map(|path| path.display().to_string()).collect()
        };
        assert_eq!(others("/homes/ann/.local"), ["/data/homes/ann/.local"]);
        assert_eq!(others("/homes"), ["/data/homes"]);
        assert_eq!(others("/data/homes/ann"), ["/homes/ann"]);
        assert_eq!(others("/data/my things/x/y"), ["/mnt/y"]);
        assert_eq!(others("/mnt"), ["/data/my things/x"]);
        assert_eq!(others("/data/other"), [""; 0]);
        assert_eq!(others("/srv"), [""; 0]);
        assert_eq!(others("/homes/ann/cloud/x"), [""; 0]);
    }
}
