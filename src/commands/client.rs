//! The command line's way to the service: HTTP on its Unix socket.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{ACCEPT, CONTENT_TYPE, HOST, USER_AGENT};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::Failure;
use super::stream::Stream;
use crate::channels::events::EVENT_STREAM;
use crate::channels::webhook::CLI_AGENT;
use crate::core::ids::RunId;
use crate::core::problem::{ExitStatus, Problem};
use crate::host::paths;
use crate::http::reply::Document;

const KEY: &str = "idempotency-key";
/// How long an answer may take to begin. A request waits 50 s at most; a service that is started
/// anew ends its runs first, while systemd keeps the connection.
const SILENCE: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 100 });
/// The same for what needs no cell; the service's first start is in it.
pub const QUICK: Duration = Duration::from_secs(30);

/// Where the service is.
#[derive(Debug, Clone, clap::Args)]
pub struct Client {
    /// The service's socket
    #[arg(long, value_name = "PATH", env = "NOCLAW_SOCKET", default_value_os_t = paths::socket())]
    socket: PathBuf,
    /// How long an answer may take to begin.
    #[arg(skip = SILENCE)]
    silence: Duration,
}

/// Why there is no answer.
#[derive(Debug)]
pub enum Miss {
    /// Nobody listens.
    Absent(Failure),
    /// The connection ended before the answer did: what was asked for may have been done.
    Lost(Failure),
    /// The service said no.
    Refused(Failure),
}

impl From<Miss> for Failure {
    fn from(miss: Miss) -> Self {
        match miss {
            Miss::Absent(failure) | Miss::Lost(failure) | Miss::Refused(failure) => failure,
        }
    }
}

/// An answer that is not a problem document.
pub struct Answer {
    body: Bytes,
}

impl Answer {
    /// Its JSON.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        serde_json::from_slice(&self.body).map_err(|error| {
            Failure::of(ExitStatus::Failed, &error).hint("service and client differ in version?")
        })
    }
}

impl Client {
    /// A client of the service that systemd runs.
    pub fn usual() -> Self {
        Self::at(paths::socket(), SILENCE)
    }

    /// A client of the service that listens there, whose answers may take this long to begin.
    pub const fn at(socket: PathBuf, silence: Duration) -> Self {
        Self { socket, silence }
    }

    /// Whether that is where systemd's service is.
    pub fn is_usual(&self) -> bool {
        self.socket == paths::socket()
    }

    /// The same client, whose answers may take this long to begin, and as long again to come whole.
    pub fn within(&self, silence: Duration) -> Self {
        Self { silence, ..self.clone() }
    }

    /// Asks for something.
    pub async fn get(&self, path: &str) -> Result<Answer, Miss> {
        self.collect(Method::GET, path, &[], Bytes::new()).await
    }

    /// Sends something.
    pub async fn post(&self, path: &str, body: &impl Serialize) -> Result<Answer, Miss> {
        self.collect(Method::POST, path, &[], json(body)).await
    }

    /// Sends something that counts once, however often it is sent with this key.
    pub async fn post_once(
        &self,
        path: &str,
        key: &str,
        body: &impl Serialize,
    ) -> Result<Answer, Miss> {
        self.collect(Method::POST, path, &[(KEY, key)], json(body)).await
    }

    /// Replaces something.
    pub async fn put(&self, path: &str, body: &impl Serialize) -> Result<Answer, Miss> {
        self.collect(Method::PUT, path, &[], json(body)).await
    }

    /// Changes something.
    pub async fn patch(&self, path: &str, body: &impl Serialize) -> Result<Answer, Miss> {
        self.collect(Method::PATCH, path, &[], json(body)).await
    }

    /// Removes something.
    pub async fn delete(&self, path: &str) -> Result<Answer, Miss> {
        self.collect(Method::DELETE, path, &[], Bytes::new()).await
    }

    /// Sends a message that counts once, and follows its run.
    pub async fn post_and_follow(&self, key: &str, body: &impl Serialize) -> Result<Stream, Miss> {
        let headers = [(KEY, key), (ACCEPT.as_str(), EVENT_STREAM)];
        let response = self.send(Method::POST, "/webhook", &headers, json(body)).await?;
        Ok(Stream::of(response, None))
    }

    /// Follows a run from the event `after` on. `None` if that was its result.
    pub async fn follow(&self, run: RunId, after: Option<&str>) -> Result<Option<Stream>, Miss> {
        let path = format!("/v1/runs/{run}/events");
        let headers: Vec<_> = after.into_iter().map(|id| ("last-event-id", id)).collect();
        let response = self.send(Method::GET, &path, &headers, Bytes::new()).await?;
        let over = response.status() == StatusCode::NO_CONTENT;
        Ok((!over).then(|| Stream::of(response, after)))
    }

    async fn collect(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> Result<Answer, Miss> {
        let response = self.send(method, path, headers, body).await?;
        Ok(Answer { body: self.whole(response).await? })
    }

    /// All of an answer that is no stream.
    async fn whole(&self, response: Response<Incoming>) -> Result<Bytes, Miss> {
        let body = timeout(self.silence, response.into_body().collect()).await;
        let body = body.map_err(|_| self.silent())?.map_err(|error| lost(&error))?;
        Ok(body.to_bytes())
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> Result<Response<Incoming>, Miss> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| {
            let message = format!("no service at {}: {error}", self.socket.display());
            Miss::Absent(
                Failure::new(ExitStatus::Unavailable, message)
                    .hint("start it: `noclaw serve`, or `systemctl --user start noclaw.socket`"),
            )
        })?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| lost(&error))?;
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, "noclaw")
            .header(USER_AGENT, CLI_AGENT)
            .header(CONTENT_TYPE, "application/json");
        let request = headers.iter().fold(request, |all, (name, value)| all.header(*name, *value));
        let request = request
            .body(Full::new(body))
            .map_err(|error| Miss::Refused(Failure::of(ExitStatus::Data, &error)))?;
        let response = timeout(self.silence, sender.send_request(request)).await;
        let response = response.map_err(|_| self.silent())?.map_err(|error| lost(&error))?;
        let kind = response.headers().get(CONTENT_TYPE).map(hyper::header::HeaderValue::as_bytes);
        if kind == Some(b"application/problem+json") {
            return Err(Miss::Refused(refusal(&self.whole(response).await?)));
        }
        Ok(response)
    }

    /// Somebody has the connection, and says nothing. That may be systemd, which keeps the socket
    /// open also while the service fails as often as it begins.
    fn silent(&self) -> Miss {
        let (socket, seconds) = (self.socket.display(), self.silence.as_secs());
        let message = format!("the service at {socket} has not answered within {seconds} s");
        Miss::Refused(
            Failure::new(ExitStatus::Unavailable, message)
                .hint("does it start? `systemctl --user status noclaw`, noclaw logs -n 50"),
        )
    }
}

fn refusal(body: &[u8]) -> Failure {
    match serde_json::from_slice::<Document>(body) {
        Ok(document) => Failure::from(Problem::from(document)),
        Err(error) => Failure::of(ExitStatus::Failed, &error),
    }
}

fn lost(error: &dyn std::error::Error) -> Miss {
    let hint = "the service ended meanwhile? `noclaw run list` shows what became of messages";
    Miss::Lost(Failure::of(ExitStatus::Unavailable, error).hint(hint))
}

/// Our own types have string keys and finite numbers: they always serialize.
fn json(value: &impl Serialize) -> Bytes {
    serde_json::to_vec(value).unwrap_or_default().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_listens_and_says_nothing_is_not_waited_for_without_end() -> std::io::Result<()> {
        let folder = tempfile::tempdir()?;
        let socket = folder.path().join("sock");
        let _listener = tokio::net::UnixListener::bind(&socket)?;
        let said = Client::at(socket, SILENCE).get("/healthz").await.err().map(Failure::from);
        let said = said.map(|failure| (failure.message, failure.hint.unwrap_or_default()));
        let (message, hint) = said.unwrap_or_default();
        assert!(message.ends_with("has not answered within 1 s"), "{message}");
        assert!(hint.contains("systemctl --user status"), "{hint}");
        Ok(())
    }

    #[tokio::test]
    async fn an_answer_that_breaks_off_is_not_waited_for_without_end() -> std::io::Result<()> {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let folder = tempfile::tempdir()?;
        let socket = folder.path().join("sock");
        let listener = tokio::net::UnixListener::bind(&socket)?;
        let stalls = async {
            let (mut stream, _) = listener.accept().await?;
            _ = stream.read(&mut [0; 1024]).await?;
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf").await?;
            std::io::Result::Ok(stream)
        };
        let client = Client::at(socket, SILENCE);
        let (_stream, said) = tokio::join!(stalls, client.get("/v1/status"));
        let said = said.err().map(Failure::from).map(|failure| failure.message);
        assert!(said.is_some_and(|said| said.ends_with("has not answered within 1 s")));
        Ok(())
    }
}
