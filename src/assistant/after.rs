//! What follows an outcome: it is written, told to those who wait, and the container is seen gone.
//!
//! None of these steps may be lost. A write that fails (a full disk) is tried again until it holds;
//! a container that cannot be removed keeps its run `finishing`, and its place among the cells,
//! until it can. If the service dies meanwhile, its next start settles both.

use std::time::Duration;

use tokio::time::Instant;

use super::Assistant;
use crate::cell::Cell;
use crate::core::ids::RunId;
use crate::core::limits::{BUDGET_NOTICE_PERCENT, PREFLIGHTS_KEPT_DAYS};
use crate::core::problem::chain;
use crate::core::run::Outcome;
use crate::gateway::RunGateway;
use crate::host::machine::now;
use crate::host::tree::{Tree, TreeError};
use crate::store::change::{Ending, Spending};
use crate::store::claim::Claimed;
use crate::store::error::Error;
use crate::store::record::RunRecord;

/// Between two attempts of what must not be lost.
const AGAIN: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// The agent names a project's folder after its working directory.
const PROJECT: &str = "-workspace";

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

    /// After a crash, or a stop that did not wait: first no container is left, then runs are
    /// settled. Tries until Podman answers.
    pub async fn recover(&self) {
        while let Err(error) = self.cells.remove_all(self.state.instance()).await {
            tracing::warn!(error = chain(&error), "cannot look for cells that were left");
            tokio::time::sleep(AGAIN).await;
        }
        match self.store.recover(now()).await {
            Ok(settled) => settled.iter().for_each(|(run, state)| {
                tracing::info!(%run, %state, "settled after an interruption");
            }),
            Err(error) => tracing::error!(error = chain(&error), "cannot settle runs"),
        }
        self.ended.send_replace(());
    }

    /// Writes the outcome, what it cost and the conversation's head in one transaction, and tells
    /// those who wait.
    ///
    /// Returns the session that the conversation goes on from: this run's own after an answer.
    pub(super) async fn finish(
        &self,
        run: &Claimed,
        outcome: Outcome,
        model: &RunGateway,
    ) -> Option<String> {
        let own = outcome.reply().map(|_| run.run.to_string());
        let meter = model.meter();
        let spending = Spending { usage: meter.usage(), cost_microusd: meter.spent() };
        self.notice_budget(run, meter.spent());
        // The detail may hold words of the agent's; the run keeps it, the log does not.
        let (state, failure) = (outcome.state(), outcome.failure());
        let ending = Ending { outcome, spending, new_head: own.clone() };
        self.insist("the outcome", || self.store.finish(run.run, ending.clone(), now())).await;
        tracing::info!(run = %run.run, %state, failure, "ended");
        self.ended.send_replace(());
        own.or_else(|| run.head.clone())
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
                tracing::warn!(user = %run.user, "{BUDGET_NOTICE_PERCENT} % of {whose} budget of \
                    today is spent");
            }
        }
    }

    /// Removes the container, and does not return before it was seen gone.
    pub(super) async fn end(&self, cell: &Cell) {
        while let Err(error) = cell.end().await {
            let error = chain(&error);
            tracing::error!(container = cell.id(), error, "a container cannot be removed");
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Writes that the container was seen gone: the run is in its final state. Nobody writes to the
    /// transcripts any more, so what is not needed is removed now.
    pub(super) async fn gone(&self, run: &Claimed, head: Option<&str>) {
        if let Err(error) = self.tidy(run, head) {
            tracing::error!(run = %run.run, error = chain(&error), "cannot tidy");
        }
        self.insist("a container's absence", || self.store.gone(run.run, now())).await;
    }

    /// Removes from a conversation's transcripts all but one session's, and says whether that is
    /// there. What is not a transcript could act in the next run.
    pub(super) fn tidy(&self, run: &Claimed, session: Option<&str>) -> Result<bool, TreeError> {
        let tree = Tree::open(&self.state.transcripts_path(&run.user, run.conversation_id))?;
        match session {
            Some(session) => tree.keep_only(&[PROJECT, &format!("{session}.jsonl")]),
            None => tree.keep_only(&[]),
        }
    }

    /// Forgets what is not kept for ever, once a day. It never returns.
    pub async fn forget(&self) {
        loop {
            let before = now() - PREFLIGHTS_KEPT_DAYS * 24 * 60 * 60 * 1000;
            if let Err(error) = self.store.forget_preflights(before).await {
                tracing::error!(error = chain(&error), "cannot forget old preflights");
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
            // These say that trying again is of no use: the next start settles the run.
            if matches!(error, Error::Closed | Error::Impossible { .. } | Error::NoSuchRun { .. }) {
                return;
            }
            tokio::time::sleep(AGAIN).await;
        }
    }
}
