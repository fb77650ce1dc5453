//! What the machine needs for it: the user's service manager, lingering, Podman, the units.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde::Deserialize;

use super::{Done, Step, program};
use crate::commands::{Failure, block_on};
use crate::core::problem::{ExitStatus, chain};
use crate::host::programs::{self, Said};
use crate::host::{machine, owned, paths};

/// What `storage.conf` must say; Podman would else take vfs where it finds no other driver.
pub(super) const STORAGE: &str =
    "# Written by `noclaw setup`: vfs would make each cell a copy of the image.
[storage]
driver = \"overlay\"
";
/// What `noclaw doctor` checks and setup makes so itself, later.
const LATER: [&str; 3] = ["image", "key", "linger"];
/// The unit of the service's socket.
pub(super) const SOCKET: &str = "noclaw.socket";
/// The service's unit.
pub(super) const SERVICE: &str = "noclaw.service";
/// Podman's.
const PODMAN: &str = "podman.socket";
/// All that listens, and what it starts.
const UNITS: [&str; 4] = ["noclaw-http.socket", SOCKET, SERVICE, "noclaw-image.service"];
/// Where an owner's own settings of units would be (systemd/README.md).
const OWN_DROP_INS: [&str; 4] =
    ["noclaw.service.d", "noclaw.socket.d", "noclaw-http.socket.d", "noclaw-notice@.service.d"];
/// A service that stops lets its runs end (TimeoutStopSec=60), then begins anew.
const PATIENCE: Duration = Duration::from_secs(180);
/// What is only asked is answered at once, or never.
const ANSWER: Duration = Duration::from_secs(30);

/// The user's service manager answers, and there is a bus: Podman has limits set by way of it.
pub(super) fn manager() -> Step {
    let unavailable = |message: &str| Failure::new(ExitStatus::Unavailable, message);
    if !owned::exists(&PathBuf::from("/run/systemd/system")) {
        return Err(unavailable("systemd does not run this machine")
            .hint("noclaw setup is for one that it runs; without: noclaw serve"));
    }
    let hint = "log in as this user (not by su), or as root: noclaw setup --user NAME";
    let runtime = paths::runtime();
    if !owned::exists(&runtime.join("systemd/private")) {
        let message = format!("you have no service manager: none at {}", runtime.display());
        return Err(unavailable(&message).hint(hint));
    }
    let said = systemctl(&["show-environment"])?;
    if !said.well {
        return Err(unavailable(&said.why).hint(hint));
    }
    if !owned::is_socket(&runtime.join("bus")) {
        let message = format!("you have no D-Bus session: no socket at {}/bus", runtime.display());
        return Err(unavailable(&message)
            .hint("install dbus-user-session (or dbus-broker), then log in anew"));
    }
    let name = machine::owner().map_err(|error| Failure::of(ExitStatus::Config, &error))?;
    Ok(Done::Already(format!("{name}, with a service manager")))
}

pub(super) fn linger() -> Step {
    let name = machine::owner().map_err(|error| Failure::of(ExitStatus::Config, &error))?;
    if machine::lingers(name.as_str()) {
        return Ok(Done::Already("on".to_owned()));
    }
    if asked("loginctl", &["enable-linger"]).is_ok() {
        return Ok(Done::Now("turned on: it answers while you are logged out".to_owned()));
    }
    let what = "off: it answers only while you are logged in";
    Ok(Done::Not(what.to_owned(), format!("sudo loginctl enable-linger {name}")))
}

/// Podman chooses its driver when it is used for the first time, and keeps to it.
pub(super) fn storage() -> Step {
    let file = storage_conf();
    if owned::exists(&file) || owned::exists(&paths::home().join(".local/share/containers/storage"))
    {
        return Ok(Done::Already("Podman has been used before".to_owned()));
    }
    let made = file.parent().map_or(Ok(()), owned::make_directory);
    made.and_then(|()| owned::put(&file, STORAGE)).map_err(|error| {
        Failure::new(ExitStatus::Config, format!("{}: {error}", file.display()))
    })?;
    Ok(Done::Now(format!("overlay, by {}", file.display())))
}

fn storage_conf() -> PathBuf {
    paths::home().join(".config/containers/storage.conf")
}

pub(super) fn podman() -> Step {
    turn_on(PODMAN, "install podman")
}

/// Asks `noclaw doctor`, as its user would.
pub(super) fn check(accepted: &[String]) -> Step {
    #[derive(Deserialize)]
    struct Row {
        check: String,
        result: String,
        detail: String,
        hint: Option<String>,
    }
    let mut doctor = Command::new(program()?);
    // Named also when it is empty: what was accepted before may not be any more.
    let accepted = format!("--accept-without={}", accepted.join(","));
    doctor.args(["doctor", "--json", &accepted]).stderr(Stdio::null());
    let output = doctor.output();
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

/// The service has the settings as they are now: one that runs is begun anew, if it has not.
pub(super) fn settings(are_new: bool) -> Result<bool, Failure> {
    let asked_for = systemctl(&["show", "--property=NeedDaemonReload", "--value", SERVICE])?;
    // Also when an earlier setup was killed after it had written them.
    let is_old = asked_for.well && asked_for.out == "yes";
    if are_new || is_old {
        asked("systemctl", &["--user", "daemon-reload"])?;
        asked("systemctl", &["--user", "try-restart", SERVICE])?;
    }
    Ok(is_old)
}

/// The service's socket is on.
pub(super) fn socket() -> Step {
    // systemd shows a service only what is there when it starts.
    for directory in [paths::state(), paths::config()] {
        owned::make_directory(&directory).map_err(|error| {
            Failure::new(ExitStatus::Config, format!("{}: {error}", directory.display()))
        })?;
    }
    turn_on(SOCKET, "is the package installed? systemctl --user cat noclaw.socket")
}

/// The sockets are off, also where the package was removed before.
pub(super) fn no_socket() -> Step {
    let mut was_on = false;
    for unit in UNITS {
        let link = paths::user_units().join("sockets.target.wants").join(unit);
        // What a socket starts is never enabled itself, and "indirect" to systemctl.
        let is_socket = unit.ends_with(".socket");
        if is_socket && is("is-enabled", unit)? {
            was_on = true;
            asked("systemctl", &["--user", "disable", unit])?;
        }
        // An image that is being built is not "active", but "activating".
        let state = systemctl(&["show", "--property=ActiveState", "--value", unit])?;
        if state.well && !["inactive", "failed"].contains(&state.out.as_str()) {
            was_on = true;
            asked("systemctl", &["--user", "stop", unit])?;
        }
        if owned::is_link(&link) {
            was_on = true;
            owned::remove(&link).map_err(|error| {
                Failure::new(ExitStatus::Config, format!("{}: {error}", link.display()))
            })?;
        }
    }
    match was_on {
        true => Ok(Done::Now("off; the service is stopped".to_owned())),
        false => Ok(Done::Already("off".to_owned())),
    }
}

/// What stays after an undo, and how it goes.
pub(super) fn what_stays() -> Result<Vec<(&'static str, String)>, Failure> {
    let mut stays = Vec::new();
    let mut file = |what, path: PathBuf, how: &str| {
        if owned::exists(&path) {
            stays.push((what, format!("{how} {}", path.display())));
        }
    };
    file("messages, workspaces, transcripts", paths::state(), "rm -r");
    file("your settings, and the key", paths::config(), "rm -r");
    file("what the image was made of", paths::cache(), "rm -r");
    let storage = storage_conf();
    if owned::read(&storage, STORAGE.len()).is_ok_and(|text| text == STORAGE.as_bytes()) {
        file("how Podman stores, for all it has", storage, "rm");
    }
    let units = paths::user_units();
    for own in OWN_DROP_INS {
        file("settings of your own", units.join(own), "rm -r");
    }
    let image = "podman image rm noclaw-agent $(podman images --quiet noclaw-base)";
    stays.push(("the image of the cells, and its base", image.to_owned()));
    if is("is-enabled", PODMAN)? {
        let how = format!("systemctl --user disable --now {PODMAN}");
        stays.push(("Podman's socket", how));
    }
    let name = machine::owner().map_err(|error| Failure::of(ExitStatus::Config, &error))?;
    if machine::lingers(name.as_str()) {
        stays.push(("that your services outlast your login", "loginctl disable-linger".to_owned()));
    }
    Ok(stays)
}

fn turn_on(unit: &str, hint: &str) -> Step {
    if is("is-enabled", unit)? && is("is-active", unit)? {
        return Ok(Done::Already(format!("{unit} is on")));
    }
    asked("systemctl", &["--user", "enable", "--now", unit])
        .map_err(|failure| failure.hint(hint))?;
    Ok(Done::Now(format!("{unit} is turned on")))
}

/// What systemctl says of a unit: `is-enabled`, `is-active`.
pub(super) fn is(word: &str, unit: &str) -> Result<bool, Failure> {
    Ok(systemctl(&["--quiet", word, unit])?.well)
}

/// Asks the user's service manager.
pub(super) fn systemctl(args: &[&str]) -> Result<Said, Failure> {
    said("systemctl", &[&["--user", "--no-pager"], args].concat(), ANSWER)
}

/// Has a program do something; its output only matters when it fails.
pub(super) fn asked(program: &str, args: &[&str]) -> Result<(), Failure> {
    let said = said(program, args, PATIENCE)?;
    if said.well {
        return Ok(());
    }
    let message = format!("{program} {}: {}", args.join(" "), said.why);
    Err(Failure::new(ExitStatus::Unavailable, message))
}

fn said(program: &str, args: &[&str], most: Duration) -> Result<Said, Failure> {
    let said = block_on(async { Ok(programs::ask(program, args, most).await) })?;
    said.map_err(|error| {
        Failure::new(ExitStatus::Unavailable, chain(&error))
            .hint("does the user's service manager answer? systemctl --user status")
    })
}
