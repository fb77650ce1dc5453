//! Whether the model's side takes a key: asked by counting the tokens of a word, which costs
//! nothing.

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, StatusCode};
use serde_json::json;
use tokio::time::timeout;

use super::key::ApiKey;
use super::upstream::Upstream;
use crate::core::limits::MODEL_FIRST_BYTE;

/// What the model's side said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyAnswer {
    /// It counted.
    Taken,
    /// It did not, with this status.
    Refused(u16),
}

/// Why it said nothing.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct NoAnswer(String);

/// Asks it.
///
/// # Errors
/// When it cannot be reached, or does not answer in time.
pub async fn check_key(
    upstream: &Upstream,
    key: &ApiKey,
    model: &str,
) -> Result<KeyAnswer, NoAnswer> {
    let body = json!({"model": model, "messages": [{"role": "user", "content": "hello"}]});
    let mut request = Request::new(Full::new(Bytes::from(body.to_string())));
    *request.method_mut() = Method::POST;
    let headers = request.headers_mut();
    headers.insert("x-api-key", key.header());
    headers.insert("anthropic-version", HeaderValue::from_static("2023-06-01"));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let sent = timeout(MODEL_FIRST_BYTE, upstream.send("/v1/messages/count_tokens", request));
    let answer = sent.await.map_err(|_| NoAnswer("it does not answer".to_owned()))?;
    match answer.map_err(|error| NoAnswer(error.why()))?.status() {
        StatusCode::OK => Ok(KeyAnswer::Taken),
        status => Ok(KeyAnswer::Refused(status.as_u16())),
    }
}
