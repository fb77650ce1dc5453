//! The listeners: the Unix socket, and loopback TCP when the owner asks for it.

use std::net::{SocketAddr, TcpListener as StdTcpListener};
use std::os::unix::net::UnixListener as StdUnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::net::{TcpListener, UnixListener, UnixStream};

use super::Routes;
use super::who::Peer;
use crate::host::{owned, systemd};
use crate::http::server::Connections;

/// Why the service cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The socket cannot be made.
    #[error("cannot listen at {}", path.display())]
    Unix {
        /// Where.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// Somebody listens there.
    #[error("another service listens at {}", path.display())]
    InUse {
        /// Where.
        path: PathBuf,
    },
    /// The port cannot be had.
    #[error("cannot listen at {address}")]
    Tcp {
        /// Where.
        address: SocketAddr,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// A socket of systemd's cannot be used.
    #[error("the socket that systemd gives cannot be used")]
    Given(#[source] std::io::Error),
    /// Not loopback.
    #[error("{address} is not a loopback address; tokens would cross the network in the clear")]
    NotLoopback {
        /// Where.
        address: SocketAddr,
    },
}

/// The Unix socket that systemd listens at, and where that is.
///
/// # Errors
/// When it is none that can be used.
pub fn given_unix(given: StdUnixListener) -> Result<(UnixListener, String), ListenError> {
    given.set_nonblocking(true).map_err(ListenError::Given)?;
    let listener = UnixListener::from_std(given).map_err(ListenError::Given)?;
    let address = listener.local_addr().map_err(ListenError::Given)?;
    let place = address.as_pathname().map(|path| path.display().to_string());
    Ok((listener, place.unwrap_or_else(|| systemd::UNIX.to_owned())))
}

/// The TCP socket that systemd listens at.
///
/// # Errors
/// When it is not of loopback, or none that can be used.
pub fn given_tcp(given: StdTcpListener) -> Result<TcpListener, ListenError> {
    let address = given.local_addr().map_err(ListenError::Given)?;
    loopback(address)?;
    given.set_nonblocking(true).map_err(ListenError::Given)?;
    TcpListener::from_std(given).map_err(ListenError::Given)
}

fn loopback(address: SocketAddr) -> Result<(), ListenError> {
    match address.ip().is_loopback() {
        true => Ok(()),
        false => Err(ListenError::NotLoopback { address }),
    }
}

/// Makes the Unix socket, for its owner alone.
///
/// # Errors
/// When somebody listens there, or it cannot be made.
pub async fn unix(path: &Path) -> Result<(UnixListener, String), ListenError> {
    let unix = |source| ListenError::Unix { path: path.to_owned(), source };
    if let Some(parent) = path.parent() {
        owned::make_directory(parent).map_err(unix)?;
    }
    if owned::is_socket(path) {
        if UnixStream::connect(path).await.is_ok() {
            return Err(ListenError::InUse { path: path.to_owned() });
        }
        // Left by a service that was killed.
        owned::remove(path).map_err(unix)?;
    }
    // The umask (`host/process.rs`) closes it to others from the first moment on.
    let listener = UnixListener::bind(path).map_err(unix)?;
    owned::set_mode(path, 0o600).map_err(unix)?;
    Ok((listener, path.display().to_string()))
}

/// Makes the TCP listener.
///
/// # Errors
/// When it is not loopback, or the port cannot be had.
pub async fn tcp(address: SocketAddr) -> Result<TcpListener, ListenError> {
    loopback(address)?;
    TcpListener::bind(address).await.map_err(|source| ListenError::Tcp { address, source })
}

/// Serves the Unix socket until the service stops.
pub async fn serve_unix(listener: UnixListener, connections: Connections, routes: Arc<Routes>) {
    while let Some(permit) = connections.place().await {
        let accepted = tokio::select! {
            biased;
            () = connections.stopped() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted.and_then(|(stream, _)| Ok((stream.peer_cred()?.uid(), stream))) {
            Ok((uid, stream)) => {
                let routes = Arc::clone(&routes);
                connections.serve(stream, permit, move |request| {
                    let routes = Arc::clone(&routes);
                    async move { routes.answer(Peer::Unix(uid), request).await }
                });
            }
            Err(error) => accept_failed(&error).await,
        }
    }
}

/// Serves TCP until the service stops.
pub async fn serve_tcp(listener: TcpListener, connections: Connections, routes: Arc<Routes>) {
    while let Some(permit) = connections.place().await {
        let accepted = tokio::select! {
            biased;
            () = connections.stopped() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let routes = Arc::clone(&routes);
                connections.serve(stream, permit, move |request| {
                    let routes = Arc::clone(&routes);
                    async move { routes.answer(Peer::Tcp, request).await }
                });
            }
            Err(error) => accept_failed(&error).await,
        }
    }
}

async fn accept_failed(error: &std::io::Error) {
    // Out of descriptors, most likely: the waiting connection stays, and so would this loop's
    // speed.
    tracing::warn!(%error, "a connection cannot be accepted");
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
}
