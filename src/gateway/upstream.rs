//! Where the model is: a URL, checked once, and the client that talks to it.
//!
//! | what is wrong | what happens |
//! |---|---|
//! | plain http to another machine: key and conversations could be read on the way | refused |
//! | a user name, a query, a fragment, `/v1` at the end | refused, with what to change |
//! | `localhost` that the resolver would send elsewhere | not asked: it is this machine |
//! | no certificates of authorities on this system | the request fails and says so |
//!
//! Redirects are not followed, proxies of the environment are not used. Every connection passes a
//! [`Valve`], below TLS: a halt shuts it.

use std::convert::Infallible;
use std::fmt;
use std::future::{Ready, ready};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::http::uri::{Authority, Scheme};
use hyper::{Request, Response, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::Name;
use hyper_util::client::legacy::{Client, Error as ClientError};
use hyper_util::rt::TokioExecutor;
use tokio::sync::OnceCell;

use super::valve::{Valve, Valved};

/// A TCP connection to the model: a few round trips, or it is not there.
const CONNECT_TIME: Duration = Duration::from_secs(15);
/// Connections that are kept for the next request; cells run a few at a time.
const IDLE_CONNECTIONS: usize = 4;

/// A model's address.
#[derive(Debug)]
pub struct Upstream {
    scheme: Scheme,
    authority: Authority,
    prefix: String,
    client: OnceCell<AnyClient>,
    pub(super) valve: Arc<Valve>,
}

/// A URL that no model can be at.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the model's URL {url:?} {problem}")]
pub struct InvalidUpstream {
    /// What was given.
    pub url: String,
    /// What is wrong and what would be right.
    pub problem: &'static str,
}

/// A request that got no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum SendError {
    #[error("this system has no certificates of authorities (package ca-certificates)")]
    NoRoots(#[source] std::io::Error),
    #[error("the request cannot be addressed")]
    Address(#[source] hyper::http::Error),
    #[error("the request failed")]
    Failed(#[source] ClientError),
}

/// Plain http never leaves this machine, so it needs no certificates to be loaded.
#[derive(Debug)]
enum AnyClient {
    Plain(Client<Valved<HttpConnector<ThisMachine>>, Full<Bytes>>),
    Tls(Client<HttpsConnector<Valved<HttpConnector>>, Full<Bytes>>),
}

impl Upstream {
    /// Checks a URL: https to anywhere, http to this machine only; a path may stand before
    /// `/v1/messages`.
    ///
    /// # Errors
    /// When it is anything else.
    pub fn parse(url: &str) -> Result<Self, InvalidUpstream> {
        Self::check(url).map_err(|problem| InvalidUpstream { url: without_user(url), problem })
    }

    fn check(url: &str) -> Result<Self, &'static str> {
        if url.contains('#') {
            return Err("has a fragment: leave out what begins with #");
        }
        let uri: Uri = url.parse().map_err(|_| "is no URL: write https://HOST")?;
        let parts = uri.into_parts();
        let (Some(scheme), Some(authority)) = (parts.scheme, parts.authority) else {
            return Err("is not complete: write https://HOST");
        };
        if authority.as_str().contains('@') {
            return Err("has a user name: give the key in a file, with --api-key-file");
        }
        let path = parts.path_and_query;
        if path.as_ref().is_some_and(|p| p.query().is_some()) {
            return Err("has a query: leave out what begins with ?");
        }
        let prefix = path.as_ref().map_or("", |p| p.path()).trim_end_matches('/').to_owned();
        if prefix.ends_with("/v1") || prefix.ends_with("/v1/messages") {
            return Err("ends in /v1: leave that out, it is added");
        }
        let local = is_this_machine(authority.host());
        match scheme.as_str() {
            "https" => {}
            "http" if local => {}
            "http" => return Err("is plain http to another machine: use https"),
            _ => return Err("is neither https nor http"),
        }
        Ok(Self { scheme, authority, prefix, client: OnceCell::new(), valve: Arc::default() })
    }

    /// Host and port, as errors name them.
    pub fn host(&self) -> &str {
        self.authority.as_str()
    }

    /// Its TCP port.
    pub fn port(&self) -> u16 {
        let usual = if self.scheme == Scheme::HTTPS { 443 } else { 80 };
        self.authority.port_u16().unwrap_or(usual)
    }

    /// Sends `request` to `path`, which begins with a slash.
    pub(super) async fn send(
        &self,
        path: &str,
        mut request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, SendError> {
        *request.uri_mut() = Uri::builder()
            .scheme(self.scheme.clone())
            .authority(self.authority.clone())
            .path_and_query(format!("{}{path}", self.prefix))
            .build()
            .map_err(SendError::Address)?;
        let client = self.client.get_or_try_init(|| self.connect()).await?;
        match client {
            AnyClient::Plain(client) => client.request(request).await,
            AnyClient::Tls(client) => client.request(request).await,
        }
        .map_err(SendError::Failed)
    }

    async fn connect(&self) -> Result<AnyClient, SendError> {
        // No pool timer: idle connections are looked at when the next request comes, so that an
        // idle service does not wake up for them.
        let mut builder = Client::builder(TokioExecutor::new());
        builder.pool_max_idle_per_host(IDLE_CONNECTIONS);
        if self.scheme == Scheme::HTTP {
            let mut connector = HttpConnector::new_with_resolver(ThisMachine);
            connector.set_nodelay(true);
            connector.set_connect_timeout(Some(CONNECT_TIME));
            return Ok(AnyClient::Plain(builder.build(self.valved(connector))));
        }
        let mut tcp = HttpConnector::new();
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(CONNECT_TIME));
        tcp.enforce_http(false);
        // Reads and parses about 150 files.
        let tls = tokio::task::spawn_blocking(|| HttpsConnectorBuilder::new().with_native_roots())
            .await
            .map_err(|e| SendError::NoRoots(std::io::Error::other(e)))?
            .map_err(SendError::NoRoots)?;
        let connector = tls.https_only().enable_all_versions().wrap_connector(self.valved(tcp));
        Ok(AnyClient::Tls(builder.build(connector)))
    }

    fn valved<C>(&self, connector: C) -> Valved<C> {
        Valved { connector, valve: Arc::clone(&self.valve) }
    }
}

impl fmt::Display for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", self.scheme, self.authority, self.prefix)
    }
}

impl SendError {
    /// The innermost reason; hyper's own layers only say that connecting failed.
    pub(super) fn why(&self) -> String {
        let mut error: &dyn std::error::Error = self;
        if !matches!(self, Self::NoRoots(_)) {
            while let Some(source) = error.source() {
                error = source;
            }
        }
        error.to_string()
    }
}

fn is_this_machine(host: &str) -> bool {
    let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    bare.eq_ignore_ascii_case("localhost")
        || bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// A password that was put into a URL must not reach a log by way of an error.
fn without_user(url: &str) -> String {
    match (url.split_once("://"), url.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, rest))) => format!("{scheme}://…@{rest}"),
        (None, Some((_, rest))) => format!("…@{rest}"),
        _ => url.to_owned(),
    }
}

/// Resolves every name to this machine. Only `localhost` comes here; what the system's resolver
/// makes of it does not matter.
#[derive(Debug, Clone, Copy)]
struct ThisMachine;

impl tower_service::Service<Name> for ThisMachine {
    type Response = std::array::IntoIter<SocketAddr, 2>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Name) -> Self::Future {
        let v4 = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let v6 = SocketAddr::from((Ipv6Addr::LOCALHOST, 0));
        ready(Ok([v4, v6].into_iter()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn https_anywhere_http_here() -> Result<(), InvalidUpstream> {
        for (url, shown) in [
            ("https://api.anthropic.com", "https://api.anthropic.com"),
            ("https://api.anthropic.com/", "https://api.anthropic.com"),
            ("https://proxy.example:8443/team/a/", "https://proxy.example:8443/team/a"),
            ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
            ("http://127.9.9.9", "http://127.9.9.9"),
            ("http://[::1]:1/x", "http://[::1]:1/x"),
            ("http://LocalHost:1", "http://LocalHost:1"),
        ] {
            assert_eq!(Upstream::parse(url)?.to_string(), shown);
        }
        Ok(())
    }

    #[test]
    fn anything_else_is_refused_with_what_to_change() {
        for (url, problem) in [
            ("http://api.anthropic.com", "use https"),
            ("http://localhost.example", "use https"),
            ("http://127.1", "use https"),
            ("http://[::ffff:127.0.0.1]", "use https"),
            ("http://10.0.0.1", "use https"),
            ("https://user:secret@host", "--api-key-file"),
            ("https://secret@host/", "--api-key-file"),
            ("https://host/?a=b", "leave out what begins with ?"),
            ("https://host/?", "leave out what begins with ?"),
            ("https://host/#a", "leave out what begins with #"),
            ("https://host/v1", "leave that out"),
            ("https://host/v1/messages/", "leave that out"),
            ("ftp://host", "neither https nor http"),
            ("host", "write https://HOST"),
            ("/v1", "write https://HOST"),
            ("", "write https://HOST"),
            ("https://ho st", "write https://HOST"),
        ] {
            let error = Upstream::parse(url).err().map(|e| e.to_string()).unwrap_or_default();
            assert!(error.contains(problem), "{url}: {error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
