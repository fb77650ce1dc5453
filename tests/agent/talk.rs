//! A talk with the pinned agent in a real cell, made of the library's own parts, line by line.
//!
//! A [`Place`] is what outlives a cell: a workspace, transcripts, the demo model behind a gateway.
//! A [`Talk`] is one cell with an agent in it, judged as a run's is; [`Talk::end`] sees it gone.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Collected, Full};
use hyper::Request;
use hyper::body::Incoming;
use noclaw::cell::door::{Door, Model};
use noclaw::cell::start::{Session, StartLine};
use noclaw::cell::{self, Cell, Cells, stream_json};
use noclaw::core::ids::{InstanceId, RunId};
use noclaw::core::limits::Limits;
use noclaw::core::money::{Meter, Prices};
use noclaw::core::plan::{CellPlan, PlannedMount};
use noclaw::gateway::key::ApiKey;
use noclaw::gateway::upstream::Upstream;
use noclaw::gateway::{Gateway, Hooks, RunLimits, Scope, demo};
use noclaw::host::mounts::open::Opened;
use noclaw::host::{machine, state};
use noclaw_cell::job::{Exit, Job};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::support::{PATIENCE, Result, ground, podman};

/// Any model with a price will do.
pub const MODEL: &str = "claude-sonnet-4-5";

/// A run that has not been.
pub fn new_run() -> RunId {
    RunId::new(Uuid::now_v7())
}

/// What outlives a cell.
pub struct Place {
    directory: tempfile::TempDir,
    instance: InstanceId,
    cells: Cells,
    gateway: Gateway,
    asked: Arc<Mutex<Vec<Bytes>>>,
}

impl Place {
    pub async fn new() -> Result<Self> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let upstream = Upstream::parse(&format!("http://{}", listener.local_addr()?))?;
        tokio::spawn(demo::serve(listener, std::future::pending()));
        let directory = tempfile::Builder::new().prefix("noclaw-agent-").tempdir()?;
        for folder in ["workspace", "transcripts"] {
            fs::create_dir(directory.path().join(folder))?;
        }
        Ok(Self {
            directory,
            instance: Uuid::new_v4().to_string().parse()?,
            cells: Cells::at(Path::new(&ground("NOCLAW_PODMAN")?)),
            gateway: Gateway::new(upstream, Some(ApiKey::for_demo()), Prices::shipped()?),
            asked: Arc::default(),
        })
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A session's transcript.
    pub fn transcript(&self, session: RunId) -> PathBuf {
        self.path("transcripts/-workspace").join(format!("{session}.jsonl"))
    }

    pub const fn cells(&self) -> &Cells {
        &self.cells
    }

    /// What the launcher is told when a session begins, or forks `head`.
    pub fn job(&self, run: RunId, head: Option<RunId>) -> Result<Job> {
        let head = head.map(|head| head.to_string());
        let session =
            Session { run, head: head.as_deref(), model: MODEL, zone: "UTC", most: PATIENCE };
        Ok(StartLine::shipped()?.job(&session))
    }

    /// A file with the system call filter.
    pub fn seccomp_profile(&self, start: &StartLine) -> Result<String> {
        let (name, text) = (start.profile.file_name(), start.profile.text());
        Ok(state::place(self.directory.path(), &name, text)?.display().to_string())
    }

    async fn plan(&self, run: RunId) -> Result<CellPlan> {
        let image = cell::image::current(self.cells.podman()).await?;
        let runtime = self.cells.engine().info().await?.runtime;
        let launcher = PathBuf::from(ground("NOCLAW_TEST_LAUNCHER")?).canonicalize()?;
        let folder = |name, destination: &str| -> Result<PlannedMount> {
            let path = self.path(name).canonicalize()?;
            Ok(Opened::folder(&path)?.mount(destination.to_owned(), false))
        };
        let (start, job) = (StartLine::shipped()?, self.job(run, None)?);
        let limits = Limits::for_machine(2, 8 << 30);
        let without = std::env::var("NOCLAW_ACCEPT_WITHOUT").unwrap_or_default();
        let without = without.split(',').filter(|name| !name.is_empty());
        Ok(CellPlan {
            instance: self.instance.clone(),
            run,
            user: "tester".parse()?,
            image: image.ok_or("no image: `noclaw image build` makes it")?.id,
            mounts: vec![
                Opened::file(&launcher)?.mount(noclaw_cell::LAUNCHER.to_owned(), true),
                folder("workspace", cell::WORKSPACE)?,
                folder("transcripts", cell::TRANSCRIPTS)?,
            ],
            memory: limits.cell_memory,
            pids: limits.cell_pids,
            cpu_millis: limits.cell_cpu_millis,
            host_namespaces: machine::namespaces(),
            rules: Arc::clone(&start.cell),
            seccomp_profile: self.seccomp_profile(&start)?,
            landlock_rules: job.confinement.landlock.len(),
            environment: job.env.into_keys().collect(),
            accept_without: without.map(str::parse).collect::<std::result::Result<_, _>>()?,
            runtime,
        })
    }

    /// The demo model behind a run's gateway; it keeps what it is asked.
    fn model(&self) -> Model {
        let meter = Meter::new(u64::MAX / 2);
        let scope = Scope { model: MODEL.to_owned(), ..Scope::default() };
        let run = self.gateway.for_run(scope, meter, RunLimits::default(), Hooks::default());
        let asked = Arc::clone(&self.asked);
        Arc::new(move |request| {
            let (run, asked) = (run.clone(), Arc::clone(&asked));
            Box::pin(async move {
                let (head, body) = request.into_parts();
                let body = body.collect().await.map(Collected::to_bytes).unwrap_or_default();
                asked.lock().unwrap_or_else(PoisonError::into_inner).push(body.clone());
                let request = Request::from_parts(head, Full::new(body));
                run.handle(request).await.map(BodyExt::boxed)
            })
        })
    }

    /// What the model was asked so far.
    pub fn asked(&self) -> Result<Vec<Value>> {
        let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.iter().map(|body| Ok(serde_json::from_slice(body)?)).collect()
    }

    /// Makes a cell for this job and lets the agent start in it.
    pub async fn open(
        &self,
        run: RunId,
        job: &Job,
    ) -> Result<(OpenCell, Incoming, mpsc::Sender<Bytes>)> {
        let plan = self.plan(run).await?;
        let cell = self.cells.create(&plan).await?;
        let mut door = cell.open(job, self.model()).await?;
        let (preflight, verdict) = within("its preflight", door.preflight()).await??;
        plan.judge(cell.id(), &preflight)?;
        verdict.go();
        let (up, down) = within("the agent's streams", door.agent()).await??;
        Ok((OpenCell { door, cell }, up, down))
    }

    /// What this place's containers are found by.
    pub fn label(&self) -> (&str, &str) {
        (cell::LABEL_INSTANCE, self.instance.as_str())
    }

    fn containers(&self) -> Result<String> {
        let (label, instance) = self.label();
        let filter = format!("label={label}={instance}");
        podman(&["ps", "--all", "--quiet", "--no-trunc", "--filter", &filter])
    }
}

/// A test that failed half-way leaves nothing either.
impl Drop for Place {
    fn drop(&mut self) {
        for id in self.containers().unwrap_or_default().lines() {
            podman(&["rm", "--force", "--time", "0", id]).ok();
        }
    }
}

/// A cell whose agent has started.
pub struct OpenCell {
    door: Door,
    cell: Cell,
}

impl OpenCell {
    /// Waits for the agent's exit, removes the cell and sees it gone.
    pub async fn end(mut self) -> Result<Exit> {
        let exit = within("the agent's exit", self.door.exit()).await??;
        self.remove().await?;
        Ok(exit)
    }

    /// Closes the door, removes the cell, whatever goes on in it, and sees it gone.
    pub async fn remove(self) -> Result {
        drop(self.door);
        self.cell.end().await?;
        count()
    }
}

/// Counts the test among those that used a real cell.
pub fn count() -> Result {
    let cells = Path::new(&ground("NOCLAW_TEST_DIR")?).join("cells");
    fs::create_dir_all(&cells)?;
    let name = std::thread::current().name().unwrap_or("unnamed").replace("::", ".");
    File::create(cells.join(name))?;
    Ok(())
}

/// The agent's streams as lines of JSON, before anything is made of them.
pub struct Lines {
    up: Incoming,
    down: Option<mpsc::Sender<Bytes>>,
    buffer: BytesMut,
}

impl Lines {
    pub fn new(up: Incoming, down: mpsc::Sender<Bytes>) -> Self {
        Self { up, down: Some(down), buffer: BytesMut::new() }
    }

    /// Writes a line to the agent.
    pub async fn tell(&self, line: String) -> Result {
        let down = self.down.as_ref().ok_or("nothing more was to come")?;
        Ok(down.send(line.into()).await?)
    }

    /// Says a user's text.
    pub async fn say(&self, text: &str) -> Result {
        self.tell(stream_json::user(&[json!({"type": "text", "text": text})])).await
    }

    /// The agent's next line; `None` when its output has ended.
    pub async fn next(&mut self) -> Result<Option<Value>> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(end + 1);
                return Ok(Some(serde_json::from_slice(&line)?));
            }
            match within("a line of the agent's", self.up.frame()).await? {
                Some(frame) => {
                    self.buffer.extend(frame?.into_data().map_err(|_| "no data")?);
                }
                None => return Ok(None),
            }
        }
    }

    /// The lines up to the first that is `last`, and that one.
    pub async fn until(&mut self, last: impl Fn(&Value) -> bool) -> Result<Vec<Value>> {
        let mut heard = Vec::new();
        while let Some(line) = self.next().await? {
            let done = last(&line);
            heard.push(line);
            if done {
                return Ok(heard);
            }
        }
        Err(format!("the agent's output ended after {heard:#?}").into())
    }

    /// Says that nothing more comes, and gives the lines that are still to come.
    pub async fn rest(mut self) -> Result<Vec<Value>> {
        self.down = None;
        let mut heard = Vec::new();
        while let Some(line) = self.next().await? {
            heard.push(line);
        }
        Ok(heard)
    }
}

/// Whether a line ends a turn.
pub fn is_result(line: &Value) -> bool {
    line["type"] == "result"
}

/// Waits for an event, but not for ever.
pub async fn within<T>(what: &str, event: impl Future<Output = T>) -> Result<T> {
    let ended = tokio::time::timeout(PATIENCE, event).await;
    ended.map_err(|_| format!("{what}: not within {PATIENCE:?}").into())
}
