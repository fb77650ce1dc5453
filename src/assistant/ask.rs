//! What others may ask of a run: wait for it, follow it, cancel it, try it again.

use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use super::Assistant;
use super::events::{Event, Follower, Log};
use crate::core::ids::RunId;
use crate::core::run::Cancel;
use crate::host::machine::now;
use crate::store::accept::Accepted;
use crate::store::error::{Error, Refused};
use crate::store::record::RunRecord;
use crate::store::tokens::TokenHash;

impl Assistant {
    /// Waits until a run has its outcome, or `most` has passed. `None`: there is no such run.
    ///
    /// # Errors
    /// The store's.
    pub async fn wait(&self, run: RunId, most: Duration) -> Result<Option<RunRecord>, Error> {
        let mut ended = self.ended.subscribe();
        let deadline = Instant::now() + most;
        loop {
            let record = self.store.run(run).await?;
            if record.as_ref().is_none_or(|record| record.status().is_final()) {
                return Ok(record);
            }
            let over = tokio::select! {
                changed = tokio::time::timeout_at(deadline, ended.changed()) => changed.is_err(),
                // The run may go on after a restart; its sender can ask again.
                () = self.stop.cancelled() => true,
            };
            if over {
                return self.store.run(run).await;
            }
        }
    }

    /// Follows a run from the event after the number `after`. `None`: there is no such run.
    ///
    /// # Errors
    /// The store's.
    pub async fn follow(&self, run: RunId, after: Option<u64>) -> Result<Option<Follower>, Error> {
        let Some(record) = self.store.run(run).await? else {
            return Ok(None);
        };
        let status = record.status();
        if status.is_final() {
            let log = self.events.find(run).unwrap_or_else(|| Log::ended(after));
            return Ok(Some(log.follow(after)));
        }
        let log = self.events.find(run).unwrap_or_else(|| {
            // It waits, or did when the service started: all its attempts are those of before.
            let log = self.events.open(run, record.attempts);
            log.tell(Event::State { status, attempts: record.attempts });
            log
        });
        // It may have ended since it was looked up, when there was no log to be told of it.
        let record = self.store.run(run).await?;
        if record.is_none_or(|record| record.status().is_final()) {
            self.events.over(run);
        }
        Ok(Some(log.follow(after)))
    }

    /// Cancels a run: at once if it waits; if it has a cell, that is ended, and its outcome follows
    /// soon.
    ///
    /// # Errors
    /// The store's.
    pub async fn cancel(&self, run: RunId) -> Result<Cancel, Error> {
        let running = self.running.lock().await;
        let what = self.store.cancel(run, now()).await?;
        tracing::info!(run_id = %run, ?what, "to be cancelled");
        match what {
            Cancel::Now => {
                self.ended.send_replace(());
                self.events.over(run);
                // The next message of its conversation need not wait for it any more.
                self.wake.notify_one();
            }
            // One that is not here is left from before a restart, and about to be settled.
            Cancel::Stop => running.get(&run).into_iter().for_each(|word| word.cancel()),
            Cancel::TooLate => {}
        }
        Ok(what)
    }

    /// Accepts the messages of a run that ended without an answer again, as those of a new run, for
    /// whoever has this token.
    ///
    /// # Errors
    /// Why not; nothing was written then.
    pub async fn retry(&self, run: RunId, token: Option<TokenHash>) -> Result<Accepted, Refused> {
        let new = RunId::new(Uuid::now_v7());
        let limits = self.settings.queue_limits();
        let accepted = self.store.retry(run, new, token, limits, now()).await?;
        tracing::info!(run_id = %accepted.run, of = %run, "to be tried again");
        self.wake.notify_one();
        Ok(accepted)
    }
}
