//! The gateway against a real HTTP server on this machine. The test decides what the server answers
//! and when, so nothing here sleeps.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::http::request::Parts;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::error::{BoxError, ModelBody};
use super::key::ApiKey;
use super::upstream::Upstream;
use super::{Gateway, Hooks, RunGateway, RunLimits, Scope};
use crate::core::money::{Meter, Prices};

mod demo;
mod halting;
mod limits;
mod passing;
mod refusing;

type Outcome = Result<(), BoxError>;

const KEY: &str = "sk-ant-canary-0123456789";
const ASK: &str = r#"{"model":"claude-sonnet-5-5","max_tokens":1,"stream":true,"messages":[]}"#;
const START: &str = concat!(
    r#"data: {"type":"message_start","message":{"model":"claude-haiku-4-5-20251001","#,
    r#""usage":{"input_tokens":1000,"output_tokens":1}}}"#,
    "\n\n"
);
const TEXT: &str = concat!(
    r#"data: {"type":"content_block_delta","delta":{"type":"text_delta","text":"0123456789"}}"#,
    "\n\n"
);
const TOOL: &str = concat!(
    r#"data: {"type":"content_block_start","content_block":{"type":"tool_use","name":"Bash"}}"#,
    "\n\n"
);
const END: &str = concat!(
    r#"data: {"type":"message_delta","usage":{"output_tokens":100}}"#,
    "\n\ndata: {\"type\":\"message_stop\"}\n\n"
);

/// A request that reached the model, and the place for its answer.
struct Asked {
    head: Parts,
    body: Bytes,
    reply: oneshot::Sender<Response<ModelBody>>,
}

impl Asked {
    fn reply(self, response: Response<ModelBody>) -> Outcome {
        self.reply.send(response).map_err(|_| "nobody waits for the answer".into())
    }

    /// Answers with a stream that the test writes.
    fn stream(self) -> Result<mpsc::Sender<Result<Frame<Bytes>, BoxError>>, BoxError> {
        let (sender, mut receiver) = mpsc::channel(1);
        let frames = stream::poll_fn(move |cx| receiver.poll_recv(cx));
        let response = Response::builder()
            .header("content-type", "text/event-stream")
            .header("request-id", "req_1")
            .header("anthropic-organization-id", "the owner's")
            .body(StreamBody::new(frames).boxed())?;
        self.reply(response)?;
        Ok(sender)
    }
}

/// A model whose answers the test gives.
struct Model {
    address: String,
    asked: mpsc::Receiver<Asked>,
}

impl Model {
    async fn start() -> Result<Self, BoxError> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?.to_string();
        let (sender, asked) = mpsc::channel(16);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let sender = sender.clone();
                let service = service_fn(move |request| respond(sender.clone(), request));
                let builder = hyper::server::conn::http1::Builder::new();
                tokio::spawn(builder.serve_connection(TokioIo::new(stream), service));
            }
        });
        Ok(Self { address, asked })
    }

    async fn asked(&mut self) -> Result<Asked, BoxError> {
        within(self.asked.recv()).await?.ok_or_else(|| "the model has gone".into())
    }

    fn run(&self, allowance: u64, limits: RunLimits, hooks: Hooks) -> Result<RunGateway, BoxError> {
        let gateway = gateway(&self.address, Some(key()?))?;
        Ok(gateway.for_run(scope(), Meter::new(allowance), limits, hooks))
    }

    /// A run with plenty of everything.
    fn plain_run(&self) -> Result<RunGateway, BoxError> {
        self.run(1_000_000, RunLimits::default(), Hooks::default())
    }
}

async fn respond(
    asked: mpsc::Sender<Asked>,
    request: Request<Incoming>,
) -> Result<Response<ModelBody>, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map(|b| b.to_bytes()).unwrap_or_default();
    let (reply, answer) = oneshot::channel();
    let _ = asked.send(Asked { head, body, reply }).await;
    // Without an answer the request just hangs, as it does at a model that is silent.
    match answer.await {
        Ok(response) => Ok(response),
        Err(_) => std::future::pending().await,
    }
}

fn gateway(address: &str, key: Option<ApiKey>) -> Result<Gateway, BoxError> {
    Ok(Gateway::new(Upstream::parse(&format!("http://{address}"))?, key, Prices::shipped()?))
}

/// A run of the model that [`ASK`] asks for.
fn scope() -> Scope {
    Scope { model: "claude-sonnet-5-5".to_owned(), ..Scope::default() }
}

fn key() -> Result<ApiKey, BoxError> {
    Ok(ApiKey::parse(KEY.as_bytes())?)
}

fn post(path: &str, body: &str) -> Result<Request<Full<Bytes>>, BoxError> {
    let request = Request::post(path)
        .header("content-type", "application/json")
        .header("x-api-key", "not-a-key")
        .header("authorization", "Bearer not-a-key");
    Ok(request.body(Full::new(Bytes::from(body.to_owned())))?)
}

/// Lets `run` answer while the test does other things.
fn handle(run: &RunGateway, request: Request<Full<Bytes>>) -> JoinHandle<Response<ModelBody>> {
    let run = run.clone();
    tokio::spawn(async move { run.handle(request).await })
}

/// A question like the agent's.
fn ask() -> Result<Request<Full<Bytes>>, BoxError> {
    post("/v1/messages?beta=true", ASK)
}

fn json(status: u16, body: &str) -> Result<Response<ModelBody>, BoxError> {
    let body = Full::new(Bytes::from(body.to_owned())).map_err(|never| match never {}).boxed();
    Ok(Response::builder().status(status).header("content-type", "application/json").body(body)?)
}

fn frame(text: &str) -> Result<Frame<Bytes>, BoxError> {
    Ok(Frame::data(Bytes::from(text.to_owned())))
}

/// The next piece of an answer.
async fn next(body: &mut ModelBody) -> Result<String, BoxError> {
    let frame = within(body.frame()).await?.ok_or("the answer is over")??;
    let data = frame.into_data().map_err(|_| "no data")?;
    Ok(String::from_utf8(data.to_vec())?)
}

/// A whole answer.
async fn whole(response: Response<ModelBody>) -> Result<String, BoxError> {
    let body = within(response.into_body().collect()).await??;
    Ok(String::from_utf8(body.to_bytes().to_vec())?)
}

/// Nothing in these tests takes long; a test that waits for ever says where.
async fn within<T>(future: impl Future<Output = T>) -> Result<T, BoxError> {
    Ok(tokio::time::timeout(Duration::from_secs(20), future).await?)
}
