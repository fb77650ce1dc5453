//! The story: a message is accepted, its run is claimed in turn, a cell is made, the agent answers,
//! the outcome is written, the cell is gone. Everything else in NoClaw serves this page.
//!
//! What can go wrong on the way is a [`Trouble`]: a run that was claimed ends in
//! [`Assistant::finish`], its container in `Cell::end`. What follows what: `core/run.rs`.

mod after;
mod ask;
mod current;
pub mod events;
pub mod grants;
pub mod halt;
mod journal;
mod listen;
mod memory;
pub mod people;
mod prepare;
mod quota;
pub mod ready;
mod trouble;

use std::sync::Arc;

use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use self::current::Current;
pub use self::current::Running;
use self::events::{Event, Events};
use self::prepare::Prepared;
pub use self::prepare::Settings;
use self::ready::Readiness;
use self::trouble::{End, Trouble};
use crate::cell::agent::Agent;
use crate::cell::stream_json::TurnResult;
use crate::cell::{Cell, Cells};
use crate::core::ids::RunId;
use crate::core::limits::{AGENT_EXIT, AGENT_START, PREFLIGHT_TIME};
use crate::core::message::Message;
use crate::core::run::RunState;
use crate::core::timeline::Step;
use crate::gateway::Gateway;
use crate::host::machine::now;
use crate::host::points;
use crate::host::state::State;
use crate::store::Store;
use crate::store::accept::{Accepted, NewMessage, SentKey};
use crate::store::error::Refused;
use crate::store::tokens::TokenHash;

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
    /// What is being answered.
    pub running: Running,
    /// What happens in runs, for those who follow them.
    pub events: Events,
    /// Something may be claimed.
    pub wake: Notify,
    /// Some run has its outcome, or its container is gone.
    pub ended: watch::Sender<()>,
    /// The service stops.
    pub stop: CancellationToken,
}

impl Assistant {
    /// Accepts a message: once this returns, it is on disk and will reach exactly one final state.
    ///
    /// # Errors
    /// Why it is not accepted; nothing was written then.
    pub async fn accept(
        &self,
        message: Message,
        channel: &str,
        token: Option<TokenHash>,
        key: Option<SentKey>,
    ) -> Result<Accepted, Refused> {
        let run_if_new = RunId::new(Uuid::now_v7());
        let (arrival, channel) = (journal::Arrival::of(&message, channel), channel.to_owned());
        let new = NewMessage { message, run_if_new, channel, token, key, now_ms: now() };
        let accepted = self.store.accept(new, self.settings.queue_limits()).await?;
        points::reached("accepted").await;
        arrival.accepted(&accepted);
        self.wake.notify_one();
        Ok(accepted)
    }

    /// Makes answers until the service stops, and waits for those that are being made. Dropped, it
    /// gives them up: [`Assistant::recover`] settles them.
    pub async fn work(self: Arc<Self>) {
        let mut runs = JoinSet::new();
        while !self.stop.is_cancelled() {
            match self.claim().await {
                Some(current) => drop(runs.spawn(journal::of(current, Arc::clone(&self)))),
                None => tokio::select! {
                    () = self.stop.cancelled() => {}
                    () = self.wake.notified() => while runs.try_join_next().is_some() {},
                },
            }
        }
        while runs.join_next().await.is_some() {}
    }

    /// One run, from its claim to its container's absence.
    async fn answer(self: Arc<Self>, current: Current) {
        points::reached("claimed").await;
        let (left, is_gone) = match self.make(&current).await {
            Ok((prepared, cell)) => {
                let end = self.within_time(&current, &prepared, &cell).await;
                // The reply does not wait for the container's removal.
                let left = self.finish(&current, end).await;
                (left, self.end(&cell).await)
            }
            Err(trouble) => {
                let left = self.finish(&current, End::Outcome(trouble.into())).await;
                (left, self.end_unknown(current.run.run).await)
            }
        };
        if is_gone {
            self.gone(&current, left).await;
        }
    }

    /// Makes the cell that the run needs.
    async fn make(&self, current: &Current) -> Result<(Prepared, Cell), Trouble> {
        let prepared = self.prepare(&current.run).await?;
        let cell = self.cells.create(&prepared.plan).await?;
        current.watch.mark(Step::Created);
        points::reached("created").await;
        Ok((prepared, cell))
    }

    /// The conversation, as long as nobody and no limit ends it.
    async fn within_time(&self, current: &Current, prepared: &Prepared, cell: &Cell) -> End {
        let result = tokio::select! {
            result = self.converse(current, prepared, cell) => result,
            trouble = current.leash.snapped(prepared.granted()) => Err(trouble),
        };
        current.model.close();
        current.watch.mark(Step::Result);
        trouble::end(result, prepared, &current.model)
    }

    /// Opens the door, has the preflight judged, and speaks with the agent until its turn ends.
    /// Whatever happens, the door closes when this returns or is dropped.
    async fn converse(
        &self,
        current: &Current,
        prepared: &Prepared,
        cell: &Cell,
    ) -> Result<TurnResult, Trouble> {
        let (run, watch) = (current.run.run, &current.watch);
        self.store.container_made(run, cell.id()).await?;
        let mut door = cell.open(&prepared.job, prepare::handler(&current.model)).await?;
        watch.mark(Step::Attached);

        let measured = timeout(PREFLIGHT_TIME, door.preflight()).await;
        let (preflight, verdict) = measured.map_err(|_| Trouble::NoDoor)??;
        self.judge(run, cell, &prepared.plan, &preflight).await?;
        verdict.go();
        watch.mark(Step::Preflight);
        current
            .log
            .tell(Event::State { status: RunState::Running, attempts: current.run.attempts });

        let (up, down) = door.agent().await?;
        let mut agent = Agent::new(up, down, prepare::line_limits());
        let ready = timeout(AGENT_START, agent.initialize(&prepared.instructions)).await;
        let ready = ready.map_err(|_| Trouble::Slow("start the agent"))?;
        trouble::explained(&mut door, ready.map_err(Trouble::from)).await?;
        watch.mark(Step::AgentReady);

        self.store.delivered(run, now()).await?;
        points::reached("delivered").await;
        agent.say(&prepared.turn()).await?;
        let heard = self.listen(current, &mut agent).await;
        let turn = trouble::explained(&mut door, heard).await?;

        // Its transcript is complete when the agent has exited: only then may a head point to it.
        agent.close();
        let exit = timeout(AGENT_EXIT, door.exit()).await;
        trouble::remark(&exit.map_err(|_| Trouble::Slow("end the agent"))??);
        Ok(turn)
    }
}
