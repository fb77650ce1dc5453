//! One run's share of the gateway: permits, budget, account, and the way that a request takes.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Body;
use hyper::{Method, Request, Response, StatusCode};
use tokio::sync::{OnceCell, Semaphore};
use tokio_util::sync::CancellationToken;

use super::answer::Tally;
use super::ask::{self, Endpoint, Scope};
use super::error::{self, BoxError, ModelBody, ModelError};
use super::valve::Stretch;
use super::{Hooks, RunLimits, Shared, policy};
use crate::core::money::{Meter, Usage};

/// What all clones of a run's gateway share.
pub(super) struct Run {
    pub(super) gateway: Arc<Shared>,
    // A halt ends it, and with it the run's way to the model.
    stretch: Arc<Stretch>,
    scope: Scope,
    limits: RunLimits,
    hooks: Hooks,
    meter: Mutex<Meter>,
    concurrent: Arc<Semaphore>,
    requests: AtomicU32,
    sent_bytes: AtomicU64,
    answer_bytes: AtomicU64,
    // Which of them went beyond its limit; then the run is over.
    beyond: OnceLock<ModelError>,
    over: CancellationToken,
    closed: AtomicBool,
    answered: AtomicBool,
    touched: OnceCell<()>,
    last_error: Mutex<Option<ModelError>>,
}

impl Run {
    pub(super) fn new(
        gateway: Arc<Shared>,
        scope: Scope,
        meter: Meter,
        limits: RunLimits,
        hooks: Hooks,
    ) -> Self {
        Self {
            stretch: gateway.upstream.valve.stretch(),
            gateway,
            scope,
            limits,
            hooks,
            meter: Mutex::new(meter),
            concurrent: Arc::new(Semaphore::new(limits.concurrent)),
            requests: AtomicU32::new(0),
            sent_bytes: AtomicU64::new(0),
            answer_bytes: AtomicU64::new(0),
            beyond: OnceLock::new(),
            over: CancellationToken::new(),
            closed: AtomicBool::new(false),
            answered: AtomicBool::new(false),
            touched: OnceCell::new(),
            last_error: Mutex::new(None),
        }
    }

    pub(super) async fn answer<B>(
        self: &Arc<Self>,
        request: Request<B>,
    ) -> Result<Response<ModelBody>, ModelError>
    where
        B: Body<Data = Bytes> + Send,
        B::Error: Into<BoxError>,
    {
        tokio::select! {
            biased;
            cut = self.cut() => Err(cut),
            answer = self.ask(request) => answer,
        }
    }

    async fn ask<B>(
        self: &Arc<Self>,
        request: Request<B>,
    ) -> Result<Response<ModelBody>, ModelError>
    where
        B: Body<Data = Bytes> + Send,
        B::Error: Into<BoxError>,
    {
        let Shared { upstream, key, prices } = &*self.gateway;
        self.arrive()?;
        let permit = Arc::clone(&self.concurrent).try_acquire_owned().map_err(|_| {
            let message = format!("more than {} requests at a time", self.limits.concurrent);
            ModelError::refused(StatusCode::TOO_MANY_REQUESTS, message)
        })?;
        let (head, body) = request.into_parts();
        // First of all: the agent may not read an answer before it has sent its request.
        let body = self.collect(body).await?;
        let (endpoint, path) = Endpoint::of(&head.method, &head.uri)?;
        let headers = policy::request_headers(&head.headers, key.as_ref())?;
        let model = ask::model(&body, prices, &self.scope)?;
        self.admit()?;
        let tally = Tally::open(Arc::clone(self), endpoint, model, body.len());
        let mut outgoing = Request::new(Full::new(body));
        *outgoing.method_mut() = Method::POST;
        *outgoing.headers_mut() = headers;
        let host = || upstream.host().to_owned();
        let after = self.limits.first_byte;
        match tokio::time::timeout(after, upstream.send(path, outgoing)).await {
            Ok(Ok(answer)) => tally.pass(answer, permit),
            Ok(Err(e)) => {
                tally.free();
                Err(ModelError::Unreachable { host: host(), why: e.why() })
            }
            Err(_) => Err(ModelError::Silent { host: host(), after }),
        }
    }

    async fn collect<B>(&self, body: B) -> Result<Bytes, ModelError>
    where
        B: Body<Data = Bytes> + Send,
        B::Error: Into<BoxError>,
    {
        let RunLimits { body_bytes, body_time, .. } = self.limits;
        let announced = self.announced(body.size_hint().exact())?;
        let collecting = Box::pin(Limited::new(body, body_bytes).collect());
        match tokio::time::timeout(body_time, collecting).await {
            Ok(Ok(collected)) => {
                let body = collected.to_bytes();
                // HTTP/2 sees to it, too: there such a body breaks off.
                match body.len() as u64 == announced {
                    true => Ok(body),
                    false => Err(bad_request("the request is not as long as it announced")),
                }
            }
            Ok(Err(e)) if e.is::<LengthLimitError>() => {
                let message = format!("the request has more than {body_bytes} bytes");
                Err(ModelError::refused(StatusCode::PAYLOAD_TOO_LARGE, message))
            }
            Ok(Err(_)) => Err(bad_request("the request broke off")),
            Err(_) => Err(bad_request("the request took too long to arrive")),
        }
    }

    /// Counts a request, whatever becomes of it.
    fn arrive(&self) -> Result<(), ModelError> {
        self.refuse_if_closed()?;
        let most = self.limits.requests;
        if self.requests.fetch_add(1, Ordering::Relaxed) >= most {
            return Err(self.beyond(format!("this run has made its {most} model requests")));
        }
        Ok(())
    }

    /// Whether a body of this length may come. One that tells none could be of any.
    fn announced(&self, length: Option<u64>) -> Result<u64, ModelError> {
        let RunLimits { body_bytes, sent_bytes, .. } = self.limits;
        let Some(length) = length else {
            let message = "a request must tell the length of its body (content-length)";
            return Err(ModelError::refused(StatusCode::LENGTH_REQUIRED, message));
        };
        if length > body_bytes as u64 {
            let message = format!("the request has more than {body_bytes} bytes");
            return Err(ModelError::refused(StatusCode::PAYLOAD_TOO_LARGE, message));
        }
        match within(&self.sent_bytes, length, sent_bytes) {
            true => Ok(length),
            false => Err(self.beyond(format!("this run has sent its {sent_bytes} bytes"))),
        }
    }

    /// Whether a piece of an answer of this length may be passed on.
    pub(super) fn pass(&self, length: usize) -> Result<(), ModelError> {
        let most = self.limits.answer_bytes;
        match within(&self.answer_bytes, length as u64, most) {
            true => Ok(()),
            false => Err(self.beyond(format!("this run was answered its {most} bytes"))),
        }
    }

    /// Whether one more request may go out. Called last, so that nothing comes in between.
    fn admit(&self) -> Result<(), ModelError> {
        self.refuse_if_closed()?;
        match lock(&self.meter).has_budget() {
            true => Ok(()),
            false => Err(spent("the budget of this run is spent")),
        }
    }

    fn refuse_if_closed(&self) -> Result<(), ModelError> {
        match self.closed.load(Ordering::Acquire) {
            true => Err(ModelError::refused(StatusCode::FORBIDDEN, "the run is over")),
            false => Ok(()),
        }
    }

    /// The run went beyond a limit: it is over.
    fn beyond(&self, message: String) -> ModelError {
        let error = self.beyond.get_or_init(|| spent(message)).clone();
        self.over.cancel();
        error
    }

    pub(super) async fn cut(&self) -> ModelError {
        tokio::select! {
            _ = self.stretch.over() => {}
            () = self.over.cancelled() => {}
        }
        let nothing = || ModelError::refused(StatusCode::FORBIDDEN, "the run is over");
        self.is_cut().unwrap_or_else(nothing)
    }

    pub(super) fn is_cut(&self) -> Option<ModelError> {
        let halted = self.stretch.halt().cloned().map(ModelError::Halted);
        halted.or_else(|| self.beyond.get().cloned())
    }

    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }

    pub(super) fn meter(&self) -> Meter {
        lock(&self.meter).clone()
    }

    pub(super) fn last_error(&self) -> Option<ModelError> {
        lock(&self.last_error).clone()
    }

    pub(super) fn record(&self, usage: Usage, cost: u64) {
        lock(&self.meter).record(usage, cost);
    }

    pub(super) fn note(&self, error: Option<ModelError>) {
        *lock(&self.last_error) = error;
    }

    /// `text` as it may be kept: short, and without the key.
    pub(super) fn safe(&self, text: &str) -> String {
        let key = self.gateway.key.as_ref();
        error::clip(&key.map_or_else(|| text.to_owned(), |key| key.redact(text)))
    }

    pub(super) fn first_byte(&self) {
        if !self.answered.swap(true, Ordering::Relaxed)
            && let Some(hook) = &self.hooks.first_byte
        {
            hook(Instant::now());
        }
    }

    pub(super) fn is_touched(&self) -> bool {
        self.touched.initialized()
    }

    pub(super) async fn touch(&self) -> Result<(), String> {
        let write = || async {
            match &self.hooks.touched {
                Some(hook) => hook().await.map_err(|e| e.to_string()),
                None => Ok(()),
            }
        };
        self.touched.get_or_try_init(write).await.copied()
    }
}

/// Counts `more`; whether the sum is within `most`.
fn within(sum: &AtomicU64, more: u64, most: u64) -> bool {
    sum.fetch_add(more, Ordering::Relaxed).saturating_add(more) <= most
}

fn bad_request(message: impl AsRef<str>) -> ModelError {
    ModelError::refused(StatusCode::BAD_REQUEST, message)
}

/// The agent repeats a 400 twice, each time with a beta feature less; a 402 it takes as final.
fn spent(message: impl AsRef<str>) -> ModelError {
    ModelError::refused(StatusCode::PAYMENT_REQUIRED, message)
}

/// Nothing that holds one of these locks can panic half-way, so a poisoned one is still right.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
