//! `GET /v1/news` and `POST /v1/news/seen`: what happened since the owner last looked. Reading
//! changes nothing; whoever has shown the news says so, with the `until` that came with them.

use hyper::body::Incoming;
use hyper::{Request, Response};
use serde::{Deserialize, Serialize};

use super::halt::HaltView;
use super::who::Speaker;
use super::{Routes, fault, owner_only};
use crate::core::ids::{RunId, UserName};
use crate::core::limits::QUOTA_NOTICE_PERCENT;
use crate::core::problem::{Problem, ProblemKind};
use crate::core::quota::Space;
use crate::core::run::RunState;
use crate::host::machine::now;
use crate::http::body;
use crate::http::reply::{self, Body};
use crate::store::news::{News, ToldRun};

/// What happened. Times are milliseconds since the epoch.
#[derive(Debug, Serialize, Deserialize)]
pub struct NewsView {
    /// When the owner last looked; `null`: never.
    pub since: Option<i64>,
    /// When these news were read, for `/v1/news/seen`.
    pub until: i64,
    /// Runs that were answered.
    pub answered: u64,
    /// Runs that failed.
    pub failed: u64,
    /// Runs that took too long.
    pub timed_out: u64,
    /// Runs that were cancelled.
    pub cancelled: u64,
    /// Runs that failed or took too long, newest first; not all, when there are many.
    pub failures: Vec<ToldView>,
    /// Runs that are going on now.
    pub active: u64,
    /// Runs that wait now.
    pub queued: u64,
    /// Of both, oldest first; not all, when there are many.
    pub open: Vec<ToldView>,
    /// What the runs that ended since then have cost, in US dollars.
    pub spent_usd: f64,
    /// What all runs have cost since midnight (UTC).
    pub spent_today_usd: f64,
    /// Users that are new.
    pub new_users: Vec<UserName>,
    /// Users whose workspace is nearly full now.
    #[serde(default)]
    pub nearly_full: Vec<FullView>,
    /// The owner's halt, if one holds.
    #[serde(default)]
    pub halt: Option<HaltView>,
}

/// A user whose workspace is nearly full.
#[derive(Debug, Serialize, Deserialize)]
pub struct FullView {
    /// Whose it is.
    pub user: UserName,
    /// What it took when it was last counted.
    pub used: Space,
    /// What it may take.
    pub quota: Space,
}

/// A run, in a line.
#[derive(Debug, Serialize, Deserialize)]
pub struct ToldView {
    /// Its id.
    pub run: RunId,
    /// Whose it is.
    pub user: UserName,
    /// Where it stands.
    pub status: RunState,
    /// Why it has no reply.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// When it was accepted, in milliseconds since the epoch.
    pub created_at: i64,
}

/// That news were seen.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SeenBody {
    /// The `until` of these news.
    pub until: i64,
}

/// Tells what happened since the owner last looked.
pub(super) async fn show(routes: &Routes, speaker: &Speaker) -> Result<Response<Body>, Problem> {
    owner_only(speaker)?;
    let settings = &routes.assistant.settings;
    let quota = settings.limits.workspace;
    let notice = quota.part(QUOTA_NOTICE_PERCENT);
    let news = routes.store().news(&settings.owner, notice, now()).await;
    Ok(reply::json(200, &NewsView::of(news.map_err(|e| fault(&e))?, quota, routes.halt())))
}

/// Writes that the owner has looked.
pub(super) async fn seen(
    routes: &Routes,
    speaker: &Speaker,
    request: Request<Incoming>,
) -> Result<Response<Body>, Problem> {
    owner_only(speaker)?;
    let SeenBody { until } = body::json(request).await?;
    if until < 0 || until > now() {
        let detail = "until: must be a time that has passed, in milliseconds since the epoch";
        return Err(Problem::new(ProblemKind::InvalidField, detail)
            .hint("the `until` that GET /v1/news answered"));
    }
    routes.store().seen(until).await.map_err(|e| fault(&e))?;
    Ok(reply::json(200, &SeenBody { until }))
}

impl NewsView {
    fn of(news: News, quota: Space, halt: Option<HaltView>) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "millionths of dollars are below 2^52")]
        let dollars = |microusd: u64| microusd as f64 / 1e6;
        Self {
            since: news.since,
            until: news.until,
            answered: news.answered,
            failed: news.failed,
            timed_out: news.timed_out,
            cancelled: news.cancelled,
            failures: news.failures.into_iter().map(ToldView::of).collect(),
            active: news.active,
            queued: news.queued,
            open: news.open.into_iter().map(ToldView::of).collect(),
            spent_usd: dollars(news.spent_since),
            spent_today_usd: dollars(news.spent_today),
            new_users: news.users,
            nearly_full: news
                .nearly_full
                .into_iter()
                .map(|(user, used)| FullView { user, used, quota })
                .collect(),
            halt,
        }
    }
}

impl ToldView {
    fn of(run: ToldRun) -> Self {
        let ToldRun { run, user, status, error, created_at } = run;
        Self { run, user, status, error, created_at }
    }
}
