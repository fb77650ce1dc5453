//! The valve in every connection to the model. Shut, it lets no byte out: this is what makes a halt
//! true, whatever the parts above are doing at that moment.
//!
//! | when it is shut | what happens |
//! |---|---|
//! | a write has begun in another thread | [`Valve::shut`] returns after it |
//! | anything is written later, to a connection of before | it fails, also when the valve is open again |
//! | a new connection | is not made |
//! | a connection of before, idle or in use | ends, and what the kernel has not sent is thrown away |
//!
//! A stretch is the time from one opening to the next shutting; a connection belongs to the one in
//! which it was made.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::task::{Context, Poll};

use hyper::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tower_service::Service;

use super::error::BoxError;
use crate::core::halt::Halt;

/// Open at first.
#[derive(Debug, Default)]
pub(super) struct Valve(RwLock<Arc<Stretch>>);

/// The time in which connections may be made and used, and what ended it.
#[derive(Debug, Default)]
pub(super) struct Stretch {
    over: CancellationToken,
    halt: OnceLock<Halt>,
    connections: TaskTracker,
}

impl Valve {
    /// The stretch that goes on, or the last one.
    pub(super) fn stretch(&self) -> Arc<Stretch> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Ends the stretch, if one goes on. Returns the halt that holds: the first one.
    pub(super) fn shut(&self, halt: Halt) -> Halt {
        // Whoever writes holds the other side of this lock meanwhile.
        let stretch = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let halt = stretch.halt.get_or_init(|| halt).clone();
        stretch.over.cancel();
        stretch.connections.close();
        halt
    }

    /// Begins a new stretch, if none goes on.
    pub(super) fn open(&self) {
        let mut stretch = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if stretch.halt.get().is_some() {
            *stretch = Arc::default();
        }
    }
}

impl Stretch {
    /// The halt that ended it.
    pub(super) fn halt(&self) -> Option<&Halt> {
        self.halt.get()
    }

    /// Waits for the halt that ends it.
    pub(super) async fn over(&self) -> Option<&Halt> {
        self.over.cancelled().await;
        self.halt()
    }

    /// Waits until it is over and its last connection has ended.
    pub(super) async fn empty(&self) {
        self.connections.wait().await;
    }
}

/// A connector whose connections pass the valve.
#[derive(Debug, Clone)]
pub(super) struct Valved<C> {
    pub(super) connector: C,
    pub(super) valve: Arc<Valve>,
}

impl<C> Service<Uri> for Valved<C>
where
    C: Service<Uri, Response = TokioIo<TcpStream>>,
    C::Error: Into<BoxError>,
    C::Future: Send + 'static,
{
    type Response = Pipe;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Pipe, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.connector.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        let stretch = self.valve.stretch();
        if stretch.halt().is_some() {
            return Box::pin(async { Err(shut().into()) });
        }
        // The tracker waits for those that are being made, too.
        let tracked = stretch.connections.token();
        let connecting = self.connector.call(to);
        let valve = Arc::clone(&self.valve);
        Box::pin(async move {
            let over = Box::pin(stretch.over.clone().cancelled_owned());
            let inner = tokio::select! {
                inner = connecting => inner.map_err(Into::into)?,
                () = stretch.over.cancelled() => return Err(shut().into()),
            };
            Ok(Pipe { inner, valve, stretch, over, _tracked: tracked })
        })
    }
}

/// A connection to the model.
#[derive(Debug)]
pub(super) struct Pipe {
    inner: TokioIo<TcpStream>,
    valve: Arc<Valve>,
    stretch: Arc<Stretch>,
    over: Pin<Box<WaitForCancellationFutureOwned>>,
    _tracked: TaskTrackerToken,
}

fn shut() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "the owner has halted NoClaw")
}

impl Pipe {
    /// Writes, unless the valve has been shut; it is not shut meanwhile.
    fn write<T>(
        &mut self,
        write: impl FnOnce(Pin<&mut TokioIo<TcpStream>>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let _open = self.valve.0.read().unwrap_or_else(PoisonError::into_inner);
        if self.stretch.halt().is_some() {
            return Poll::Ready(Err(shut()));
        }
        write(Pin::new(&mut self.inner))
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        if self.stretch.halt().is_some() {
            // Closing would send what is still in the kernel's buffer; now it sends a reset.
            self.inner.inner().set_zero_linger().ok();
        }
    }
}

impl Read for Pipe {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let me = self.get_mut();
        if me.over.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(shut()));
        }
        Pin::new(&mut me.inner).poll_read(cx, buffer)
    }
}

impl Write for Pipe {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().write(|inner| inner.poll_write(cx, data))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().write(|inner| inner.poll_write_vectored(cx, data))
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().write(|inner| inner.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().write(|inner| inner.poll_shutdown(cx))
    }
}

impl Connection for Pipe {
    fn connected(&self) -> Connected {
        self.inner.connected()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Counts how often it is to connect, and does not.
    #[derive(Clone, Default)]
    struct Counted(Arc<AtomicUsize>);

    impl Service<Uri> for Counted {
        type Response = TokioIo<TcpStream>;
        type Error = io::Error;
        type Future = std::future::Ready<io::Result<TokioIo<TcpStream>>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: Uri) -> Self::Future {
            self.0.fetch_add(1, Ordering::Relaxed);
            std::future::ready(Err(io::ErrorKind::ConnectionRefused.into()))
        }
    }

    #[tokio::test]
    async fn no_connection_is_begun_while_it_is_shut() {
        let counted = Counted::default();
        let valve = Arc::new(Valve::default());
        let mut valved = Valved { connector: counted.clone(), valve: Arc::clone(&valve) };
        let begun = || counted.0.load(Ordering::Relaxed);
        assert!(valved.call(Uri::default()).await.is_err());
        assert_eq!(begun(), 1);
        valve.shut(Halt { since_ms: 1, reason: None });
        let error = valved.call(Uri::default()).await.err().map(|e| e.to_string());
        assert_eq!((error, begun()), (Some(shut().to_string()), 1));
        valve.open();
        assert!(valved.call(Uri::default()).await.is_err());
        assert_eq!(begun(), 2);
    }
}
