//! `GET /v1/runs` and `GET /v1/runs/{id}`. A user's token sees its user's runs; the others do not
//! exist for it.

use std::time::Duration;

use hyper::body::Incoming;
use hyper::{Request, Response};

use super::view::{RunList, RunView};
use super::who::Speaker;
use super::{Routes, fault, query, webhook};
use crate::core::ids::InvalidId;
use crate::core::problem::{Problem, ProblemKind};
use crate::http::reply::{self, Body};
use crate::store::read::{PAGE_MOST, RunFilter};

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

/// Shows one run; with `?wait=SECONDS` when it has ended, or then.
pub(super) async fn show(
    routes: &Routes,
    speaker: &Speaker,
    id: &str,
    request: &Request<Incoming>,
) -> Result<Response<Body>, Problem> {
    let wait = webhook::wait(request, Duration::ZERO)?;
    let missing = || Problem::new(ProblemKind::NotFound, format!("there is no run {id}"));
    let run = id.parse().map_err(|_| missing())?;
    let theirs = |record: &crate::store::record::RunRecord| match speaker {
        Speaker::Owner => true,
        Speaker::User(user) => record.user == *user,
    };
    // Whose it is comes first: waiting would tell that it exists.
    let record = routes.store().run(run).await.map_err(|e| fault(&e))?;
    record.filter(theirs).ok_or_else(missing)?;
    let record = routes.assistant.wait(run, wait).await.map_err(|e| fault(&e))?;
    Ok(reply::json(200, &RunView::full(record.ok_or_else(missing)?)))
}
