//! What pid 1 owes to processes that lost their parent: their last wait.

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::Pid;
use tokio::signal::unix::{SignalKind, signal};

/// Reaps every child but the agent, whose status the runtime waits for.
pub fn start(agent: i32) -> std::io::Result<()> {
    let mut children = signal(SignalKind::child())?;
    tokio::spawn(async move {
        while children.recv().await.is_some() {
            reap(agent);
        }
    });
    Ok(())
}

fn reap(agent: i32) {
    // Look first, then take: a plain wait for any child would steal the agent's status.
    let look = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    while let Ok(status) = waitid(Id::All, look) {
        match status.pid() {
            Some(pid) if pid.as_raw() != agent && status != WaitStatus::StillAlive => {
                waitpid(pid, Some(WaitPidFlag::WNOHANG)).ok();
            }
            _ => return,
        }
    }
}

/// Sends a signal to the agent, if it still lives.
pub fn send(agent: i32, signal: Signal) {
    kill(Pid::from_raw(agent), signal).ok();
}
