//! `/v1/halt`: whether the owner has halted the service, and the owner's word to do or undo it.
//! Said again, neither changes anything.

use std::sync::Arc;

use hyper::body::Incoming;
use hyper::{Method, Request, Response};
use serde::{Deserialize, Serialize};

use super::who::Speaker;
use super::{Routes, fault, owner_only};
use crate::assistant::halt::unwritten;
use crate::core::halt::Halt;
use crate::core::problem::{Problem, ProblemKind};
use crate::http::body;
use crate::http::reply::{self, Body};

/// A halt that holds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HaltView {
    /// Since when, in milliseconds since the epoch.
    pub since: i64,
    /// Why, in the owner's words.
    pub reason: Option<String>,
}

/// Whether the service is halted, and what that keeps.
#[derive(Debug, Serialize, Deserialize)]
pub struct StandView {
    /// The halt that holds.
    pub halt: Option<HaltView>,
    /// Runs that have not ended.
    pub active: u64,
    /// Runs that wait.
    pub queued: u64,
}

/// The owner's word to halt.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HaltBody {
    /// Why: one line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl From<Halt> for HaltView {
    fn from(halt: Halt) -> Self {
        let reason = halt.reason.map(|reason| reason.as_str().to_owned());
        Self { since: halt.since_ms, reason }
    }
}

/// Shows, halts, or takes it back.
pub(super) async fn route(
    routes: &Routes,
    speaker: &Speaker,
    request: Request<Incoming>,
) -> Result<Response<Body>, Problem> {
    owner_only(speaker)?;
    let assistant = Arc::clone(&routes.assistant);
    // Tasks of their own: a client that goes away does not leave half of it.
    let lost = |_| Problem::new(ProblemKind::Internal, "it ended half-way; the log says more");
    match *request.method() {
        Method::PUT => {
            let HaltBody { reason } = body::json(request).await?;
            let reason = reason.map(|reason| reason.parse()).transpose();
            let reason = reason.map_err(|e| Problem::new(ProblemKind::InvalidField, e))?;
            let halting = tokio::spawn(async move { assistant.halt(reason).await });
            halting.await.map_err(lost)?.map_err(|e| unwritten(&e))?;
        }
        Method::DELETE => {
            let unhalting = tokio::spawn(async move { assistant.unhalt().await });
            unhalting.await.map_err(lost)?.map_err(|e| fault(&e))?;
        }
        _ => {}
    }
    let counts = routes.store().counts().await.map_err(|e| fault(&e))?;
    let halt = routes.halt();
    Ok(reply::json(200, &StandView { halt, active: counts.active, queued: counts.queued }))
}
