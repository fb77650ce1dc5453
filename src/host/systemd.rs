//! What systemd hands to the service, and is told by it. Without systemd there is nothing to take,
//! and nobody to tell.
//!
//! | systemd gives | what becomes of it |
//! |---|---|
//! | a socket called `noclaw.socket` | the service's own; its file is systemd's |
//! | a socket called `noclaw-http.socket` | TCP, if it is of loopback |
//! | a socket of another name, a second one of a name, of another kind | the service does not start |
//! | `NOTIFY_SOCKET` | told: ready, a line for people, alive, more time, stopping |
//! | `WATCHDOG_USEC` | how often it wants to hear that the service lives |

use std::net::TcpListener;
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::time::Duration;

use listenfd::ListenFd;
use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::AcceptConn;
use sd_notify::NotifyState;

/// The unit, and so the name, of the service's own socket.
pub const UNIX: &str = "noclaw.socket";
/// The unit, and so the name, of its TCP socket.
pub const HTTP: &str = "noclaw-http.socket";
/// The first descriptor that is handed over.
const FIRST: i32 = 3;

/// Sockets that were opened before the service was started.
#[derive(Debug, Default)]
pub struct Sockets {
    /// At which its owner's programs speak to it.
    pub unix: Option<UnixListener>,
    /// At which those with a token do.
    pub http: Option<TcpListener>,
}

/// Why they are not taken.
#[derive(Debug, thiserror::Error)]
pub enum ActivationError {
    /// What was handed over is not told in systemd's form.
    #[error("LISTEN_FDS or LISTEN_FDNAMES is not of its form")]
    Form(#[source] std::io::Error),
    /// Nobody knows what it is for.
    #[error("a socket is called {0:?}; {UNIX} and {HTTP} are known")]
    Name(String),
    /// There are two.
    #[error("two sockets are called {0}")]
    Twice(&'static str),
    /// It is no listening socket of this kind.
    #[error("the socket called {name} is of another kind")]
    Kind {
        /// Which.
        name: &'static str,
        /// What is wrong.
        #[source]
        source: std::io::Error,
    },
}

/// Takes the sockets. Once: whoever asks again gets none.
///
/// # Errors
/// See [`ActivationError`].
pub fn sockets() -> Result<Sockets, ActivationError> {
    // What is another process's is nothing to us, however it is told.
    if sd_notify::listen_fds().map_err(ActivationError::Form)?.len() == 0 {
        return Ok(Sockets::default());
    }
    // First: the other one forgets what was handed over.
    let names = sd_notify::listen_fds_with_names().map_err(ActivationError::Form)?;
    let mut given = ListenFd::from_env();
    let mut sockets = Sockets::default();
    for (fd, name) in names {
        let at = usize::try_from(fd - FIRST).unwrap_or_default();
        match name.as_str() {
            UNIX => take(&mut sockets.unix, UNIX, given.take_unix_listener(at))?,
            HTTP => take(&mut sockets.http, HTTP, given.take_tcp_listener(at))?,
            _ => return Err(ActivationError::Name(name)),
        }
    }
    Ok(sockets)
}

fn take<T: AsFd>(
    place: &mut Option<T>,
    name: &'static str,
    given: std::io::Result<Option<T>>,
) -> Result<(), ActivationError> {
    let kind = |source| ActivationError::Kind { name, source };
    let listener = given.map_err(kind)?;
    if let Some(listener) = &listener
        && !getsockopt(listener, AcceptConn).map_err(|errno| kind(errno.into()))?
    {
        return Err(kind(std::io::Error::other("it does not listen")));
    }
    match place.is_some() {
        true => Err(ActivationError::Twice(name)),
        false => {
            *place = listener;
            Ok(())
        }
    }
}

/// The service can accept messages.
pub fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// What it does, in a line for people.
pub fn status(line: &str) {
    tell(&[NotifyState::Status(line)]);
}

/// It lives.
pub fn alive() {
    tell(&[NotifyState::Watchdog]);
}

/// It stops, and needs so much more time before it is to be killed.
pub fn stopping(more: Duration, status: &str) {
    let more = u32::try_from(more.as_micros()).unwrap_or(u32::MAX);
    let extend = NotifyState::ExtendTimeoutUsec(more);
    tell(&[NotifyState::Stopping, extend, NotifyState::Status(status)]);
}

/// After how long a silent service is killed; `None`: never.
pub fn watchdog() -> Option<Duration> {
    sd_notify::watchdog_enabled()
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "systemd is not told");
    }
}
