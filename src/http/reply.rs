//! Answers: JSON, and RFC 9457 problem documents.

use std::convert::Infallible;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full};
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use hyper::{Response, StatusCode};
use serde::{Deserialize, Serialize};

use crate::core::problem::{Problem, ProblemKind};

/// A body that is there at once, or streams.
pub type Body = UnsyncBoxBody<Bytes, Infallible>;

/// A problem document.
#[derive(Debug, Serialize, Deserialize)]
pub struct Document {
    /// `urn:noclaw:problem:NAME`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The kind in words.
    pub title: String,
    /// The HTTP status again.
    pub status: u16,
    /// This case in words.
    pub detail: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Seconds until it is worth trying again; also the header `Retry-After`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<u64>,
}

impl From<&Problem> for Document {
    fn from(problem: &Problem) -> Self {
        Self {
            kind: problem.kind.to_string(),
            title: problem.kind.title().to_owned(),
            status: problem.kind.status(),
            detail: problem.detail.clone(),
            hint: problem.hint.clone(),
            retry_after: problem.retry_after,
        }
    }
}

impl From<Document> for Problem {
    fn from(document: Document) -> Self {
        Self {
            kind: document.kind.parse().unwrap_or(ProblemKind::Internal),
            detail: document.detail,
            hint: document.hint,
            retry_after: document.retry_after,
        }
    }
}

/// An answer of JSON.
pub fn json(status: u16, value: &impl Serialize) -> Response<Body> {
    answer(status, "application/json", value)
}

/// An answer without content.
pub fn nothing() -> Response<Body> {
    let mut response = Response::new(Empty::new().boxed_unsync());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

/// A no.
pub fn problem(problem: &Problem) -> Response<Body> {
    let status = problem.kind.status();
    let mut response = answer(status, "application/problem+json", &Document::from(problem));
    if let Some(seconds) = problem.retry_after {
        response.headers_mut().insert(RETRY_AFTER, seconds.into());
    }
    if problem.kind == ProblemKind::Unauthenticated {
        let bearer = HeaderValue::from_static("Bearer realm=\"noclaw\"");
        response.headers_mut().insert(WWW_AUTHENTICATE, bearer);
    }
    response
}

fn answer(status: u16, kind: &'static str, value: &impl Serialize) -> Response<Body> {
    // Our own types have string keys and finite numbers: they always serialize.
    let mut json = serde_json::to_vec(value).unwrap_or_default();
    json.push(b'\n');
    let mut response = Response::new(Full::new(Bytes::from(json)).boxed_unsync());
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or_default();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
