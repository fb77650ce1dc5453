//! `noclaw serve`: the composition root. Flags become settings, settings become parts, parts are
//! put together; then it listens until it is told to stop.
//!
//! Order matters: the lock before anything is touched, containers of a crash before their runs are
//! settled, listeners before READY; on stop the other way round.

mod limits;
pub(super) mod model;
mod report;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use noclaw_cell::preflight::Landlock;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use self::limits::LimitArgs;
use self::model::{Model, ModelArgs};
use super::places::Places;
use super::{Ended, Failure};
use crate::assistant::events::Events;
use crate::assistant::ready::Readiness;
use crate::assistant::{Assistant, Running, Settings};
use crate::cell::Cells;
use crate::cell::start::StartLine;
use crate::channels::{Routes, health, listen};
use crate::core::journal;
use crate::core::limits::{INSTRUCTIONS_BYTES, LAUNCHER_BYTES};
use crate::core::money::Prices;
use crate::core::problem::{ExitStatus, chain};
use crate::gateway::upstream::Upstream;
use crate::gateway::{Gateway, demo};
use crate::host::owned::{self, Folder};
use crate::host::parent::Parent;
use crate::host::sandbox::{self, SandboxError};
use crate::host::state::{State, StateError};
use crate::host::systemd::{self, Sockets};
use crate::host::{log, machine, points};
use crate::http::server::Connections;
use crate::store::{Store, StoreOptions};

/// `noclaw serve`
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Places")]
pub struct Args {
    #[command(flatten)]
    places: Places,
    /// A loopback address to listen at as well, for those who have a token
    #[arg(long, value_name = "ADDR", env = "NOCLAW_LISTEN")]
    listen: Option<SocketAddr>,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    limits: LimitArgs,
    /// Log filter, as `debug` or `noclaw::cell=debug,info`
    #[arg(long, value_name = "FILTER", env = "NOCLAW_LOG")]
    log: Option<String>,
    /// End when the process does that holds the other end of standard input, a pipe
    #[arg(long, hide = true)]
    end_with_parent: bool,
}

/// Serves until SIGTERM or SIGINT.
pub fn run(args: Args) -> Ended {
    if nix::unistd::geteuid().is_root() {
        return Err(Failure::new(ExitStatus::NotAllowed, "noclaw is not run as root")
            .hint("run it as the user whose assistant it is; cells are rootless containers"));
    }
    log::start(args.log.as_deref()).map_err(|error| {
        Failure::new(ExitStatus::Usage, format!("--log: {error}"))
            .hint("--log debug, or --log noclaw::cell=debug,info")
    })?;
    // Read while it can be: what the owner links to may lie anywhere.
    let (settings, launcher) = settings(&args)?;
    let sockets = systemd::sockets().map_err(|error| {
        Failure::of(ExitStatus::Config, &error).hint("FileDescriptorName= names a socket")
    })?;
    let model = model::open(&args.model)?;
    let landlock = confine(&args, &model.upstream)?;
    // Two workers, so that one busy cell cannot stall the others; memory is kept small.
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.map_err(|error| Failure::of(ExitStatus::Failed, &error))?;
    let ended = runtime.block_on(serve(args, (settings, launcher), model, landlock, sockets));
    // A thread may wait for a disk that does not answer.
    runtime.shutdown_timeout(Duration::from_secs(5));
    ended
}

/// Gives up what the service does not need, while this is its only thread.
fn confine(args: &Args, upstream: &Upstream) -> Result<Landlock, Failure> {
    let reach = sandbox::Reach {
        state: &args.places.state,
        config: &args.places.config,
        socket: &args.places.socket,
        podman: &args.places.podman,
        listen: args.listen.map(|address| address.port()),
        model: upstream.port(),
    };
    sandbox::enter(&reach).map_err(|error| {
        let failure = Failure::of(ExitStatus::Config, &error);
        match error {
            SandboxError::Restrict(_) => failure.hint(sandbox::HINT),
            _ => failure,
        }
    })
}

async fn serve(
    args: Args,
    (settings, launcher): (Settings, Vec<u8>),
    model: Model,
    landlock: Landlock,
    sockets: Sockets,
) -> Ended {
    let mut signals = Signals::catch(args.end_with_parent)?;
    let state = State::open(&args.places.state, &fresh_instance()?).map_err(|error| {
        let hint = "--state DIR gives this service a state of its own";
        let status = match error {
            StateError::InUse { .. } => ExitStatus::Unavailable,
            _ => ExitStatus::Config,
        };
        Failure::of(status, &error).hint(hint)
    })?;
    let settings = Settings { launcher: kept(&state, &settings.launcher, launcher), ..settings };
    let options = StoreOptions { path: state.database(), max_pages: points::most_pages };
    let store = Store::open(options).await.map_err(|e| Failure::of(ExitStatus::Config, &e))?;
    let stop = CancellationToken::new();
    let has_model = model.key.is_some();
    let gateway = Gateway::new(model.upstream, model.key, settings.prices.clone());
    let parts = (settings, state, store.clone(), gateway, has_model);
    let assistant = Arc::new(assistant(&args, parts, stop.clone()));

    if let Some(listener) = model.demo {
        let listener = TcpListener::from_std(listener);
        let listener = listener.map_err(|error| Failure::of(ExitStatus::Failed, &error))?;
        // It answers until the process ends: runs that are being ended still need it.
        tokio::spawn(demo::serve(listener, std::future::pending()));
    }
    assistant.recall_halt().await.map_err(|e| Failure::of(ExitStatus::Config, &e))?;
    assistant.settle_people().await;
    let connections = Connections::new(stop.clone());
    let is_activated = sockets.unix.is_some();
    let listening = listen(&args, &assistant, &connections, landlock, sockets).await?;
    tracing::info!(
        message_id = journal::READY,
        listening = listening.join(" "),
        "ready for messages"
    );
    warn_of_settings(&assistant.settings);
    let mut worker = tokio::spawn(work(Arc::clone(&assistant)));
    let ended = tokio::select! {
        () = report::until(signals.next(), &assistant) => Ok(ExitStatus::Ok),
        _ = &mut worker => Err(Failure::new(ExitStatus::Failed, "nothing answers any more")
            .hint("begun anew, as systemd does, it settles what was going on")),
    };
    stop.cancel();
    if ended.is_ok() {
        let stopped = wind_down(&args, &assistant, worker, &connections, signals);
        report::stopping(&assistant, stopped).await;
    }
    if !is_activated {
        owned::remove(&args.places.socket).ok();
    }
    store.close().await;
    ended
}

/// Where the launcher is that this service speaks with, also when another one is installed.
fn kept(state: &State, installed: &Path, launcher: Vec<u8>) -> PathBuf {
    state.launcher(&launcher).unwrap_or_else(|error| {
        let words = "the launcher is not kept: with an upgrade, runs fail until the next start";
        tracing::warn!(error = chain(&error), "{words}");
        installed.to_owned()
    })
}

fn assistant(
    args: &Args,
    (settings, state, store, gateway, has_model): (Settings, State, Store, Gateway, bool),
    stop: CancellationToken,
) -> Assistant {
    let cells = Cells::at(&args.places.podman);
    Assistant {
        ready: Readiness::new(
            cells.clone(),
            settings.accept_without.clone(),
            gateway.clone(),
            has_model,
            args.places.state.clone(),
            settings.limits.disk_free,
        ),
        gateway,
        settings,
        state,
        store,
        cells,
        running: Running::default(),
        events: Events::default(),
        wake: Notify::new(),
        ended: watch::Sender::new(()),
        stop,
    }
}

/// Warns of what it is to do without, by the owner's will or mistake.
fn warn_of_settings(settings: &Settings) {
    let accept_without = &settings.accept_without;
    if !accept_without.is_empty() {
        let list: Vec<_> = accept_without.iter().map(|c| c.as_str()).collect();
        tracing::warn!(
            limits = list.join(","),
            "cells are made without these limits (--accept-without)"
        );
    }
    if let Err(error) = settings.guard.allowlist() {
        tracing::warn!(hint = error.hint(), "no folder is granted to anybody: {}", chain(&error));
    }
}

/// Settles what was left, then answers until the service stops; it does not end before.
async fn work(assistant: Arc<Assistant>) {
    // Not cut short by a stop: what can be removed and settled now need not wait for a start.
    assistant.recover().await;
    tokio::select! {
        () = Arc::clone(&assistant).work() => {}
        () = assistant.forget() => {}
        () = assistant.look_again() => {}
        () = points::left() => {}
    }
}

/// SIGTERM and SIGINT, caught from the moment this is made, and the end of another process.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    // Until it is gone: that is one signal, not all that follow.
    parent: Option<Parent>,
}

impl Signals {
    fn catch(end_with_parent: bool) -> Result<Self, Failure> {
        let caught = |kind| signal(kind).map_err(|error| Failure::of(ExitStatus::Failed, &error));
        let parent = end_with_parent.then(Parent::by_stdin).transpose();
        let parent = parent.map_err(|error| {
            Failure::new(ExitStatus::Usage, format!("--end-with-parent: {error}"))
                .hint("it is for a program that gives this one a pipe as standard input")
        })?;
        let (terminate, interrupt) = (SignalKind::terminate(), SignalKind::interrupt());
        Ok(Self { terminate: caught(terminate)?, interrupt: caught(interrupt)?, parent })
    }

    /// Waits for the next one.
    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            () = gone(self.parent.as_ref()) => self.parent = None,
        }
    }
}

async fn gone(parent: Option<&Parent>) {
    match parent {
        Some(parent) => parent.gone().await,
        None => std::future::pending().await,
    }
}

/// Lets requests and runs end, within the stop time; a second signal cuts it short. What is left is
/// settled as after a crash.
async fn wind_down(
    args: &Args,
    assistant: &Assistant,
    mut worker: tokio::task::JoinHandle<()>,
    connections: &Connections,
    mut signals: Signals,
) {
    tracing::info!(
        message_id = journal::STOPPING,
        seconds = args.limits.stop_time,
        "stopping; a second signal does not wait"
    );
    let most = Duration::from_secs(args.limits.stop_time);
    let ended = tokio::select! {
        ended = tokio::time::timeout(most, &mut worker) => ended.is_ok(),
        () = signals.next() => false,
    };
    if !ended {
        worker.abort();
        worker.await.ok();
        tracing::warn!("runs were interrupted");
    }
    if assistant.running.are_any().await {
        tokio::time::timeout(Duration::from_secs(10), assistant.recover()).await.ok();
    }
    tokio::time::timeout(Duration::from_secs(5), connections.ended()).await.ok();
}

async fn listen(
    args: &Args,
    assistant: &Arc<Assistant>,
    connections: &Connections,
    landlock: Landlock,
    sockets: Sockets,
) -> Result<Vec<String>, Failure> {
    let unavailable = |error: listen::ListenError| {
        let hint = match error {
            listen::ListenError::Unix { .. } => "--socket PATH names another place",
            listen::ListenError::InUse { .. } => "stop it, or take another place: --socket PATH",
            listen::ListenError::Tcp { .. } => "--listen ADDR names another one; port 0 is any",
            listen::ListenError::NotLoopback { .. } => "--listen 127.0.0.1:7867",
            listen::ListenError::Given(_) => "see the units: systemctl --user cat noclaw.socket",
        };
        Failure::of(ExitStatus::Unavailable, &error).hint(hint)
    };
    let unix = match sockets.unix {
        Some(given) => listen::given_unix(given),
        None => listen::unix(&args.places.socket).await,
    };
    let (unix, place) = unix.map_err(unavailable)?;
    let mut listening = vec![place];
    let tcp: Option<TcpListener> = match (sockets.http, args.listen) {
        (Some(given), _) => Some(listen::given_tcp(given).map_err(unavailable)?),
        (None, Some(address)) => Some(listen::tcp(address).await.map_err(unavailable)?),
        (None, None) => None,
    };
    // Port 0 was any port; people want to know which.
    listening.extend(tcp.as_ref().and_then(|l| l.local_addr().ok()).map(|a| format!("http://{a}")));
    let about = health::About {
        started: Instant::now(),
        model_api: args.model.model_api.clone(),
        listening: listening.clone(),
        landlock,
    };
    let routes = Arc::new(Routes::new(Arc::clone(assistant), about));
    tokio::spawn(listen::serve_unix(unix, connections.clone(), Arc::clone(&routes)));
    if let Some(tcp) = tcp {
        tokio::spawn(listen::serve_tcp(tcp, connections.another(), routes));
    }
    Ok(listening)
}

/// What the owner set, and the launcher's program.
fn settings(args: &Args) -> Result<(Settings, Vec<u8>), Failure> {
    let config = |error: &dyn std::error::Error| Failure::of(ExitStatus::Config, error);
    let mut prices = Prices::shipped().map_err(|error| config(&error))?;
    let mut instructions = String::new();
    if let Some(folder) = Folder::open(&args.places.config).map_err(|error| config(&error))? {
        let read = |name| folder.read(name, INSTRUCTIONS_BYTES).map_err(|error| config(&error));
        instructions = read("instructions.md")?.unwrap_or_default();
        if let Some(text) = read("prices.json")? {
            prices = prices.with_owners(&text).map_err(|error| config(&error))?;
        }
    }
    if !prices.allows(&args.model.model) {
        let models = prices.models().collect::<Vec<_>>().join(", ");
        let message = format!("no price is known for the model {:?}", args.model.model);
        let hint = format!("one of {models}; or give its price in prices.json");
        return Err(Failure::new(ExitStatus::Config, message).hint(hint));
    }
    let place = &args.places.launcher;
    let missing = |error: &dyn std::error::Error| {
        let message = format!("no launcher at {}: {}", place.display(), chain(error));
        Failure::new(ExitStatus::Config, message)
            .hint("install noclaw-cell, or name it: --launcher PATH")
    };
    let launcher = owned::resolved(place).map_err(|error| missing(&error))?;
    let program = owned::read(&launcher, LAUNCHER_BYTES).map_err(|error| missing(&error))?;
    let settings = Settings {
        owner: machine::owner().map_err(|error| config(&error))?,
        limits: args.limits.limits()?,
        prices,
        model: args.model.model.clone(),
        accept_without: args.limits.accept_without()?,
        launcher,
        guard: Arc::new(args.places.guard(args.model.api_key_file.as_deref())?),
        start: StartLine::shipped().map_err(|error| config(&error))?,
        instructions,
    };
    Ok((settings, program))
}

fn fresh_instance() -> Result<crate::core::ids::InstanceId, Failure> {
    let id = Uuid::new_v4().to_string().parse();
    id.map_err(|error: crate::core::ids::InvalidId| Failure::of(ExitStatus::Failed, &error))
}
