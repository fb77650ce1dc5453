//! The host's end of the door: HTTP/2 over a cell's streams, five routes in a fixed order.
//!
//! ```text
//! hello ──> preflight ──> agent ──> exit        /model/… at any time between agent and exit
//! ```
//!
//! | what comes through | what follows |
//! |---|---|
//! | another protocol, a body that is too large or not of its form | 4xx, and the breach is kept |
//! | a route out of order, or one that does not exist | 409 or 404, and the breach is kept |
//! | the end, before `/exit` | the story's next wait ends with [`DoorError::Lost`] |
//!
//! The story waits for one thing after the other ([`Door::preflight`], [`Door::agent`],
//! [`Door::exit`]). Dropping a [`Door`] closes it.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use noclaw_cell::PROTOCOL;
use noclaw_cell::job::{Exit, Hello, Job};
use noclaw_cell::preflight::Preflight;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Notify, mpsc, oneshot};

use super::frames::{Attached, Tail};
use crate::core::limits::{DOOR_BODY_BYTES, DOOR_STREAMS, HEADER_BYTES};

/// A body that streams, or not.
pub type Body = BoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;

/// Answers a model request. Its path is the agent's own: `/model` is cut off.
pub type Model = Arc<
    dyn Fn(Request<Incoming>) -> Pin<Box<dyn Future<Output = Response<Body>> + Send>> + Send + Sync,
>;

/// Data in flight on one stream, and on the whole door, before the other side must have read.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// Lines on their way down to the agent.
const LINES: usize = 16;

/// What can go wrong at the door.
#[derive(Debug, thiserror::Error)]
pub enum DoorError {
    /// The connection ended early.
    #[error("the cell's connection ended {when}{}", said(stderr))]
    Lost {
        /// At which point of the story.
        when: &'static str,
        /// The last words on the cell's standard error.
        stderr: String,
    },
    /// The cell broke the door's rules.
    #[error("the cell broke the rules of its door: {0}")]
    Breach(String),
}

fn said(stderr: &str) -> String {
    if stderr.is_empty() { String::new() } else { format!("; its last words: {stderr}") }
}

enum Knock {
    Preflight(Box<Preflight>, oneshot::Sender<bool>),
    Agent(Incoming, mpsc::Sender<Bytes>),
    Exit(Exit),
}

/// The route that comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Hello,
    Preflight,
    Agent,
    Exit,
    Nothing,
}

struct Room {
    job: Bytes,
    model: Model,
    next: Mutex<Next>,
    breach: Mutex<Option<String>>,
    closing: Notify,
    // Emptied when the connection ends: that is how the story learns of it.
    knocks: Mutex<Option<mpsc::Sender<Knock>>>,
}

/// An open door.
pub struct Door {
    room: Arc<Room>,
    knocks: mpsc::Receiver<Knock>,
    stderr: Tail,
    driver: tokio::task::JoinHandle<()>,
}

impl Drop for Door {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// What the launcher waits for after its preflight. Dropping it says no.
pub struct Verdict(oneshot::Sender<bool>);

impl Verdict {
    /// Lets the confined process become the agent.
    pub fn go(self) {
        // If nobody waits any more, the next thing the story waits for will say so.
        self.0.send(true).ok();
    }
}

impl Door {
    /// Serves the door over an attached container's streams.
    pub fn open<S>(streams: S, job: &Job, model: Model) -> Self
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let attached = Attached::new(streams);
        let stderr = attached.tail();
        let (sender, knocks) = mpsc::channel(1);
        let room = Arc::new(Room {
            job: serde_json::to_vec(job).unwrap_or_default().into(),
            model,
            next: Mutex::new(Next::Hello),
            breach: Mutex::new(None),
            closing: Notify::new(),
            knocks: Mutex::new(Some(sender)),
        });
        let serving = Arc::downgrade(&room);
        let service = service_fn(move |request| {
            let room = serving.upgrade();
            async move {
                let answer = match room {
                    Some(room) => room.answer(request).await,
                    None => text(StatusCode::GONE, "the door is closed"),
                };
                Ok::<_, Infallible>(answer)
            }
        });
        let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_concurrent_streams(DOOR_STREAMS)
            .max_header_list_size(u32::try_from(HEADER_BYTES).unwrap_or(u32::MAX))
            .max_send_buf_size(256 * 1024)
            .serve_connection(TokioIo::new(attached), service);
        let ended = room.clone();
        let driver = tokio::spawn(async move {
            tokio::select! {
                result = connection => if let Err(error) = result {
                    tracing::debug!(%error, "a door broke");
                },
                () = ended.closing.notified() => {}
            }
            ended.knocks.lock().unwrap_or_else(PoisonError::into_inner).take();
        });
        Self { room, knocks, stderr, driver }
    }

    /// Waits for the preflight.
    ///
    /// # Errors
    /// When the door ends first, or its rules are broken.
    pub async fn preflight(&mut self) -> Result<(Preflight, Verdict), DoorError> {
        match self.next("before its preflight").await? {
            Knock::Preflight(preflight, verdict) => Ok((*preflight, Verdict(verdict))),
            _ => Err(DoorError::Breach("no preflight came first".to_owned())),
        }
    }

    /// Waits for the agent's streams: what it says, and what it is told.
    ///
    /// # Errors
    /// When the door ends first, or its rules are broken.
    pub async fn agent(&mut self) -> Result<(Incoming, mpsc::Sender<Bytes>), DoorError> {
        match self.next("before the agent started").await? {
            Knock::Agent(up, down) => Ok((up, down)),
            _ => Err(DoorError::Breach("the agent's streams did not come next".to_owned())),
        }
    }

    /// Waits for the launcher's word on how the agent ended.
    ///
    /// # Errors
    /// When the door ends first, or its rules are broken.
    pub async fn exit(&mut self) -> Result<Exit, DoorError> {
        match self.next("before it said how the agent ended").await? {
            Knock::Exit(exit) => Ok(exit),
            _ => Err(DoorError::Breach("the agent's end did not come next".to_owned())),
        }
    }

    async fn next(&mut self, when: &'static str) -> Result<Knock, DoorError> {
        match self.knocks.recv().await {
            Some(knock) if self.breach().is_none() => Ok(knock),
            _ => Err(self.lost(when)),
        }
    }

    /// Why the door is closed, as far as it knows.
    pub fn lost(&self, when: &'static str) -> DoorError {
        match self.breach() {
            Some(breach) => DoorError::Breach(breach),
            None => DoorError::Lost { when, stderr: self.stderr.text() },
        }
    }

    fn breach(&self) -> Option<String> {
        self.room.breach.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Room {
    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let path = request.uri().path().to_owned();
        tracing::debug!(path, "through the door");
        if let Some(rest) = path.strip_prefix("/model")
            && rest.starts_with('/')
        {
            return self.model_request(request).await;
        }
        let (wanted, next) = match path.as_str() {
            "/hello" => (Next::Hello, Next::Preflight),
            "/preflight" => (Next::Preflight, Next::Agent),
            "/agent" => (Next::Agent, Next::Exit),
            "/exit" => (Next::Exit, Next::Nothing),
            _ => return self.breach(StatusCode::NOT_FOUND, format!("no route {path}")),
        };
        if request.method() != Method::POST || !self.step(wanted, next) {
            return self.breach(StatusCode::CONFLICT, format!("{path} is not what comes next"));
        }
        let result = match wanted {
            Next::Hello => self.hello(request).await,
            Next::Preflight => self.preflight(request).await,
            Next::Agent => self.agent(request).await,
            _ => self.exit(request).await,
        };
        match result {
            Ok(answer) => answer,
            Err(Wrong::Breach(what)) => self.breach(StatusCode::BAD_REQUEST, what),
            // Who ends a cell may do so in the midst of a word.
            Err(Wrong::BrokeOff) => text(StatusCode::BAD_REQUEST, "the request broke off"),
        }
    }

    fn step(&self, from: Next, to: Next) -> bool {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let right = *next == from;
        if right {
            *next = to;
        }
        right
    }

    fn breach(&self, status: StatusCode, what: String) -> Response<Body> {
        let answer = text(status, &what);
        self.breach.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(what);
        self.closing.notify_one();
        answer
    }

    async fn hello(&self, request: Request<Incoming>) -> Result<Response<Body>, Wrong> {
        let hello: Hello = read(request).await?;
        if hello.protocol != PROTOCOL {
            let theirs = hello.protocol;
            let both = "both must be of one build";
            return Err(Wrong::Breach(format!(
                "the launcher speaks protocol {theirs}, this service {PROTOCOL}: {both}"
            )));
        }
        Ok(Response::new(full(self.job.clone())))
    }

    async fn preflight(&self, request: Request<Incoming>) -> Result<Response<Body>, Wrong> {
        let preflight = read(request).await?;
        let (verdict, judged) = oneshot::channel();
        self.tell(Knock::Preflight(Box::new(preflight), verdict)).await;
        Ok(match judged.await {
            Ok(true) => text(StatusCode::NO_CONTENT, ""),
            _ => text(StatusCode::FORBIDDEN, "the preflight falls short of the plan"),
        })
    }

    async fn agent(&self, request: Request<Incoming>) -> Result<Response<Body>, Wrong> {
        let (down, lines) = mpsc::channel(LINES);
        self.tell(Knock::Agent(request.into_body(), down)).await;
        let lines = futures_util::stream::unfold(lines, |mut lines| async {
            lines.recv().await.map(|line| (Ok(Frame::data(line)), lines))
        });
        Ok(Response::new(BodyExt::boxed(StreamBody::new(lines))))
    }

    async fn exit(&self, request: Request<Incoming>) -> Result<Response<Body>, Wrong> {
        let exit = read(request).await?;
        self.tell(Knock::Exit(exit)).await;
        Ok(text(StatusCode::NO_CONTENT, ""))
    }

    async fn tell(&self, knock: Knock) {
        let sender = self.knocks.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(sender) = sender {
            // If the story has ended, so has the door.
            sender.send(knock).await.ok();
        }
    }

    async fn model_request(&self, request: Request<Incoming>) -> Response<Body> {
        if *self.next.lock().unwrap_or_else(PoisonError::into_inner) != Next::Exit {
            return self.breach(StatusCode::CONFLICT, "a model request without an agent".into());
        }
        let (mut parts, body) = request.into_parts();
        let own = parts.uri.path_and_query().and_then(|all| all.as_str().strip_prefix("/model"));
        match own.and_then(|own| own.parse::<Uri>().ok()) {
            Some(own) => parts.uri = own,
            None => return text(StatusCode::BAD_REQUEST, "not a path"),
        }
        (self.model)(Request::from_parts(parts, body)).await
    }
}

/// What is wrong with a request through the door.
enum Wrong {
    /// It did not come to its end.
    BrokeOff,
    /// It is against the rules.
    Breach(String),
}

async fn read<T: DeserializeOwned>(request: Request<Incoming>) -> Result<T, Wrong> {
    let route = request.uri().path().to_owned();
    let breach = |error: &dyn std::fmt::Display| Wrong::Breach(format!("{route}: {error}"));
    let body = Limited::new(request.into_body(), DOOR_BODY_BYTES).collect().await;
    let body = body.map_err(|error| match error.is::<LengthLimitError>() {
        true => breach(&error),
        false => Wrong::BrokeOff,
    })?;
    serde_json::from_slice(&body.to_bytes()).map_err(|error| breach(&error))
}

fn text(status: StatusCode, text: &str) -> Response<Body> {
    let mut response = Response::new(full(text.to_owned()));
    *response.status_mut() = status;
    response
}

fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed()
}

#[cfg(test)]
mod properties;

#[cfg(test)]
mod tests;
