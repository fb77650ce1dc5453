//! Pid 1's story: open the door, say hello, prepare and start the confined half, have its
//! measurements judged, join its streams to the door, say how it ended.
//!
//! | what goes wrong | what follows |
//! |---|---|
//! | the door ends | pid 1 ends at once, and with it every process of the cell |
//! | the job cannot be carried out | a line on standard error, status 70; the service sees the door end |
//! | the preflight is refused | the same; the confined half never became the agent |
//! | SIGTERM, SIGINT | passed on to the agent |
//! | the service stands still | when the job's time is over, the same as when the door ends |

use std::error::Error;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::time::Duration;

use noclaw_cell::PROTOCOL;
use noclaw_cell::job::{Hello, Job};
use noclaw_cell::preflight::Preflight;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;

use crate::agent::Agent;
use crate::door::Door;
use crate::{measure, model, reaper};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// Runs to the agent's end.
pub fn run() -> Result<()> {
    // The agent has the same uid: it shall not look into this process. It would find nothing but
    // its own run, but the door's descriptors are here.
    nix::sys::prctl::set_dumpable(false)?;
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let (door, lost) = Door::open().await?;
        tokio::pin!(lost);
        let job = tokio::select! {
            job = greet(&door) => job?,
            error = &mut lost => return Err(error.into()),
        };
        let most = Duration::from_secs(job.most_seconds);
        let story = async {
            tokio::select! {
                result = serve(door, job) => result?,
                error = &mut lost => return Err(error.into()),
            }
            // The agent's last words may still be on their way: the service closes the door when
            // it has heard them.
            lost.await;
            Ok(())
        };
        timeout(most, story).await.map_err(|_| "the service has not ended this cell in time")?
    })
}

async fn greet(door: &Door) -> Result<Job> {
    let hello = Hello { protocol: PROTOCOL, launcher: env!("CARGO_PKG_VERSION").to_owned() };
    Ok(door.ask("/hello", &hello).await?)
}

async fn serve(door: Door, job: Job) -> Result<()> {
    prepare(&job)?;
    model::listen(&job.model_socket, door.clone())?;

    let mut agent = Agent::start(&job).await?;
    reaper::start(agent.pid())?;
    let launcher = measure::measure(&job.confinement, None)?;
    let preflight = Preflight { launcher, agent: agent.measured().await? };
    door.tell("/preflight", &preflight).await?;
    agent.go().await?;

    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let pid = agent.pid();
    let joined = agent.join(&door, job.stderr_bytes);
    tokio::pin!(joined);
    let exit = loop {
        tokio::select! {
            exit = &mut joined => break exit?,
            _ = terminate.recv() => reaper::send(pid, nix::sys::signal::SIGTERM),
            _ = interrupt.recv() => reaper::send(pid, nix::sys::signal::SIGINT),
        }
    };
    door.tell("/exit", &exit).await?;
    Ok(())
}

/// Writes the job's files and links. All lie on the cell's own tmpfs.
fn prepare(job: &Job) -> Result<()> {
    let parents = job.files.iter().map(|f| &f.path).chain(job.links.iter().map(|l| &l.path));
    let socket = std::iter::once(&job.model_socket);
    for path in parents.chain(socket) {
        if let Some(parent) = Path::new(path).parent() {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
        }
    }
    for file in &job.files {
        std::fs::write(&file.path, &file.content)?;
    }
    for link in &job.links {
        std::os::unix::fs::symlink(&link.target, &link.path)?;
    }
    Ok(())
}
