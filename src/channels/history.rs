//! `GET /v1/users/{u}/history`: a user's messages and what became of them, newest first. The owner
//! reads everybody's, a user's token its own.

use hyper::body::Incoming;
use hyper::{Request, Response};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::who::Speaker;
use super::{Routes, fault, query, users};
use crate::core::ids::{ConversationName, InvalidId, RunId};
use crate::core::problem::{Problem, ProblemKind};
use crate::core::run::RunState;
use crate::http::reply::{self, Body};
use crate::store::read::{HistoryPage, PAGE_MOST};
use crate::store::record::HistoryRecord;

/// Messages in a page when nobody says how many.
const PAGE: usize = 20;

/// A page of a history.
#[derive(Debug, Serialize, Deserialize)]
pub struct History {
    /// Messages, newest first.
    pub messages: Vec<HistoryView>,
    /// `?before=` of the next page; `null` when there is none.
    pub before: Option<i64>,
}

/// A message, with what became of it.
#[derive(Debug, Serialize, Deserialize)]
pub struct HistoryView {
    /// Where it stands in the history.
    pub id: i64,
    /// Its conversation.
    pub conversation: ConversationName,
    /// Its text.
    pub message: String,
    /// The sender's data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<Value>,
    /// Which way it came.
    pub channel: String,
    /// When it was accepted.
    pub created_at: Timestamp,
    /// The run that answers it. Messages of one run share its reply.
    pub run: RunId,
    /// Where that run stands.
    pub status: RunState,
    /// Its reply.
    pub reply: Option<String>,
    /// Why there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// When its outcome was known.
    pub ended_at: Option<Timestamp>,
}

/// Shows a page: `?before=ID &limit= &conversation=`.
pub(super) async fn show(
    routes: &Routes,
    speaker: &Speaker,
    name: &str,
    request: &Request<Incoming>,
) -> Result<Response<Body>, Problem> {
    if let Speaker::User(user) = speaker
        && user.as_str() != name
    {
        let detail = format!("a token of {user} sees that user's history only");
        return Err(Problem::new(ProblemKind::Forbidden, detail));
    }
    let user = users::parse(name)?;
    let bad = |detail: String| Problem::new(ProblemKind::BadRequest, detail);
    let mut page = HistoryPage { limit: PAGE, ..HistoryPage::default() };
    for (name, value) in query(request, &["before", "limit", "conversation"])? {
        match name {
            "before" => {
                let before = value.parse().ok();
                page.before =
                    Some(before.ok_or_else(|| bad("before must be a message's number".into()))?);
            }
            "conversation" => {
                let name = value.parse().map_err(|error: InvalidId| bad(error.to_string()))?;
                page.conversation = Some(name);
            }
            _ => {
                let limit = value.parse().ok().filter(|limit| (1..=PAGE_MOST).contains(limit));
                let most = || bad(format!("limit must be from 1 to {PAGE_MOST}"));
                page.limit = limit.ok_or_else(most)?;
            }
        }
    }
    let limit = page.limit;
    page.limit += 1;
    let found = routes.store().user(&user).await.map_err(|e| fault(&e))?;
    found.ok_or_else(|| users::missing(&user))?;
    let mut records = routes.store().history(&user, page).await.map_err(|e| fault(&e))?;
    let more = records.len() > limit;
    records.truncate(limit);
    let before = records.last().filter(|_| more).map(|record| record.id);
    let messages = records.into_iter().map(HistoryView::of).collect();
    Ok(reply::json(200, &History { messages, before }))
}

impl HistoryView {
    fn of(record: HistoryRecord) -> Self {
        let time = |ms| Timestamp::from_millisecond(ms).unwrap_or_default();
        let context = record.message.context;
        Self {
            id: record.id,
            conversation: record.conversation,
            message: record.message.text,
            context: context.and_then(|json| serde_json::from_str(&json).ok()),
            channel: record.message.channel,
            created_at: time(record.message.created_at),
            run: record.run,
            status: record.status,
            reply: record.reply,
            error: record.error,
            ended_at: record.ended_at.map(time),
        }
    }
}
