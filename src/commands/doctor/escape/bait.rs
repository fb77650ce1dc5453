//! What stands around the cell to be found, and the plan of the cell itself.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::PathBuf;
use std::sync::Arc;

use http_body_util::BodyExt;
use noclaw_cell::job::{File, Job};
use serde_json::json;
use tokio::net::TcpListener;
use uuid::Uuid;

use super::super::Args;
use super::names;
use super::server::Server;
use crate::cell::door::Model;
use crate::cell::start::{Session, StartLine};
use crate::cell::{Cells, TRANSCRIPTS, WORKSPACE, image};
use crate::commands::{Failure, accepted, read_key};
use crate::core::ids::{InvalidId, RunId, UserName};
use crate::core::limits::{CELL_FSIZE, CELL_NOFILE, Limits};
use crate::core::money::{Meter, Prices};
use crate::core::plan::{CellPlan, Runtime};
use crate::core::problem::ExitStatus;
use crate::gateway::upstream::Upstream;
use crate::gateway::{Gateway, Hooks, RunGateway, RunLimits, Scope};
use crate::host::mounts::open::Opened;
use crate::host::state::State;
use crate::host::tree::Tree;
use crate::host::{machine, owned, paths, points};

/// The probes, in the order in which they are one program.
const PROBES: [&str; 9] = [
    include_str!("../../../../data/escape/common.py"),
    include_str!("../../../../data/escape/kernel.py"),
    include_str!("../../../../data/escape/network.py"),
    include_str!("../../../../data/escape/files.py"),
    include_str!("../../../../data/escape/privileges.py"),
    include_str!("../../../../data/escape/door.py"),
    include_str!("../../../../data/escape/key.py"),
    include_str!("../../../../data/escape/exhaustion.py"),
    include_str!("../../../../data/escape/main.py"),
];
const PROGRAM: &str = "/home/agent/probes.py";
const GIVEN: &str = "/home/agent/given.json";
pub(super) const USER: &str = "escape";
pub(super) const NEIGHBOUR: &str = "neighbour";

/// What stands around the cell.
pub(super) struct Bait {
    state: State,
    start: StartLine,
    image: String,
    runtime: Runtime,
    gateway: Gateway,
    key: String,
    server: Server,
    model: String,
    other_model: String,
    port: u16,
    resolver: u16,
    abstract_name: String,
    // They listen for as long as this lives.
    _port: TcpListener,
    _abstract: UnixListener,
}

impl Bait {
    /// Lays it out.
    pub(super) async fn lay(args: &Args, cells: &Cells) -> Result<Self, Failure> {
        let config = |error: &dyn std::error::Error| Failure::of(ExitStatus::Config, error);
        let image = image::current(cells.podman()).await;
        let image = image.map_err(|error| {
            Failure::of(ExitStatus::Unavailable, &error)
                .hint("systemctl --user start podman.socket, or `noclaw doctor`")
        })?;
        let info = cells.engine().info().await;
        let info = info.map_err(|error| Failure::of(ExitStatus::Unavailable, &error))?;
        let missing = || Failure::new(ExitStatus::Config, "there is no image");
        let image = image.ok_or_else(|| missing().hint("noclaw image build"))?.id;
        let fresh = Uuid::new_v4().to_string().parse();
        let fresh = fresh.map_err(|error: InvalidId| config(&error))?;
        let state = State::open(&args.state.join("escape"), &fresh);
        let state = state.map_err(|error| config(&error).hint("another one is at it?"))?;
        let start = StartLine::shipped().map_err(|error| config(&error))?;

        let fresh = || format!("sk-canary-{}", Uuid::new_v4().simple());
        let key = points::key().unwrap_or_else(fresh);
        let file = state.place("key", &format!("{key}\n")).map_err(|error| config(&error))?;
        let secret = read_key(&file, None)?;
        let failed = |error: std::io::Error| Failure::of(ExitStatus::Unavailable, &error);
        let server = Server::start().await.map_err(failed)?;
        let upstream = Upstream::parse(&server.url()).map_err(|error| config(&error))?;
        let prices = Prices::shipped().map_err(|error| config(&error))?;
        let mut models = prices.models().map(str::to_owned);
        let (model, other_model) = (models.next(), models.next());
        drop(models);
        let gateway = Gateway::new(upstream, Some(secret), prices);

        let listener = TcpListener::bind("127.0.0.1:0").await.map_err(failed)?;
        let abstract_name = format!("noclaw-escape-{}", Uuid::new_v4().simple());
        let address = SocketAddr::from_abstract_name(&abstract_name).map_err(failed)?;
        Ok(Self {
            state,
            start,
            image,
            runtime: info.runtime,
            gateway,
            key,
            server,
            model: model.unwrap_or_default(),
            other_model: other_model.unwrap_or_default(),
            port: listener.local_addr().map_err(failed)?.port(),
            resolver: names::listen().await.map_err(failed)?,
            abstract_name,
            _port: listener,
            _abstract: UnixListener::bind_addr(&address).map_err(failed)?,
        })
    }

    /// A run's way to the model's server, with the key as bait.
    pub(super) fn gateway(&self) -> RunGateway {
        let scope = Scope { model: self.model.clone(), ..Scope::default() };
        let meter = Meter::new(u64::MAX / 2);
        self.gateway.for_run(scope, meter, RunLimits::default(), Hooks::default())
    }

    /// The same, for a door.
    pub(super) fn model(&self) -> Model {
        if points::ungated() {
            let (server, key) = (self.server.clone(), self.key.clone());
            return Arc::new(move |request| {
                let (server, key) = (server.clone(), key.clone());
                Box::pin(async move { server.pass(request, &key).await })
            });
        }
        let gateway = self.gateway();
        Arc::new(move |request| {
            let gateway = gateway.clone();
            Box::pin(async move { gateway.handle(request).await.map(BodyExt::boxed) })
        })
    }

    /// The key.
    pub(super) fn key(&self) -> &str {
        &self.key
    }

    /// The model's server.
    pub(super) const fn server(&self) -> &Server {
        &self.server
    }

    /// The model that runs are begun with.
    pub(super) fn model_name(&self) -> &str {
        &self.model
    }

    /// A place beside the other things.
    pub(super) fn inside(&self, name: &str) -> PathBuf {
        self.state.database().with_file_name(name)
    }

    /// The cell of the probes: a run's, but for the program.
    pub(super) fn cell(&self, args: &Args) -> Result<(CellPlan, Job), Failure> {
        let config = |error: &dyn std::error::Error| Failure::of(ExitStatus::Config, error);
        let neighbour = self.state.workspace(&user(NEIGHBOUR)?).map_err(|error| config(&error))?;
        let other = self.state.transcripts(&user(USER)?, 2).map_err(|error| config(&error))?;
        let given = self.given(args, &[neighbour, other]).to_string();
        self.planned(args, USER, None, |job| {
            let file = |path: &str, content| File { path: path.to_owned(), content };
            points::weaken(&mut job.confinement);
            job.argv = ["/usr/bin/python3", "-I", PROGRAM].map(str::to_owned).into();
            job.files = vec![file(PROGRAM, PROBES.concat()), file(GIVEN, given)];
        })
    }

    /// The plan and the job of a cell with empty folders, as those of a run of this user that goes
    /// on from `head`; `change` says what is different.
    pub(super) fn planned(
        &self,
        args: &Args,
        name: &str,
        head: Option<&str>,
        change: impl FnOnce(&mut Job),
    ) -> Result<(CellPlan, Job), Failure> {
        let config = |error: &dyn std::error::Error| Failure::of(ExitStatus::Config, error);
        let user = user(name)?;
        let folder = |path: PathBuf, destination: &str| {
            let opened = Opened::folder(&path).map_err(|error| config(&error))?;
            Ok::<_, Failure>(opened.mount(destination.to_owned(), false))
        };
        let state = |error| config(&error);
        let (workspace, transcripts) = self.folders(name)?;
        for path in [&workspace, &transcripts] {
            let emptied = Tree::open(path).and_then(|tree| tree.keep_only(&[]));
            emptied.map_err(|error| config(&error))?;
        }
        let launcher = owned::resolved(&args.launcher).map_err(|error| {
            Failure::new(ExitStatus::Config, format!("{}: {error}", args.launcher.display()))
                .hint("install noclaw-cell, or name it: --launcher PATH")
        })?;
        let launcher = Opened::file(&launcher).map_err(|error| config(&error))?;
        let mounts = vec![
            launcher.mount(noclaw_cell::LAUNCHER.to_owned(), true),
            folder(workspace, WORKSPACE)?,
            folder(transcripts, TRANSCRIPTS)?,
        ];
        let start = &self.start;
        let profile = self.state.place(&start.profile.file_name(), start.profile.text());
        let profile = profile.map_err(state)?;
        let limits = Limits::for_machine(machine::cores(), machine::memory());
        let run = RunId::new(Uuid::now_v7());
        let session =
            Session { run, head, model: &self.model, zone: "UTC", most: limits.run_timeout };
        let mut job = start.job(&session);
        let landlock_rules = job.confinement.landlock.len();
        change(&mut job);
        let plan = CellPlan {
            instance: self.state.instance().clone(),
            run,
            user,
            image: self.image.clone(),
            mounts,
            memory: limits.cell_memory,
            pids: limits.cell_pids,
            cpu_millis: limits.cell_cpu_millis,
            host_namespaces: machine::namespaces(),
            rules: Arc::clone(&start.cell),
            seccomp_profile: profile.to_string_lossy().into_owned(),
            environment: job.env.keys().cloned().collect(),
            landlock_rules,
            accept_without: accepted(&args.accept_without)?,
            runtime: self.runtime.clone(),
        };
        Ok((plan, job))
    }

    /// A user's workspace, and the transcripts of the conversation that its cells are for.
    pub(super) fn folders(&self, name: &str) -> Result<(PathBuf, PathBuf), Failure> {
        let config = |error: &dyn std::error::Error| Failure::of(ExitStatus::Config, error);
        let user = user(name)?;
        let workspace = self.state.workspace(&user).map_err(|error| config(&error))?;
        let transcripts = self.state.transcripts(&user, 1).map_err(|error| config(&error))?;
        Ok((workspace, transcripts))
    }

    /// What the probes are told: where things would be, if they could be reached.
    fn given(&self, args: &Args, [neighbour, other]: &[PathBuf; 2]) -> serde_json::Value {
        let (front, back) = self.key.split_at(self.key.len() / 2);
        let inside = |name| self.inside(name);
        let own = |name| paths::runtime().join(name);
        let scratch = self.start.cell.scratch().map(|(mount, kib)| (&mount.at, kib / 1024));
        json!({
            "key": [front, back],
            "model": self.model,
            "other_model": self.other_model,
            "reached": self.server.word(),
            "port": self.port,
            "resolver": self.resolver,
            "abstract": self.abstract_name,
            "sockets": [args.podman.clone(), paths::socket(), own("bus"), own("systemd/private")],
            "host_files": [inside("key"), inside("instance"), inside("lock")],
            "host_folders": [neighbour, args.state.clone(), paths::config()],
            "other_conversation": other,
            "scratch": scratch.collect::<Vec<_>>(),
            "file_bytes": CELL_FSIZE,
            "open_files": CELL_NOFILE,
        })
    }
}

fn user(name: &str) -> Result<UserName, Failure> {
    name.parse().map_err(|error: InvalidId| Failure::of(ExitStatus::Config, &error))
}
