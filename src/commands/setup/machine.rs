//! What the machine needs for it: the user's service manager, lingering, Podman, the units.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::Deserialize;

use super::{Done, Step, program};
use crate::commands::{Ended, Failure};
use crate::core::problem::ExitStatus;
use crate::host::{machine, owned, paths};

/// What `storage.conf` must say; Podman would else take vfs where it finds no other driver.
const STORAGE: &str = "# Written by `noclaw setup`: vfs would make each cell a copy of the image.\n\
    [storage]\ndriver = \"overlay\"\n";
/// What `noclaw doctor` checks and setup makes so itself, later.
const LATER: [&str; 3] = ["image", "key", "linger"];
const SOCKET: &str = "noclaw.socket";
const SERVICE: &str = "noclaw.service";

/// Becomes this user, who has a service manager from now on, with the same command line.
pub(super) fn become_user(name: &str) -> Ended {
    let failed = |message: String, hint: &str| Failure::new(ExitStatus::Config, message).hint(hint);
    let user = nix::unistd::User::from_name(name).ok().flatten();
    let user = user.ok_or_else(|| failed(format!("there is no user {name}"), "adduser NAME"))?;
    if user.uid.is_root() {
        return Err(failed("noclaw is never set up for root".to_owned(), "name another user"));
    }
    quiet("loginctl", &["enable-linger", name])?;
    let runtime = PathBuf::from(format!("/run/user/{}", user.uid));
    // It has started once it can be spoken to.
    quiet("systemctl", &["start", &format!("user@{}.service", user.uid)])?;
    let mut args = std::env::args_os().skip(1).peekable();
    let mut kept = Vec::new();
    while let Some(arg) = args.next() {
        match arg.to_str() {
            Some("--user") => drop(args.next()),
            Some(text) if text.starts_with("--user=") => {}
            _ => kept.push(arg),
        }
    }
    let mut command = Command::new("setpriv");
    let (uid, gid) = (user.uid.to_string(), user.gid.to_string());
    command.args(["--reuid", &uid, "--regid", &gid, "--init-groups", "env", "-i"]);
    for (variable, value) in [
        ("HOME", user.dir.as_path()),
        ("USER", Path::new(name)),
        ("LOGNAME", Path::new(name)),
        ("XDG_RUNTIME_DIR", &runtime),
        ("DBUS_SESSION_BUS_ADDRESS", Path::new(&format!("unix:path={}/bus", runtime.display()))),
        ("PATH", Path::new("/usr/local/bin:/usr/bin:/bin")),
    ] {
        command.arg(format!("{variable}={}", value.display()));
    }
    let error = command.arg(program()?).args(kept).current_dir(&user.dir).exec();
    Err(failed(format!("setpriv cannot be started: {error}"), "install util-linux"))
}

/// The user's service manager answers.
pub(super) fn manager() -> Step {
    quiet("systemctl", &["--user", "show-environment"]).map_err(|failure| {
        failure.hint("log in as this user (not by su), or as root: noclaw setup --user NAME")
    })?;
    let name = machine::owner().map_err(|error| Failure::of(ExitStatus::Config, &error))?;
    Ok(Done::Already(format!("{name}, with a service manager")))
}

pub(super) fn linger() -> Step {
    let name = machine::owner().map_err(|error| Failure::of(ExitStatus::Config, &error))?;
    if machine::lingers(name.as_str()) {
        return Ok(Done::Already("on".to_owned()));
    }
    if quiet("loginctl", &["enable-linger"]).is_ok() {
        return Ok(Done::Now("turned on: it answers while you are logged out".to_owned()));
    }
    let what = "off: it answers only while you are logged in";
    Ok(Done::Not(what.to_owned(), format!("sudo loginctl enable-linger {name}")))
}

/// Podman chooses its driver when it is used for the first time, and keeps to it.
pub(super) fn storage() -> Step {
    let containers = paths::home().join(".config/containers");
    let file = containers.join("storage.conf");
    if owned::exists(&file) || owned::exists(&paths::home().join(".local/share/containers/storage"))
    {
        return Ok(Done::Already("Podman has been used before".to_owned()));
    }
    owned::make_directory(&containers).and_then(|()| owned::put(&file, STORAGE)).map_err(
        |error| Failure::new(ExitStatus::Config, format!("{}: {error}", file.display())),
    )?;
    Ok(Done::Now(format!("overlay, by {}", file.display())))
}

pub(super) fn podman() -> Step {
    turn_on("podman.socket", "install podman")
}

/// Asks `noclaw doctor`, as its user would.
pub(super) fn check() -> Step {
    #[derive(Deserialize)]
    struct Row {
        check: String,
        result: String,
        detail: String,
        hint: Option<String>,
    }
    let output = Command::new(program()?).args(["doctor", "--json"]).stderr(Stdio::null()).output();
    let output = output.map_err(|error| Failure::of(ExitStatus::Failed, &error))?;
    let rows: Vec<Row> = serde_json::from_slice(&output.stdout)
        .map_err(|error| Failure::of(ExitStatus::Failed, &error))?;
    let mut failed = rows.iter().filter(|row| row.result == "fail");
    match failed.find(|row| !LATER.contains(&row.check.as_str())) {
        None => Ok(Done::Already("fit for it; `noclaw doctor` tells more".to_owned())),
        Some(Row { check, detail, hint, .. }) => {
            let failure = Failure::new(ExitStatus::Config, format!("{check}: {detail}"));
            Err(failure.hint(hint.as_deref().unwrap_or("noclaw doctor")))
        }
    }
}

/// The service's socket is on, and a service that runs has the settings as they are now.
pub(super) fn socket(settings_are_new: bool) -> Step {
    owned::make_directory(&paths::state())
        .map_err(|error| Failure::of(ExitStatus::Config, &error))?;
    quiet("systemctl", &["--user", "daemon-reload"])?;
    let done = turn_on(SOCKET, "is the package installed? systemctl --user cat noclaw.socket")?;
    if settings_are_new {
        quiet("systemctl", &["--user", "try-restart", SERVICE])?;
    }
    Ok(done)
}

pub(super) fn no_socket() -> Step {
    let units = ["noclaw-http.socket", SOCKET, SERVICE];
    quiet("systemctl", &[&["--user", "disable", "--now"], units.as_slice()].concat())?;
    Ok(Done::Now("off; the service is stopped".to_owned()))
}

fn turn_on(unit: &str, hint: &str) -> Step {
    let is = |word: &str| quiet("systemctl", &["--user", "--quiet", word, unit]).is_ok();
    if is("is-enabled") && is("is-active") {
        return Ok(Done::Already(format!("{unit} is on")));
    }
    quiet("systemctl", &["--user", "enable", "--now", unit])
        .map_err(|failure| failure.hint(hint))?;
    Ok(Done::Now(format!("{unit} is turned on")))
}

/// Runs a program whose output only matters when it fails.
fn quiet(program: &str, args: &[&str]) -> Result<(), Failure> {
    let called = format!("{program} {}", args.join(" "));
    let output = Command::new(program).args(args).stdin(Stdio::null()).output();
    let output = output.map_err(|error| {
        Failure::new(ExitStatus::Unavailable, format!("{called}: {error}"))
            .hint("noclaw setup is for a machine with systemd; without: noclaw serve")
    })?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.trim().lines().last().unwrap_or("it has failed").to_owned();
    Err(Failure::new(ExitStatus::Unavailable, format!("{called}: {said}")))
}
