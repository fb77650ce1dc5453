//! What follows an outcome: it is written, told to those who wait, and the container is seen gone.
//!
//! None of these steps may be lost. A write that fails (a full disk) is tried again until it holds;
//! a container that cannot be removed keeps its run `finishing`, and its place among the cells,
//! until it can. If the service dies meanwhile, its next start settles both.

use std::time::Duration;

use tokio::time::timeout;

use super::Assistant;
use super::current::Current;
use super::events::Event;
use super::journal;
use super::trouble::End;
use crate::cell::Cell;
use crate::core::ids::RunId;
use crate::core::limits::{BUDGET_NOTICE_PERCENT, DETAILS_KEPT_DAYS, STRAYS_AFTER};
use crate::core::problem::chain;
use crate::host::machine::now;
use crate::host::points;
use crate::store::change::{Ending, Head, Spending};
use crate::store::claim::Claimed;
use crate::store::error::Error;
use crate::store::recover::Settled;

/// A failure that may have the same reason as a stop waits for it so long.
const MOMENT: Duration = Duration::from_secs(1);
/// Between two attempts of what must not be lost.
pub(super) const AGAIN: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// What is left to be done when a run's container is gone.
pub(super) enum Left {
    /// Of the conversation's transcripts, to keep this session's.
    Transcript(Option<String>),
    /// To have the run wait again, and begin anew.
    Again,
    /// Nothing: it has no outcome, and is settled as after a crash ([`Assistant::recover`]).
    Unsettled,
}

impl Assistant {
    /// After a crash, or a stop that did not wait: first no container is left, then runs are
    /// settled. Tries until Podman answers and the store can write.
    pub async fn recover(&self) {
        while let Err(error) = self.cells.remove_all(self.state.instance()).await {
            tracing::warn!(error = chain(&error), "cannot look for cells that were left");
            if self.stop.is_cancelled() {
                // The next start looks again.
                return;
            }
            tokio::time::sleep(AGAIN).await;
        }
        for settled in self.settle().await {
            journal::settled(&settled);
            if settled.state.is_final() {
                self.events.over(settled.run);
            }
        }
        self.ended.send_replace(());
    }

    /// Looks once more for containers of before: Podman may have been making one when the service
    /// died, and have come to its end after [`Assistant::recover`] looked. It never returns.
    pub async fn look_again(&self) {
        tokio::time::sleep(STRAYS_AFTER).await;
        let runs = self.cells.runs_of(self.state.instance()).await.unwrap_or_else(|error| {
            tracing::warn!(error = chain(&error), "cannot look for cells again");
            Vec::new()
        });
        for run in runs {
            // A run is known before its container is made.
            if !self.running.lock().await.contains_key(&run) {
                tracing::warn!(run_id = %run, "a container came after the last start");
                self.end_unknown(run).await;
            }
        }
        std::future::pending().await
    }

    /// A run that is not settled holds up its conversation, and counts as one that has a cell.
    async fn settle(&self) -> Vec<Settled> {
        loop {
            let error = match self.store.recover(now()).await {
                Ok(settled) => return settled,
                Err(error) => error,
            };
            tracing::error!(error = chain(&error), "cannot settle runs");
            // The next start settles them. A run whose row does not read back is no error here: the
            // store leaves it out, settles the others and tells the log.
            if matches!(error, Error::Closed) || self.stop.is_cancelled() {
                return Vec::new();
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Writes the outcome, what it cost and the conversation's head in one transaction, and tells
    /// those who wait. A run that is to begin anew has no outcome yet, nor has one that was cut
    /// off by what stops the service, before it had used a tool.
    ///
    /// Returns what is left to be done when its container is gone.
    pub(super) async fn finish(&self, current: &Current, end: End) -> Left {
        let outcome = match (self.is_cut_off(&end).await, end) {
            (true, end) if !current.model.is_touched() => {
                let failure = end.failure();
                tracing::warn!(failure, "cut off while the service stops");
                self.account(current).await;
                return Left::Unsettled;
            }
            (true, End::Outcome(outcome)) => outcome.interrupted(),
            (false, End::Outcome(outcome)) => outcome,
            (_, End::NotResumed) => return Left::Again,
        };
        points::reached("result").await;
        let run = &current.run;
        let own = outcome.reply().map(|_| run.run.to_string());
        let head = |session| Head { session, attachments: current.attachments.look() };
        let new_head = own.clone().map(head);
        let meter = current.model.meter();
        let spending = Spending { usage: meter.usage(), cost_microusd: meter.spent() };
        self.notice_budget(run, meter.spent());
        // The detail may hold words of the agent's; the run keeps it, the log does not.
        let (state, failure) = (outcome.state(), outcome.failure());
        let timeline = current.watch.timeline();
        let ending = Ending { outcome, spending, new_head, timeline };
        self.insist("the outcome", || self.store.finish(run.run, ending.clone(), now())).await;
        journal::ended(state, failure);
        self.ended.send_replace(());
        self.events.over(run.run);
        points::reached("finishing").await;
        Left::Transcript(own.or_else(|| run.head.clone()))
    }

    /// Whether it ends as it does because the service stops: who switches a machine off ends cells,
    /// Podman and services side by side. Our own signal may come a moment later.
    async fn is_cut_off(&self, end: &End) -> bool {
        end.may_come_from_outside() && timeout(MOMENT, self.stop.cancelled()).await.is_ok()
    }

    /// What it has cost is known, also when it has no outcome.
    async fn account(&self, current: &Current) {
        let meter = current.model.meter();
        let spending = Spending { usage: meter.usage(), cost_microusd: meter.spent() };
        if let Err(error) = self.store.spent(current.run.run, spending).await {
            tracing::error!(error = chain(&error), "cannot write what a run has cost");
        }
    }

    /// Says so when a day's budget comes to its end.
    fn notice_budget(&self, run: &Claimed, spent: u64) {
        let limits = &self.settings.limits;
        let days = [
            (run.spent_today_user, limits.budget_per_user_day, "this user's"),
            (run.spent_today_all, limits.budget_per_day, "everybody's"),
        ];
        for (before, most, whose) in days {
            let notice = most / 100 * BUDGET_NOTICE_PERCENT;
            if before < notice && before + spent >= notice {
                tracing::warn!(
                    "{BUDGET_NOTICE_PERCENT} % of {whose} budget of \
                    today is spent"
                );
            }
        }
    }

    /// Removes the container, and does not return before it was seen gone; but for a service that
    /// stops, which leaves it to the next start, and false is returned.
    pub(super) async fn end(&self, cell: &Cell) -> bool {
        while let Err(error) = cell.end().await {
            let error = chain(&error);
            tracing::error!(container = cell.id(), error, "a container cannot be removed");
            if self.stop.is_cancelled() {
                return false;
            }
            tokio::time::sleep(AGAIN).await;
        }
        true
    }

    /// The same where no container is known. Podman may have made one all the same: it may have
    /// died, or its answer may have been lost. While it is away this run keeps its place among the
    /// cells, so that messages which wait do not fail one after the other.
    pub(super) async fn end_unknown(&self, run: RunId) -> bool {
        while let Err(error) = self.cells.remove_of(run).await {
            let error = chain(&error);
            let words = "cannot look for a container that may have been made";
            tracing::warn!(run_id = %run, error, "{words}");
            if self.stop.is_cancelled() {
                return false;
            }
            tokio::time::sleep(AGAIN).await;
        }
        true
    }

    /// Writes that the container was seen gone: the run is in its final state, or waits again.
    /// Nobody writes to the transcripts any more, so what is not needed is removed now.
    pub(super) async fn gone(&self, current: &Current, left: Left) {
        let run = &current.run;
        points::reached("gone").await;
        let head = match left {
            Left::Transcript(head) => head,
            Left::Again => return self.begin_again(current).await,
            Left::Unsettled => return,
        };
        if let Err(error) = self.tidy(run, head.as_deref()) {
            tracing::error!(error = chain(&error), "cannot tidy");
        }
        self.insist("a container's absence", || self.store.gone(run.run, now())).await;
        self.running.lock().await.remove(&run.run);
        self.ended.send_replace(());
        self.wake.notify_one();
        self.record_space(run).await;
    }

    /// Has a run wait again whose agent refused the conversation's transcript. It is let go before
    /// it can be claimed anew: the next attempt has a word of its own to be cancelled by.
    async fn begin_again(&self, current: &Current) {
        let run = current.run.run;
        tracing::warn!("the agent refused the conversation's transcript");
        loop {
            let mut running = self.running.lock().await;
            let error = match self.store.again(run, now()).await {
                Ok(state) => {
                    running.remove(&run);
                    if state.is_final() {
                        self.events.over(run);
                    } else {
                        let attempts = current.run.attempts;
                        current.log.tell(Event::State { status: state, attempts });
                    }
                    break;
                }
                Err(error) => error,
            };
            tracing::error!(error = chain(&error), "cannot write that a run begins anew");
            if is_hopeless(&error) {
                break;
            }
            drop(running);
            tokio::time::sleep(AGAIN).await;
        }
        self.ended.send_replace(());
        self.wake.notify_one();
    }

    /// Forgets what is not kept for ever, once a day. It never returns.
    pub async fn forget(&self) {
        loop {
            let before = now() - DETAILS_KEPT_DAYS * 24 * 60 * 60 * 1000;
            if let Err(error) = self.store.forget(before).await {
                tracing::error!(error = chain(&error), "cannot forget what is not kept");
            }
            tokio::time::sleep(DAY).await;
        }
    }

    async fn insist<F>(&self, what: &str, write: impl Fn() -> F)
    where
        F: Future<Output = Result<(), Error>>,
    {
        while let Err(error) = write().await {
            tracing::error!(error = chain(&error), "cannot write {what}");
            if is_hopeless(&error) {
                return;
            }
            tokio::time::sleep(AGAIN).await;
        }
    }
}

/// Whether trying again is of no use: the next start settles the run.
const fn is_hopeless(error: &Error) -> bool {
    matches!(error, Error::Closed | Error::Impossible { .. } | Error::NoSuchRun { .. })
}
