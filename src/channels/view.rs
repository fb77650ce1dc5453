//! A run as clients see it. The service writes it, the command line reads it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::core::ids::{ConversationName, RunId, UserName};
use crate::core::money::Usage;
use crate::core::quota::Space;
use crate::core::run::RunState;
use crate::core::timeline::{Step, Timeline};
use crate::store::record::RunRecord;

/// A run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RunView {
    /// Its id.
    pub run: RunId,
    /// Whose it is.
    pub user: UserName,
    /// Its conversation.
    pub conversation: ConversationName,
    /// Where it stands. One that is finishing has its final state already.
    pub status: RunState,
    /// The reply, once answered.
    pub reply: Option<String>,
    /// Why there is no reply.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Tokens.
    pub usage: Usage,
    /// What it cost, in US dollars.
    pub cost_usd: f64,
    /// From acceptance to outcome, in milliseconds.
    pub duration_ms: Option<i64>,
    /// When it was accepted.
    pub created_at: Timestamp,
    /// How often it was begun.
    pub attempts: u32,
    /// Its container's id.
    pub container: Option<String>,
    /// Whether its container was seen gone; `None` while it is not.
    pub gone_at: Option<Timestamp>,
    /// The run whose messages it tries again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_of: Option<RunId>,
    /// What the user's workspace took of the disk when it was over; counted a moment later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workspace: Option<Space>,
    /// What its cell was measured to be, in a line; `None` when no cell came so far.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub isolation: Option<String>,
    /// Where its time went; only where one run is asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub timeline: Vec<Moment>,
    /// The messages that it answers; only where one run is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub messages: Option<Vec<String>>,
    /// What its cell measured; only where one run is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preflight: Option<Value>,
}

impl RunView {
    /// Without messages and preflight.
    pub fn short(record: RunRecord) -> Self {
        let time = |ms| Timestamp::from_millisecond(ms).unwrap_or_default();
        #[expect(clippy::cast_precision_loss, reason = "millionths of dollars are below 2^52")]
        let cost_usd = record.cost_microusd as f64 / 1e6;
        Self {
            status: record.status(),
            run: record.run,
            user: record.user,
            conversation: record.conversation,
            reply: record.reply,
            error: record.error,
            usage: record.usage,
            cost_usd,
            // A clock that was set back meanwhile is not told as a negative time.
            duration_ms: record.ended_at.map(|end| (end - record.created_at).max(0)),
            created_at: time(record.created_at),
            attempts: record.attempts,
            container: record.container_id,
            gone_at: record.gone_at.map(time),
            retry_of: record.retry_of,
            workspace: record.workspace,
            isolation: record.isolation,
            timeline: Vec::new(),
            messages: None,
            preflight: None,
        }
    }

    /// With everything.
    pub fn full(mut record: RunRecord) -> Self {
        let messages = std::mem::take(&mut record.messages);
        let preflight = record.preflight.take().and_then(|json| serde_json::from_str(&json).ok());
        let timeline = moments(&record);
        let messages = Some(messages.into_iter().map(|message| message.text).collect());
        Self { timeline, messages, preflight, ..Self::short(record) }
    }
}

/// A moment of a run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Moment {
    /// What it had come to.
    pub step: String,
    /// Milliseconds since it was accepted.
    pub at_ms: f64,
}

/// The moments of a run's last attempt, in their order. Those between claim and outcome were taken
/// by a clock that nobody sets; the others by the clock of the wall, which may have been set.
fn moments(record: &RunRecord) -> Vec<Moment> {
    let Some(claimed_at) = record.claimed_at else {
        return Vec::new();
    };
    let wait_ms = (claimed_at - record.created_at).max(0);
    let mut at_us = u64::try_from(wait_ms).unwrap_or(0).saturating_mul(1000);
    let claimed_us = at_us;
    let mut moments = vec![moment("accepted", 0), moment("claimed", at_us)];
    let timeline = record.timeline.as_deref().and_then(|json| serde_json::from_str(json).ok());
    let timeline: Timeline = timeline.unwrap_or_default();
    for step in Step::ALL {
        if let Some(since) = timeline.at(step) {
            at_us = claimed_us.saturating_add(since);
            moments.push(moment(step.as_str(), at_us));
        }
    }
    if let (Some(ended), Some(gone)) = (record.ended_at, record.gone_at) {
        let since_ms = u64::try_from((gone - ended).max(0)).unwrap_or(0);
        moments.push(moment("gone", at_us.saturating_add(since_ms.saturating_mul(1000))));
    }
    moments
}

#[expect(clippy::cast_precision_loss, reason = "a run's microseconds are below 2^52")]
fn moment(step: &str, at_us: u64) -> Moment {
    Moment { step: step.to_owned(), at_ms: at_us as f64 / 1000.0 }
}

/// A page of runs, newest first.
#[derive(Debug, Serialize, Deserialize)]
pub struct RunList {
    /// The runs.
    pub runs: Vec<RunView>,
}
