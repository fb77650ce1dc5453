//! The process that started this one and is to outlive it: it holds the other end of this one's
//! standard input, and lets go of it when it ends, whatever it is ended by. The kernel's signal at
//! a parent's death (prctl(2), `PR_SET_PDEATHSIG`) is another matter: it comes when the *thread*
//! ends that has started the process, and never when that was before it was asked for.

use std::io;
use std::os::fd::AsFd;

use tokio::net::unix::pipe::Receiver;

/// The pipe to it.
#[derive(Debug)]
pub struct Parent(Receiver);

impl Parent {
    /// Whoever holds the other end of standard input. Needs a runtime.
    ///
    /// # Errors
    /// When standard input is no pipe.
    pub fn by_stdin() -> io::Result<Self> {
        let input = io::stdin().as_fd().try_clone_to_owned()?;
        Receiver::from_owned_fd(input).map(Self)
    }

    /// Waits until it is gone. What it says is nothing.
    pub async fn gone(&self) {
        let mut bytes = [0; 64];
        loop {
            // A pipe that cannot be read tells of nobody any more.
            if self.0.readable().await.is_err() {
                return;
            }
            match self.0.try_read(&mut bytes) {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
    }
}
