//! What tests stand on: a house (a real `noclaw serve` with its own state and socket on the real
//! rootless Podman) and a plain HTTP client that can also send what no client would.
//!
//! A test that lacks its precondition fails: run the tests by `make test`. A house that answered
//! from a cell leaves a file in `$NOCLAW_TEST_DIR/cells`, which `make test` counts, and when it
//! ends it sees that no container of its own is left.

#![allow(dead_code, reason = "each test file uses its part")]
#![expect(clippy::indexing_slicing, reason = "a JSON value has null at what is not there")]

pub mod broken;
pub mod podmans;
pub mod recorder;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

pub type Error = Box<dyn std::error::Error + Send + Sync>;
pub type Result<T = ()> = std::result::Result<T, Error>;

/// The program under test.
pub const NOCLAW: &str = env!("CARGO_BIN_EXE_noclaw");
/// How long anything may take before a test gives up on it.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A setting of the test ground.
pub fn ground(name: &str) -> Result<String> {
    std::env::var(name)
        .map_err(|_| format!("{name} is not set: run the tests by `make test`").into())
}

/// How much longer things may take here than on a machine of today: 1, or what `make vm-test` says
/// when it emulates one.
pub fn slowness() -> u32 {
    std::env::var("NOCLAW_TEST_SLOWNESS").ok().and_then(|times| times.parse().ok()).unwrap_or(1)
}

/// Waits until `ready` gives something; asks often, gives up after [`PATIENCE`], times the
/// [`slowness`].
pub fn until<T>(what: &str, mut ready: impl FnMut() -> Option<T>) -> Result<T> {
    let patience = PATIENCE * slowness();
    let deadline = Instant::now() + patience;
    loop {
        if let Some(value) = ready() {
            return Ok(value);
        }
        if Instant::now() > deadline {
            return Err(format!("{what}: not within {patience:?}").into());
        }
        #[expect(clippy::disallowed_methods, reason = "the one poll, with a deadline")]
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A service of a test's own.
pub struct House {
    dir: tempfile::TempDir,
    child: Option<Child>,
    args: Vec<String>,
    env: Vec<(String, String)>,
    podman: String,
    address: Option<String>,
    /// The `noclaw` that serves it.
    pub program: PathBuf,
}

impl House {
    /// Starts a service with the demo model and more flags.
    pub fn start(args: &[&str]) -> Result<Self> {
        Self::with_model("demo", args)
    }

    /// Starts a service with a model of the test's own.
    pub fn with_model(model: &str, args: &[&str]) -> Result<Self> {
        let mut all = vec!["--model-api", model];
        all.extend(args);
        let mut house = Self::closed(&ground("NOCLAW_PODMAN")?, &all)?;
        house.open()?;
        Ok(house)
    }

    /// A house whose service has not been started.
    pub fn closed(podman: &str, args: &[&str]) -> Result<Self> {
        let args = args.iter().map(ToString::to_string).collect();
        let dir = tempfile::Builder::new().prefix("noclaw-").tempdir()?;
        let podman = podman.to_owned();
        let (child, env, address, program) = (None, vec![], None, NOCLAW.into());
        Ok(Self { dir, child, args, env, podman, address, program })
    }

    /// More flags, before it is opened.
    pub fn args(&mut self, args: &[&str]) {
        self.args.extend(args.iter().map(ToString::to_string));
    }

    /// Opens it again with another value of a flag, beside the ones it has.
    pub fn reopen_with(&mut self, flag: &str, value: &str) -> Result {
        self.close()?;
        if let Some(at) = self.args.iter().position(|arg| arg == flag) {
            self.args.drain(at..at + 2);
        }
        self.args(&[flag, value]);
        self.open()
    }

    /// A key file with this key, before it is opened.
    pub fn key(&mut self, key: &str) -> Result {
        let file = self.path("key");
        fs::write(&file, format!("{key}\n"))?;
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600))?;
        self.args(&["--api-key-file", &file.display().to_string()]);
        Ok(())
    }

    /// A variable of the service's environment, before it is opened.
    pub fn env(&mut self, name: &str, value: &str) {
        self.env.push((name.to_owned(), value.to_owned()));
    }

    /// Starts the service and waits until it listens.
    pub fn open(&mut self) -> Result {
        let log = File::options().create(true).append(true).open(self.log())?;
        let mut command = self.serve()?;
        self.child = Some(command.stdin(Stdio::null()).stderr(log).spawn()?);
        let socket = self.socket();
        until("the service listens", || UnixStream::connect(&socket).ok())?;
        if slowness() > 1 {
            // A message is not kept waiting for as long as its Podman's first answer takes here.
            until("Podman answers", || match self.get("/readyz").ok()?.problem() {
                Ok(problem) if problem == "podman-unavailable" => None,
                _ => Some(()),
            })?;
        }
        if self.args.iter().any(|arg| arg == "--listen") {
            let status = self.get("/v1/status")?.json()?;
            let listening = status["listening"][1].as_str().ok_or("no address")?;
            self.address = Some(listening.trim_start_matches("http://").to_owned());
        }
        Ok(())
    }

    /// The command that serves this house.
    pub fn serve(&self) -> Result<Command> {
        let mut command = Command::new(&self.program);
        command.arg("serve").arg("--state").arg(self.path("state"));
        command.arg("--config").arg(self.path("config")).arg("--socket").arg(self.socket());
        command.arg("--podman").arg(&self.podman);
        if !self.args.iter().any(|arg| arg == "--launcher") {
            command.arg("--launcher").arg(ground("NOCLAW_TEST_LAUNCHER")?);
        }
        command.args(&self.args).envs(self.env.iter().cloned());
        Ok(command)
    }

    /// A path in the house's directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// In a folder of its own, as it is where nobody says otherwise.
    pub fn socket(&self) -> PathBuf {
        self.path("run/noclaw.sock")
    }

    /// A file by which a test and the service wait for each other: where the service may write.
    pub fn point(&self, name: &str) -> Result<PathBuf> {
        let state = self.path("state");
        fs::create_dir_all(&state)?;
        fs::set_permissions(&state, fs::Permissions::from_mode(0o700))?;
        Ok(state.join(name))
    }

    fn log(&self) -> PathBuf {
        self.path("log")
    }

    /// What the service has logged.
    pub fn logged(&self) -> String {
        fs::read_to_string(self.log()).unwrap_or_default()
    }

    /// The service's process.
    pub fn pid(&self) -> Option<i32> {
        self.child.as_ref().and_then(|child| i32::try_from(child.id()).ok())
    }

    /// A command of the command line's, speaking to this house.
    pub fn noclaw(&self, args: &[&str]) -> Command {
        let mut command = Command::new(NOCLAW);
        command.args(args).env("NOCLAW_SOCKET", self.socket()).env("NOCLAW_PODMAN", &self.podman);
        command.stdin(Stdio::null());
        command
    }

    /// Sends a message and expects a reply.
    pub fn send(&self, args: &[&str]) -> Result<String> {
        let output = self.noclaw(&[&["send"], args].concat()).output()?;
        if !output.status.success() {
            return Err(format!("send {args:?}: {}", told(&output)).into());
        }
        Ok(String::from_utf8(output.stdout)?.trim_end().to_owned())
    }

    /// Sends a message and returns its run as JSON, whatever its end.
    pub fn run(&self, args: &[&str]) -> Result<Value> {
        let output = self.noclaw(&[&["send", "--json"], args].concat()).output()?;
        serde_json::from_slice(&output.stdout).map_err(|_| told(&output).into())
    }

    /// A run, with all that is known of it.
    pub fn show(&self, run: &Value) -> Result<Value> {
        let id = run["run"].as_str().ok_or("no run")?;
        self.get(&format!("/v1/runs/{id}"))?.json()
    }

    /// Sends JSON by any method.
    pub fn call(&self, method: &str, path: &str, body: &Value) -> Result<Answer> {
        self.request(post(path, "", &body.to_string()).replacen("POST", method, 1))
    }

    /// A user's workspace.
    pub fn workspace(&self, user: &str) -> PathBuf {
        self.path(&format!("state/users/{user}/workspace"))
    }

    pub fn get(&self, path: &str) -> Result<Answer> {
        self.request(format!("GET {path} HTTP/1.1\r\nhost: n\r\nconnection: close\r\n\r\n"))
    }

    /// Posts JSON over the Unix socket.
    pub fn post(&self, path: &str, json: &str) -> Result<Answer> {
        self.request(post(path, "", json))
    }

    /// Sends these bytes over the Unix socket.
    pub fn request(&self, bytes: impl AsRef<[u8]>) -> Result<Answer> {
        exchange(UnixStream::connect(self.socket())?, bytes.as_ref())
    }

    /// Sends these bytes over TCP.
    pub fn tcp(&self, bytes: impl AsRef<[u8]>) -> Result<Answer> {
        exchange(self.connect()?, bytes.as_ref())
    }

    /// A connection over TCP.
    pub fn connect(&self) -> Result<TcpStream> {
        let address = self.address.as_ref().ok_or("the house does not listen on TCP")?;
        Ok(TcpStream::connect(address)?)
    }

    /// Sends SIGTERM and waits for the end.
    pub fn close(&mut self) -> Result {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id())?);
        nix::sys::signal::kill(pid, nix::sys::signal::SIGTERM)?;
        let status = until("the service ends", || child.try_wait().ok().flatten())?;
        if status.success() { Ok(()) } else { Err(format!("serve ended with {status}").into()) }
    }

    /// `kill -9`.
    pub fn kill(&mut self) -> Result {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// The ids of this house's containers, running or not, as its own Podman tells them.
    pub fn containers(&self) -> Result<Vec<String>> {
        self.containers_at(&self.podman)
    }

    /// The same, asked at another socket: that of the house may be a test's own.
    pub fn containers_at(&self, podman: &str) -> Result<Vec<String>> {
        let instance = fs::read_to_string(self.path("state/instance"))?;
        let label = format!("label=io.noclaw.instance={instance}");
        let list = ["ps", "--all", "--quiet", "--no-trunc", "--filter", &label];
        let output = podman_at(podman, &list)?;
        Ok(output.lines().map(str::to_owned).collect())
    }

    /// Counts the test among those that used a real cell, if it did.
    fn count(&self) -> Result {
        let runs = self.get("/v1/runs?limit=100")?.json()?;
        let runs = runs["runs"].as_array().map(Vec::as_slice).unwrap_or_default();
        if runs.iter().any(|run| run["container"].is_string()) {
            let cells = Path::new(&ground("NOCLAW_TEST_DIR")?).join("cells");
            fs::create_dir_all(&cells)?;
            let name = std::thread::current().name().unwrap_or("unnamed").replace("::", ".");
            File::create(cells.join(name))?;
        }
        Ok(())
    }
}

impl Drop for House {
    fn drop(&mut self) {
        let counted = if self.child.is_some() { self.count() } else { Ok(()) };
        let closed = self.close();
        // A house that never opened has no instance, and without a Podman there are no containers.
        let opened = self.path("state/instance").exists() && Path::new(&self.podman).exists();
        let left = if opened { self.containers() } else { Ok(Vec::new()) };
        if std::thread::panicking() {
            eprintln!("--- log of the service\n{}", self.logged());
        } else {
            assert!(closed.is_ok(), "{closed:?}\n{}", self.logged());
            assert!(counted.is_ok(), "{counted:?}\n{}", self.logged());
            let none = left.as_ref().is_ok_and(Vec::is_empty);
            assert!(none, "containers are left: {left:?}\n{}", self.logged());
        }
    }
}

/// Asks Podman's command line, at the ground's service.
pub fn podman(args: &[&str]) -> Result<String> {
    podman_at(&ground("NOCLAW_PODMAN")?, args)
}

/// Asks Podman's command line, at the service with this socket.
pub fn podman_at(socket: &str, args: &[&str]) -> Result<String> {
    let url = format!("unix://{socket}");
    let output = Command::new("podman").args(["--url", &url]).args(args).output()?;
    if !output.status.success() {
        return Err(format!("podman {args:?}: {}", told(&output)).into());
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// What a command said and how it ended.
pub fn told(output: &Output) -> String {
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    format!("{}: {}{}", output.status, text(&output.stdout), text(&output.stderr))
}

/// The command must have exited so; returns what it wrote to both of its streams.
pub fn exits(output: &Output, status: i32) -> String {
    assert_eq!(output.status.code(), Some(status), "{}", told(output));
    told(output)
}

/// A POST request; `headers` end in CRLF each.
pub fn post(path: &str, headers: &str, json: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nhost: n\r\nconnection: close\r\ncontent-type: application/json\r\n\
         {headers}content-length: {}\r\n\r\n{json}",
        json.len()
    )
}

/// An HTTP answer.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Answer {
    pub fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.body).map_err(|e| format!("{e}: {self:?}").into())
    }

    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    /// The name of the problem it reports.
    pub fn problem(&self) -> Result<String> {
        let json = self.json()?;
        let kind = json["type"].as_str().and_then(|kind| kind.strip_prefix("urn:noclaw:problem:"));
        Ok(kind.ok_or_else(|| format!("no problem document: {self:?}"))?.to_owned())
    }
}

/// Sends these bytes and reads the answer to its end.
pub fn exchange(mut stream: impl Read + Write, bytes: &[u8]) -> Result<Answer> {
    // A server that refuses early may close before it has read everything.
    stream.write_all(bytes).ok();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok();
    let answer = String::from_utf8(answer)?;
    let (head, body) =
        answer.split_once("\r\n\r\n").ok_or_else(|| format!("no answer: {answer:?}"))?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.ok_or_else(|| format!("no status: {head}"))?;
    Ok(Answer { status, head: head.to_owned(), body: body.to_owned() })
}
