//! `POST /webhook`: a message comes in; its reply goes back if it is ready in time.

use std::hash::Hash;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use hyper::body::Incoming;
use hyper::header::{HeaderMap, HeaderValue, LOCATION, USER_AGENT};
use hyper::{Request, Response};

use super::view::RunView;
use super::who::Speaker;
use super::{Routes, fault, query};
use crate::core::ids::RunId;
use crate::core::limits::WAIT_MOST;
use crate::core::message::{Message, MessageBody};
use crate::core::problem::{Problem, ProblemKind, http_status};
use crate::core::rate::RateLimiter;
use crate::http::body;
use crate::http::reply::{self, Body};
use crate::store::error::Refused;

/// What `noclaw send` calls itself.
pub const CLI_AGENT: &str = concat!("noclaw/", env!("CARGO_PKG_VERSION"));

/// Accepts a message and waits for its reply.
pub(super) async fn post(
    routes: &Routes,
    speaker: &Speaker,
    request: Request<Incoming>,
) -> Result<Response<Body>, Problem> {
    if request.headers().contains_key("idempotency-key") {
        // Not to be taken for a promise that the message is answered once.
        let detail = "Idempotency-Key is not served yet; send the message without it";
        return Err(Problem::new(ProblemKind::BadRequest, detail));
    }
    let default = routes.assistant.settings.limits.wait;
    let wait = match prefers_async(request.headers()) {
        true => Duration::ZERO,
        false => wait(&request, default)?,
    };
    let from_cli = request.headers().get(USER_AGENT).is_some_and(|agent| agent == CLI_AGENT);
    let channel = if from_cli { "cli" } else { "webhook" };
    let message = check(routes, speaker, body::json(request).await?)?;
    limit(&routes.user_rates, message.user.clone(), "this user")?;
    routes.ready().check().await?;
    let accepted = routes.assistant.accept(message, channel).await.map_err(refused)?;
    answer(routes, accepted.run, wait).await
}

fn check(routes: &Routes, speaker: &Speaker, body: MessageBody) -> Result<Message, Problem> {
    let settings = &routes.assistant.settings;
    let default = match speaker {
        Speaker::Owner => &settings.owner,
        Speaker::User(user) => user,
    };
    let message = Message::check(body, default, |model| settings.prices.allows(model))
        .map_err(|error| Problem::new(ProblemKind::InvalidField, error))?;
    if let Speaker::User(user) = speaker
        && *user != message.user
    {
        let detail = format!("a token of {user} cannot speak for {}", message.user);
        return Err(Problem::new(ProblemKind::Forbidden, detail));
    }
    Ok(message)
}

async fn answer(routes: &Routes, run: RunId, wait: Duration) -> Result<Response<Body>, Problem> {
    let record = routes.assistant.wait(run, wait).await.map_err(|e| fault(&e))?;
    let record = record.ok_or_else(|| Problem::new(ProblemKind::Internal, "the run is lost"))?;
    let status = http_status(record.status());
    let mut response = reply::json(status, &RunView::short(record));
    if status == 202 {
        let location = HeaderValue::try_from(format!("/v1/runs/{run}"));
        response.headers_mut().extend(location.ok().map(|location| (LOCATION, location)));
    }
    Ok(response)
}

fn refused(refused: Refused) -> Problem {
    match refused {
        Refused::QueueFull { .. } => Problem::new(ProblemKind::QueueFull, refused)
            .retry_after(Duration::from_secs(30))
            .hint("wait for some of them to be answered"),
        Refused::Store(error) => fault(&error),
    }
}

/// `Prefer: respond-async` (RFC 7240).
fn prefers_async(headers: &HeaderMap) -> bool {
    let values = headers.get_all("prefer").iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|token| token.trim() == "respond-async")
}

/// `?wait=SECONDS`.
pub(super) fn wait(request: &Request<Incoming>, default: Duration) -> Result<Duration, Problem> {
    let Some((_, seconds)) = query(request, &["wait"])?.first().copied() else {
        return Ok(default);
    };
    let wait = seconds.parse().ok().map(Duration::from_secs).filter(|wait| *wait <= WAIT_MOST);
    wait.ok_or_else(|| {
        let detail = format!("wait must be a number of seconds, at most {}", WAIT_MOST.as_secs());
        Problem::new(ProblemKind::BadRequest, detail)
    })
}

/// Takes one from a bucket.
pub(super) fn limit<K: Hash + Eq>(
    limiter: &Mutex<RateLimiter<K>>,
    key: K,
    whose: &str,
) -> Result<(), Problem> {
    let mut limiter = limiter.lock().unwrap_or_else(PoisonError::into_inner);
    limiter.take(key, Instant::now()).map_err(|wait| {
        let detail = format!("{whose} sends too many requests");
        Problem::new(ProblemKind::RateLimited, detail).retry_after(wait)
    })
}
