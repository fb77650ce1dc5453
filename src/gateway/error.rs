//! What can go wrong between a cell and the model, and the answers that the gateway gives itself.
//!
//! The agent sees them in the Messages API's error shape. Measured on its pin: it repeats 401, 429
//! and 5xx for about 3 minutes unless `x-should-retry: false` stands beside them; a 400 twice, each
//! time with a beta feature less; 402 and 403 not at all. The service keeps the last error of a
//! run, so that a failed run can say why.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use hyper::{Response, StatusCode};
use serde_json::Value;

use crate::core::halt::Halt;

/// Any error, as bodies carry it.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
/// The body of an answer.
pub type ModelBody = BoxBody<Bytes, BoxError>;

/// What a message from outside is cut to: enough to say why, too short to flood a log.
const MESSAGE_CHARS: usize = 500;

/// Why a model request did not end well. No variant ever holds the key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ModelError {
    /// The model answered with an error status; the message is its own, bounded.
    #[error("model answered {status} {message}")]
    Answered {
        /// The status.
        status: u16,
        /// Type and message of the model's error.
        message: String,
    },
    /// No answer could be had.
    #[error("the model at {host} cannot be reached: {why}")]
    Unreachable {
        /// Host and port.
        host: String,
        /// What the system said.
        why: String,
    },
    /// The model took the request and did not begin to answer.
    #[error("the model at {host} did not begin to answer within {} s", after.as_secs())]
    Silent {
        /// Host and port.
        host: String,
        /// How long was waited.
        after: Duration,
    },
    /// The answer began and broke off, or held an error.
    #[error("the model's answer broke off: {why}")]
    BrokeOff {
        /// What the connection or the stream said.
        why: String,
    },
    /// The run's own record could not be written, so what the model asked for was withheld.
    #[error("the model's answer was withheld: {why}")]
    Withheld {
        /// What the hook said.
        why: String,
    },
    /// The owner has halted the service.
    #[error("{0}")]
    Halted(Halt),
    /// The gateway refused the request.
    #[error("{message}")]
    Refused {
        /// The status that the agent was given.
        status: u16,
        /// What is wrong and what would be right.
        message: String,
    },
}

impl ModelError {
    pub(super) fn refused(status: StatusCode, message: impl AsRef<str>) -> Self {
        Self::Refused { status: status.as_u16(), message: clip(message.as_ref()) }
    }

    /// The answer that the agent gets.
    pub(super) fn response(&self) -> Response<ModelBody> {
        let status = match self {
            Self::Answered { status, .. } | Self::Refused { status, .. } => {
                StatusCode::from_u16(*status).unwrap_or(StatusCode::BAD_GATEWAY)
            }
            Self::Halted(_) => StatusCode::FORBIDDEN,
            Self::Silent { .. } => StatusCode::GATEWAY_TIMEOUT,
            _ => StatusCode::BAD_GATEWAY,
        };
        let mut response = error_response(status, &self.to_string());
        let headers = response.headers_mut();
        if status == StatusCode::METHOD_NOT_ALLOWED {
            headers.insert(ALLOW, HeaderValue::from_static("POST"));
        }
        if status == StatusCode::TOO_MANY_REQUESTS {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        } else if status.is_client_error() {
            headers.insert(SHOULD_RETRY, HeaderValue::from_static("false"));
        }
        response
    }
}

/// The API's word on whether a repetition makes sense, which the agent heeds.
pub(super) const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

/// An error as the Messages API words it.
pub(super) fn error_response(status: StatusCode, message: &str) -> Response<ModelBody> {
    let error = serde_json::json!({"type": error_type(status), "message": message});
    json_response(status, &serde_json::json!({"type": "error", "error": error}))
}

/// An answer that is there at once.
pub(super) fn json_response(status: StatusCode, json: &Value) -> Response<ModelBody> {
    let body = Full::new(Bytes::from(json.to_string())).map_err(|never| match never {});
    let mut response = Response::new(body.boxed());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// The API's own name for a status.
fn error_type(status: StatusCode) -> &'static str {
    match status.as_u16() {
        401 => "authentication_error",
        402 => "billing_error",
        403 => "permission_error",
        404 => "not_found_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        504 => "timeout_error",
        529 => "overloaded_error",
        500.. => "api_error",
        _ => "invalid_request_error",
    }
}

/// One line of at most [`MESSAGE_CHARS`]; what was written outside may hold anything.
pub(super) fn clip(text: &str) -> String {
    text.trim().chars().take(MESSAGE_CHARS).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_has_the_apis_own_name() {
        for (status, name) in [
            (400, "invalid_request_error"),
            (402, "billing_error"),
            (405, "invalid_request_error"),
            (429, "rate_limit_error"),
            (502, "api_error"),
            (529, "overloaded_error"),
        ] {
            assert_eq!(StatusCode::from_u16(status).map(error_type).ok(), Some(name));
        }
    }

    #[test]
    fn words_from_outside_are_one_short_line() {
        assert_eq!(clip(" a\n\u{1b}[31mb \n"), "a  [31mb");
        assert_eq!(clip(&"ü".repeat(9999)).chars().count(), MESSAGE_CHARS);
    }
}
