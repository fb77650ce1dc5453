//! Floor 3: every way in. A request is told who speaks, goes to its route, and gets an answer or a
//! problem document.

pub mod events;
pub mod halt;
pub mod health;
pub mod history;
pub mod listen;
pub mod mounts;
pub mod news;
pub mod runs;
pub mod tokens;
pub mod users;
pub mod view;
pub mod webhook;
pub mod who;

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use hyper::body::Incoming;
use hyper::header::{ALLOW, HeaderValue};
use hyper::{Method, Request, Response};

use self::who::{Peer, Speaker};
use crate::assistant::Assistant;
use crate::assistant::ready::Readiness;
use crate::core::ids::UserName;
use crate::core::problem::{Problem, ProblemKind, chain};
use crate::core::rate::RateLimiter;
use crate::http::reply::{self, Body};
use crate::store::Store;
use crate::store::error::Error as StoreError;
use crate::store::tokens::TokenHash;

/// What the routes share.
pub struct Routes {
    /// Where messages go.
    pub assistant: Arc<Assistant>,
    /// What `status` tells beside.
    pub about: health::About,
    user_rates: Mutex<RateLimiter<UserName>>,
    token_rates: Mutex<RateLimiter<TokenHash>>,
}

impl Routes {
    /// Routes to this assistant.
    pub fn new(assistant: Arc<Assistant>, about: health::About) -> Self {
        let limits = &assistant.settings.limits;
        let user_rates = Mutex::new(RateLimiter::new(limits.rate));
        let token_rates = Mutex::new(RateLimiter::new(limits.token_rate));
        Self { assistant, about, user_rates, token_rates }
    }

    fn store(&self) -> &Store {
        &self.assistant.store
    }

    /// The halt that holds, as people are shown it.
    fn halt(&self) -> Option<halt::HaltView> {
        self.assistant.gateway.halted().map(Into::into)
    }

    fn ready(&self) -> &Readiness {
        &self.assistant.ready
    }

    /// Answers a request of a peer.
    pub async fn answer(&self, peer: Peer, request: Request<Incoming>) -> Response<Body> {
        self.route(peer, request).await.unwrap_or_else(|problem| {
            tracing::debug!(kind = problem.kind.slug(), "refused");
            reply::problem(&problem)
        })
    }

    async fn route(
        &self,
        peer: Peer,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, Problem> {
        let path = request.uri().path().to_owned();
        let parts: Vec<&str> = path.split('/').skip(1).collect();
        // Load balancers and systemd ask these; they tell nothing about anybody.
        match (request.method(), parts.as_slice()) {
            (&Method::GET, ["healthz"]) => return health::alive(self).await,
            (&Method::GET, ["readyz"]) => return health::ready(self).await,
            _ => {}
        }
        let (speaker, token) = who::identify(self, peer, &request).await?;
        let get = request.method() == Method::GET;
        let post = request.method() == Method::POST;
        let delete = request.method() == Method::DELETE;
        match parts.as_slice() {
            ["webhook"] if post => webhook::post(self, &speaker, token, request).await,
            ["v1", "runs"] if get => runs::list(self, &speaker, &request).await,
            ["v1", "runs", id] if get => runs::show(self, &speaker, id, &request).await,
            ["v1", "runs", id] if delete => runs::cancel(self, &speaker, id).await,
            ["v1", "runs", id, "retry"] if post => {
                runs::retry(self, &speaker, token, id, &request).await
            }
            ["v1", "runs", id, "events"] if get => runs::events(self, &speaker, id, &request).await,
            ["v1", "status"] if get => health::status(self, &speaker).await,
            ["v1", "tokens"] if get => tokens::list(self, &speaker).await,
            ["v1", "tokens"] if post => tokens::create(self, &speaker, request).await,
            ["v1", "tokens", id] if delete => tokens::delete(self, &speaker, id).await,
            ["v1", "users", rest @ ..] => users::route(self, &speaker, rest, request).await,
            ["v1", "halt"] if get || delete || request.method() == Method::PUT => {
                halt::route(self, &speaker, request).await
            }
            ["v1", "news"] if get => news::show(self, &speaker).await,
            ["v1", "news", "seen"] if post => news::seen(self, &speaker, request).await,
            parts => match allowed(parts) {
                Some(methods) => Ok(wrong_method(&request, methods)),
                None => Err(no_route(&request)),
            },
        }
    }
}

/// The methods of a route that is not below `/v1/users`.
fn allowed(parts: &[&str]) -> Option<&'static str> {
    Some(match parts {
        ["webhook"] | ["v1", "runs", _, "retry"] | ["v1", "news", "seen"] => "POST",
        ["healthz" | "readyz"]
        | ["v1", "runs" | "status" | "news"]
        | ["v1", "runs", _, "events"] => "GET",
        ["v1", "runs", _] => "GET, DELETE",
        ["v1", "halt"] => "GET, PUT, DELETE",
        ["v1", "tokens"] => "GET, POST",
        ["v1", "tokens", _] => "DELETE",
        _ => return None,
    })
}

/// There is such a route, but not with this method: `Allow` names those that it has.
fn wrong_method(request: &Request<Incoming>, allowed: &'static str) -> Response<Body> {
    let detail = format!("{} is not for {}", request.method(), request.uri().path());
    let mut response = reply::problem(&Problem::new(ProblemKind::MethodNotAllowed, detail));
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    response
}

fn no_route(request: &Request<Incoming>) -> Problem {
    Problem::new(ProblemKind::NotFound, format!("there is no route {}", request.uri().path()))
        .hint("README.md lists the routes; do service and client differ in version?")
}

/// Only the owner may do this.
fn owner_only(speaker: &Speaker) -> Result<(), Problem> {
    match speaker {
        Speaker::Owner => Ok(()),
        Speaker::User(user) => {
            let detail = format!("a token of {user} may not do this; it takes the owner's");
            Err(Problem::new(ProblemKind::Forbidden, detail))
        }
    }
}

/// The query's parameters; only those that are `known` may be there, each once.
fn query<'a>(
    request: &'a Request<Incoming>,
    known: &[&str],
) -> Result<Vec<(&'a str, &'a str)>, Problem> {
    let pairs = request.uri().query().unwrap_or("").split('&').filter(|pair| !pair.is_empty());
    let pairs: Vec<_> = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, ""))).collect();
    let mut seen = HashSet::new();
    for (name, _) in &pairs {
        let detail = match (known.contains(name), seen.insert(*name)) {
            (false, _) => {
                format!("the parameter {name:?} is not known; known: {}", known.join(", "))
            }
            (true, false) => format!("the parameter {name:?} is there twice"),
            (true, true) => continue,
        };
        return Err(Problem::new(ProblemKind::BadRequest, detail));
    }
    Ok(pairs)
}

/// What a store's error is to a client.
fn fault(error: &StoreError) -> Problem {
    if matches!(error, StoreError::Full) {
        return Problem::new(ProblemKind::StorageFull, "nothing was written")
            .hint("make room where the state directory is, then try again");
    }
    tracing::error!(error = chain(error), "the store failed");
    Problem::new(ProblemKind::Internal, "the store failed; the service's log says more")
}
