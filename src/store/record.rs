//! What the store gives out: plain data in types of `core`, and how rows become it. A row that does
//! not read back is an error, not a guess.

use std::str::FromStr;

use super::entities::{conversations, message_history, runs};
use super::error::Error;
use crate::core::ids::{ConversationName, InvalidId, MountName, RunId, UserName};
use crate::core::money::Usage;
use crate::core::mounts::folder::FolderPath;
use crate::core::quota::Space;
use crate::core::run::{Memory, RunState};

/// All that is known of a run. Times are milliseconds since the epoch (UTC).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunRecord {
    /// Its id.
    pub run: RunId,
    /// Whose it is.
    pub user: UserName,
    /// The conversation it belongs to.
    pub conversation: ConversationName,
    /// Where it stands; [`RunRecord::status`] is what people are told.
    pub state: RunState,
    /// How it ended or, while it is finishing, will have ended.
    pub outcome: Option<RunState>,
    /// The model that was asked for.
    pub model: Option<String>,
    /// How often it was begun.
    pub attempts: u32,
    /// When its first message was accepted.
    pub created_at: i64,
    /// When it was last claimed.
    pub claimed_at: Option<i64>,
    /// When its message was about to go to the agent.
    pub delivered_at: Option<i64>,
    /// When the agent's first tool call was about to be passed on.
    pub touched_at: Option<i64>,
    /// When its outcome was known.
    pub ended_at: Option<i64>,
    /// When its container was seen gone.
    pub gone_at: Option<i64>,
    /// Its container.
    pub container_id: Option<String>,
    /// The session it continued: the conversation's head when it was claimed.
    pub forked_from: Option<String>,
    /// The run that this one tries again.
    pub retry_of: Option<RunId>,
    /// When somebody asked to cancel it.
    pub cancel_at: Option<i64>,
    /// Where its last attempt's time went, as JSON of a `core::timeline::Timeline`.
    pub timeline: Option<String>,
    /// The reply.
    pub reply: Option<String>,
    /// The error: `door lost: …`.
    pub error: Option<String>,
    /// The tokens of all its attempts.
    pub usage: Usage,
    /// Their cost in millionths of a US dollar.
    pub cost_microusd: u64,
    /// What its cell measured, as JSON.
    pub preflight: Option<String>,
    /// What that came to, in a line.
    pub isolation: Option<String>,
    /// What its user's workspace took of the disk when it was over.
    pub workspace: Option<Space>,
    /// The messages that it answers, oldest first.
    pub messages: Vec<MessageRecord>,
}

impl RunRecord {
    /// The state that people are told: a run that is finishing has its outcome's already, because
    /// that can no longer change.
    pub fn status(&self) -> RunState {
        status(self.state, self.outcome)
    }
}

/// A message as it was accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MessageRecord {
    /// Its text.
    pub text: String,
    /// The sender's data, as JSON.
    pub context: Option<String>,
    /// Which way it came.
    pub channel: String,
    /// When.
    pub created_at: i64,
}

/// A message of a user's history, with what became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryRecord {
    /// Where it stands in the history; ask for the page before it with this.
    pub id: i64,
    /// Its conversation.
    pub conversation: ConversationName,
    /// The message.
    pub message: MessageRecord,
    /// The run that answers it. Messages of one run share its reply.
    pub run: RunId,
    /// The run's state, as people are told.
    pub status: RunState,
    /// The run's reply.
    pub reply: Option<String>,
    /// Why there is none.
    pub error: Option<String>,
    /// When the run's outcome was known.
    pub ended_at: Option<i64>,
}

/// A user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserRecord {
    /// The name.
    pub name: UserName,
    /// What the owner wants the agent to know when it works for this user.
    pub instructions: String,
    /// The time zone; `None` is the machine's.
    pub time_zone: Option<String>,
    /// When the user was made.
    pub created_at: i64,
}

/// A user, and how much is kept of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserOverview {
    /// The user.
    pub user: UserRecord,
    /// Conversations.
    pub conversations: u64,
    /// Messages in them.
    pub messages: u64,
    /// Runs that answered them, or will.
    pub runs: u64,
    /// Tokens that speak for this user only.
    pub tokens: u64,
    /// What its workspace took of the disk when it was last counted.
    pub workspace: Option<Space>,
}

/// A folder of the owner's that a user is granted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountRecord {
    /// What it is called in the user's cells.
    pub name: MountName,
    /// The folder, from `/`.
    pub path: FolderPath,
    /// Whether a cell may write there.
    pub read_write: bool,
    /// When it was granted.
    pub created_at: i64,
}

/// A token, without what would let anyone use it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRecord {
    /// Its number.
    pub id: i64,
    /// What it is good for: `owner`, `user:U`, `channel:NAME`, `metrics`.
    pub scope: String,
    /// The user it speaks for, if it does for one only.
    pub user: Option<UserName>,
    /// What the owner calls it.
    pub label: String,
    /// When it was made.
    pub created_at: i64,
    /// From when on it is no longer good.
    pub expires_at: Option<i64>,
}

pub(super) fn status(state: RunState, outcome: Option<RunState>) -> RunState {
    match (state, outcome) {
        (RunState::Finishing, Some(outcome)) => outcome,
        _ => state,
    }
}

impl RunRecord {
    pub(super) fn of(
        row: runs::Model,
        conversation: Option<&conversations::Model>,
        messages: Vec<MessageRecord>,
    ) -> Result<Self, Error> {
        let conversation = conversation.map(|row| row.name.as_str()).unwrap_or_default();
        Ok(Self {
            run: parse_run(&row.id)?,
            user: parse_user("runs", &row.user)?,
            conversation: parse_conversation(conversation)?,
            state: parse_state("state", &row.state)?,
            outcome: row.outcome.as_deref().map(|word| parse_state("outcome", word)).transpose()?,
            attempts: attempts(row.attempts)?,
            usage: usage(&row)?,
            cost_microusd: count("runs", "cost_microusd", row.cost_microusd)?,
            workspace: space(row.workspace_bytes, row.workspace_files)?,
            model: row.model,
            created_at: row.created_at,
            claimed_at: row.claimed_at,
            delivered_at: row.delivered_at,
            touched_at: row.touched_at,
            ended_at: row.ended_at,
            gone_at: row.gone_at,
            container_id: row.container_id,
            forked_from: row.forked_from,
            retry_of: row.retry_of.as_deref().map(parse_run).transpose()?,
            cancel_at: row.cancel_at,
            timeline: row.timeline,
            reply: row.reply,
            error: row.error,
            preflight: row.preflight,
            isolation: row.isolation,
            messages,
        })
    }
}

impl From<message_history::Model> for MessageRecord {
    fn from(row: message_history::Model) -> Self {
        Self {
            text: row.text,
            context: row.context,
            channel: row.channel,
            created_at: row.created_at,
        }
    }
}

fn usage(row: &runs::Model) -> Result<Usage, Error> {
    Ok(Usage {
        input_tokens: count("runs", "input_tokens", row.input_tokens)?,
        output_tokens: count("runs", "output_tokens", row.output_tokens)?,
        cache_write_tokens: count("runs", "cache_write_tokens", row.cache_write_tokens)?,
        cache_write_1h_tokens: count("runs", "cache_write_1h_tokens", row.cache_write_1h_tokens)?,
        cache_read_tokens: count("runs", "cache_read_tokens", row.cache_read_tokens)?,
        requests: count("runs", "requests", row.requests)?,
    })
}

/// From what a run goes on, as it is stored.
pub(super) const fn memory_number(memory: Memory) -> i64 {
    match memory {
        Memory::Conversation => 0,
        Memory::AsAsked => 1,
        Memory::Refused => 2,
    }
}

pub(super) fn memory(stored: i64) -> Result<Memory, Error> {
    match stored {
        0 => Ok(Memory::Conversation),
        1 => Ok(Memory::AsAsked),
        2 => Ok(Memory::Refused),
        _ => Err(invalid("runs", "anew")),
    }
}

pub(super) fn attempts(stored: i64) -> Result<u32, Error> {
    u32::try_from(stored).map_err(|_| invalid("runs", "attempts"))
}

/// A number that is never negative.
pub(super) fn count(table: &'static str, column: &'static str, stored: i64) -> Result<u64, Error> {
    u64::try_from(stored).map_err(|_| invalid(table, column))
}

/// What a workspace took, if it was counted.
pub(super) fn space(bytes: Option<i64>, files: Option<i64>) -> Result<Option<Space>, Error> {
    let (Some(bytes), Some(files)) = (bytes, files) else {
        return Ok(None);
    };
    let bytes = count("runs", "workspace_bytes", bytes)?;
    Ok(Some(Space { bytes, files: count("runs", "workspace_files", files)? }))
}

/// A number as SQLite takes it. No disk has more.
pub(super) fn stored(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

pub(super) fn parse_run(text: &str) -> Result<RunId, Error> {
    parse("runs", "id", text)
}

pub(super) fn parse_user(table: &'static str, text: &str) -> Result<UserName, Error> {
    parse(table, "user", text)
}

pub(super) fn parse_conversation(text: &str) -> Result<ConversationName, Error> {
    parse("conversations", "name", text)
}

pub(super) fn parse_state(column: &'static str, text: &str) -> Result<RunState, Error> {
    parse("runs", column, text)
}

pub(super) fn parse<T>(table: &'static str, column: &'static str, text: &str) -> Result<T, Error>
where
    T: FromStr<Err = InvalidId>,
{
    text.parse().map_err(|source| Error::Row { table, column, source: Some(source) })
}

pub(super) fn invalid(table: &'static str, column: &'static str) -> Error {
    Error::Row { table, column, source: None }
}
