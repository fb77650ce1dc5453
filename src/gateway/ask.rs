//! What a cell asks of the model, checked before anything is sent.
//!
//! | what is wrong | the agent gets |
//! |---|---|
//! | another path, however it is written, or a query but `beta=true` | 404 |
//! | another method | 405 |
//! | JSON that two readers may read differently (`json`), a field of the wrong form | 400 |
//! | a model without a price | 400 |
//! | another model than the run was begun with | 403 |
//! | a field, a kind of block or of context edit that is not listed in `policy` | 403 |
//! | a tool that runs on the model's side and was not granted | 403 |
//! | an image or a document that the model's side would fetch (`url`) or has (`file`) | 403 |
//!
//! The last one would let a cell send data to any address, or read what another user left there.
//! The body is looked at and passed on as it came, byte by byte: writing it anew would reorder keys
//! and miss the prompt cache. Nothing of it is collected while it is read: a body of a million
//! empty blocks takes no more memory than itself.

use std::collections::BTreeSet;
use std::fmt;

use hyper::{Method, StatusCode, Uri};

use self::shape::Shape;
use super::error::ModelError;
use super::json;
use crate::core::money::{Prices, undated};

mod shape;
#[cfg(test)]
mod tests;

/// The two things that a cell may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Endpoint {
    /// An answer.
    Messages,
    /// How long a prompt is. Costs nothing.
    CountTokens,
}

impl Endpoint {
    /// The endpoint and the path to send a request to.
    pub(super) fn of(method: &Method, uri: &Uri) -> Result<(Self, &'static str), ModelError> {
        let beta = match uri.query() {
            None => false,
            Some("beta=true") => true,
            Some(_) => return Err(not_found(uri)),
        };
        let found = match (uri.path(), beta) {
            ("/v1/messages", false) => (Self::Messages, "/v1/messages"),
            ("/v1/messages", true) => (Self::Messages, "/v1/messages?beta=true"),
            ("/v1/messages/count_tokens", false) => {
                (Self::CountTokens, "/v1/messages/count_tokens")
            }
            ("/v1/messages/count_tokens", true) => {
                (Self::CountTokens, "/v1/messages/count_tokens?beta=true")
            }
            _ => return Err(not_found(uri)),
        };
        if method != Method::POST {
            let message = format!("{method} is not allowed here: use POST");
            return Err(ModelError::refused(StatusCode::METHOD_NOT_ALLOWED, message));
        }
        Ok(found)
    }
}

fn not_found(uri: &Uri) -> ModelError {
    let message = format!("a cell cannot reach {:?}: only the Messages API", uri.path());
    ModelError::refused(StatusCode::NOT_FOUND, message)
}

/// What a run may ask for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scope {
    /// The model it was begun with: the agent asks for that one and no other. A date at its end
    /// does not count.
    pub model: String,
    /// Tools on the model's side that the owner has granted, by their types: `web_search_20250305`.
    pub server_tools: BTreeSet<String>,
}

/// The model that `body` asks for, if all in it is allowed.
pub(super) fn model(body: &[u8], prices: &Prices, scope: &Scope) -> Result<String, ModelError> {
    let bad = |why: &dyn fmt::Display| {
        let message = format!("this is no request of the Messages API: {why}");
        ModelError::refused(StatusCode::BAD_REQUEST, message)
    };
    let text = json::text(body).map_err(|e| bad(&e))?;
    let shape: Shape = serde_json::from_str(text).map_err(|e| bad(&e))?;
    let forbidden = |what: &str| {
        let message = format!("a cell may not use {what}");
        ModelError::refused(StatusCode::FORBIDDEN, message)
    };
    if let Some(what) = shape.found.forbidden(&scope.server_tools) {
        return Err(forbidden(&what));
    }
    let model = shape.model.ok_or_else(|| bad(&"it names no model"))?;
    if !prices.allows(&model) {
        let message = format!("model not allowed: no price is known for {model:?}");
        return Err(ModelError::refused(StatusCode::BAD_REQUEST, message));
    }
    if undated(&model) != undated(&scope.model) {
        let own = &scope.model;
        return Err(forbidden(&format!("the model {model:?}: this run was begun with {own:?}")));
    }
    Ok(model)
}
