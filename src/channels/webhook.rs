//! `POST /webhook`: a message comes in; its reply goes back if it is ready in time, or as it comes.
//!
//! With an `Idempotency-Key` a message is accepted once, however often it is sent: whoever sends it
//! again gets the answer of its run. Keys are each token's own; a token is its hash.

use std::hash::Hash;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use hyper::body::Incoming;
use hyper::header::{HeaderMap, HeaderValue, LOCATION, USER_AGENT};
use hyper::{Request, Response};
use sha2::{Digest, Sha256};

use super::view::RunView;
use super::who::Speaker;
use super::{Routes, events, fault, query};
use crate::core::ids::RunId;
use crate::core::limits::{KEY_BYTES, WAIT_MOST};
use crate::core::message::{Message, MessageBody};
use crate::core::problem::{Problem, ProblemKind, http_status};
use crate::core::rate::RateLimiter;
use crate::host::machine::now;
use crate::http::body;
use crate::http::reply::{self, Body};
use crate::store::accept::SentKey;
use crate::store::error::Refused;
use crate::store::tokens::TokenHash;

/// What `noclaw send` calls itself.
pub const CLI_AGENT: &str = concat!("noclaw/", env!("CARGO_PKG_VERSION"));

/// Accepts a message and waits for its reply.
pub(super) async fn post(
    routes: &Routes,
    speaker: &Speaker,
    token: Option<TokenHash>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Problem> {
    let wanted = Wanted::of(&request, routes.assistant.settings.limits.wait)?;
    let key = key(request.headers())?;
    let from_cli = request.headers().get(USER_AGENT).is_some_and(|agent| agent == CLI_AGENT);
    let channel = if from_cli { "cli" } else { "webhook" };
    let message = check(routes, speaker, body::json(request).await?)?;
    limit(&routes.user_rates, message.user.clone(), "this user")?;
    let key = key.map(|key| sent(token, key, &message));
    let run = match known(routes, token, key.as_ref()).await? {
        Some(run) => run,
        None => {
            routes.ready().check().await?;
            let accepted = routes.assistant.accept(message, channel, token, key).await;
            accepted.map_err(refused)?.run
        }
    };
    wanted.answer(routes, run).await
}

/// How a client wants the answer to a message.
pub(super) struct Wanted {
    wait: Duration,
    streams: bool,
    seen: Option<(RunId, u64)>,
}

impl Wanted {
    /// What the request says; it waits so long by default.
    pub(super) fn of(request: &Request<Incoming>, default: Duration) -> Result<Self, Problem> {
        let headers = request.headers();
        let wait = wait(request, default)?;
        let wait = if prefers_async(headers) { Duration::ZERO } else { wait };
        Ok(Self { wait, streams: events::are_accepted(headers), seen: events::seen(headers) })
    }

    /// Answers with a run, or with its events. Who sends a message again when a stream broke off
    /// may say which event it saw; whoever names another run's has seen none of this one's.
    pub(super) async fn answer(
        self,
        routes: &Routes,
        run: RunId,
    ) -> Result<Response<Body>, Problem> {
        if !self.streams {
            return answer(routes, run, self.wait).await;
        }
        let after = self.seen.filter(|(seen, _)| *seen == run).map(|(_, number)| number);
        events::stream(routes, run, after).await
    }
}

/// The key of `Idempotency-Key`, as it was written.
fn key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let mut values = headers.get_all("idempotency-key").iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    let key = value.to_str().ok().filter(|key| (1..=KEY_BYTES).contains(&key.len()));
    match (key, values.next()) {
        (Some(key), None) => Ok(Some(key.to_owned())),
        _ => {
            let detail =
                format!("Idempotency-Key must be one value of 1 to {KEY_BYTES} ASCII characters");
            Err(Problem::new(ProblemKind::BadRequest, detail))
        }
    }
}

/// A key together with whose it is, and what it was sent with.
fn sent(token: Option<TokenHash>, key: String, message: &Message) -> SentKey {
    let Message { user, conversation, text, context, model, anew } = message;
    let all = serde_json::json!([user, conversation, text.as_str(), context, model, anew]);
    let message = Sha256::digest(all.to_string()).into();
    let hex = |hash: TokenHash| hash.iter().map(|byte| format!("{byte:02x}")).collect();
    let speaker = token.map_or_else(|| "owner".to_owned(), hex);
    SentKey { speaker, key, message }
}

/// The run of a message that was accepted under its key before: it need not be possible now, but
/// whoever's token was removed meanwhile is not told.
async fn known(
    routes: &Routes,
    token: Option<TokenHash>,
    key: Option<&SentKey>,
) -> Result<Option<RunId>, Problem> {
    let Some(key) = key else {
        return Ok(None);
    };
    let run = routes.store().find_key(key).await.map_err(refused)?;
    if let (Some(hash), Some(_)) = (token, run) {
        let found = routes.store().find_token(&hash, now()).await.map_err(|e| fault(&e))?;
        found.ok_or_else(|| refused(Refused::TokenGone))?;
    }
    Ok(run)
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

/// Answers with a run: as it has ended, or where to look for it.
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

/// What a refusal is to a client.
pub(super) fn refused(refused: Refused) -> Problem {
    match refused {
        Refused::TokenGone => Problem::new(ProblemKind::Unauthenticated, refused)
            .hint("`noclaw token create` makes another"),
        Refused::QueueFull { .. } => Problem::new(ProblemKind::QueueFull, refused)
            .retry_after(Duration::from_secs(30))
            .hint("wait for some of them to be answered"),
        Refused::KeyReused { .. } => Problem::new(ProblemKind::KeyReused, refused)
            .hint("a new message needs a new key; the old one's run is named above"),
        Refused::NotRetried { .. } => Problem::new(ProblemKind::Conflict, refused),
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
