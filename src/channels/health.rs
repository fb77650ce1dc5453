//! `/healthz`: the service lives. `/readyz`: a message could be answered. `/v1/status`: for the
//! owner.

use std::sync::Arc;
use std::time::Instant;

use hyper::Response;
use noclaw_cell::preflight::Landlock;
use serde::{Deserialize, Serialize};

use super::halt::HaltView;
use super::who::Speaker;
use super::{Routes, fault, owner_only};
use crate::core::plan::Controller;
use crate::core::problem::{Problem, chain};
use crate::http::reply::{self, Body, Document};

/// What was decided when the service started.
#[derive(Debug)]
pub struct About {
    /// When that was.
    pub started: Instant,
    /// Where the model is, for people: a host, or `demo`.
    pub model_api: String,
    /// Where it listens.
    pub listening: Vec<String>,
    /// How the service itself is confined.
    pub landlock: Landlock,
}

/// What the service is and does.
#[derive(Debug, Serialize, Deserialize)]
pub struct Status {
    /// The program's version.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// Seconds since it started.
    pub uptime_s: u64,
    /// Messages' runs that wait.
    pub queued: u64,
    /// Runs that have a cell.
    pub active: u64,
    /// Cells at a time.
    pub cells: usize,
    /// Where the model is.
    pub model_api: String,
    /// The model of a message that names none.
    pub model: String,
    /// Where it listens.
    pub listening: Vec<String>,
    /// How the service itself is confined.
    pub landlock: Landlock,
    /// Limits that are not enforced on this machine, by the owner's word.
    pub accepted_without: Vec<Controller>,
    /// Podman's version and the image, when all is ready.
    pub podman: Option<String>,
    /// The image's id and the agent's version.
    pub image: Option<String>,
    /// The owner's halt.
    #[serde(default)]
    pub halt: Option<HaltView>,
    /// What keeps messages from being answered.
    pub problem: Option<Document>,
    /// Why no folder of the owner's is in any cell, and what to do.
    #[serde(default)]
    pub allowlist_problem: Option<(String, String)>,
}

/// Whether the store's writer answers. Podman is not asked.
pub(super) async fn alive(routes: &Routes) -> Result<Response<Body>, Problem> {
    routes.store().ping().await.map_err(|e| fault(&e))?;
    Ok(reply::json(200, &serde_json::json!({"status": "alive"})))
}

/// Whether a message could be answered now.
pub(super) async fn ready(routes: &Routes) -> Result<Response<Body>, Problem> {
    routes.ready().check().await?;
    Ok(reply::json(200, &serde_json::json!({"status": "ready"})))
}

/// What the service is and does.
pub(super) async fn status(routes: &Routes, speaker: &Speaker) -> Result<Response<Body>, Problem> {
    owner_only(speaker)?;
    let counts = routes.store().counts().await.map_err(|e| fault(&e))?;
    let (settings, about) = (&routes.assistant.settings, &routes.about);
    let (ready, missing) = match routes.ready().parts().await {
        Ok(ready) => (Some(ready), None),
        Err(problem) => (None, Some(problem)),
    };
    let problem = routes.ready().halted().or(missing);
    let problem = problem.map(|problem| Document::from(&problem));
    let image = |image: &crate::cell::image::AgentImage| {
        let id = image.id.strip_prefix("sha256:").unwrap_or(&image.id);
        format!("{} (agent {})", id.get(..12).unwrap_or(id), image.agent)
    };
    let guard = Arc::clone(&settings.guard);
    let read = tokio::task::spawn_blocking(move || guard.allowlist().err()).await;
    let allowlist_problem = read.ok().flatten().map(|error| (chain(&error), error.hint()));
    Ok(reply::json(
        200,
        &Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_s: about.started.elapsed().as_secs(),
            queued: counts.queued,
            active: counts.active,
            cells: settings.limits.cells,
            model_api: about.model_api.clone(),
            model: settings.model.clone(),
            listening: about.listening.clone(),
            landlock: about.landlock.clone(),
            accepted_without: settings.accept_without.clone(),
            podman: ready.as_ref().map(|ready| ready.podman.version.clone()),
            image: ready.as_ref().map(|ready| image(&ready.image)),
            halt: routes.halt(),
            problem,
            allowlist_problem,
        },
    ))
}
