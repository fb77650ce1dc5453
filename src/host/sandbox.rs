//! The service's own sandbox: Landlock, entered before there is a second thread. What it may still
//! do is `data/service.json`; that it holds is tried out at once.
//!
//! | what fails | what happens |
//! |---|---|
//! | the kernel has no Landlock of ABI 2 | the service does not start: no cell could either |
//! | there is a second thread, which would stay free | the service does not start |
//! | `/` can still be listed afterwards | the service does not start |
//! | the place of a rule is not there | no rule: it is out of reach until the next start |
//!
//! Landlock asks when a file is opened, not when it is only looked up: folders that the owner
//! grants are opened as places (`host/mounts/open.rs`), which needs no right.

#![expect(clippy::disallowed_methods, reason = "it tries out what it may open")]

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use noclaw_cell::job::Rule;
use noclaw_cell::preflight::Landlock;
use noclaw_cell::restrict::{Ports, RestrictError, restrict};

use super::owned;

const RULES: &str = include_str!("../../data/service.json");
/// What helps on a kernel without.
pub const HINT: &str =
    "a kernel of 5.19 or newer with `landlock` in CONFIG_LSM (or lsm= on its command line)";
/// Names of hosts, when an answer is too long for a datagram.
const DNS: u16 = 53;

/// What the names in braces of `data/service.json` stand for, and the ports.
#[derive(Debug)]
pub struct Reach<'a> {
    /// The state directory.
    pub state: &'a Path,
    /// The configuration directory.
    pub config: &'a Path,
    /// The service's socket.
    pub socket: &'a Path,
    /// Podman's socket.
    pub podman: &'a Path,
    /// The TCP port that the service listens at; 0 is any.
    pub listen: Option<u16>,
    /// The TCP port that the model is at.
    pub model: u16,
}

/// Why the service is not confined.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The shipped table does not parse.
    #[error("data/service.json is not a table of rules")]
    Table(#[from] serde_json::Error),
    /// Landlock cannot be had.
    #[error("the service cannot confine itself")]
    Restrict(#[from] RestrictError),
    /// A directory of the service's own cannot be made.
    #[error("cannot make {}", path.display())]
    Make {
        /// Which one.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// There are more threads than this one.
    #[error("the service has {0} threads before it is confined")]
    Threads(usize),
    /// What is refused can be done.
    #[error("the service is confined, and `/` can still be listed: Landlock does not hold")]
    Open,
}

/// Confines this process.
///
/// # Errors
/// See [`SandboxError`]; the process may be confined then all the same.
pub fn enter(reach: &Reach<'_>) -> Result<Landlock, SandboxError> {
    let threads = fs::read_dir("/proc/self/task").map_or(0, Iterator::count);
    if threads != 1 {
        return Err(SandboxError::Threads(threads));
    }
    confine(reach)
}

/// Confines this thread and what it starts.
fn confine(reach: &Reach<'_>) -> Result<Landlock, SandboxError> {
    // Rules are about what is there, so what is the service's own has to be.
    for own in [Some(reach.state), Some(reach.config), reach.socket.parent()].into_iter().flatten()
    {
        match owned::make_directory(own) {
            // Under systemd the home is read-only: a configuration that is made later is seen at
            // the next start.
            Err(error) if is_read_only(&error) && own == reach.config => {
                tracing::info!(config = %own.display(), "no configuration, none until a restart");
            }
            made => made.map_err(|source| SandboxError::Make { path: own.to_owned(), source })?,
        }
    }
    if reach.socket.parent().is_some_and(|folder| holds_more(folder, reach.socket)) {
        let words =
            "the socket should have a folder of its own: the service could remove what else";
        tracing::warn!(socket = %reach.socket.display(), "{words} lies in this one");
    }
    let ports = Ports { bind: reach.listen.into_iter().collect(), connect: vec![reach.model, DNS] };
    let landlock = restrict(&rules(reach)?, &ports)?;
    match fs::read_dir("/") {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(landlock),
        _ => Err(SandboxError::Open),
    }
}

fn is_read_only(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::ReadOnlyFilesystem
}

fn holds_more(folder: &Path, socket: &Path) -> bool {
    let mut entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.any(|entry| Some(entry.file_name().as_os_str()) != socket.file_name())
}

/// The table with its names filled in, without what is not there.
fn rules(reach: &Reach<'_>) -> Result<Vec<Rule>, serde_json::Error> {
    let table: Vec<Rule> = serde_json::from_str(RULES)?;
    let filled = table.into_iter().flat_map(|rule| {
        let places = places(reach, &rule.path);
        places.into_iter().map(move |path| Rule { path, ..rule.clone() })
    });
    Ok(filled.filter(|rule| owned::exists(Path::new(&rule.path))).collect())
}

fn places(reach: &Reach<'_>, name: &str) -> Vec<String> {
    let variable = |name| std::env::var_os(name).map(PathBuf::from);
    let folder = |path: &Path| path.parent().map(Path::to_owned);
    let places = match name {
        "{state}" => vec![Some(reach.state.to_owned())],
        "{config}" => vec![Some(reach.config.to_owned())],
        "{socket}" => vec![folder(reach.socket)],
        "{podman}" => vec![folder(reach.podman)],
        "{certificates}" => vec![variable("SSL_CERT_FILE"), variable("SSL_CERT_DIR")],
        "{notify}" => vec![variable("NOTIFY_SOCKET").filter(|path| path.is_absolute())],
        path => vec![Some(path.into())],
    };
    let text = |path: PathBuf| path.into_os_string().into_string().ok();
    places.into_iter().flatten().filter_map(text).collect()
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::process::{Command, Stdio};

    use super::*;

    type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

    fn refused<T>(result: io::Result<T>) -> bool {
        result.is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
    }

    /// Runs it in a thread of its own, which is thrown away: confining is for good.
    fn confined(test: impl FnOnce(&Path) -> Result + Send + 'static) -> Result {
        let directory = tempfile::tempdir()?;
        let base = directory.path().to_owned();
        let test = std::thread::spawn(move || test(&base));
        test.join().map_err(|_| "the confined thread panicked")?
    }

    fn enter_at(base: &Path, listen: Option<u16>, model: u16) -> Result<Landlock> {
        let [state, config] = ["state", "config"].map(|name| base.join(name));
        let [socket, podman] =
            ["run/noclaw.sock", "podman/podman.sock"].map(|name| base.join(name));
        let reach = Reach {
            state: &state,
            config: &config,
            socket: &socket,
            podman: &podman,
            listen,
            model,
        };
        Ok(confine(&reach)?)
    }

    #[test]
    fn a_confined_service_has_its_own_files_and_no_others() -> Result {
        confined(|base| {
            fs::create_dir_all(base.join("podman"))?;
            fs::create_dir_all(base.join("config"))?;
            fs::write(base.join("config/instructions.md"), "be kind")?;
            fs::write(base.join("key"), "sk-x")?;
            fs::write(base.join("podman/auth.json"), "{}")?;
            let podman = UnixListener::bind(base.join("podman/podman.sock"))?;
            let mut another = Command::new("cat").stdin(Stdio::piped()).spawn()?;
            let landlock = enter_at(base, None, 443)?;

            fs::write(base.join("state/db"), "rows")?;
            fs::rename(base.join("state/db"), base.join("state/db2"))?;
            let socket = UnixListener::bind(base.join("run/noclaw.sock"))?;
            UnixStream::connect(base.join("run/noclaw.sock"))?;
            fs::remove_file(base.join("run/noclaw.sock"))?;
            drop(socket);
            assert_eq!(fs::read_to_string(base.join("config/instructions.md"))?, "be kind");
            UnixStream::connect(base.join("podman/podman.sock"))?;
            drop(podman);
            fs::read_to_string("/etc/hosts")?;
            fs::read_to_string("/proc/self/mountinfo")?;

            assert!(refused(fs::read_dir(base)), "listed a folder of the owner's");
            assert!(refused(fs::write(base.join("new"), "")), "made a file of the owner's");
            assert!(refused(fs::write(base.join("run/new"), "")), "made a file beside its socket");
            assert!(refused(fs::read_dir(base.join("run"))), "listed what is beside its socket");
            assert!(refused(fs::write(base.join("config/mount-allowlist.json"), "{}")));
            assert!(refused(fs::read(base.join("key"))), "read the key");
            fs::read_dir(base.join("podman"))?;
            let beside = fs::read(base.join("podman/auth.json"));
            assert!(refused(beside), "read what is beside Podman's socket");
            assert!(refused(fs::remove_file(base.join("podman/podman.sock"))));
            let link = fs::hard_link(base.join("key"), base.join("state/key"));
            assert!(link.is_err(), "gave the key another name");
            assert!(refused(fs::read_dir("/home")), "listed /home");
            assert!(refused(Command::new("/bin/true").status()), "executed a program");
            let environment = fs::read(format!("/proc/{}/environ", another.id()));
            assert!(
                !landlock.scoped || another.kill().is_err(),
                "sent a signal to another process"
            );
            drop(another.stdin.take());
            another.wait()?;
            // Whoever may watch performance may look into every process, and so may root.
            let root = nix::unistd::geteuid().is_root();
            assert!(root || refused(environment), "looked into another process");
            Ok(())
        })
    }

    #[test]
    fn a_confined_service_has_its_own_ports_and_no_others() -> Result {
        confined(|base| {
            let (model, other) = (TcpListener::bind("[::1]:0")?, TcpListener::bind("[::1]:0")?);
            let landlock = enter_at(base, None, model.local_addr()?.port())?;
            assert!(landlock.floor_enforced);
            TcpStream::connect(model.local_addr()?)?;
            if landlock.tcp_denied {
                assert!(refused(TcpStream::connect(other.local_addr()?)), "connected elsewhere");
                assert!(refused(TcpListener::bind("[::1]:0")), "listened");
            }
            Ok(())
        })
    }

    #[test]
    fn a_service_that_listens_may() -> Result {
        confined(|base| {
            enter_at(base, Some(0), 443)?;
            TcpListener::bind("[::1]:0")?;
            Ok(())
        })
    }

    #[test]
    fn a_process_with_threads_is_not_confined_in_part() -> Result {
        let path = Path::new("/nowhere/at/all");
        let reach = Reach {
            state: path,
            config: path,
            socket: path,
            podman: path,
            listen: None,
            model: 443,
        };
        // The test harness has threads.
        let Err(SandboxError::Threads(threads)) = enter(&reach) else {
            return Err("it was entered".into());
        };
        assert!(threads > 1);
        Ok(())
    }
}
