//! What this machine is, who uses it, and what time it is there.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::Path;

use noclaw_cell::preflight::NAMESPACES;

use super::owned;
use crate::core::ids::{InvalidId, UserName};
use crate::core::limits::MIB;

/// Now, in milliseconds since the epoch.
pub fn now() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

/// Cores that this process may use.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// Bytes of memory.
pub fn memory() -> u64 {
    let text = text("/proc/meminfo");
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = line.and_then(|rest| rest.trim().strip_suffix(" kB")).map(str::trim);
    kib.and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// The users or groups that a login name or its id may map into a container, by subuid(5) or
/// subgid(5): lines of `NAME:FIRST:COUNT`.
pub fn subordinate_ids(file: &str, name: &str) -> u64 {
    let (text, id) = (text(file), nix::unistd::geteuid().to_string());
    let mine = text.lines().filter_map(|line| {
        let (whose, range) = line.split_once(':')?;
        (whose == name || whose == id).then(|| range.split_once(':'))?
    });
    mine.filter_map(|(_, count)| count.trim().parse::<u64>().ok()).sum()
}

/// Whether the user's services outlive a login (loginctl's lingering).
pub fn lingers(name: &str) -> bool {
    owned::exists(&Path::new("/var/lib/systemd/linger").join(name))
}

/// The lines of a file of the kernel's, as many as there are.
///
/// # Errors
/// When it cannot be opened; a line is an error when the rest cannot be read.
pub(super) fn lines(path: &str) -> io::Result<io::Split<BufReader<File>>> {
    Ok(BufReader::new(owned::open(Path::new(path))?).split(b'\n'))
}

/// A file of the kernel's or of root's; empty when there is none, or when it is
/// no such file by its length. What is refused for what stands in it is read by [`lines`].
pub(super) fn text(path: &str) -> String {
    let bytes = owned::read(Path::new(path), 16 * MIB).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The namespaces that this process is in: kind and inode number. One that is missing here could
/// not be looked at.
pub fn namespaces() -> BTreeMap<String, u64> {
    let inode = |kind: &str| {
        let path = Path::new("/proc/self/ns").join(kind);
        Some((kind.to_owned(), owned::inode(&path).ok()?))
    };
    NAMESPACES.into_iter().filter_map(inode).collect()
}

/// The login name of the user who runs this, who is the default user.
///
/// # Errors
/// When the login name cannot be a user's name.
pub fn owner() -> Result<UserName, InvalidId> {
    let uid = nix::unistd::geteuid();
    let user = nix::unistd::User::from_uid(uid).ok().flatten();
    user.map_or_else(|| uid.to_string(), |user| user.name).parse()
}
