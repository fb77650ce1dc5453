//! `/v1/tokens`: the owner makes, lists and removes tokens. A token's text is told once, when it is
//! made; only its hash is kept.

use hyper::body::Incoming;
use hyper::{Request, Response};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::who::Speaker;
use super::{Routes, fault, owner_only, who};
use crate::core::ids::UserName;
use crate::core::problem::{Problem, ProblemKind};
use crate::host::machine::now;
use crate::http::body;
use crate::http::reply::{self, Body};
use crate::store::tokens::NewToken;

/// How tokens begin, so that people and scanners know one when they see it.
const PREFIX: &str = "noclaw_";

/// A token to make.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenBody {
    /// The user it speaks for; the owner's when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<UserName>,
    /// What the owner calls it.
    #[serde(default)]
    pub label: String,
    /// Days until it is no longer good, 1 or more; never when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub days: Option<u16>,
}

/// A token as it is listed; with its text when it was just made.
#[derive(Debug, Serialize, Deserialize)]
pub struct TokenView {
    /// Its number.
    pub id: i64,
    /// `owner` or `user:U`.
    pub scope: String,
    /// What the owner calls it.
    pub label: String,
    /// From when on it is no longer good; `null`: it always is.
    pub expires_at: Option<Timestamp>,
    /// The token itself; told once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
}

/// All tokens.
#[derive(Debug, Serialize, Deserialize)]
pub struct TokenList {
    /// The tokens.
    pub tokens: Vec<TokenView>,
}

fn time(ms: i64) -> Timestamp {
    Timestamp::from_millisecond(ms).unwrap_or_default()
}

fn scope(user: Option<&UserName>) -> String {
    user.map_or_else(|| "owner".to_owned(), |user| format!("user:{user}"))
}

/// Makes a token.
pub(super) async fn create(
    routes: &Routes,
    speaker: &Speaker,
    request: Request<Incoming>,
) -> Result<Response<Body>, Problem> {
    owner_only(speaker)?;
    let TokenBody { user, label, days } = body::json(request).await?;
    if label.len() > 64 || label.chars().any(char::is_control) {
        let detail = "label: at most 64 bytes, without control characters";
        return Err(Problem::new(ProblemKind::InvalidField, detail));
    }
    if days == Some(0) {
        let detail = "days: must be 1 or more; a token of 0 days was never good";
        return Err(Problem::new(ProblemKind::InvalidField, detail));
    }
    // Two UUIDs of version 4 hold 244 random bits of the operating system's.
    let token = format!("{PREFIX}{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple());
    let now_ms = now();
    let expires_at = days.map(|days| now_ms + i64::from(days) * 86_400_000);
    let new = NewToken {
        scope: if user.is_some() { "user" } else { "owner" }.to_owned(),
        user: user.clone(),
        hash: who::hash(&token),
        label: label.clone(),
        expires_at,
        now_ms,
    };
    let id = routes.store().create_token(new).await.map_err(|e| fault(&e))?;
    let scope = scope(user.as_ref());
    tracing::info!(id, scope, "a token was made");
    Ok(reply::json(
        201,
        &TokenView { id, scope, label, expires_at: expires_at.map(time), token: Some(token) },
    ))
}

/// Lists tokens, without their text: nobody knows it any more.
pub(super) async fn list(routes: &Routes, speaker: &Speaker) -> Result<Response<Body>, Problem> {
    owner_only(speaker)?;
    let tokens = routes.store().tokens().await.map_err(|e| fault(&e))?;
    let view = |token: crate::store::record::TokenRecord| TokenView {
        id: token.id,
        scope: scope(token.user.as_ref()),
        label: token.label,
        expires_at: token.expires_at.map(time),
        token: None,
    };
    Ok(reply::json(200, &TokenList { tokens: tokens.into_iter().map(view).collect() }))
}

/// Removes a token: from now on it is not good.
pub(super) async fn delete(
    routes: &Routes,
    speaker: &Speaker,
    id: &str,
) -> Result<Response<Body>, Problem> {
    owner_only(speaker)?;
    let missing = || {
        Problem::new(ProblemKind::NotFound, format!("there is no token {id}"))
            .hint("noclaw token list")
    };
    let number = id.parse().map_err(|_| missing())?;
    match routes.store().delete_token(number).await.map_err(|e| fault(&e))? {
        true => Ok(reply::json(200, &serde_json::json!({"deleted": number}))),
        false => Err(missing()),
    }
}
