//! Floor 1: a cell, from Podman's create to its absence, and what is said through its door.
//!
//! ```text
//! create ──> init ──> attach ──> start ──> door: hello, preflight, agent, exit ──> end
//! ```
//! A cell that was created is always ended by [`Cell::end`]: the door first (a cell whose output
//! nobody reads cannot be removed), then DELETE with force, then seen absent. What a crash left is
//! found by its label ([`Cells::remove_all`]).

pub mod agent;
pub mod archive;
pub mod door;
pub mod engine;
pub mod frames;
pub mod image;
pub mod podman;
pub mod seccomp;
pub mod start;
pub mod stream_json;
pub mod transcript;
mod turn;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use noclaw_cell::LAUNCHER;
use noclaw_cell::job::Job;

use self::door::{Door, Model};
use self::engine::{Engine, EngineError, Listed};
use self::podman::{Create, LogConfiguration, Mount, Namespace, Podman, PodmanError, RLimit};
use self::turn::Turns;
use crate::core::ids::{InstanceId, RunId};
use crate::core::limits::{CELL_END, CELL_FSIZE, CELL_NOFILE, CELL_START, IMAGE_FIRST_USE};
use crate::core::plan::{CPU_PERIOD, CellPlan, Controller, PlannedMount};
use crate::core::preflight::rules::{CellRules, KernelMount};

/// Label: which NoClaw a container belongs to.
pub const LABEL_INSTANCE: &str = "io.noclaw.instance";
/// Label: which run it is for.
pub const LABEL_RUN: &str = "io.noclaw.run";
/// Label: whose run that is.
pub const LABEL_USER: &str = "io.noclaw.user";
/// Where the user's files are in a cell.
pub const WORKSPACE: &str = "/workspace";
/// Where the conversation's transcripts are in a cell.
pub const TRANSCRIPTS: &str = "/transcripts";

const PRIVATE: Namespace = Namespace { nsmode: "private", value: "" };

/// Where the owner's folders are in a cell, each by its name. No image needs the places of mounts:
/// they are made before the root becomes read-only.
pub const MOUNTS: &str = "/mounts";

/// What keeps a cell from being made.
#[derive(Debug, thiserror::Error)]
pub enum CellError {
    /// One of our own requests failed.
    #[error(transparent)]
    Podman(#[from] PodmanError),
    /// One of podman-api's failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// Podman took too long.
    #[error("Podman did not {step} within {} s", most.as_secs())]
    Slow {
        /// Which step.
        step: &'static str,
        /// How long it may take.
        most: Duration,
    },
}

/// A program to be tried out in an image.
#[derive(Debug)]
pub struct Trial<'a> {
    /// The image's id or name.
    pub image: &'a str,
    /// The program and its arguments.
    pub program: &'a [&'a str],
    /// The system call filter's file.
    pub seccomp_profile: &'a str,
    /// What is in any cell.
    pub rules: &'a CellRules,
}

/// Where cells are made.
#[derive(Debug, Clone)]
pub struct Cells {
    podman: Podman,
    engine: Engine,
    turns: Turns,
}

/// A container that exists, and must be ended.
#[derive(Debug)]
pub struct Cell {
    id: String,
    cells: Cells,
    // Podman was asked to start it and has not said that it did.
    starting: AtomicBool,
}

impl Cells {
    /// Cells of the Podman at this socket.
    pub fn at(socket: &Path) -> Self {
        let (podman, engine) = (Podman::at(socket), Engine::at(socket));
        Self { podman, engine, turns: Turns::at(socket) }
    }

    /// Our own requests.
    pub const fn podman(&self) -> &Podman {
        &self.podman
    }

    /// podman-api's.
    pub const fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Creates the container of a plan. Nothing of it runs yet.
    ///
    /// # Errors
    /// Podman's. It may have made the container all the same: see [`Cells::remove_of`].
    pub async fn create(&self, plan: &CellPlan) -> Result<Cell, CellError> {
        self.make(&request(plan), CELL_START).await
    }

    async fn make(&self, request: &Create<'_>, most: Duration) -> Result<Cell, CellError> {
        let _turn = self.turns.take().await;
        let id = within(most, "create a container", self.podman.create(request)).await?;
        Ok(self.cell(id))
    }

    /// Removes the containers of a run, whose ids nobody need know, and sees them absent.
    ///
    /// # Errors
    /// Podman's; some may have been removed then.
    pub async fn remove_of(&self, run: RunId) -> Result<usize, EngineError> {
        self.remove_labelled(LABEL_RUN, &run.to_string()).await
    }

    /// Runs a program in a container as confined as a cell, without any mount of the host's, and
    /// returns its exit status. It has the time that an image's first container takes.
    ///
    /// # Errors
    /// Podman's.
    pub async fn try_out(&self, trial: &Trial<'_>) -> Result<i64, CellError> {
        let mounts = scratch(trial.rules);
        let base = base(trial.image, trial.seccomp_profile, trial.rules);
        let request = Create { entrypoint: trial.program, mounts, ..base };
        let cell = self.make(&request, IMAGE_FIRST_USE).await?;
        let run = async {
            within(IMAGE_FIRST_USE, "start the container", self.engine.start(&cell.id)).await?;
            within(IMAGE_FIRST_USE, "run it to its end", self.podman.wait(&cell.id)).await
        };
        let status = run.await;
        cell.end().await?;
        status
    }

    /// Removes every container of an instance and sees them absent.
    ///
    /// # Errors
    /// Podman's; some may have been removed then.
    pub async fn remove_all(&self, instance: &InstanceId) -> Result<usize, EngineError> {
        self.remove_labelled(LABEL_INSTANCE, instance.as_str()).await
    }

    async fn remove_labelled(&self, label: &str, value: &str) -> Result<usize, EngineError> {
        let left = self.engine.list(label, value).await?;
        for container in &left {
            self.engine.remove_unknown(&container.id, CELL_END).await?;
        }
        Ok(left.len())
    }

    /// The runs that an instance has containers of, as their labels say.
    ///
    /// # Errors
    /// Podman's.
    pub async fn runs_of(&self, instance: &InstanceId) -> Result<Vec<RunId>, EngineError> {
        let all = self.engine.list(LABEL_INSTANCE, instance.as_str()).await?;
        let run = |container: &Listed| container.labels.get(LABEL_RUN)?.parse().ok();
        Ok(all.iter().filter_map(run).collect())
    }

    fn cell(&self, id: String) -> Cell {
        Cell { id, cells: self.clone(), starting: AtomicBool::new(false) }
    }
}

impl Cell {
    /// Podman's id of the container.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Starts the container and opens its door.
    ///
    /// # Errors
    /// Podman's; the cell is still to be ended.
    pub async fn open(&self, job: &Job, model: Model) -> Result<Door, CellError> {
        let Cells { podman, engine, .. } = &self.cells;
        self.starting.store(true, Ordering::Relaxed);
        within(CELL_START, "init the container", engine.init(&self.id)).await?;
        let streams =
            within(CELL_START, "attach to the container", podman.attach(&self.id)).await?;
        let door = Door::open(streams, job, model);
        within(CELL_START, "start the container", engine.start(&self.id)).await?;
        self.starting.store(false, Ordering::Relaxed);
        tracing::debug!("the container has started");
        Ok(door)
    }

    /// Removes the container and sees it absent. Close the door first.
    ///
    /// # Errors
    /// Podman's; the container is found again by its label when the service starts.
    pub async fn end(&self) -> Result<(), EngineError> {
        let engine = &self.cells.engine;
        match self.starting.load(Ordering::Relaxed) {
            true => engine.remove_unknown(&self.id, CELL_END).await,
            false => engine.remove(&self.id, CELL_END).await,
        }
    }
}

async fn within<T, E>(
    most: Duration,
    step: &'static str,
    request: impl Future<Output = Result<T, E>>,
) -> Result<T, CellError>
where
    CellError: From<E>,
{
    match tokio::time::timeout(most, request).await {
        Ok(result) => Ok(result?),
        Err(_) => Err(CellError::Slow { step, most }),
    }
}

/// The container of a plan, field by field. What the preflight measures is asked for here.
fn request(plan: &CellPlan) -> Create<'_> {
    let labels = [
        (LABEL_INSTANCE, plan.instance.as_str().to_owned()),
        (LABEL_RUN, plan.run.to_string()),
        (LABEL_USER, plan.user.to_string()),
    ];
    Create {
        entrypoint: &[LAUNCHER],
        labels: labels.into(),
        stdin: true,
        resource_limits: resources(plan),
        mounts: mounts(plan),
        ..base(&plan.image, &plan.seccomp_profile, &plan.rules)
    }
}

/// What every container of ours has in common.
fn base<'a>(image: &'a str, seccomp_profile: &'a str, rules: &'a CellRules) -> Create<'a> {
    let limit = |kind, most| RLimit { kind, soft: most, hard: most };
    Create {
        image,
        entrypoint: &[],
        command: &[],
        labels: [].into(),
        user: "1000:1000",
        userns: Namespace { nsmode: "keep-id", value: "uid=1000,gid=1000" },
        netns: Namespace { nsmode: "none", value: "" },
        // Else Podman's own settings of this machine decide.
        pidns: PRIVATE,
        ipcns: PRIVATE,
        utsns: PRIVATE,
        cgroupns: PRIVATE,
        mask: rules.covered().collect(),
        unmask: rules.covered().collect(),
        cap_drop: &["all"],
        no_new_privileges: true,
        seccomp_profile_path: seccomp_profile,
        read_only_filesystem: true,
        stdin: false,
        log_configuration: LogConfiguration { driver: "none" },
        volatile: true,
        image_volume_mode: "ignore",
        env: [("HOME", "/home/agent")].into(),
        httpproxy: false,
        resource_limits: podman::Resources::default(),
        r_limits: vec![limit("nofile", CELL_NOFILE), limit("fsize", CELL_FSIZE), limit("core", 0)],
        mounts: vec![],
    }
}

fn resources(plan: &CellPlan) -> podman::Resources {
    let enforced = |controller| !plan.accept_without.contains(&controller);
    podman::Resources {
        memory: enforced(Controller::Memory)
            .then_some(podman::Memory { limit: plan.memory, swap: plan.memory }),
        pids: enforced(Controller::Pids).then_some(podman::Pids { limit: plan.pids }),
        cpu: enforced(Controller::Cpu).then_some(podman::Cpu {
            quota: plan.cpu_millis * CPU_PERIOD / 1000,
            period: CPU_PERIOD,
        }),
    }
}

fn mounts(plan: &CellPlan) -> Vec<Mount> {
    let ours = plan.mounts.iter().map(|mount| Mount {
        destination: mount.destination.clone(),
        kind: "bind",
        source: mount.source.clone(),
        // `bind`, never `rbind`: what the owner mounts below a folder is not part of it.
        // `rprivate`: nor is what is mounted there later.
        options: options(&[mode(mount), "bind", "rprivate", "nosuid", "nodev"]),
    });
    ours.chain(scratch(&plan.rules)).collect()
}

const fn mode(mount: &PlannedMount) -> &'static str {
    if mount.read_only { "ro" } else { "rw" }
}

/// The file systems of a cell's own, gone with it.
fn scratch(rules: &CellRules) -> Vec<Mount> {
    let tmpfs = |(mount, kib): (&KernelMount, u64)| Mount {
        destination: mount.at.clone(),
        kind: "tmpfs",
        source: "tmpfs".to_owned(),
        // `notmpcopyup`: else Podman copies the image's files up: slow, and root's.
        options: [
            options(&[&format!("size={kib}k"), "mode=1777", "notmpcopyup"]),
            mount.options.clone(),
        ]
        .concat(),
    };
    rules.scratch().map(tmpfs).collect()
}

fn options(list: &[&str]) -> Vec<String> {
    list.iter().map(ToString::to_string).collect()
}
