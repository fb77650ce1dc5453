//! Serves connections of a listener within limits: so many at a time, a head within its time and
//! size, a client that takes what it is sent. When it is told to stop, it takes no new ones and
//! lets each finish its request.

use std::convert::Infallible;
use std::sync::Arc;

use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;
use tokio_io_timeout::TimeoutStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::reply::Body;
use crate::core::limits::{CONNECTIONS, HEADER_BYTES, REQUEST_TIME, WRITE_TIME};

/// Connections of one service, on any number of listeners.
#[derive(Debug, Clone)]
pub struct Connections {
    permits: Arc<Semaphore>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Connections {
    /// None yet; `stop` ends them.
    pub fn new(stop: CancellationToken) -> Self {
        let permits = Arc::new(Semaphore::new(CONNECTIONS));
        Self { permits, tasks: TaskTracker::new(), stop }
    }

    /// Places of its own for another listener, so that who fills one cannot close the other.
    #[must_use]
    pub fn another(&self) -> Self {
        Self { permits: Arc::new(Semaphore::new(CONNECTIONS)), ..self.clone() }
    }

    /// Waits for a place. `None` when the service stops.
    pub async fn place(&self) -> Option<tokio::sync::OwnedSemaphorePermit> {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => None,
            permit = self.permits.clone().acquire_owned() => permit.ok(),
        }
    }

    /// Becomes ready when the service stops.
    pub async fn stopped(&self) {
        self.stop.cancelled().await;
    }

    /// Serves one connection in a task of its own.
    pub fn serve<S, H, F>(&self, stream: S, permit: tokio::sync::OwnedSemaphorePermit, handle: H)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
        H: Fn(Request<Incoming>) -> F + Send + Sync + 'static,
        F: Future<Output = Response<Body>> + Send + 'static,
    {
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            let service = service_fn(move |request| {
                let answer = handle(request);
                async move { Ok::<_, Infallible>(answer.await) }
            });
            let mut stream = TimeoutStream::new(stream);
            stream.set_write_timeout(Some(WRITE_TIME));
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(REQUEST_TIME)
                .max_buf_size(HEADER_BYTES)
                .serve_connection(TokioIo::new(Box::pin(stream)), service);
            tokio::pin!(connection);
            let result = tokio::select! {
                result = connection.as_mut() => result,
                () = stop.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            if let Err(error) = result {
                tracing::debug!(%error, "a connection ended early");
            }
            drop(permit);
        });
    }

    /// Waits until all have ended. Call it once `stop` was cancelled.
    pub async fn ended(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }
}
