//! The host's side of model requests: what may be asked, the key, the budget, the account.
//!
//! | what goes wrong | the agent gets |
//! |---|---|
//! | a path, a model, a tool, a field, a header that is not allowed (`ask`, `policy`) | 4xx: final |
//! | the run's budget is spent | 402: final, in plain words |
//! | the run has made too many requests, sent or was answered too much in all | 402; the run ends |
//! | the run is over, or the owner has halted the service (`valve`) | 403: final |
//! | too many requests at the same time | 429: it tries again |
//! | a body of no announced length, too long, too slow, longer or shorter | 411, 413, 400: final |
//! | the model is not to be reached, or silent | 502, 504: it tries again, for 3 minutes |
//! | the model answers with an error | that answer |
//!
//! What the cell says about its connection decides nothing here: a request is read to its announced
//! end, and the one to the model is made anew, with headers of ours and a length of its own.
//!
//! A request's way is `run`: a permit, the body, `ask` checks it, the budget, `policy` picks its
//! headers and adds the key, `upstream` sends it; `answer` streams back while `scan` counts. The
//! door has cut `/model` off the path before. What it costs is worked out in `core::money`.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::body::Body;
use hyper::{Request, Response};

pub use self::ask::Scope;
use self::error::{BoxError, ModelBody, ModelError};
use self::key::ApiKey;
use self::run::Run;
use self::upstream::Upstream;
use crate::core::halt::Halt;
use crate::core::limits::{
    HALT_TIME, MODEL_ANSWER_BYTES, MODEL_BODY_BYTES, MODEL_CONCURRENT, MODEL_FIRST_BYTE,
    MODEL_REQUESTS, MODEL_SENT_BYTES, REQUEST_TIME,
};
use crate::core::money::{Meter, Prices};

mod answer;
mod ask;
pub mod check;
pub mod demo;
pub mod error;
mod json;
pub mod key;
mod policy;
mod run;
mod scan;
#[cfg(test)]
mod tests;
pub mod upstream;
mod valve;

/// Where the model is, with which key, at which prices. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Gateway(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    upstream: Upstream,
    key: Option<ApiKey>,
    prices: Prices,
}

/// What bounds the model requests of one run. The default is `core::limits`.
#[derive(Debug, Clone, Copy)]
pub struct RunLimits {
    /// Bytes of a request's body.
    pub body_bytes: usize,
    /// Time in which a body must have arrived.
    pub body_time: Duration,
    /// Requests at the same time.
    pub concurrent: usize,
    /// Requests in all, refused ones too.
    pub requests: u32,
    /// Bytes of all requests' bodies.
    pub sent_bytes: u64,
    /// Bytes of all answers' bodies.
    pub answer_bytes: u64,
    /// Time in which the model must begin to answer.
    pub first_byte: Duration,
}

impl RunLimits {
    /// None at all, for tests of what would come of it.
    pub const NONE: Self = Self {
        body_bytes: usize::MAX,
        body_time: Duration::MAX,
        concurrent: usize::MAX >> 3,
        requests: u32::MAX,
        sent_bytes: u64::MAX,
        answer_bytes: u64::MAX,
        first_byte: Duration::MAX,
    };
}

impl Default for RunLimits {
    fn default() -> Self {
        Self {
            body_bytes: MODEL_BODY_BYTES,
            body_time: REQUEST_TIME,
            concurrent: MODEL_CONCURRENT,
            requests: MODEL_REQUESTS,
            sent_bytes: MODEL_SENT_BYTES,
            answer_bytes: MODEL_ANSWER_BYTES,
            first_byte: MODEL_FIRST_BYTE,
        }
    }
}

/// Writes down that a run was touched.
pub type Touched =
    Box<dyn Fn() -> Pin<Box<dyn Future<Output = Result<(), BoxError>> + Send>> + Send + Sync>;

/// What the caller wants to know while a run goes on.
#[derive(Default)]
pub struct Hooks {
    /// Completes before the first tool call of the run is passed on. Called once, and again only if
    /// it failed; a failure cuts the answer.
    pub touched: Option<Touched>,
    /// Called once, when the first byte of the run's first answer is here.
    pub first_byte: Option<Box<dyn Fn(Instant) + Send + Sync>>,
}

impl Gateway {
    /// A gateway to `upstream`. Without a `key` none is sent.
    pub fn new(upstream: Upstream, key: Option<ApiKey>, prices: Prices) -> Self {
        Self(Arc::new(Shared { upstream, key, prices }))
    }

    /// What one run asks the model through. What it spends is counted in `meter`.
    pub fn for_run(
        &self,
        scope: Scope,
        meter: Meter,
        limits: RunLimits,
        hooks: Hooks,
    ) -> RunGateway {
        RunGateway(Arc::new(Run::new(Arc::clone(&self.0), scope, meter, limits, hooks)))
    }

    /// Cuts all runs off from the model, for good. Once this returns no byte goes there until
    /// [`Gateway::unhalt`], and the connections have ended, or will without having sent anything.
    /// Returns the halt that holds: halting what is halted changes nothing.
    pub async fn halt(&self, halt: Halt) -> Halt {
        let valve = &self.0.upstream.valve;
        let stretch = valve.stretch();
        let halt = valve.shut(halt);
        // One whose answer nobody reads ends with its run.
        tokio::time::timeout(HALT_TIME, stretch.empty()).await.ok();
        halt
    }

    /// Lets runs that begin from now on reach the model.
    pub fn unhalt(&self) {
        self.0.upstream.valve.open();
    }

    /// The halt that holds.
    pub fn halted(&self) -> Option<Halt> {
        self.0.upstream.valve.stretch().halt().cloned()
    }
}

/// The gateway of one run. Clones share everything.
#[derive(Clone)]
pub struct RunGateway(Arc<Run>);

impl RunGateway {
    /// Answers a request for `/v1/messages` or `/v1/messages/count_tokens`. Never fails: what goes
    /// wrong is an answer too. Dropping the future or the answer's body gives the request up.
    pub async fn handle<B>(&self, request: Request<B>) -> Response<ModelBody>
    where
        B: Body<Data = Bytes> + Send,
        B::Error: Into<BoxError>,
    {
        match self.0.answer(request).await {
            Ok(response) => response,
            Err(error) => {
                let response = error.response();
                self.0.note(Some(error));
                response
            }
        }
    }

    /// Refuses all requests from now on. Answers that stream already are cut by the door.
    pub fn close(&self) {
        self.0.close();
    }

    /// Waits until the run is cut off from the model: by a halt, or because it went beyond what it
    /// may ask in all. It must be ended then.
    pub async fn cut(&self) -> ModelError {
        self.0.cut().await
    }

    /// Why it is cut off, if it is.
    pub fn is_cut(&self) -> Option<ModelError> {
        self.0.is_cut()
    }

    /// Whether a tool call may have been passed on.
    pub fn is_touched(&self) -> bool {
        self.0.is_touched()
    }

    /// What was used and spent so far.
    pub fn meter(&self) -> Meter {
        self.0.meter()
    }

    /// The last thing that went wrong; an answer that began well since then wipes it out.
    pub fn last_error(&self) -> Option<ModelError> {
        self.0.last_error()
    }
}
