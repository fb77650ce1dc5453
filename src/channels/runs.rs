//! `/v1/runs`: look at runs, follow, cancel, retry them. A user's token sees its user's runs; the
//! others do not exist for it.

use std::time::Duration;

use hyper::body::Incoming;
use hyper::{Request, Response};

use super::view::{RunList, RunView};
use super::who::Speaker;
use super::{Routes, events, fault, query, webhook};
use crate::core::ids::{InvalidId, RunId};
use crate::core::limits::CANCEL_WAIT;
use crate::core::problem::{Problem, ProblemKind};
use crate::core::run::RunState;
use crate::http::reply::{self, Body};
use crate::store::read::{PAGE_MOST, RunFilter};
use crate::store::record::RunRecord;
use crate::store::tokens::TokenHash;

/// Runs in a page when nobody says how many.
const PAGE: usize = 20;

/// Lists runs: `?user= &status= &before=RUN &limit=`.
pub(super) async fn list(
    routes: &Routes,
    speaker: &Speaker,
    request: &Request<Incoming>,
) -> Result<Response<Body>, Problem> {
    let bad = |error: InvalidId| Problem::new(ProblemKind::BadRequest, error);
    let mut filter = RunFilter::default();
    let mut limit = PAGE;
    for (name, value) in query(request, &["user", "status", "before", "limit"])? {
        match name {
            "user" => filter.user = Some(value.parse().map_err(bad)?),
            "status" => filter.status = Some(value.parse().map_err(bad)?),
            "before" => filter.before = Some(value.parse().map_err(bad)?),
            _ => limit = page(value)?,
        }
    }
    if let Speaker::User(user) = speaker {
        if filter.user.as_ref().is_some_and(|wanted| wanted != user) {
            let detail = format!("a token of {user} sees that user's runs only");
            return Err(Problem::new(ProblemKind::Forbidden, detail));
        }
        filter.user = Some(user.clone());
    }
    let runs = routes.store().runs(&filter, limit).await.map_err(|e| fault(&e))?;
    let runs = runs.into_iter().map(RunView::short).collect();
    Ok(reply::json(200, &RunList { runs }))
}

fn page(value: &str) -> Result<usize, Problem> {
    let limit = value.parse().ok().filter(|limit| (1..=PAGE_MOST).contains(limit));
    limit.ok_or_else(|| {
        Problem::new(ProblemKind::BadRequest, format!("limit must be from 1 to {PAGE_MOST}"))
    })
}

/// Finds a run that the speaker may know of.
async fn find(routes: &Routes, speaker: &Speaker, id: &str) -> Result<RunRecord, Problem> {
    let missing = || {
        Problem::new(ProblemKind::NotFound, format!("there is no run {id}")).hint("noclaw run list")
    };
    let run = id.parse().map_err(|_| missing())?;
    let theirs = |record: &RunRecord| match speaker {
        Speaker::Owner => true,
        Speaker::User(user) => record.user == *user,
    };
    let record = routes.store().run(run).await.map_err(|e| fault(&e))?;
    record.filter(theirs).ok_or_else(missing)
}

/// Shows one run; with `?wait=SECONDS` when it has ended, or then.
pub(super) async fn show(
    routes: &Routes,
    speaker: &Speaker,
    id: &str,
    request: &Request<Incoming>,
) -> Result<Response<Body>, Problem> {
    let wait = webhook::wait(request, Duration::ZERO)?;
    // Whose it is comes first: waiting would tell that it exists.
    let run = find(routes, speaker, id).await?.run;
    let record = routes.assistant.wait(run, wait).await.map_err(|e| fault(&e))?;
    let record = record.ok_or_else(|| lost(run))?;
    Ok(reply::json(200, &RunView::full(record)))
}

/// Cancels a run, and answers when it has ended: 200 with the run if it is cancelled now.
pub(super) async fn cancel(
    routes: &Routes,
    speaker: &Speaker,
    id: &str,
) -> Result<Response<Body>, Problem> {
    let run = find(routes, speaker, id).await?.run;
    routes.assistant.cancel(run).await.map_err(|e| fault(&e))?;
    let record = routes.assistant.wait(run, CANCEL_WAIT).await.map_err(|e| fault(&e))?;
    let record = record.ok_or_else(|| lost(run))?;
    match record.status() {
        RunState::Cancelled => Ok(reply::json(200, &RunView::short(record))),
        state if state.is_final() => {
            let detail = format!("run {run} is {state} already");
            Err(Problem::new(ProblemKind::Conflict, detail))
        }
        // Asked for, and kept: it follows.
        _ => Ok(reply::json(202, &RunView::short(record))),
    }
}

/// Accepts the messages of a run that ended without an answer again. Answers like `POST /webhook`:
/// with the run, after `?wait=SECONDS` at most, or with its events. Unlike there it does not wait
/// unless it is told to: the answer is 202, and `Location` names the new run.
pub(super) async fn retry(
    routes: &Routes,
    speaker: &Speaker,
    token: Option<TokenHash>,
    id: &str,
    request: &Request<Incoming>,
) -> Result<Response<Body>, Problem> {
    let wanted = webhook::Wanted::of(request, Duration::ZERO)?;
    let record = find(routes, speaker, id).await?;
    webhook::limit(&routes.user_rates, record.user, "this user")?;
    routes.ready().check().await?;
    let accepted = routes.assistant.retry(record.run, token).await.map_err(webhook::refused)?;
    wanted.answer(routes, accepted.run).await
}

/// Follows a run: its events as they happen, from `Last-Event-ID` on.
pub(super) async fn events(
    routes: &Routes,
    speaker: &Speaker,
    id: &str,
    request: &Request<Incoming>,
) -> Result<Response<Body>, Problem> {
    query(request, &[])?;
    let run = find(routes, speaker, id).await?.run;
    let after = events::last_seen(request.headers(), run)?;
    events::stream(routes, run, after).await
}

fn lost(run: RunId) -> Problem {
    Problem::new(ProblemKind::NotFound, format!("there is no run {run} any more"))
}
