//! The halt, carried out (what it means is in `core/halt.rs`). The order is what counts:
//!
//! 1. the gateway: from here on nothing reaches the model, whatever else fails;
//! 2. the store: it outlives the service; nothing is claimed meanwhile;
//! 3. the runs: each notices that it is cut off, and ends.
//!
//! | what goes wrong | what follows |
//! |---|---|
//! | it cannot be written | it holds until the service ends, and whoever asked is told so |
//! | the service dies before it was written | it does not hold; whoever asked got no answer |
//! | a run does not end in time | it goes on ending; it is cut off already |

use tokio::time::timeout;

use super::Assistant;
use crate::core::halt::{Halt, Reason};
use crate::core::ids::RunId;
use crate::core::journal::{HALTED, UNHALTED};
use crate::core::limits::HALT_WAIT;
use crate::core::problem::{Problem, ProblemKind, chain};
use crate::host::machine::now;
use crate::host::points;
use crate::store::error::Error;

impl Assistant {
    /// Halts: once this returns nothing reaches the model, no run begins, and those that were going
    /// on have ended or will. Returns the halt that holds. Not to be dropped half-way.
    ///
    /// # Errors
    /// When it holds, but could not be written.
    pub async fn halt(&self, reason: Option<Reason>) -> Result<Halt, Error> {
        let mut halt = self.gateway.halt(Halt { since_ms: now(), reason }).await;
        points::reached("halted").await;
        let runs: Vec<_> = {
            let running = self.running.lock().await;
            // Somebody may have taken it back before this was locked.
            if self.gateway.halted().is_none() {
                halt = self.gateway.halt(halt).await;
            }
            self.store.halt(&halt).await?;
            running.keys().copied().collect()
        };
        tracing::warn!(
            message_id = HALTED,
            runs = runs.len(),
            "halted; `noclaw unhalt` lets runs begin again"
        );
        timeout(HALT_WAIT, self.gone_all(&runs)).await.ok();
        Ok(halt)
    }

    /// Waits until the containers of these runs were seen gone.
    async fn gone_all(&self, runs: &[RunId]) {
        let mut ended = self.ended.subscribe();
        while self.running.lock().await.keys().any(|run| runs.contains(run)) {
            // We hold the sender: it is never closed.
            ended.changed().await.ok();
        }
    }

    /// Takes the halt back: what waits may begin.
    ///
    /// # Errors
    /// The store's. Then the halt holds on.
    pub async fn unhalt(&self) -> Result<(), Error> {
        let _nothing_is_claimed = self.running.lock().await;
        self.store.unhalt().await?;
        if self.gateway.halted().is_some() {
            self.gateway.unhalt();
            tracing::warn!(message_id = UNHALTED, "no longer halted");
        }
        self.wake.notify_one();
        Ok(())
    }

    /// At the start: a halt of before holds on.
    ///
    /// # Errors
    /// The store's.
    pub async fn recall_halt(&self) -> Result<(), Error> {
        if let Some(halt) = self.store.halted().await? {
            tracing::warn!("halted since before this start; `noclaw unhalt` lets runs begin again");
            self.gateway.halt(halt).await;
        }
        Ok(())
    }
}

/// What a halt is to whoever wants something that it forbids.
pub(super) fn problem(halt: &Halt) -> Problem {
    let since = jiff::Timestamp::from_millisecond(halt.since_ms).unwrap_or_default();
    let detail = format!("{halt} (since {since:.0})");
    Problem::new(ProblemKind::Halted, detail).hint("the owner takes it back: noclaw unhalt")
}

/// What it is to the owner that a halt could not be written.
pub fn unwritten(error: &Error) -> Problem {
    tracing::error!(error = chain(error), "a halt cannot be written");
    let (kind, first) = match error {
        Error::Full => (ProblemKind::StorageFull, "make room where the state directory is"),
        _ => (ProblemKind::Internal, "look into the service's log"),
    };
    Problem::new(kind, "NoClaw is halted, but only until its next start: that cannot be written")
        .hint(format!("{first}, then halt it again"))
}
