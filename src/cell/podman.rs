//! The requests to Podman that podman-api 0.11 cannot make, over hyper 1 on its socket.
//!
//! podman-api drops `no_new_privileges` (its JSON key is misspelt), asks for an inspect with sizes
//! before each attach (300 ms), and its wait loses the exit status.
//! `podman_api_still_needs_the_detour` fails when that has changed. The rest is `engine.rs`.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, CONTENT_TYPE, HOST, UPGRADE};
use hyper::upgrade::Upgraded;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::net::UnixStream;

/// The API that Podman 4.0 and newer serve.
const API: &str = "/v4.0.0/libpod";
/// Answers are an id or an inspect: tens of kilobytes.
const ANSWER_BYTES: usize = 4 * 1024 * 1024;

/// What can go wrong between here and Podman.
#[derive(Debug, thiserror::Error)]
pub enum PodmanError {
    /// Nobody listens.
    #[error("no Podman at {}", socket.display())]
    Unreachable {
        /// Where it should listen.
        socket: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The connection broke.
    #[error("Podman did not answer to {request}")]
    Unanswered {
        /// Which request.
        request: String,
        /// Why not.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Podman said no.
    #[error("Podman answered {status} to {request}: {cause}")]
    Refused {
        /// Which request.
        request: String,
        /// The HTTP status.
        status: u16,
        /// Podman's own words.
        cause: String,
    },
    /// The answer is not of its form.
    #[error("Podman's answer to {request} is not of its form")]
    Form {
        /// Which request.
        request: String,
        /// What is wrong.
        #[source]
        source: serde_json::Error,
    },
}

impl PodmanError {
    /// A request that was not answered.
    pub(super) fn unanswered(
        request: &str,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::Unanswered { request: request.to_owned(), source: source.into() }
    }
}

/// A container to create; the fields of Podman's `SpecGenerator` that we set.
#[derive(Debug, Serialize)]
pub struct Create<'a> {
    /// An image's id.
    pub image: &'a str,
    /// The program.
    pub entrypoint: &'a [&'a str],
    /// Its arguments.
    pub command: &'a [&'a str],
    /// Labels.
    pub labels: std::collections::BTreeMap<&'static str, String>,
    /// `uid:gid` in the container.
    pub user: &'static str,
    /// How users are mapped.
    pub userns: Namespace,
    /// The network: none.
    pub netns: Namespace,
    /// Processes, and the cell's own of the following.
    pub pidns: Namespace,
    /// Shared memory, semaphores, queues.
    pub ipcns: Namespace,
    /// The machine's name.
    pub utsns: Namespace,
    /// Control groups.
    pub cgroupns: Namespace,
    /// Places to cover. Podman has a list of its own, and covers twice what is on both.
    pub mask: Vec<&'a str>,
    /// What of its own list Podman shall leave to this one.
    pub unmask: Vec<&'a str>,
    /// Capabilities to take away.
    pub cap_drop: &'static [&'static str],
    /// prctl(2) PR_SET_NO_NEW_PRIVS.
    pub no_new_privileges: bool,
    /// The file with the system call filter, which Podman's service reads.
    pub seccomp_profile_path: &'a str,
    /// The root file system is read-only.
    pub read_only_filesystem: bool,
    /// Standard input is open.
    pub stdin: bool,
    /// Where output goes: nowhere, it is attached.
    pub log_configuration: LogConfiguration,
    /// Do not sync what is thrown away.
    pub volatile: bool,
    /// Volumes that the image declares.
    pub image_volume_mode: &'static str,
    /// Environment of the launcher.
    pub env: std::collections::BTreeMap<&'static str, &'static str>,
    /// No proxy variables of the host.
    pub httpproxy: bool,
    /// Limits of the cgroup.
    pub resource_limits: Resources,
    /// Limits of the process.
    pub r_limits: Vec<RLimit>,
    /// Mounts.
    pub mounts: Vec<Mount>,
}

/// A namespace and its mode.
#[derive(Debug, Serialize)]
pub struct Namespace {
    /// The mode.
    pub nsmode: &'static str,
    /// The mode's argument.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub value: &'static str,
}

/// Where a container's output is kept.
#[derive(Debug, Serialize)]
pub struct LogConfiguration {
    /// The driver.
    pub driver: &'static str,
}

/// Limits of the cgroup, in the OCI runtime specification's form.
#[derive(Debug, Default, Serialize)]
pub struct Resources {
    /// Memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Memory>,
    /// Processes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pids: Option<Pids>,
    /// CPU time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Cpu>,
}

/// Bytes of memory.
#[derive(Debug, Serialize)]
pub struct Memory {
    /// Memory.
    pub limit: u64,
    /// Memory and swap: the same number means no swap.
    pub swap: u64,
}

/// Processes and threads.
#[derive(Debug, Serialize)]
pub struct Pids {
    /// The most.
    pub limit: u64,
}

/// Microseconds of CPU time.
#[derive(Debug, Serialize)]
pub struct Cpu {
    /// In each period.
    pub quota: u64,
    /// The period.
    pub period: u64,
}

/// A limit of the process: soft and hard are the same.
#[derive(Debug, Serialize)]
pub struct RLimit {
    /// `nofile`, `fsize`, `core`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// Soft.
    pub soft: u64,
    /// Hard.
    pub hard: u64,
}

/// A mount.
#[derive(Debug, Serialize)]
pub struct Mount {
    /// Path in the container.
    pub destination: String,
    /// `bind` or `tmpfs`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// Path on the host.
    pub source: String,
    /// Options.
    pub options: Vec<String>,
}

/// What an inspect tells about a container's end.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ContainerState {
    /// `created`, `initialized`, `running`, `exited`, …
    pub status: String,
    /// Its exit status, once it has exited.
    #[serde(default)]
    pub exit_code: i64,
}

/// Podman's service at its socket. Each request has its own connection: they are few and local.
#[derive(Debug, Clone)]
pub struct Podman {
    socket: PathBuf,
}

impl Podman {
    /// Podman at this socket.
    pub fn at(socket: &Path) -> Self {
        Self { socket: socket.to_owned() }
    }

    /// The socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Creates a container and returns its id.
    ///
    /// # Errors
    /// Podman's, as they are.
    pub async fn create(&self, container: &Create<'_>) -> Result<String, PodmanError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Created {
            id: String,
        }
        let name = "create";
        let body = serde_json::to_vec(container)
            .map_err(|source| PodmanError::Form { request: name.into(), source })?;
        let created: Created =
            self.json(name, Method::POST, "/containers/create", body.into()).await?;
        Ok(created.id)
    }

    /// Attaches to a container's standard streams, in Podman's framing (`frames.rs`).
    ///
    /// # Errors
    /// Podman's, as they are.
    pub async fn attach(&self, id: &str) -> Result<TokioIo<Upgraded>, PodmanError> {
        let name = format!("attach {id}");
        let path =
            format!("/containers/{id}/attach?stream=true&stdin=true&stdout=true&stderr=true");
        let unanswered = |source: hyper::Error| PodmanError::unanswered(&name, source);
        let mut sender = self.connect(&name).await?;
        let request = request(Method::POST, &path, Full::<Bytes>::default(), &name)?;
        let response = sender.send_request(request).await.map_err(unanswered)?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(refused(&name, response).await);
        }
        hyper::upgrade::on(response).await.map(TokioIo::new).map_err(unanswered)
    }

    /// A container's state; sizes are not asked for.
    ///
    /// # Errors
    /// Podman's, as they are; 404 when there is no such container.
    pub async fn inspect(&self, id: &str) -> Result<ContainerState, PodmanError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Inspected {
            state: ContainerState,
        }
        let inspected: Inspected = self.inspected(id).await?;
        Ok(inspected.state)
    }

    /// All that an inspect tells.
    ///
    /// # Errors
    /// Podman's, as they are; 404 when there is no such container.
    pub async fn inspected<A: serde::de::DeserializeOwned>(
        &self,
        id: &str,
    ) -> Result<A, PodmanError> {
        let path = format!("/containers/{id}/json?size=false");
        self.json(&format!("inspect {id}"), Method::GET, &path, Bytes::new()).await
    }

    /// Waits until a container has ended and returns its exit status.
    ///
    /// # Errors
    /// Podman's, as they are.
    pub async fn wait(&self, id: &str) -> Result<i64, PodmanError> {
        let path = format!("/containers/{id}/wait?condition=exited&interval=20ms");
        self.json(&format!("wait {id}"), Method::POST, &path, Bytes::new()).await
    }

    /// An answer as JSON.
    pub(super) async fn json<A: serde::de::DeserializeOwned>(
        &self,
        name: &str,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<A, PodmanError> {
        let mut sender = self.connect(name).await?;
        let request = request(method, path, Full::new(body), name)?;
        let response = sender.send_request(request).await;
        let response = response.map_err(|source| PodmanError::unanswered(name, source))?;
        read_json(name, response).await
    }

    /// A connection for one request with a body of this kind.
    pub(super) async fn connect<B>(&self, name: &str) -> Result<http1::SendRequest<B>, PodmanError>
    where
        B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>,
        B: Send + 'static,
    {
        let stream = UnixStream::connect(&self.socket)
            .await
            .map_err(|source| PodmanError::Unreachable { socket: self.socket.clone(), source })?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|source| PodmanError::unanswered(name, source))?;
        tokio::spawn(connection.with_upgrades());
        Ok(sender)
    }
}

/// A request to the API, with its path below the API's.
pub(super) fn request<B>(
    method: Method,
    path: &str,
    body: B,
    name: &str,
) -> Result<Request<B>, PodmanError> {
    let upgrade = path.contains("/attach?");
    let mut request = Request::builder()
        .method(method)
        .uri(format!("{API}{path}"))
        .header(HOST, "podman")
        .header(CONTENT_TYPE, "application/json");
    if upgrade {
        request = request.header(CONNECTION, "upgrade").header(UPGRADE, "tcp");
    }
    request.body(body).map_err(|source| PodmanError::unanswered(name, source))
}

/// What a response says as JSON.
pub(super) async fn read_json<A: serde::de::DeserializeOwned>(
    name: &str,
    response: Response<Incoming>,
) -> Result<A, PodmanError> {
    if !response.status().is_success() {
        return Err(refused(name, response).await);
    }
    let body = Limited::new(response.into_body(), ANSWER_BYTES).collect().await;
    let body = body.map_err(|source| PodmanError::unanswered(name, source))?.to_bytes();
    serde_json::from_slice(&body)
        .map_err(|source| PodmanError::Form { request: name.into(), source })
}

/// What a response says that is no success.
pub(super) async fn refused(name: &str, response: Response<Incoming>) -> PodmanError {
    #[derive(Deserialize)]
    struct Said {
        cause: Option<String>,
        message: Option<String>,
    }
    let status = response.status().as_u16();
    let body = Limited::new(response.into_body(), ANSWER_BYTES).collect().await;
    let body = body.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let said = serde_json::from_slice::<Said>(&body).ok();
    let cause = said.and_then(|said| said.message.or(said.cause));
    let cause = cause.unwrap_or_else(|| String::from_utf8_lossy(&body).trim().to_owned());
    PodmanError::Refused { request: name.to_owned(), status, cause }
}
