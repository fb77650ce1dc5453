//! What a run needs before its cell is made: the plan, the launcher's job, instructions, a meter.

use std::path::PathBuf;
use std::sync::Arc;

use http_body_util::BodyExt;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use noclaw_cell::job::Job;
use noclaw_cell::preflight::Preflight;
use serde_json::Value;

use super::Assistant;
use super::current::Stopwatch;
use super::grants::Folders;
use super::memory::Attachments;
use super::ready::Ready;
use super::trouble::Trouble;
use crate::cell::agent::LineLimits;
use crate::cell::door::Model;
use crate::cell::start::{Session, StartLine};
use crate::cell::{Cell, TRANSCRIPTS, WORKSPACE};
use crate::core::ids::{RunId, UserName};
use crate::core::limits::{
    CELL_OVERDUE, INSTRUCTIONS_BYTES, Limits, MESSAGES_PER_RUN, QUOTA_NOTICE_PERCENT, REPLY_BYTES,
};
use crate::core::message::{Shown, turn};
use crate::core::money::{Meter, Prices};
use crate::core::plan::{CellPlan, Controller};
use crate::core::problem::chain;
use crate::core::quota::Space;
use crate::core::run::Memory;
use crate::core::timeline::Step;
use crate::gateway::{Hooks, RunGateway, RunLimits, Scope};
use crate::host::machine::{self, now};
use crate::host::mounts::Guard;
use crate::host::mounts::open::Opened;
use crate::host::points;
use crate::host::tree::Tree;
use crate::store::accept::QueueLimits;
use crate::store::claim::{ActiveLimits, Claimed};

const SHIPPED_INSTRUCTIONS: &str = include_str!("../../data/instructions.md");
/// The agent's own notes, in its workspace.
const NOTES: &str = "CLAUDE.md";

/// What the owner set.
#[derive(Debug)]
pub struct Settings {
    /// The default user.
    pub owner: UserName,
    /// Limits.
    pub limits: Limits,
    /// Models and what they cost.
    pub prices: Prices,
    /// The model of a message that names none.
    pub model: String,
    /// Limits to do without.
    pub accept_without: Vec<Controller>,
    /// The launcher's program.
    pub launcher: PathBuf,
    /// Which of the owner's folders no cell sees, and where those that one may see are named.
    pub guard: Arc<Guard>,
    /// The agent's start line and Landlock table.
    pub start: StartLine,
    /// The owner's instructions for all users.
    pub instructions: String,
}

impl Settings {
    pub(super) const fn queue_limits(&self) -> QueueLimits {
        QueueLimits {
            per_user: self.limits.queue_per_user,
            all: self.limits.queue,
            messages_per_run: MESSAGES_PER_RUN,
        }
    }

    pub(super) const fn active_limits(&self) -> ActiveLimits {
        ActiveLimits { cells: self.limits.cells, per_user: self.limits.cells_per_user }
    }
}

/// What its agent may write.
pub(super) fn line_limits() -> LineLimits {
    if points::boundless() { LineLimits::NONE } else { LineLimits::default() }
}

/// A run that can begin.
pub(super) struct Prepared {
    pub(super) plan: CellPlan,
    pub(super) job: Job,
    pub(super) instructions: String,
    // The agent is to go on from the conversation's transcript.
    pub(super) resumes: bool,
    messages: Vec<Shown>,
    zone: TimeZone,
    // What the workspace takes, and may take, if that is worth a word.
    nearly_full: Option<(Space, Space)>,
    // The conversation's transcript is lost: the agent remembers nothing of it.
    lost: bool,
    // What is mounted stays open until the run is over: nothing else can have its inode meanwhile.
    opened: (Folders, [Opened; 3]),
}

impl Prepared {
    /// The owner's folders in the cell.
    pub(super) const fn granted(&self) -> &Folders {
        &self.opened.0
    }

    /// The user's turn: the time as it is now, and all waiting messages. The agent is told when its
    /// workspace is nearly full.
    pub(super) fn turn(&self) -> Vec<Value> {
        turn(&self.messages, &Timestamp::now().to_zoned(self.zone.clone()), self.nearly_full)
    }

    /// The reply as it is kept.
    pub(super) fn reply(&self, mut text: String) -> String {
        if text.len() > REPLY_BYTES {
            text.truncate(text.floor_char_boundary(REPLY_BYTES));
            text.push_str("\n\n[the reply was longer than what is kept]");
        }
        if self.lost {
            text.push_str("\n\n[the conversation's transcript was lost; it began anew]");
        }
        text
    }
}

impl Assistant {
    /// The run's way to the model, with what it may spend.
    pub(super) fn model(
        &self,
        run: &Claimed,
        watch: &Arc<Stopwatch>,
        attachments: &Attachments,
    ) -> RunGateway {
        let limits = &self.settings.limits;
        let allowance = limits
            .budget_per_run
            .min(limits.budget_per_user_day.saturating_sub(run.spent_today_user))
            .min(limits.budget_per_day.saturating_sub(run.spent_today_all));
        let (store, id, attachments) = (self.store.clone(), run.run, attachments.clone());
        let touched = move || -> std::pin::Pin<Box<dyn Future<Output = _> + Send>> {
            let (store, attachments) = (store.clone(), attachments.clone());
            Box::pin(async move {
                // The last moment at which what is in the transcript can only be the agent's own.
                attachments.wait_and_look().await;
                store.touched(id, now()).await?;
                points::reached("touched").await;
                Ok(())
            })
        };
        let watch = Arc::clone(watch);
        let first_byte = move |_| watch.mark(Step::FirstModelByte);
        let hooks =
            Hooks { touched: Some(Box::new(touched)), first_byte: Some(Box::new(first_byte)) };
        let model = run.model.as_ref().unwrap_or(&self.settings.model).clone();
        // No tool of the model's side can be granted yet.
        let scope = Scope { model, ..Scope::default() };
        let limits = if points::boundless() { RunLimits::NONE } else { RunLimits::default() };
        self.gateway.for_run(scope, Meter::new(allowance), limits, hooks)
    }

    /// Gathers what the run needs.
    pub(super) async fn prepare(&self, run: &Claimed) -> Result<Prepared, Trouble> {
        let Ready { image, podman } = self.ready.check().await.map_err(Trouble::NotReady)?;
        let workspace = self.state.workspace(&run.user)?;
        let transcripts = self.state.transcripts(&run.user, run.conversation_id)?;
        // Kept even where this run does not go on from it: if it fails, the next one does.
        let found = self.tidy(run, run.head.as_deref())?;
        let continues = run.memory == Memory::Conversation;
        let head = match run.head.as_deref() {
            Some(head) if found && continues && self.clean(run, head)? => Some(head),
            _ => None,
        };

        let zone = zone(run.time_zone.as_deref());
        let session = Session {
            run: run.run,
            head,
            model: run.model.as_deref().unwrap_or(&self.settings.model),
            zone: zone.iana_name().unwrap_or("UTC"),
            most: self.settings.limits.run_timeout + CELL_OVERDUE,
        };
        let folders = self.folders(&run.user, &podman).await?;
        let instructions = self.instructions(run, &Tree::open(&workspace)?, &folders.told());
        let launcher = Opened::file(&self.settings.launcher)?;
        let (workspace, transcripts) = (Opened::folder(&workspace)?, Opened::folder(&transcripts)?);
        let mut mounts = vec![
            launcher.mount(noclaw_cell::LAUNCHER.to_owned(), true),
            workspace.mount(WORKSPACE.to_owned(), false),
            transcripts.mount(TRANSCRIPTS.to_owned(), false),
        ];
        mounts.extend(folders.mounts());
        let start = &self.settings.start;
        // Looked at for each run: whoever removes it does not stop the next one.
        let profile = self.state.place(&start.profile.file_name(), start.profile.text())?;
        let mut job = start.job(&session);
        job.confinement.landlock.extend(folders.rules());
        let landlock_rules = job.confinement.landlock.len();
        points::weaken(&mut job.confinement);
        let limits = &self.settings.limits;
        let plan = CellPlan {
            instance: self.state.instance().clone(),
            run: run.run,
            user: run.user.clone(),
            image: image.id,
            mounts,
            memory: limits.cell_memory,
            pids: limits.cell_pids,
            cpu_millis: limits.cell_cpu_millis,
            host_namespaces: machine::namespaces(),
            rules: Arc::clone(&start.cell),
            seccomp_profile: profile.to_string_lossy().into_owned(),
            environment: job.env.keys().cloned().collect(),
            landlock_rules,
            accept_without: self.settings.accept_without.clone(),
            runtime: podman.runtime.clone(),
        };
        points::reached("prepared").await;
        Ok(Prepared {
            plan,
            job,
            instructions,
            resumes: head.is_some(),
            messages: run.messages.clone(),
            zone,
            nearly_full: nearly_full(run, limits.workspace),
            lost: run.memory == Memory::Refused
                || (continues && run.head.is_some() && head.is_none()),
            opened: (folders, [launcher, workspace, transcripts]),
        })
    }

    /// Shipped, the owner's for all, the owner's for this user, the owner's folders, the agent's
    /// notes. Nothing here changes from run to run by itself, so the model's prompt cache holds.
    fn instructions(&self, run: &Claimed, workspace: &Tree, folders: &str) -> String {
        let notes = workspace.read(NOTES, INSTRUCTIONS_BYTES).unwrap_or_else(|error| {
            let error = chain(&error);
            tracing::warn!(error, "the agent's notes are not read");
            None
        });
        let notes = notes.map(|notes| {
            format!("# Your own notes (from /workspace/{NOTES}; you wrote them)\n\n{notes}")
        });
        let parts = [
            SHIPPED_INSTRUCTIONS,
            &self.settings.instructions,
            &run.user_instructions,
            folders,
            notes.as_deref().unwrap_or_default(),
        ];
        let parts = parts.iter().map(|part| part.trim()).filter(|part| !part.is_empty());
        parts.collect::<Vec<_>>().join("\n\n")
    }
}

/// What the workspace takes of its quota, once people and the agent are to know.
fn nearly_full(run: &Claimed, quota: Space) -> Option<(Space, Space)> {
    let used = run.workspace?;
    (quota.percent(used) >= QUOTA_NOTICE_PERCENT).then_some((used, quota))
}

fn zone(name: Option<&str>) -> TimeZone {
    let named = name.and_then(|name| TimeZone::get(name).ok());
    named.unwrap_or_else(|| TimeZone::try_system().unwrap_or(TimeZone::UTC))
}

impl Assistant {
    /// Compares what a cell measured with its plan. What was measured is kept first, whatever it
    /// comes to.
    pub(super) async fn judge(
        &self,
        run: RunId,
        cell: &Cell,
        plan: &CellPlan,
        preflight: &Preflight,
    ) -> Result<(), Trouble> {
        let judged = plan.judge(cell.id(), preflight);
        let isolation = plan.isolation(preflight, &judged);
        // Our own type, with string keys: it always serializes.
        let measured = serde_json::to_string(preflight).unwrap_or_default();
        self.store.measured(run, &measured, &isolation, judged.is_ok()).await?;
        Ok(judged?)
    }
}

/// Passes the door's model requests to the run's gateway.
pub(super) fn handler(model: &RunGateway) -> Model {
    let model = model.clone();
    Arc::new(move |request| {
        let model = model.clone();
        Box::pin(async move { model.handle(request).await.map(BodyExt::boxed) })
    })
}
