//! Sockets that programs have in the file system, wherever that is: who reaches the file may
//! connect, also where it is mounted read-only. The kernel lists those of this network; what a
//! container has bound in another one is found only by looking into a folder (`inside.rs`).
//!
//! A socket is known by the path at which it was bound. One that has been renamed since counts
//! where it was made, also if nothing is there now; of one that was bound by a relative path nobody
//! knows where it is.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use crate::host::machine;

/// Where they are listed.
pub(super) const FILE: &str = "/proc/net/unix";

/// What such a place is.
pub(super) const WHAT: &str = "a socket that a program has";

/// Their paths as they were bound, each once. A relative one is left out: nobody knows from where.
///
/// # Errors
/// When they cannot be read to the last one: what is refused is not known then.
pub(super) fn bound() -> io::Result<BTreeSet<PathBuf>> {
    parse(machine::lines(FILE)?)
}

/// proc_net_unix(5): a line of heads; then seven fields, and a path if there is one. An abstract
/// name begins with `@`. A path is any bytes.
fn parse(lines: impl Iterator<Item = io::Result<Vec<u8>>>) -> io::Result<BTreeSet<PathBuf>> {
    let path = |line: Vec<u8>| {
        let at = line.windows(2).position(|pair| pair == b" /")?;
        Some(PathBuf::from(OsString::from_vec(line.get(at + 1..)?.to_vec())))
    };
    lines.filter_map(|line| line.map(path).transpose()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::BufRead;
    use std::os::unix::ffi::OsStrExt;
    use std::path::Path;

    #[test]
    fn paths_are_read_and_nothing_else_is() -> io::Result<()> {
        let text = "Num       RefCount Protocol Flags    Type St Inode Path\n\
            0000000000000000: 00000003 00000000 00000000 0001 03 22064\n\
            0000000000000000: 00000002 00000000 00010000 0001 01 21029 /run/a b.sock\n\
            0000000000000000: 00000003 00000000 00000000 0001 03 21030 /run/a b.sock\n\
            0000000000000000: 00000002 00000000 00010000 0001 01 21031 relative\n\
            0000000000000000: 00000002 00000000 00010000 0001 01 20939 @/tmp/abstract\n";
        let found = parse(lines(text.as_bytes()))?;
        assert_eq!(found.iter().collect::<Vec<_>>(), [Path::new("/run/a b.sock")]);
        Ok(())
    }

    fn lines(text: &[u8]) -> impl Iterator<Item = io::Result<Vec<u8>>> {
        io::BufReader::new(text).split(b'\n')
    }

    /// A table of sockets, of which each has a path of its own.
    fn table(sockets: u32) -> Vec<u8> {
        let heads = "Num       RefCount Protocol Flags    Type St Inode Path\n".to_owned();
        let line = |n| format!("0: 00000002 00000000 00010000 0001 01 {n} /run/many/{n:080}\n");
        let mut table = (0..sockets).map(line).fold(heads, |all, line| all + &line).into_bytes();
        table.extend(b"0: 00000002 00000000 00010000 0001 01 1 /srv/ann/caf\xe9/last.sock\n");
        table
    }

    #[test]
    fn a_table_of_any_length_is_read_to_its_last_socket() -> io::Result<()> {
        let table = table(150_000);
        assert!(table.len() > 16 << 20, "{}", table.len());
        let found = parse(lines(&table))?;
        assert_eq!(found.len(), 150_001);
        let last = std::ffi::OsStr::from_bytes(b"/srv/ann/caf\xe9/last.sock");
        assert!(found.contains(Path::new(last)));
        Ok(())
    }

    #[test]
    fn a_table_that_breaks_off_is_none() {
        let broken = || Err(io::Error::from_raw_os_error(5));
        let table = table(3);
        assert!(parse(lines(&table).chain([broken()])).is_err());
        assert!(parse(std::iter::once_with(broken)).is_err());
    }

    #[test]
    fn a_socket_of_this_process_is_found() -> io::Result<()> {
        let directory = tempfile::tempdir()?;
        let path = directory.path().join("one.sock");
        let socket = std::os::unix::net::UnixListener::bind(&path)?;
        assert!(bound()?.contains(&path));
        drop(socket);
        assert!(!bound()?.contains(&path));
        Ok(())
    }
}
