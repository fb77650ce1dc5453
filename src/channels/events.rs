//! A run's events as server-sent events: `state`, `delta`, `tool`, `result`, with the id `RUN:SEQ`.
//! The service writes them, the command line reads them.
//!
//! | what happens | what the reader sees |
//! |---|---|
//! | it comes back with `Last-Event-ID` | each event after that one |
//! | it comes back after the result | 204, which tells a browser's `EventSource` to stay away |
//! | it reads too slowly, or the service stops | the end of the stream, without a result |
//! | nothing happens | a comment every [`EVENTS_IDLE`] |

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt, StreamBody};
use hyper::Response;
use hyper::body::Frame;
use hyper::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION};
use serde::{Deserialize, Serialize};

use super::view::RunView;
use super::{Routes, fault};
use crate::assistant::Assistant;
use crate::assistant::events::{Event, Follower};
use crate::core::ids::RunId;
use crate::core::limits::EVENTS_IDLE;
use crate::core::problem::{Problem, ProblemKind};
use crate::core::run::RunState;
use crate::http::reply::{self, Body};

/// The media type.
pub const EVENT_STREAM: &str = "text/event-stream";

/// Where a client says which event it saw last.
const LAST_SEEN: &str = "last-event-id";

/// `state`: where the run is now, and how often it was begun.
#[derive(Debug, Serialize, Deserialize)]
pub struct StateData {
    /// Where.
    pub status: RunState,
    /// How often it was begun. One that is begun again starts its text anew.
    pub attempts: u32,
}

/// `delta`: what the agent said more.
#[derive(Debug, Serialize, Deserialize)]
pub struct DeltaData {
    /// The text.
    pub text: String,
}

/// `tool`: the agent called a tool.
#[derive(Debug, Serialize, Deserialize)]
pub struct ToolData {
    /// Its name.
    pub name: String,
    /// Its input, cut short.
    pub summary: String,
}

/// Whether the client asks for events.
pub(super) fn are_accepted(headers: &HeaderMap) -> bool {
    let values = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|kind| {
        let mut parts = kind.split(';').map(str::trim);
        parts.next().is_some_and(|essence| essence.eq_ignore_ascii_case(EVENT_STREAM))
            && !parts.any(is_weight_of_none)
    })
}

/// `q=0`: this is not wanted (RFC 9110, 12.4.2).
fn is_weight_of_none(parameter: &str) -> bool {
    let weight = parameter.split_once('=').filter(|(name, _)| name.eq_ignore_ascii_case("q"));
    weight.and_then(|(_, weight)| weight.parse::<f32>().ok()).is_some_and(|weight| weight <= 0.0)
}

/// The last event that the client has seen, if it names one.
pub(super) fn seen(headers: &HeaderMap) -> Option<(RunId, u64)> {
    let (run, number) = headers.get(LAST_SEEN)?.to_str().ok()?.split_once(':')?;
    Some((run.parse().ok()?, number.parse().ok()?))
}

/// The number of the last event of `run` that the client has seen.
pub(super) fn last_seen(headers: &HeaderMap, run: RunId) -> Result<Option<u64>, Problem> {
    if !headers.contains_key(LAST_SEEN) {
        return Ok(None);
    }
    let own = seen(headers).filter(|(seen, _)| *seen == run);
    own.map(|(_, number)| Some(number)).ok_or_else(|| {
        let detail = format!("Last-Event-ID must be an id of this run's events: {run}:NUMBER");
        Problem::new(ProblemKind::BadRequest, detail)
    })
}

/// Streams a run's events after the number `after`, to its result.
pub(super) async fn stream(
    routes: &Routes,
    run: RunId,
    after: Option<u64>,
) -> Result<Response<Body>, Problem> {
    let follower = routes.assistant.follow(run, after).await.map_err(|e| fault(&e))?;
    let missing = || Problem::new(ProblemKind::NotFound, format!("there is no run {run}"));
    let follower = follower.ok_or_else(missing)?;
    if follower.is_at_the_end() {
        return Ok(reply::nothing());
    }
    let reader = Reader { assistant: Arc::clone(&routes.assistant), run, follower };
    let body = StreamBody::new(stream::unfold(Some(reader), |reader| async {
        let (bytes, reader) = reader?.next().await?;
        Some((Ok::<_, Infallible>(Frame::data(bytes)), reader))
    }));
    let mut response = Response::new(body.boxed_unsync());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(EVENT_STREAM));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // Proxies that buffer answers are asked not to.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    let location = HeaderValue::try_from(format!("/v1/runs/{run}"));
    headers.extend(location.ok().map(|location| (LOCATION, location)));
    Ok(response)
}

struct Reader {
    assistant: Arc<Assistant>,
    run: RunId,
    follower: Follower,
}

impl Reader {
    /// Waits for the next piece of the stream. Without a reader nothing follows it.
    async fn next(mut self) -> Option<(Bytes, Option<Self>)> {
        let batch = tokio::select! {
            batch = self.follower.next() => batch?,
            // A client that is gone is noticed when it is written to.
            () = tokio::time::sleep(EVENTS_IDLE) => {
                return Some((Bytes::from_static(b":\n\n"), Some(self)));
            }
            () = self.assistant.stop.cancelled() => return None,
        };
        let mut text = String::new();
        let mut over = false;
        for (number, event) in batch {
            over |= event == Event::Result;
            let (name, data) = self.data(event).await?;
            text.push_str(&format!("id: {}:{number}\nevent: {name}\ndata: {data}\n\n", self.run));
        }
        Some((text.into(), (!over).then_some(self)))
    }

    /// An event's name and JSON, which has no line breaks.
    async fn data(&self, event: Event) -> Option<(&'static str, String)> {
        Some(match event {
            Event::State { status, attempts } => ("state", json(&StateData { status, attempts })),
            Event::Delta(text) => ("delta", json(&DeltaData { text })),
            Event::Tool { name, summary } => ("tool", json(&ToolData { name, summary })),
            Event::Result => {
                let record = self.assistant.store.run(self.run).await.ok()??;
                ("result", json(&RunView::short(record)))
            }
        })
    }
}

/// Our own types have string keys and finite numbers: they always serialize.
fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}
