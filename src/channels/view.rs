//! A run as clients see it. The service writes it, the command line reads it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::core::ids::{ConversationName, RunId, UserName};
use crate::core::money::Usage;
use crate::core::run::RunState;
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
            duration_ms: record.ended_at.map(|end| end - record.created_at),
            created_at: time(record.created_at),
            attempts: record.attempts,
            container: record.container_id,
            gone_at: record.gone_at.map(time),
            messages: None,
            preflight: None,
        }
    }

    /// With everything.
    pub fn full(mut record: RunRecord) -> Self {
        let messages = std::mem::take(&mut record.messages);
        let preflight = record.preflight.take().and_then(|json| serde_json::from_str(&json).ok());
        let messages = Some(messages.into_iter().map(|message| message.text).collect());
        Self { messages, preflight, ..Self::short(record) }
    }
}

/// A page of runs, newest first.
#[derive(Debug, Serialize, Deserialize)]
pub struct RunList {
    /// The runs.
    pub runs: Vec<RunView>,
}
