//! The story: a message is accepted, its run is claimed in turn, a cell is made, the agent answers,
//! the outcome is written, the cell is gone. Everything else in NoClaw serves this page.
//!
//! What can go wrong on the way is a [`Trouble`], and each has an [`Outcome`]: a run that was
//! claimed always ends in [`Assistant::finish`], and its container always in `Cell::end`.

mod after;
pub mod people;
mod prepare;
pub mod ready;
mod trouble;

use std::sync::Arc;

use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use self::prepare::Prepared;
pub use self::prepare::Settings;
use self::ready::Readiness;
use self::trouble::Trouble;
use crate::cell::agent::Agent;
use crate::cell::stream_json::{Line, TurnResult};
use crate::cell::{Cell, Cells};
use crate::core::ids::RunId;
use crate::core::limits::{AGENT_EXIT, AGENT_START, PREFLIGHT_TIME};
use crate::core::message::Message;
use crate::core::problem::chain;
use crate::core::run::Outcome;
use crate::gateway::{Gateway, RunGateway};
use crate::host::machine::now;
use crate::host::state::State;
use crate::store::Store;
use crate::store::accept::{Accepted, NewMessage};
use crate::store::claim::Claimed;
use crate::store::error::Refused;

/// Everything that an answer needs.
pub struct Assistant {
    /// What the owner set.
    pub settings: Settings,
    /// The state directory, which nobody else has.
    pub state: State,
    /// What is known.
    pub store: Store,
    /// Where cells are made.
    pub cells: Cells,
    /// The way to the model.
    pub gateway: Gateway,
    /// Whether all of it is there.
    pub ready: Readiness,
    /// Something may be claimed.
    pub wake: Notify,
    /// Some run has its outcome.
    pub ended: watch::Sender<()>,
    /// The service stops.
    pub stop: CancellationToken,
}

impl Assistant {
    /// Accepts a message: once this returns, it is on disk and will reach exactly one final state.
    ///
    /// # Errors
    /// Why it is not accepted; nothing was written then.
    pub async fn accept(&self, message: Message, channel: &str) -> Result<Accepted, Refused> {
        let run_if_new = RunId::new(Uuid::now_v7());
        let new = NewMessage { message, run_if_new, channel: channel.to_owned(), now_ms: now() };
        let accepted = self.store.accept(new, self.settings.queue_limits()).await?;
        tracing::info!(run = %accepted.run, joined = accepted.joined, "accepted");
        self.wake.notify_one();
        Ok(accepted)
    }

    /// Makes answers until the service stops, and waits for those that are being made. Dropped, it
    /// gives them up: [`Assistant::recover`] settles them.
    pub async fn work(self: Arc<Self>) {
        let mut runs = JoinSet::new();
        while !self.stop.is_cancelled() {
            match self.claim().await {
                Some(run) => drop(runs.spawn(Arc::clone(&self).answer(run))),
                None => tokio::select! {
                    () = self.stop.cancelled() => {}
                    () = self.wake.notified() => while runs.try_join_next().is_some() {},
                },
            }
        }
        while runs.join_next().await.is_some() {}
    }

    /// The next run whose turn it is: in order per conversation, so many at a time.
    async fn claim(&self) -> Option<Claimed> {
        let claimed = self.store.claim(self.settings.active_limits(), now()).await;
        claimed.unwrap_or_else(|error| {
            tracing::error!(error = chain(&error), "cannot claim a run");
            None
        })
    }

    /// One run, from its claim to its container's absence.
    async fn answer(self: Arc<Self>, run: Claimed) {
        tracing::info!(run = %run.run, user = %run.user, attempt = run.attempts, "claimed");
        let model = self.model(&run);
        let head = match self.make(&run).await {
            Ok((prepared, cell)) => {
                let outcome = self.within_time(&run, &prepared, &cell, &model).await;
                let head = self.finish(&run, outcome, &model).await;
                self.end(&cell).await;
                head
            }
            Err(trouble) => self.finish(&run, trouble.into(), &model).await,
        };
        self.gone(&run, head.as_deref()).await;
        self.wake.notify_one();
    }

    /// Makes the cell that the run needs.
    async fn make(&self, run: &Claimed) -> Result<(Prepared, Cell), Trouble> {
        let prepared = self.prepare(run).await?;
        let cell = self.cells.create(&prepared.plan).await?;
        Ok((prepared, cell))
    }

    /// The conversation, bounded by the run's time.
    async fn within_time(
        &self,
        run: &Claimed,
        prepared: &Prepared,
        cell: &Cell,
        model: &RunGateway,
    ) -> Outcome {
        let most = self.settings.limits.run_timeout;
        let result = match timeout(most, self.converse(run, prepared, cell, model)).await {
            Ok(result) => result,
            Err(_) => Err(Trouble::RunTime(most)),
        };
        model.close();
        match result {
            Ok(turn) if turn.failed => trouble::failed_turn(&turn, model.last_error()),
            Ok(turn) => Outcome::Answered { reply: prepared.reply(turn.text) },
            Err(trouble) => trouble.outcome(model.last_error()),
        }
    }

    /// Opens the door, has the preflight judged, and speaks with the agent until its turn ends.
    /// Whatever happens, the door closes when this returns or is dropped.
    async fn converse(
        &self,
        run: &Claimed,
        prepared: &Prepared,
        cell: &Cell,
        model: &RunGateway,
    ) -> Result<TurnResult, Trouble> {
        self.store.container_made(run.run, cell.id()).await?;
        let mut door = cell.open(&prepared.job, prepare::handler(model)).await?;

        let measured = timeout(PREFLIGHT_TIME, door.preflight()).await;
        let (preflight, verdict) = measured.map_err(|_| Trouble::Slow("measure itself"))??;
        let judged = prepared.plan.judge(&preflight);
        self.store.measured(run.run, &prepare::record(&preflight), judged.is_ok()).await?;
        judged?;
        verdict.go();
        let (up, down) = door.agent().await?;
        let mut agent = Agent::new(up, down);
        let ready = timeout(AGENT_START, agent.initialize(&prepared.instructions)).await;
        let ready = ready.map_err(|_| Trouble::Slow("start the agent"))?;
        trouble::explained(&mut door, ready.map_err(Trouble::from)).await?;

        self.store.delivered(run.run, now()).await?;
        agent.say(&prepared.turn()).await?;
        let heard = self.listen(&mut agent).await;
        let turn = trouble::explained(&mut door, heard).await?;

        // Its transcript is complete when the agent has exited: only then may a head point to it.
        agent.close();
        let exit = timeout(AGENT_EXIT, door.exit()).await;
        exit.map_err(|_| Trouble::Slow("end the agent"))??;
        Ok(turn)
    }

    /// Listens until the turn's result. The agent may not be silent for long, unless a tool works.
    async fn listen(&self, agent: &mut Agent) -> Result<TurnResult, Trouble> {
        let most = self.settings.limits.silence;
        let mut working = 0_usize;
        loop {
            match timeout(most, agent.next()).await {
                Ok(line) => match line? {
                    Line::Result(turn) => return Ok(turn),
                    Line::Tool { .. } => working += 1,
                    Line::ToolDone => working = working.saturating_sub(1),
                    _ => {}
                },
                Err(_) if working > 0 => {}
                Err(_) => return Err(Trouble::Silence(most)),
            }
        }
    }
}
