//! Other paths to the same place. A bind mount, or a second mount of a disk, shows a folder once
//! more: what contains it there contains it, though no directory of the one way is on the other.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};

use super::open::lookup;
use crate::core::mounts::Way;
use crate::host::machine;

/// Where they are listed.
pub(super) const FILE: &str = "/proc/self/mountinfo";

/// A line of `/proc/self/mountinfo`, proc_pid_mountinfo(5).
#[derive(Debug)]
struct Mount {
    id: String,
    // Of the file system: `major:minor`.
    device: String,
    // What of it is mounted.
    root: PathBuf,
    // Where.
    point: PathBuf,
    // The file system's type.
    kind: String,
}

/// The mounts that this process sees.
#[derive(Debug, Default)]
pub struct Mounts(Vec<Mount>);

impl Mounts {
    /// Reads them.
    ///
    /// # Errors
    /// When they cannot be read to the last one.
    pub fn read() -> io::Result<Self> {
        Self::parse(machine::lines(FILE)?)
    }

    fn parse(lines: impl Iterator<Item = io::Result<Vec<u8>>>) -> io::Result<Self> {
        let mount = |line: Vec<u8>| {
            let line = String::from_utf8_lossy(&line);
            let (left, right) = line.split_once(" - ")?;
            let mut fields = left.split(' ');
            let (id, device) = (fields.next()?.to_owned(), fields.nth(1)?.to_owned());
            let mut path = || fields.next().map(|field| PathBuf::from(unescape(field)));
            let kind = right.split(' ').next()?.to_owned();
            Some(Mount { id, device, root: path()?, point: path()?, kind })
        };
        lines.filter_map(|line| line.map(mount).transpose()).collect::<io::Result<_>>().map(Self)
    }

    /// The id of the mount that an open file is of, and the type of its file system; empty where
    /// nobody knows.
    pub fn of(&self, file: impl AsFd) -> (String, String) {
        let info = format!("/proc/self/fdinfo/{}", file.as_fd().as_raw_fd());
        let info = machine::text(&info);
        let id = info.lines().find_map(|line| line.strip_prefix("mnt_id:")).map(str::trim);
        let mount = self.0.iter().find(|mount| Some(mount.id.as_str()) == id);
        mount.map(|mount| (mount.id.clone(), mount.kind.clone())).unwrap_or_default()
    }

    /// The other paths to a path that has no link on its way.
    pub fn others(&self, path: &Path) -> Vec<PathBuf> {
        self.again(path, None).iter().map(|(point, below)| joined(point, below)).collect()
    }

    /// The other ways to an open folder of this mount, each from where its file system is mounted:
    /// what lies above that is of another one, and contains it only there.
    pub fn ways(&self, path: &Path, mount: &str) -> Vec<Way> {
        let way = |(point, below): &(PathBuf, PathBuf)| {
            let steps = (0..=below.iter().count()).map_while(|steps| {
                let part: PathBuf = below.iter().take(steps).collect();
                let here = joined(point, &part);
                let name = part.file_name().unwrap_or_default().to_string_lossy().into_owned();
                Some((name, lookup(&here)?))
            });
            Way(steps.collect())
        };
        self.again(path, Some(mount)).iter().map(way).collect()
    }

    /// Where else its file system is mounted with it, and where it is below that. Which mount it is
    /// of, an open file knows; by its path alone it is taken to be of the nearest around it, which
    /// may lie below another one.
    fn again(&self, path: &Path, mount: Option<&str>) -> Vec<(PathBuf, PathBuf)> {
        let around = || self.0.iter().filter(|mount| path.starts_with(&mount.point));
        let known = around().find(|around| Some(around.id.as_str()) == mount);
        // Of two at one point the later one is on top.
        let nearest = || around().max_by_key(|mount| mount.point.components().count());
        let Some(here) = known.or_else(nearest) else {
            return Vec::new();
        };
        let Ok(below) = path.strip_prefix(&here.point) else { return Vec::new() };
        let inner = here.root.join(below);
        let same = self.0.iter().filter(|mount| mount.device == here.device);
        let there = same.filter_map(|mount| {
            let below = inner.strip_prefix(&mount.root).ok()?.to_owned();
            Some((mount.point.clone(), below))
        });
        there.filter(|(point, below)| joined(point, below) != path).collect()
    }
}

/// A push of nothing would end the path in a slash.
fn joined(point: &Path, below: &Path) -> PathBuf {
    point.iter().chain(below).collect()
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
    fn a_path_is_found_wherever_its_file_system_is_mounted() -> io::Result<()> {
        let text = "20 1 254:0 / / rw - ext4 /dev/vda rw\n\
             21 20 254:16 / /data rw shared:1 - ext4 /dev/vdb rw\n\
             22 20 254:16 /homes /homes rw shared:1 - ext4 /dev/vdb rw\n\
             23 22 0:40 / /homes/ann/cloud rw - fuse x rw\n\
             24 20 254:16 /my\\040things/x /mnt rw - ext4 /dev/vdb rw\n";
        let mounts = Mounts::parse(text.split('\n').map(|line| Ok(line.into())))?;
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
        Ok(())
    }
}
