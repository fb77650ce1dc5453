//! Sockets that programs have in the file system, wherever that is: who reaches the file may
//! connect, also where it is mounted read-only. The kernel lists those of this network; what a
//! container has bound in another one is found only by looking into a folder (`inside.rs`).
//!
//! A socket is known by the path at which it was bound. One that has been renamed since counts
//! where it was made, also if nothing is there now; of one that was bound by a relative path nobody
//! knows where it is.

use std::collections::BTreeSet;
use std::path::PathBuf;

use crate::host::machine;

/// What such a place is.
pub(super) const WHAT: &str = "a socket that a program has";

/// Their paths as they were bound, each once. A relative one is left out: nobody knows from where.
pub(super) fn bound() -> BTreeSet<PathBuf> {
    parse(&machine::text("/proc/net/unix"))
}

/// proc_net_unix(5): a line of heads; then seven fields, and a path if there is one. An abstract
/// name begins with `@`.
fn parse(text: &str) -> BTreeSet<PathBuf> {
    let path = |line: &str| {
        let at = line.find(" /")?;
        Some(PathBuf::from(line.get(at..)?.trim_start()))
    };
    text.lines().filter_map(path).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn paths_are_read_and_nothing_else_is() {
        let text = "Num       RefCount Protocol Flags    Type St Inode Path\n\
            0000000000000000: 00000003 00000000 00000000 0001 03 22064\n\
            0000000000000000: 00000002 00000000 00010000 0001 01 21029 /run/a b.sock\n\
            0000000000000000: 00000003 00000000 00000000 0001 03 21030 /run/a b.sock\n\
            0000000000000000: 00000002 00000000 00010000 0001 01 21031 relative\n\
            0000000000000000: 00000002 00000000 00010000 0001 01 20939 @/tmp/abstract\n";
        let found = parse(text);
        assert_eq!(found.iter().collect::<Vec<_>>(), [Path::new("/run/a b.sock")]);
    }

    #[test]
    fn a_socket_of_this_process_is_found() -> Result<(), std::io::Error> {
        let directory = tempfile::tempdir()?;
        let path = directory.path().join("one.sock");
        let socket = std::os::unix::net::UnixListener::bind(&path)?;
        assert!(bound().contains(&path));
        drop(socket);
        assert!(!bound().contains(&path));
        Ok(())
    }
}
