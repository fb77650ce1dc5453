//! Who speaks: the owner, by the Unix socket's peer credentials, or whoever holds a token.
//!
//! There is no way in without either. A token has 244 random bits; only its SHA-256 is kept. What
//! the time of a look-up tells is at most how a hash begins, and nobody can make a token for a
//! hash.

use hyper::Request;
use hyper::body::Incoming;
use hyper::header::AUTHORIZATION;
use sha2::{Digest, Sha256};

use super::{Routes, fault};
use crate::core::ids::UserName;
use crate::core::problem::{Problem, ProblemKind};
use crate::host::machine::now;
use crate::store::tokens::TokenHash;

/// Where a connection comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// The Unix socket, by a process of this user.
    Unix(u32),
    /// TCP: anybody on this machine.
    Tcp,
}

/// Who speaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Speaker {
    /// The owner, who may speak for every user.
    Owner,
    /// One user.
    User(UserName),
}

/// The hash of a token.
pub fn hash(token: &str) -> TokenHash {
    Sha256::digest(token.as_bytes()).into()
}

/// Finds out who speaks, and by which token (`None`: by the Unix socket). A token is known by its
/// hash: a later one may get the number of one that was removed.
///
/// # Errors
/// 401 without a good token, 403 for another Unix user, 429 for a token that is used too often.
pub(super) async fn identify(
    routes: &Routes,
    peer: Peer,
    request: &Request<Incoming>,
) -> Result<(Speaker, Option<TokenHash>), Problem> {
    if let Peer::Unix(uid) = peer {
        if uid == nix::unistd::geteuid().as_raw() {
            return Ok((Speaker::Owner, None));
        }
        return Err(Problem::new(ProblemKind::Forbidden, "this socket is its owner's alone"));
    }
    let unknown = || {
        Problem::new(ProblemKind::Unauthenticated, "there is no good token in the request")
            .hint("send `Authorization: Bearer TOKEN`; `noclaw token create` makes one")
    };
    let header = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let (scheme, token) = header.and_then(|value| value.split_once(' ')).ok_or_else(unknown)?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(unknown());
    }
    let hash = hash(token.trim());
    let found = routes.store().find_token(&hash, now()).await.map_err(|e| fault(&e))?;
    let found = found.ok_or_else(unknown)?;
    super::webhook::limit(&routes.token_rates, hash, "this token")?;
    match (found.scope.as_str(), found.user) {
        ("owner", None) => Ok((Speaker::Owner, Some(hash))),
        ("user", Some(user)) => Ok((Speaker::User(user), Some(hash))),
        _ => Err(Problem::new(ProblemKind::Forbidden, "the token's scope is not served")),
    }
}
