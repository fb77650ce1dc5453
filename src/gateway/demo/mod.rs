//! The demo model: a small deterministic stand-in for the Messages API, to try NoClaw without a key
//! and to test it with the real agent. An upstream like any other, with its own listener.
//!
//! | line of the last user turn | what it does |
//! |---|---|
//! | plain text | is echoed: `You said: …` |
//! | `!tool NAME JSON` | has the agent call that tool; the last reply holds the results |
//! | `!history`, `!system`, `!tools` | replies with user texts, system texts, names of tools |
//! | `!sleep SECONDS` | waits before it answers |
//! | `!error STATUS`, `!quote STATUS` | answers that status, and quotes the key that came |
//! | `!words N` | streams N words, 20 a second |
//!
//! `script` says how a request is read. Tokens are words. It wants a key, but any will do.

use std::borrow::Cow;
use std::convert::Infallible;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use self::script::{Deed, Reply, Shown, words};
use super::error::{BoxError, ModelBody, error_response, json_response};
use crate::core::limits::{CONNECTIONS, MODEL_BODY_BYTES};

mod script;

/// Between two words: 20 a second.
const WORD_TIME: Duration = Duration::from_millis(50);
/// After an accept that failed, most likely for want of descriptors.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Serves until `shutdown` is ready; open connections are then cut.
pub async fn serve(listener: TcpListener, shutdown: impl Future<Output = ()>) {
    let mut shutdown = std::pin::pin!(shutdown);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = &mut shutdown => return,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < CONNECTIONS => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(connection(stream));
                }
                Err(_) => tokio::time::sleep(ACCEPT_AGAIN).await,
            },
        }
    }
}

async fn connection(stream: TcpStream) {
    let service = service_fn(|request| async { Ok::<_, Infallible>(respond(request).await) });
    // A client that breaks the protocol or hangs up is no concern of a stand-in.
    let _ = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

async fn respond(request: Request<Incoming>) -> Response<ModelBody> {
    answer(request).await.unwrap_or_else(|(status, message)| error_response(status, &message))
}

async fn answer(
    request: Request<Incoming>,
) -> Result<Response<ModelBody>, (StatusCode, Cow<'static, str>)> {
    let (head, body) = request.into_parts();
    let counting = match (&head.method, head.uri.path()) {
        (&Method::POST, "/v1/messages") => false,
        (&Method::POST, "/v1/messages/count_tokens") => true,
        _ => return Err((StatusCode::NOT_FOUND, "the demo model has only /v1/messages".into())),
    };
    if !head.headers.contains_key("x-api-key") {
        return Err((StatusCode::UNAUTHORIZED, "x-api-key header is required".into()));
    }
    let body = Limited::new(body, MODEL_BODY_BYTES).collect().await;
    let body = body.map_err(|_| (StatusCode::PAYLOAD_TOO_LARGE, "the body is too large".into()))?;
    let body = body.to_bytes();
    let request: Value = serde_json::from_slice(&body)
        .map_err(|_| (StatusCode::BAD_REQUEST, "the body is not JSON".into()))?;
    let model = request.get("model").and_then(Value::as_str);
    let model = model.ok_or((StatusCode::BAD_REQUEST, "model: field required".into()))?;
    if request.get("messages").and_then(Value::as_array).is_none() {
        return Err((StatusCode::BAD_REQUEST, "messages: field required".into()));
    }
    let shown = Shown::read(&request);
    if counting {
        return Ok(json_response(StatusCode::OK, &json!({"input_tokens": shown.words()})));
    }
    let Deed { wait, reply } = shown.deed();
    tokio::time::sleep(wait).await;
    let reply = reply.map_err(|(status, quotes)| {
        let key = head.headers.get("x-api-key").filter(|_| quotes).and_then(|k| k.to_str().ok());
        let quote = key.map(|key| format!("; the key that came: {key}")).unwrap_or_default();
        (status, format!("the demo model was told to fail{quote}").into())
    })?;
    let message = Message { id: id(&body), model: model.into(), input: shown.words(), reply };
    if request.get("stream") == Some(&Value::Bool(true)) {
        return Ok(message.streamed());
    }
    Ok(json_response(StatusCode::OK, &message.whole()))
}

/// The same request has the same id and no other has it: the agent takes answers with one id for
/// parts of one answer.
fn id(body: &[u8]) -> String {
    let mut hasher = DefaultHasher::new();
    body.hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

/// An answer in the API's words.
struct Message {
    id: String,
    model: String,
    input: u64,
    reply: Reply,
}

impl Message {
    fn head(&self, content: &Value, stop: Option<&str>, output: u64) -> Value {
        let usage = json!({
            "input_tokens": self.input, "output_tokens": output,
            "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0,
        });
        json!({
            "id": format!("msg_{}", self.id), "type": "message", "role": "assistant",
            "model": self.model, "content": content, "stop_reason": stop,
            "stop_sequence": null, "usage": usage,
        })
    }

    fn output(&self) -> u64 {
        match &self.reply {
            Reply::Text { text, words: count } => words(text) + u64::from(*count),
            Reply::Tool { input, .. } => words(&Value::from(input.clone()).to_string()),
        }
    }

    const fn stop(&self) -> &'static str {
        if matches!(self.reply, Reply::Tool { .. }) { "tool_use" } else { "end_turn" }
    }

    /// The content block with `text` or `input` in it.
    fn block(&self, text: &str, input: &Value) -> Value {
        match &self.reply {
            Reply::Tool { name, .. } => {
                let id = format!("toolu_{}", self.id);
                json!({"type": "tool_use", "id": id, "name": name, "input": input})
            }
            Reply::Text { .. } => json!({"type": "text", "text": text}),
        }
    }

    fn whole(&self) -> Value {
        let block = match &self.reply {
            Reply::Tool { input, .. } => self.block("", &Value::from(input.clone())),
            Reply::Text { text, words } => {
                let slow: String = (1..=*words).map(|n| word(n, text)).collect();
                self.block(&format!("{text}{slow}"), &Value::Null)
            }
        };
        self.head(&json!([block]), Some(self.stop()), self.output())
    }

    fn streamed(self) -> Response<ModelBody> {
        let block = self.block("", &json!({}));
        let begin = [
            json!({"type": "message_start", "message": self.head(&json!([]), None, 1)}),
            json!({"type": "content_block_start", "index": 0, "content_block": block}),
        ];
        let end = [
            json!({"type": "content_block_stop", "index": 0}),
            json!({
                "type": "message_delta",
                "delta": {"stop_reason": self.stop(), "stop_sequence": null},
                "usage": {"output_tokens": self.output()},
            }),
            json!({"type": "message_stop"}),
        ];
        let at_once = |event| (Duration::ZERO, event);
        let events = begin.into_iter().map(at_once).chain(self.deltas()).chain(end.map(at_once));
        let body = stream::unfold(events, |mut events| async {
            let (wait, event) = events.next()?;
            if !wait.is_zero() {
                tokio::time::sleep(wait).await;
            }
            let kind = event.get("type").and_then(Value::as_str).unwrap_or_default();
            let text = format!("event: {kind}\ndata: {event}\n\n");
            Some((Ok::<_, BoxError>(Frame::data(Bytes::from(text))), events))
        });
        let mut response = Response::new(StreamBody::new(body).boxed());
        let kind = HeaderValue::from_static("text/event-stream; charset=utf-8");
        response.headers_mut().insert(CONTENT_TYPE, kind);
        response
    }

    /// The reply, a line at a time; words after it are written one by one.
    fn deltas(self) -> impl Iterator<Item = (Duration, Value)> + Send + Sync {
        let event = |delta| json!({"type": "content_block_delta", "index": 0, "delta": delta});
        let text_event = move |text: &str| event(json!({"type": "text_delta", "text": text}));
        let (lines, text, count) = match self.reply {
            Reply::Text { text, words } => {
                let lines = text.split_inclusive('\n').map(text_event).collect::<Vec<_>>();
                (lines, text, words)
            }
            Reply::Tool { input, .. } => {
                let json = Value::from(input).to_string();
                let delta = json!({"type": "input_json_delta", "partial_json": json});
                (vec![event(delta)], String::new(), 0)
            }
        };
        let slow = (1..=count).map(move |n| (WORD_TIME, text_event(&word(n, &text))));
        lines.into_iter().map(|event| (Duration::ZERO, event)).chain(slow)
    }
}

/// The `n`th of the words after `text`.
fn word(n: u32, text: &str) -> String {
    let gap = match (n, text.is_empty()) {
        (1, true) => "",
        (1, false) => "\n",
        _ => " ",
    };
    format!("{gap}word{n}")
}
