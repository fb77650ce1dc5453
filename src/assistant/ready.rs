//! Readiness: no halt; Podman, its storage, the limits it can enforce, the image, the key, room on
//! the disk. Asked before a message is accepted and when its cell is made, never by liveness.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::time::timeout;

use super::halt;
use crate::cell::Cells;
use crate::cell::engine::Info;
use crate::cell::image::{self, AgentImage};
use crate::core::plan::Controller;
use crate::core::problem::{Problem, ProblemKind, chain};
use crate::core::quota;
use crate::gateway::Gateway;
use crate::host::owned;

/// How long a good answer holds: Podman is not asked for each of many messages at once.
const FRESH: Duration = Duration::from_secs(1);
/// How long a message waits for Podman's answer. Its service may have to be started.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long Podman may take to answer at all, for later messages. A slow machine took 50 s.
const MOST: Duration = Duration::from_secs(120);

/// What a cell can be made of.
#[derive(Debug, Clone)]
pub struct Ready {
    /// The image.
    pub image: AgentImage,
    /// What Podman says of itself.
    pub podman: Info,
}

/// What Podman says of itself.
///
/// # Errors
/// When it does not answer.
pub async fn podman(cells: &Cells) -> Result<Info, Problem> {
    within(PATIENCE, info(cells)).await
}

async fn info(cells: &Cells) -> Result<Info, Problem> {
    cells.engine().info().await.map_err(|error| no_podman(chain(&error)))
}

/// Finds out whether a message can be answered.
#[derive(Debug)]
pub struct Readiness {
    gateway: Gateway,
    state: PathBuf,
    disk_free: u64,
    asked: Arc<Asked>,
}

/// What Podman is asked, and what it has said.
#[derive(Debug)]
struct Asked {
    cells: Cells,
    accept_without: Vec<Controller>,
    has_model: bool,
    last: Mutex<Option<(Instant, Ready)>>,
    // What was missing when it was last asked.
    missing: Mutex<Option<Problem>>,
    // A slow Podman is not asked by each of many messages at once: that would make it slower.
    asking: tokio::sync::Mutex<()>,
}

impl Readiness {
    /// Asks this Podman. `has_model`: a key, or an upstream that needs none. `disk_free`: bytes
    /// that must be free where the state directory is.
    pub fn new(
        cells: Cells,
        accept_without: Vec<Controller>,
        gateway: Gateway,
        has_model: bool,
        state: PathBuf,
        disk_free: u64,
    ) -> Self {
        let (last, missing, asking) = Default::default();
        let asked = Arc::new(Asked { cells, accept_without, has_model, last, missing, asking });
        Self { gateway, state, disk_free, asked }
    }

    /// Whether a message can be answered now.
    ///
    /// # Errors
    /// The first thing that is missing, or the owner's halt, with a hint.
    pub async fn check(&self) -> Result<Ready, Problem> {
        match self.halted() {
            Some(problem) => Err(problem),
            None => self.parts().await,
        }
    }

    /// What keeps messages from being answered, as far as is known without asking Podman.
    pub fn known_problem(&self) -> Option<Problem> {
        let missing = || self.asked.missing().clone();
        self.halted().or_else(|| self.room().err()).or_else(missing)
    }

    /// Whether anything is known at all: Podman has answered, or has not in time.
    pub fn has_looked(&self) -> bool {
        self.asked.last().is_some() || self.asked.missing().is_some()
    }

    /// The owner's halt, as what keeps messages from being answered.
    pub fn halted(&self) -> Option<Problem> {
        self.gateway.halted().map(|halt| halt::problem(&halt))
    }

    /// Whether all is there that it takes, halted or not.
    ///
    /// # Errors
    /// The first thing that is missing, with a hint.
    pub async fn parts(&self) -> Result<Ready, Problem> {
        // It changes from moment to moment, and costs nothing to ask.
        self.room()?;
        if let Some(ready) = self.asked.fresh() {
            return Ok(ready);
        }
        // An answer that comes too late for this message is there for the next one.
        let asked = tokio::spawn(Arc::clone(&self.asked).look());
        let answer = async { asked.await.map_err(|broken| no_podman(chain(&broken)))? };
        within(PATIENCE, answer).await.inspect_err(|problem| {
            self.asked.missing().get_or_insert_with(|| problem.clone());
        })
    }

    /// What Podman says of itself, whatever else is missing.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn podman(&self) -> Result<Info, Problem> {
        match self.asked.known() {
            Some(known) => Ok(known),
            None => podman(&self.asked.cells).await,
        }
    }

    fn room(&self) -> Result<(), Problem> {
        let unknown = |error: std::io::Error| {
            let detail = format!("nobody knows what is free at {}: {error}", self.state.display());
            Problem::new(ProblemKind::Internal, detail)
        };
        let free = owned::free(&self.state).map_err(unknown)?;
        quota::enough(free, self.disk_free)
            .map_err(|low| Problem::new(ProblemKind::StorageFull, low).hint(quota::MAKE_ROOM))
    }
}

impl Asked {
    fn last(&self) -> MutexGuard<'_, Option<(Instant, Ready)>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn missing(&self) -> MutexGuard<'_, Option<Problem>> {
        self.missing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A good answer that still holds.
    fn fresh(&self) -> Option<Ready> {
        let last = self.last();
        let (at, ready) = last.as_ref()?;
        (at.elapsed() < FRESH).then(|| ready.clone())
    }

    /// What Podman is, which does not change while it answers; `info` is slow.
    fn known(&self) -> Option<Info> {
        self.last().as_ref().map(|(_, ready)| ready.podman.clone())
    }

    async fn look(self: Arc<Self>) -> Result<Ready, Problem> {
        let _alone = self.asking.lock().await;
        if let Some(ready) = self.fresh() {
            return Ok(ready);
        }
        let result = within(MOST, self.ask(self.known())).await;
        *self.last() = result.as_ref().ok().map(|ready| (Instant::now(), ready.clone()));
        *self.missing() = result.as_ref().err().cloned();
        result
    }

    async fn ask(&self, known: Option<Info>) -> Result<Ready, Problem> {
        if !self.has_model {
            return Err(Problem::new(ProblemKind::KeyMissing, "there is no key for the model").hint(
                "name the key's file, --api-key-file FILE, or try without one: --model-api demo",
            ));
        }
        let podman = match known {
            Some(info) => info,
            None => info(&self.cells).await?,
        };
        judge(&podman, &self.accept_without)?;
        let image = image::current(self.cells.podman()).await;
        let image = image.map_err(|error| no_podman(chain(&error)))?;
        let missing = || {
            Problem::new(ProblemKind::ImageMissing, format!("there is no image {}", image::CURRENT))
                .hint("noclaw image build")
        };
        Ok(Ready { image: image.ok_or_else(missing)?, podman })
    }
}

/// Whether Podman's storage is usable, and every limit of a cell can be enforced but those that the
/// owner does without.
///
/// # Errors
/// The first thing that is missing, with a hint.
pub fn judge(podman: &Info, accept_without: &[Controller]) -> Result<(), Problem> {
    if let Some(problem) = storage(podman) {
        return Err(problem);
    }
    let missing: Vec<_> = missing_controllers(podman)
        .into_iter()
        .filter(|controller| !accept_without.contains(controller))
        .map(Controller::as_str)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(",");
    let detail = format!("Podman has no cgroup controller for: {list}");
    Err(Problem::new(ProblemKind::LimitsMissing, detail).hint(format!(
        "delegate them to your user, or accept to do without: --accept-without={list}"
    )))
}

async fn within<T>(
    most: Duration,
    question: impl Future<Output = Result<T, Problem>>,
) -> Result<T, Problem> {
    timeout(most, question).await.unwrap_or_else(|_| {
        Err(no_podman(format!("Podman did not answer within {} s", most.as_secs())))
    })
}

fn no_podman(detail: String) -> Problem {
    Problem::new(ProblemKind::PodmanUnavailable, detail)
        .hint("systemctl --user start podman.socket, or `noclaw doctor`")
}

/// The controllers that a cell needs and Podman has not.
pub fn missing_controllers(podman: &Info) -> Vec<Controller> {
    let has = |controller: &Controller| podman.controllers.iter().any(|c| c == controller.as_str());
    Controller::ALL.into_iter().filter(|controller| !has(controller)).collect()
}

/// What is wrong with Podman's storage: `vfs` copies the whole image for each cell.
pub fn storage(podman: &Info) -> Option<Problem> {
    (podman.storage_driver == "vfs").then(|| {
        Problem::new(ProblemKind::StorageDriver, "Podman's storage driver is vfs")
            .hint("set `driver = \"overlay\"` in storage.conf(5), then: podman system reset")
    })
}
