//! `/v1/users/{u}/mounts`: the owner grants a user folders of their own, looks at what is granted,
//! and takes it back. What may be granted is the mount allowlist's, which no request can change.

use hyper::body::Incoming;
use hyper::header::{HeaderValue, LOCATION};
use hyper::{Request, Response};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::users::{missing, parse};
use super::{Routes, fault};
use crate::assistant::grants::{GrantError, Standing, destination};
use crate::core::ids::{MountName, UserName};
use crate::core::mounts::folder::FolderPath;
use crate::core::problem::{Problem, ProblemKind, chain};
use crate::http::body;
use crate::http::reply::{self, Body};
use crate::store::error::NotAdded;
use crate::store::record::MountRecord;

/// A folder to grant.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MountBody {
    /// The folder, from `/` or `~`.
    pub path: FolderPath,
    /// Whether a cell may write there.
    #[serde(default)]
    pub read_write: bool,
}

/// A granted folder.
#[derive(Debug, Serialize, Deserialize)]
pub struct MountView {
    /// What it is called in the user's cells.
    pub name: MountName,
    /// The folder.
    pub path: FolderPath,
    /// Whether a cell may write there.
    pub read_write: bool,
    /// Where it is in the user's cells.
    pub in_cell: String,
    /// When it was granted.
    pub created_at: Timestamp,
    /// Why a run would be without it now; `null`: it would have it.
    pub refused: Option<String>,
}

/// The folders that a user is granted.
#[derive(Debug, Serialize, Deserialize)]
pub struct MountList {
    /// In the order in which they were granted.
    pub mounts: Vec<MountView>,
}

impl MountView {
    fn of(mount: MountRecord, refused: Option<String>) -> Self {
        let MountRecord { name, path, read_write, created_at } = mount;
        Self {
            in_cell: destination(&name),
            created_at: Timestamp::from_millisecond(created_at).unwrap_or_default(),
            name,
            path,
            read_write,
            refused,
        }
    }
}

/// Lists what a user is granted.
pub(super) async fn list(routes: &Routes, user: &str) -> Result<Response<Body>, Problem> {
    let user = find(routes, user).await?;
    let standing = routes.assistant.granted(&user).await.map_err(|e| fault(&e))?;
    let view = |Standing { mount, now }| MountView::of(mount, now.err());
    let mounts = standing.into_iter().map(view).collect();
    Ok(reply::json(200, &MountList { mounts }))
}

/// Grants a folder.
pub(super) async fn add(
    routes: &Routes,
    user: &str,
    request: Request<Incoming>,
) -> Result<Response<Body>, Problem> {
    let user = find(routes, user).await?;
    let MountBody { path, read_write } = body::json(request).await?;
    let mount = routes.assistant.grant(&user, &path, read_write).await.map_err(refused)?;
    let location = format!("/v1/users/{user}/mounts/{}", mount.name);
    let mut response = reply::json(201, &MountView::of(mount, None));
    if let Ok(location) = HeaderValue::try_from(location) {
        response.headers_mut().insert(LOCATION, location);
    }
    Ok(response)
}

/// Takes a folder back.
pub(super) async fn remove(
    routes: &Routes,
    user: &str,
    name: &str,
) -> Result<Response<Body>, Problem> {
    let user = find(routes, user).await?;
    let none = || {
        Problem::new(ProblemKind::NotFound, format!("{user} has no folder {name}"))
            .hint(format!("noclaw user mount list {user}"))
    };
    let name: MountName = name.parse().map_err(|_| none())?;
    match routes.store().remove_mount(&user, &name).await.map_err(|e| fault(&e))? {
        true => Ok(reply::json(200, &serde_json::json!({"removed": name}))),
        false => Err(none()),
    }
}

async fn find(routes: &Routes, user: &str) -> Result<UserName, Problem> {
    let user = parse(user)?;
    let found = routes.store().user(&user).await.map_err(|e| fault(&e))?;
    found.map(|_| user.clone()).ok_or_else(|| missing(&user))
}

fn refused(error: GrantError) -> Problem {
    let no = |hint: String| Problem::new(ProblemKind::MountRefused, chain(&error)).hint(hint);
    let conflict = |hint: String| Problem::new(ProblemKind::Conflict, &error).hint(hint);
    match &error {
        GrantError::Denied { hint, .. } => no(hint.clone()),
        GrantError::Allowlist(allowlist) => no(allowlist.hint()),
        GrantError::Slow(_) => no("is its disk there, and awake?".to_owned()),
        GrantError::NotReady(problem) => problem.clone(),
        GrantError::NotAdded(NotAdded::NoSuchUser { user }) => missing(user),
        GrantError::NotAdded(NotAdded::Exists { user, path, .. }) => {
            conflict(format!("to change it: noclaw user mount remove {user} {path}, then add it"))
        }
        GrantError::NotAdded(NotAdded::TooMany { user }) => conflict(format!(
            "take one back (noclaw user mount remove {user} PATH), or grant a folder around them"
        )),
        GrantError::NotAdded(NotAdded::Store(error)) => fault(error),
    }
}
