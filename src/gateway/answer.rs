//! The model's answer on its way to the cell: passed on frame by frame, and counted meanwhile.
//!
//! | what goes wrong | what happens |
//! |---|---|
//! | the cell hangs up, before or within the answer | the model's connection is given up |
//! | the model hangs up within its answer | the cell's stream is reset |
//! | the run was answered more than it may be in all, the service is halted | the same; the run ends |
//! | the run cannot be marked as touched | the tool call is withheld, the stream is reset |
//!
//! Should the model's side quote the key, the cell does not read it (`key::Veil`).
//!
//! What was used counts in any case, estimated where the model did not come to tell. A run is
//! *touched* once it may have had an effect: the mark is written before the first frame that holds
//! a tool call is passed on, so after a crash a run without it can safely be tried again.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming};
use hyper::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinHandle;

use super::ask::Endpoint;
use super::error::{BoxError, ModelBody, ModelError, SHOULD_RETRY};
use super::key::Veil;
use super::policy;
use super::run::Run;
use super::scan::{Form, Scan, estimated_input};

/// The account of one request. It is settled once, at the latest when it is dropped.
pub(super) struct Tally {
    run: Arc<Run>,
    endpoint: Endpoint,
    model: String,
    sent: usize,
    state: State,
}

enum State {
    /// Sent, no answer yet.
    Waiting,
    /// The answer comes, with this status.
    Reading(u16, Box<Scan>),
    Settled,
}

impl Tally {
    /// Opens the account of a request of `sent` bytes to `model`.
    pub(super) fn open(run: Arc<Run>, endpoint: Endpoint, model: String, sent: usize) -> Self {
        Self { run, endpoint, model, sent, state: State::Waiting }
    }

    /// The request did not reach the model: it is free.
    pub(super) fn free(mut self) {
        self.state = State::Settled;
    }

    /// The answer for the cell. `permit` is given back when it is over.
    pub(super) fn pass(
        mut self,
        answer: Response<Incoming>,
        permit: OwnedSemaphorePermit,
    ) -> Result<Response<ModelBody>, ModelError> {
        let (head, body) = answer.into_parts();
        let header = |name| head.headers.get(name).and_then(|value| value.to_str().ok());
        if head.headers.get_all(CONTENT_ENCODING).iter().any(|coding| coding != "identity") {
            let why = "it is compressed, though that was not asked for".into();
            return Err(ModelError::BrokeOff { why });
        }
        let events = header(CONTENT_TYPE).is_some_and(|kind| kind.starts_with("text/event-stream"));
        let form = match (head.status.is_success(), events) {
            (true, true) => Form::Events,
            (true, false) => Form::Json,
            (false, _) => Form::Error,
        };
        if head.status.is_success() {
            self.run.note(None);
        }
        self.state = State::Reading(head.status.as_u16(), Box::new(Scan::new(form)));
        let key = self.run.gateway.key.clone();
        let passing = Passing {
            inner: body,
            tally: self,
            veil: Veil::new(key.clone()),
            held: None,
            mark: None,
            over: false,
            _permit: permit,
        };
        let mut response = Response::new(passing.boxed());
        *response.status_mut() = head.status;
        *response.headers_mut() = policy::response_headers(&head.headers);
        if let Some(key) = key {
            key.strip(response.headers_mut());
        }
        if head.status == StatusCode::UNAUTHORIZED {
            // The key is the service's, and no patience of the agent's mends it.
            response.headers_mut().insert(SHOULD_RETRY, HeaderValue::from_static("false"));
        }
        Ok(response)
    }

    /// Reads along. Says whether the run must be marked as touched before `data` is passed on.
    fn read(&mut self, data: &[u8]) -> bool {
        let State::Reading(_, scan) = &mut self.state else { return false };
        if scan.is_billed() {
            self.run.first_byte();
        }
        scan.feed(data);
        let asks = scan.asks_for_a_tool() && self.endpoint == Endpoint::Messages;
        if let Some(why) = scan.error.take() {
            self.run.note(Some(ModelError::BrokeOff { why: self.run.safe(&why) }));
        }
        if scan.complete {
            // The agent takes this for the end, and may be gone before the connection is.
            self.settle();
        }
        asks
    }

    fn settle(&mut self) {
        let (usage, answered_by) = match std::mem::replace(&mut self.state, State::Settled) {
            State::Settled => return,
            State::Waiting => (estimated_input(self.sent), None),
            State::Reading(status, mut scan) => {
                scan.end();
                if !scan.is_billed() {
                    let message = self.run.safe(&scan.error.unwrap_or_default());
                    return self.run.note(Some(ModelError::Answered { status, message }));
                }
                (scan.usage(self.sent), scan.model)
            }
        };
        if self.endpoint == Endpoint::Messages {
            let prices = &self.run.gateway.prices;
            let cost = answered_by.and_then(|model| prices.cost(&model, &usage));
            let cost = cost.or_else(|| prices.cost(&self.model, &usage)).unwrap_or(0);
            self.run.record(usage, cost);
        }
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        self.settle();
    }
}

/// The body that the cell reads. Dropping it gives up the model's connection.
struct Passing {
    inner: Incoming,
    tally: Tally,
    veil: Veil,
    held: Option<Bytes>,
    mark: Option<JoinHandle<Result<(), String>>>,
    over: bool,
    _permit: OwnedSemaphorePermit,
}

impl Passing {
    fn break_off(&mut self, error: ModelError) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.over = true;
        self.held = None;
        self.tally.run.note(Some(error.clone()));
        Poll::Ready(Some(Err(error.into())))
    }
}

impl Body for Passing {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let me = self.get_mut();
        loop {
            if let Some(mark) = &mut me.mark {
                let written = ready!(Pin::new(mark).poll(cx));
                me.mark = None;
                if let Err(why) = written.unwrap_or_else(|e| Err(e.to_string())) {
                    return me.break_off(ModelError::Withheld { why });
                }
            }
            if let Some(data) = me.held.take_if(|data| !data.is_empty()) {
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
            if me.over {
                return Poll::Ready(None);
            }
            match ready!(Pin::new(&mut me.inner).poll_frame(cx)) {
                Some(Ok(frame)) => {
                    // Trailers are not passed on.
                    let Ok(data) = frame.into_data() else { continue };
                    if let Err(beyond) = me.tally.run.pass(data.len()) {
                        return me.break_off(beyond);
                    }
                    if me.tally.read(&data) && !me.tally.run.is_touched() {
                        let run = Arc::clone(&me.tally.run);
                        // A task of its own: half a mark would be no mark.
                        me.mark = Some(tokio::spawn(async move { run.touch().await }));
                    }
                    me.held = Some(me.veil.pass(data));
                }
                Some(Err(e)) => {
                    let broke = || ModelError::BrokeOff { why: e.to_string() };
                    let error = me.tally.run.is_cut().unwrap_or_else(broke);
                    return me.break_off(error);
                }
                None => {
                    me.over = true;
                    me.tally.settle();
                    me.held = me.veil.rest();
                }
            }
        }
    }
}
