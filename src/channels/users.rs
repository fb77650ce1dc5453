//! `/v1/users`: the owner makes, changes, looks at and removes users, and grants them folders
//! (`mounts.rs`). A user's token may read its own history (`history.rs`), and nothing else here.

use hyper::body::Incoming;
use hyper::{Method, Request, Response};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::{Deserialize, Deserializer, Serialize};

use super::who::Speaker;
use super::{Routes, fault, history, mounts, no_route, owner_only, wrong_method};
use crate::assistant::people::{PeopleError, Removed};
use crate::core::ids::UserName;
use crate::core::limits::INSTRUCTIONS_BYTES;
use crate::core::problem::{Problem, ProblemKind, chain};
use crate::core::quota::Space;
use crate::host::machine::now;
use crate::host::tree::count::Count;
use crate::http::body;
use crate::http::reply::{self, Body};
use crate::store::error::NotRemoved;
use crate::store::record::UserOverview;
use crate::store::users::{NewUser, UserChange};

/// A user to make.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewBody {
    /// The name.
    pub name: UserName,
    /// A zone of the IANA database; the machine's when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_zone: Option<String>,
    /// What the owner wants the agent to know.
    #[serde(default)]
    pub instructions: String,
}

/// What is to be another.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChangeBody {
    /// A zone of the IANA database; `null` is the machine's. Left out, it stays.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub time_zone: Option<Option<String>>,
}

/// A field that is there, be it `null`.
fn given<'de, D: Deserializer<'de>>(json: D) -> Result<Option<Option<String>>, D::Error> {
    Option::deserialize(json).map(Some)
}

/// The owner's instructions for a user.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Instructions {
    /// The text, at most [`INSTRUCTIONS_BYTES`].
    pub instructions: String,
}

/// A user.
#[derive(Debug, Serialize, Deserialize)]
pub struct UserView {
    /// The name.
    pub name: UserName,
    /// The time zone; `null` is the machine's.
    pub time_zone: Option<String>,
    /// Whether this is the owner's own user.
    pub owner: bool,
    /// When it was made.
    pub created_at: Timestamp,
    /// Conversations.
    pub conversations: u64,
    /// Messages in them.
    pub messages: u64,
    /// Runs that answered them, or will.
    pub runs: u64,
    /// Tokens that speak for this user only.
    pub tokens: u64,
    /// Where its workspace is.
    pub workspace: String,
    /// What its workspace may take of the disk.
    pub quota: Space,
    /// What it took when it was last counted, at the end of a run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used: Option<Space>,
    /// What is in the workspace; only where one user is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<FilesView>,
}

/// What is in a workspace.
#[derive(Debug, Serialize, Deserialize)]
pub struct FilesView {
    /// Files, and whatever else is no directory.
    pub files: u64,
    /// The files' sizes.
    pub bytes: u64,
    /// What it takes of the disk, directories included: what the quota counts.
    pub space: Space,
    /// Directories that cannot be looked into.
    pub closed: u64,
    /// Whether there is more than was counted.
    #[serde(default)]
    pub more: bool,
}

/// All users.
#[derive(Debug, Serialize, Deserialize)]
pub struct UserList {
    /// The users, by name.
    pub users: Vec<UserView>,
}

/// What a removal has deleted.
#[derive(Debug, Serialize, Deserialize)]
pub struct RemovedView {
    /// The user.
    pub removed: UserName,
    /// Messages, with their replies.
    pub messages: u64,
    /// Runs.
    pub runs: u64,
    /// Conversations, with their transcripts.
    pub conversations: u64,
    /// Tokens.
    pub tokens: u64,
    /// What was in the workspace.
    pub files: FilesView,
}

/// Finds the route below `/v1/users`.
pub(super) async fn route(
    routes: &Routes,
    speaker: &Speaker,
    rest: &[&str],
    request: Request<Incoming>,
) -> Result<Response<Body>, Problem> {
    if let [name, "history"] = rest {
        return match *request.method() {
            Method::GET => history::show(routes, speaker, name, &request).await,
            _ => Ok(wrong_method(&request, "GET")),
        };
    }
    owner_only(speaker)?;
    match (request.method().as_str(), rest) {
        ("GET", []) => list(routes).await,
        ("POST", []) => create(routes, request).await,
        ("GET", [name]) => show(routes, name).await,
        ("PATCH", [name]) => change(routes, name, request).await,
        ("DELETE", [name]) => remove(routes, name).await,
        ("GET", [name, "instructions"]) => instructions(routes, name).await,
        ("PUT", [name, "instructions"]) => instruct(routes, name, request).await,
        ("GET", [name, "mounts"]) => mounts::list(routes, name).await,
        ("POST", [name, "mounts"]) => mounts::add(routes, name, request).await,
        ("DELETE", [name, "mounts", mount]) => mounts::remove(routes, name, mount).await,
        (_, []) => Ok(wrong_method(&request, "GET, POST")),
        (_, [_]) => Ok(wrong_method(&request, "GET, PATCH, DELETE")),
        (_, [_, "instructions"]) => Ok(wrong_method(&request, "GET, PUT")),
        (_, [_, "mounts"]) => Ok(wrong_method(&request, "GET, POST")),
        (_, [_, "mounts", _]) => Ok(wrong_method(&request, "DELETE")),
        _ => Err(no_route(&request)),
    }
}

async fn list(routes: &Routes) -> Result<Response<Body>, Problem> {
    let users = routes.store().overviews(None).await.map_err(|e| fault(&e))?;
    let users = users.into_iter().map(|user| view(routes, user)).collect();
    Ok(reply::json(200, &UserList { users }))
}

async fn create(routes: &Routes, request: Request<Incoming>) -> Result<Response<Body>, Problem> {
    let NewBody { name, time_zone, instructions } = body::json(request).await?;
    let new = NewUser {
        name: name.clone(),
        instructions: check(instructions)?,
        time_zone: time_zone.map(|zone| known(&zone)).transpose()?,
        now_ms: now(),
    };
    routes.assistant.add_user(new).await.map_err(refused)?;
    Ok(reply::json(201, &find(routes, &name).await?))
}

async fn show(routes: &Routes, name: &str) -> Result<Response<Body>, Problem> {
    let name = parse(name)?;
    let mut user = find(routes, &name).await?;
    let files = routes.assistant.count_workspace(&name).await.map_err(refused)?;
    user.files = Some(files.into());
    Ok(reply::json(200, &user))
}

async fn change(
    routes: &Routes,
    name: &str,
    request: Request<Incoming>,
) -> Result<Response<Body>, Problem> {
    let name = parse(name)?;
    find(routes, &name).await?;
    let ChangeBody { time_zone } = body::json(request).await?;
    let time_zone = match time_zone {
        Some(Some(zone)) => Some(Some(known(&zone)?)),
        other => other,
    };
    write(routes, &name, UserChange { time_zone, instructions: None }).await?;
    Ok(reply::json(200, &find(routes, &name).await?))
}

async fn remove(routes: &Routes, name: &str) -> Result<Response<Body>, Problem> {
    let name = parse(name)?;
    let Removed { rows, files } = routes.assistant.remove_user(&name).await.map_err(refused)?;
    Ok(reply::json(
        200,
        &RemovedView {
            removed: name,
            messages: rows.messages,
            runs: rows.runs,
            conversations: rows.conversations,
            tokens: rows.tokens,
            files: files.into(),
        },
    ))
}

async fn instructions(routes: &Routes, name: &str) -> Result<Response<Body>, Problem> {
    let name = parse(name)?;
    let user = routes.store().user(&name).await.map_err(|e| fault(&e))?;
    let instructions = user.ok_or_else(|| missing(&name))?.instructions;
    Ok(reply::json(200, &Instructions { instructions }))
}

async fn instruct(
    routes: &Routes,
    name: &str,
    request: Request<Incoming>,
) -> Result<Response<Body>, Problem> {
    let name = parse(name)?;
    find(routes, &name).await?;
    let given: Instructions = body::json(request).await?;
    let change = UserChange { instructions: Some(check(given.instructions)?), time_zone: None };
    write(routes, &name, change).await?;
    instructions(routes, name.as_str()).await
}

/// A name that is none names nobody.
pub(super) fn parse(name: &str) -> Result<UserName, Problem> {
    name.parse().map_err(|_| missing(name))
}

/// There is no such user.
pub(super) fn missing(name: impl std::fmt::Display) -> Problem {
    Problem::new(ProblemKind::NotFound, format!("there is no user {name}")).hint("noclaw user list")
}

async fn find(routes: &Routes, name: &UserName) -> Result<UserView, Problem> {
    let found = routes.store().overviews(Some(name)).await.map_err(|e| fault(&e))?.pop();
    Ok(view(routes, found.ok_or_else(|| missing(name))?))
}

async fn write(routes: &Routes, name: &UserName, change: UserChange) -> Result<(), Problem> {
    match routes.store().change_user(name, change).await.map_err(|e| fault(&e))? {
        true => Ok(()),
        false => Err(missing(name)),
    }
}

fn check(instructions: String) -> Result<String, Problem> {
    let problem = match instructions.len() {
        bytes if bytes > INSTRUCTIONS_BYTES => {
            format!("has {bytes} bytes; the most is {INSTRUCTIONS_BYTES}")
        }
        _ if instructions.contains('\0') => "has a NUL byte; send text".to_owned(),
        _ => return Ok(instructions),
    };
    Err(Problem::new(ProblemKind::InvalidField, format!("instructions: {problem}")))
}

/// The zone's name as the database writes it.
fn known(zone: &str) -> Result<String, Problem> {
    let found = TimeZone::get(zone).ok();
    let name = found.as_ref().and_then(TimeZone::iana_name).map(str::to_owned);
    name.ok_or_else(|| {
        let detail = format!("time_zone: this machine knows no zone {zone:?}");
        Problem::new(ProblemKind::InvalidField, detail)
            .hint("a name as Europe/Berlin or UTC; `timedatectl list-timezones` lists them")
    })
}

fn view(routes: &Routes, overview: UserOverview) -> UserView {
    let UserOverview { user, conversations, messages, runs, tokens, workspace: used } = overview;
    let workspace = routes.assistant.state.workspace_path(&user.name);
    UserView {
        owner: user.name == routes.assistant.settings.owner,
        created_at: Timestamp::from_millisecond(user.created_at).unwrap_or_default(),
        workspace: workspace.to_string_lossy().into_owned(),
        name: user.name,
        time_zone: user.time_zone,
        conversations,
        messages,
        runs,
        tokens,
        quota: routes.assistant.settings.limits.workspace,
        used,
        files: None,
    }
}

impl From<Count> for FilesView {
    fn from(count: Count) -> Self {
        let Count { files, bytes, closed, stop, .. } = count;
        Self { files, bytes, space: count.space(), closed, more: stop.is_some() }
    }
}

fn refused(error: PeopleError) -> Problem {
    let conflict = |hint: String| Problem::new(ProblemKind::Conflict, &error).hint(hint);
    match &error {
        PeopleError::Exists { user } => conflict(format!("noclaw user edit {user}")),
        PeopleError::Owner { .. } => conflict("every other user can be removed".to_owned()),
        PeopleError::NotRemoved(NotRemoved::Busy { user, .. }) => {
            conflict(format!("wait until they are over, or cancel them: noclaw run list -u {user}"))
        }
        PeopleError::NotRemoved(NotRemoved::NoSuchUser { user }) => missing(user),
        PeopleError::NotRemoved(NotRemoved::Store(error)) => fault(error),
        PeopleError::Stopping => Problem::new(ProblemKind::Stopping, &error),
        PeopleError::State(_) | PeopleError::Tree(_) => {
            tracing::error!(error = chain(&error), "a user's folder");
            Problem::new(ProblemKind::Internal, chain(&error))
                .hint("what was begun is settled when the service starts again")
        }
    }
}
