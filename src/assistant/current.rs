//! A run that is being answered: what it is, and what may end it from outside.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::MutexGuard;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::Assistant;
use super::after::AGAIN;
use super::events::{Event, Log};
use super::grants::Folders;
use super::journal;
use super::memory::Attachments;
use super::quota::Disk;
use super::trouble::Trouble;
use crate::core::ids::RunId;
use crate::core::limits::INTERRUPT_TIME;
use crate::core::problem::chain;
use crate::core::run::RunState;
use crate::core::timeline::{Step, Timeline};
use crate::gateway::RunGateway;
use crate::host::machine::now;
use crate::host::points;
use crate::store::claim::Claimed;

/// The runs that are being answered, and the word that cancels each. Locked while one is claimed,
/// so that nobody finds a run that is claimed and not here.
#[derive(Debug, Default)]
pub struct Running {
    words: tokio::sync::Mutex<HashMap<RunId, CancellationToken>>,
    turns: AtomicU64,
}

impl Running {
    /// Nothing is claimed while this is held.
    pub(super) async fn lock(&self) -> MutexGuard<'_, HashMap<RunId, CancellationToken>> {
        self.words.lock().await
    }

    /// Whether there are any. Once nothing answers any more, these are what was not brought to its
    /// end.
    pub async fn are_any(&self) -> bool {
        !self.lock().await.is_empty()
    }

    /// How often a run was looked for. Not once before what was left is settled, which waits for
    /// Podman.
    pub fn turns(&self) -> u64 {
        self.turns.load(Ordering::Relaxed)
    }
}

/// A run that is being answered.
pub(super) struct Current {
    pub(super) run: Claimed,
    pub(super) model: RunGateway,
    pub(super) attachments: Attachments,
    pub(super) log: Arc<Log>,
    pub(super) watch: Arc<Stopwatch>,
    pub(super) leash: Leash,
}

impl Assistant {
    /// The next run whose turn it is: in order per conversation, so many at a time.
    pub(super) async fn claim(&self) -> Option<Current> {
        self.running.turns.fetch_add(1, Ordering::Relaxed);
        points::reached("turn").await;
        let mut running = self.running.lock().await;
        if self.gateway.halted().is_some() {
            // Whoever takes it back wakes us.
            return None;
        }
        match self.store.claim(self.settings.active_limits(), now()).await {
            Ok(run) => run.map(|run| self.begin(run, &mut running)),
            Err(error) => {
                drop(running);
                tracing::error!(error = chain(&error), "cannot claim a run");
                // Nobody else would wake us when the disk has room again.
                tokio::select! {
                    () = self.stop.cancelled() => {}
                    () = sleep(AGAIN) => self.wake.notify_one(),
                }
                None
            }
        }
    }

    fn begin(&self, run: Claimed, running: &mut HashMap<RunId, CancellationToken>) -> Current {
        journal::claimed(&run);
        let log = self.events.open(run.run, run.attempts.saturating_sub(1));
        log.tell(Event::State { status: RunState::Starting, attempts: run.attempts });
        let cancel = CancellationToken::new();
        running.insert(run.run, cancel.clone());
        let watch = Arc::new(Stopwatch::default());
        let attachments = self.attachments(&run);
        let model = self.model(&run, &watch, &attachments);
        let most = self.settings.limits.run_timeout;
        let (start, heard) = (Instant::now(), AtomicBool::new(false));
        let disk = self.disk(&run);
        let leash = Leash { cancel, model: model.clone(), most, start, heard, disk };
        Current { run, model, attachments, log, watch, leash }
    }
}

/// What may end a run from outside: its time, somebody's word, a full disk, or that it is cut off
/// from the model.
pub(super) struct Leash {
    cancel: CancellationToken,
    model: RunGateway,
    start: Instant,
    most: Duration,
    // The agent listens, so it is asked to stop before its cell is taken away.
    heard: AtomicBool,
    disk: Disk,
}

impl Leash {
    /// From now on the agent is asked first, by whoever waits for [`Leash::pulled`].
    pub(super) fn is_heard(&self) {
        self.heard.store(true, Ordering::Relaxed);
    }

    /// Waits until the run must end.
    pub(super) async fn pulled(&self) -> Trouble {
        tokio::select! {
            () = self.cancel.cancelled() => Trouble::Cancelled,
            () = sleep_until(self.start + self.most) => Trouble::RunTime(self.most),
            why = self.model.cut() => Trouble::Cut(why),
        }
    }

    /// Waits until the run must end, and the agent has had its time to stop by itself. What fills
    /// the disk has no time.
    pub(super) async fn snapped(&self, granted: &Folders) -> Trouble {
        let trouble = tokio::select! {
            trouble = self.pulled() => trouble,
            full = self.disk.full(granted) => return full.into(),
        };
        if self.heard.load(Ordering::Relaxed) {
            sleep(INTERRUPT_TIME * 2).await;
        }
        trouble
    }
}

/// Notes when a run came to each step. The clock of the wall may be set meanwhile; this one not.
pub(super) struct Stopwatch {
    start: Instant,
    timeline: Mutex<Timeline>,
}

impl Default for Stopwatch {
    fn default() -> Self {
        Self { start: Instant::now(), timeline: Mutex::default() }
    }
}

impl Stopwatch {
    pub(super) fn mark(&self, step: Step) {
        let micros = u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.timeline.lock().unwrap_or_else(PoisonError::into_inner).mark(step, micros);
    }

    pub(super) fn timeline(&self) -> Timeline {
        *self.timeline.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
