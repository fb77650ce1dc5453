//! A line from the terminal that is not shown while it is typed.

use std::io::{self, BufRead};

use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};

/// Shows again what is typed when it is dropped.
struct Unseen(Termios);

impl Drop for Unseen {
    fn drop(&mut self) {
        tcsetattr(io::stdin(), SetArg::TCSAFLUSH, &self.0).ok();
    }
}

/// Reads a line from standard input, which is a terminal, without showing it.
///
/// # Errors
/// The kernel's; or nothing was typed.
pub fn unseen_line() -> io::Result<String> {
    let before = tcgetattr(io::stdin())?;
    let mut unseen = before.clone();
    unseen.local_flags.remove(LocalFlags::ECHO);
    unseen.local_flags.insert(LocalFlags::ECHONL);
    let _again = Unseen(before);
    tcsetattr(io::stdin(), SetArg::TCSAFLUSH, &unseen)?;
    let mut line = String::new();
    match io::stdin().lock().read_line(&mut line)? {
        0 => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "nothing was typed")),
        _ => Ok(line.trim().to_owned()),
    }
}
