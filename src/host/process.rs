//! What this process takes over from whoever started it, cleaned up before anything else happens.

use nix::sys::resource::{Resource, setrlimit};
use nix::sys::stat::{Mode, umask};

/// Files that are made are the owner's alone, and no core dump will ever hold the key. What fails
/// here fails on every start and is seen in `/proc/PID/status`; nothing depends on it alone.
pub fn clean() {
    umask(Mode::from_bits_truncate(0o077));
    setrlimit(Resource::RLIMIT_CORE, 0, 0).ok();
    // Other processes of the same user cannot read this one's memory.
    nix::sys::prctl::set_dumpable(false).ok();
}
