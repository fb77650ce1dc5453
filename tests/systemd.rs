//! What systemd does for the service and is told by it, where none runs: sockets come from
//! systemd-socket-activate, and a test listens where systemd would. `make vm-test` has a real one.

#![expect(clippy::disallowed_methods, reason = "a test makes files of its own")]

mod support;

use std::fs;
use std::net::TcpListener;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use support::{House, Result, exits, ground, told, until};

/// Names of sockets, and where each is: `own` is the house's.
type Sockets<'a> = [(&'a str, &'a str)];

/// A house whose sockets are systemd's, before anybody has knocked.
struct Activated {
    house: House,
    service: Child,
    notify: UnixDatagram,
    heard: Vec<String>,
}

impl Activated {
    fn new(sockets: &Sockets<'_>, podman: &str) -> Result<Self> {
        Self::of(House::closed(podman, &["--model-api", "demo"])?, sockets, &[])
    }

    /// With variables that the service is given, as `NAME=VALUE`.
    fn of(house: House, sockets: &Sockets<'_>, env: &[String]) -> Result<Self> {
        let notify = house.path("notify");
        let names: Vec<_> = sockets.iter().map(|(name, _)| *name).collect();
        let mut command = Command::new("systemd-socket-activate");
        command.arg(format!("--fdname={}", names.join(":")));
        for (_, place) in sockets {
            let place = if *place == "own" { house.socket() } else { place.into() };
            command.arg("-l").arg(place);
        }
        command.arg("-E").arg(format!("NOTIFY_SOCKET={}", notify.display()));
        command.args(["-E", "WATCHDOG_USEC=1500000"]);
        let serve = house.serve()?;
        let inherited = std::env::vars().filter(|(name, _)| name.starts_with("NOCLAW_"));
        let own = ["HOME", "XDG_RUNTIME_DIR"].map(|name| (name.to_owned(), std::env::var(name)));
        let own = own.into_iter().filter_map(|(name, value)| Some((name, value.ok()?)));
        let given = inherited.chain(own).map(|(name, value)| format!("{name}={value}"));
        for variable in given.chain(env.iter().cloned()) {
            command.arg("-E").arg(variable);
        }
        command.arg(serve.get_program()).args(serve.get_args());
        fs::create_dir_all(house.path("run"))?;
        let notify = UnixDatagram::bind(notify)?;
        notify.set_read_timeout(Some(Duration::from_secs(60)))?;
        let log = fs::File::create(house.path("log"))?;
        let service = command.stdin(Stdio::null()).stderr(log).spawn()?;
        let listens = || house.logged().matches("Listening on ").count() == sockets.len();
        until("systemd-socket-activate listens", || listens().then_some(()))?;
        Ok(Self { house, service, notify, heard: vec![] })
    }

    /// Waits for a message with this word, and returns it.
    fn hear(&mut self, word: &str) -> Result<String> {
        let mut buffer = [0; 4096];
        loop {
            let length = self.notify.recv(&mut buffer).map_err(|error| {
                format!("nobody said {word}: {error}; {:?}; {}", self.heard, self.house.logged())
            })?;
            let said = String::from_utf8_lossy(buffer.get(..length).unwrap_or_default());
            self.heard.push(said.clone().into_owned());
            if said.contains(word) {
                return Ok(said.into_owned());
            }
        }
    }
}

/// One at which somebody has knocked. It stands, or ends, by a file, which this variable names.
fn knocked(variable: &str, file: &str) -> Result<(Activated, PathBuf)> {
    let house = House::closed(&ground("NOCLAW_PODMAN")?, &["--model-api", "demo"])?;
    let point = house.point(file)?;
    let env = format!("{variable}{}", point.display());
    let mut activated = Activated::of(house, &[("noclaw.socket", "own")], &[env])?;
    exits(&activated.house.noclaw(&["run", "list"]).output()?, 0);
    activated.hear("READY=1")?;
    Ok((activated, point))
}

impl Drop for Activated {
    fn drop(&mut self) {
        self.service.kill().ok();
        self.service.wait().ok();
    }
}

fn free_port() -> Result<String> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string())
}

fn get(address: &str, headers: &[&str]) -> Result<String> {
    let mut curl = Command::new("curl");
    curl.args([
        "-s",
        "-o",
        "/dev/null",
        "-w",
        "%{http_code}",
        &format!("http://{address}/v1/runs"),
    ]);
    for header in headers {
        curl.args(["-H", header]);
    }
    Ok(exits(&curl.output()?, 0))
}

#[test]
fn the_first_connection_starts_it_and_systemd_hears_how_it_is_until_it_stops() -> Result {
    let tcp = free_port()?;
    let sockets = [("noclaw.socket", "own"), ("noclaw-http.socket", tcp.as_str())];
    let mut activated = Activated::new(&sockets, &ground("NOCLAW_PODMAN")?)?;
    let state = activated.house.path("state");
    assert!(!state.exists(), "nobody has knocked");
    assert_eq!(activated.house.send(&["hello"])?, "You said: hello");
    let first = activated.hear("READY=1")?;
    let lines = ["STATUS=asking Podman; ", "STATUS=ready; "];
    assert!(lines.iter().any(|line| first.contains(line)), "{first}");
    activated.hear("WATCHDOG=1")?;
    activated.hear("STATUS=ready; idle")?;
    assert!(get(&tcp, &[])?.contains("401"), "without a token");
    let token = activated.house.noclaw(&["token", "create"]).output()?;
    let bearer = format!("Authorization: Bearer {}", String::from_utf8(token.stdout)?.trim());
    assert!(get(&tcp, &[&bearer])?.contains("200"), "with one");

    let listening = activated.house.get("/v1/status")?.json()?["listening"].clone();
    let socket = activated.house.socket();
    assert_eq!(listening, serde_json::json!([socket, format!("http://{tcp}")]));

    // While a run is going on it asks for time until that has ended.
    let send = activated.house.noclaw(&["send", "!sleep 4"]).stderr(Stdio::piped()).spawn()?;
    activated.hear("1 running")?;
    kill(Pid::from_raw(activated.service.id().try_into()?), Signal::SIGTERM)?;
    let stopping = activated.hear("STOPPING=1")?;
    assert!(stopping.contains("EXTEND_TIMEOUT_USEC=20000000"), "{stopping}");
    assert!(stopping.contains("STATUS=stopping; 1 running"), "{stopping}");
    activated.hear("STATUS=stopping; ")?;
    assert!(activated.service.wait()?.success(), "{}", activated.house.logged());
    // Who waits is told at once which run it is; the run itself has had its time.
    exits(&send.wait_with_output()?, 75);
    assert_eq!(activated.house.logged().matches("state=answered").count(), 2);
    assert!(socket.exists(), "the socket is systemd's");
    Ok(())
}

#[test]
fn what_is_missing_is_in_the_line_and_does_not_keep_it_from_being_ready() -> Result {
    let mut activated = Activated::new(&[("noclaw.socket", "own")], "/nonexistent/podman.sock")?;
    exits(&activated.house.noclaw(&["run", "list"]).output()?, 0);
    activated.hear("READY=1")?;
    let line = activated.hear("STATUS=not ready: ")?;
    assert!(line.contains("(systemctl --user start podman.socket"), "{line}");
    activated.hear("WATCHDOG=1")?;
    Ok(())
}

/// One that takes connections and says nothing, as Podman may for a minute after a start.
#[test]
fn a_podman_that_does_not_answer_keeps_it_neither_from_being_ready_nor_alive() -> Result {
    let folder = tempfile::tempdir()?;
    let podman = folder.path().join("podman.sock");
    let mut activated = Activated::new(&[("noclaw.socket", "own")], &podman.to_string_lossy())?;
    // Gone before the house looks for what was left.
    let _silent = (UnixListener::bind(&podman)?, folder);
    exits(&activated.house.noclaw(&["run", "list"]).output()?, 0);
    let first = activated.hear("READY=1")?;
    assert!(first.contains("STATUS=asking Podman; idle"), "{first}");
    activated.hear("WATCHDOG=1")?;
    let line = activated.hear("STATUS=not ready: ")?;
    assert!(line.contains("Podman did not answer"), "{line}");
    Ok(())
}

#[test]
fn a_service_that_looks_for_no_run_is_not_told_alive() -> Result {
    let (mut activated, point) = knocked("NOCLAW_TEST_PAUSE=turn:", "turn")?;
    until("it stands", || point.exists().then_some(()))?;
    let stands = |house: &House| house.logged().matches("runs are not looked for").count();
    until("it is noticed", || (stands(&activated.house) > 0).then_some(()))?;
    // What was said before it stood; from now on nothing is that it lives.
    activated.notify.set_nonblocking(true)?;
    while activated.notify.recv(&mut [0; 4096]).is_ok() {}
    let noticed = stands(&activated.house);
    until("it is noticed again", || (stands(&activated.house) > noticed + 2).then_some(()))?;
    let mut buffer = [0; 4096];
    while let Ok(length) = activated.notify.recv(&mut buffer) {
        let said = String::from_utf8_lossy(&buffer[..length]);
        assert!(!said.contains("WATCHDOG=1"), "{said}");
    }
    activated.notify.set_nonblocking(false)?;
    fs::remove_file(&point)?;
    activated.hear("WATCHDOG=1")?;
    Ok(())
}

#[test]
fn a_service_that_answers_no_more_ends_as_one_that_has_failed() -> Result {
    let (mut activated, point) = knocked("NOCLAW_TEST_LEAVE=", "leave")?;
    activated.hear("WATCHDOG=1")?;
    fs::write(&point, "")?;
    let ended = until("it ends", || activated.service.try_wait().ok().flatten())?;
    let said = activated.house.logged();
    assert_eq!(ended.code(), Some(70), "{said}");
    assert!(said.contains("nothing answers any more") && said.contains("hint: "), "{said}");
    Ok(())
}

#[test]
fn a_socket_that_nobody_knows_or_that_is_open_to_the_network_is_refused() -> Result {
    let open = free_port()?.replace("127.0.0.1", "0.0.0.0");
    let tcp = free_port()?;
    let refused: [(&Sockets<'_>, i32, &str); 4] = [
        (&[("other.socket", "own")], 78, "a socket is called \"other.socket\""),
        (&[("noclaw.socket", "own"), ("noclaw.socket", &tcp)], 78, "of another kind"),
        (&[("noclaw-http.socket", "own")], 78, "noclaw-http.socket is of another kind"),
        (&[("noclaw.socket", "own"), ("noclaw-http.socket", &open)], 69, "not a loopback address"),
    ];
    for (sockets, status, words) in refused {
        let mut activated = Activated::new(sockets, &ground("NOCLAW_PODMAN")?)?;
        std::os::unix::net::UnixStream::connect(activated.house.socket())?;
        let ended = activated.service.wait()?;
        let said = fs::read_to_string(activated.house.path("log"))?;
        assert_eq!(ended.code(), Some(status), "{said}");
        assert!(said.contains(words) && said.contains("hint: "), "{said}, not {words}");
    }
    Ok(())
}

#[test]
fn what_systemd_gave_to_another_process_is_nothing_to_it() -> Result {
    let mut house = House::closed(&ground("NOCLAW_PODMAN")?, &["--model-api", "demo"])?;
    for (name, value) in [("LISTEN_PID", "1"), ("LISTEN_FDS", "1"), ("LISTEN_FDNAMES", "emacs")] {
        house.env(name, value);
    }
    house.open()?;
    exits(&house.noclaw(&["status"]).output()?, 0);
    Ok(())
}

/// The units are what systemd understands, and leave little of the machine to the service.
#[test]
fn the_units_are_clean_and_the_service_is_kept_in() -> Result {
    let directory = tempfile::tempdir()?;
    let units = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd");
    let mut files = Vec::new();
    for entry in fs::read_dir(units)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.ends_with(".service") || name.ends_with(".socket") {
            // Only what is installed can be started.
            let text = fs::read_to_string(&path)?.replace("/usr/bin/noclaw", support::NOCLAW);
            fs::write(directory.path().join(name), text)?;
            files.push(directory.path().join(name));
        }
    }
    assert!(files.len() >= 3, "{files:?}");
    let analyze = |args: &[&str]| {
        let mut command = Command::new("systemd-analyze");
        command.args(args).env("SYSTEMD_UNIT_PATH", format!("{}:", directory.path().display()));
        command
    };
    let mut verify = analyze(&["verify", "--user", "--man=no"]);
    let output = verify.args(&files).output()?;
    let said = told(&output);
    assert!(output.status.success() && output.stderr.is_empty(), "{said}");
    let service = directory.path().join("noclaw.service");
    let mut security = analyze(&["security", "--user", "--offline=true", "--threshold=20"]);
    let output = security.arg(service).output()?;
    assert!(output.status.success(), "{}", told(&output));
    // It would take openat2(2) away, and every message would fail.
    let text = fs::read_to_string(directory.path().join("noclaw.service"))?;
    assert!(!text.contains("\nRestrictSUIDSGID="), "{text}");
    // An image that was removed would not be made again before the next login.
    let text = fs::read_to_string(directory.path().join("noclaw-image.service"))?;
    assert!(!text.contains("\nRemainAfterExit="), "{text}");
    Ok(())
}
