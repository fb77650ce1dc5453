//! What the user's service manager has of NoClaw, where there is one and the package is installed.
//!
//! | what is found | what it means |
//! |---|---|
//! | units that are not this version's | a rest of another installation, or of an upgrade |
//! | units that changed since the manager read them | what it does is not what they say |
//! | the socket is off | nobody is answered |
//! | Podman's socket is not enabled | no cell after the next boot |
//! | a NoClaw at the socket that systemd has not started | the unit's own could not begin |

use std::path::Path;
use std::time::Duration;

use super::Finding;
use crate::host::{owned, paths, programs};

/// The units, as this version has them.
const SHIPPED: [(&str, &str); 5] = [
    ("noclaw.socket", include_str!("../../../systemd/noclaw.socket")),
    ("noclaw-http.socket", include_str!("../../../systemd/noclaw-http.socket")),
    ("noclaw.service", include_str!("../../../systemd/noclaw.service")),
    ("noclaw-image.service", include_str!("../../../systemd/noclaw-image.service")),
    ("noclaw-notice@.service", include_str!("../../../systemd/noclaw-notice@.service")),
];
/// Where packages have the program.
const PROGRAM: &str = "/usr/bin/noclaw";
/// A unit is a page.
const UNIT_BYTES: usize = 64 << 10;
/// What systemctl takes is some milliseconds.
const PATIENCE: Duration = Duration::from_secs(20);

/// What there is to say; nothing where no unit of NoClaw's is known.
pub(super) async fn findings() -> Vec<Finding> {
    // Not of this manager's: a machine without systemd, a user without a session, a checkout.
    let Some(service) = show("noclaw.service", "FragmentPath").await else { return Vec::new() };
    if service.is_empty() {
        return Vec::new();
    }
    let mut findings = vec![versions().await, sockets().await];
    if show("podman.socket", "UnitFileState").await.is_none_or(|state| state != "enabled") {
        let hint = "systemctl --user enable podman.socket";
        findings.push(Finding::warn("podman.socket", "off after the next boot", hint));
    }
    findings
}

async fn versions() -> Finding {
    let program = paths::program();
    let program = program.as_deref().and_then(Path::to_str).unwrap_or(PROGRAM);
    let mut other = Vec::new();
    let mut stale = false;
    for (unit, shipped) in SHIPPED {
        // A template is known by its instances only.
        let name = unit.replace("@.", "@x.");
        let path = show(&name, "FragmentPath").await.unwrap_or_default();
        stale |= show(&name, "NeedDaemonReload").await.is_some_and(|need| need == "yes");
        let text = owned::read(Path::new(&path), UNIT_BYTES).unwrap_or_default();
        if !is_ours(&String::from_utf8_lossy(&text), shipped, program) {
            other.push(if path.is_empty() { format!("{unit} (missing)") } else { path });
        }
    }
    if !other.is_empty() {
        let detail = format!("not those of this version: {}", other.join(", "));
        let hint = "install the package anew; units of your own go before its: remove them, or \
            use systemctl --user edit";
        return Finding::warn("units", detail, hint);
    }
    match stale {
        true => {
            let hint = "systemctl --user daemon-reload";
            Finding::warn("units", "they changed since systemd has read them", hint)
        }
        false => Finding::ok("units", "those of this version"),
    }
}

/// Whether an installed unit says what the shipped one does, wherever the program is.
fn is_ours(text: &str, shipped: &str, program: &str) -> bool {
    text == shipped || text == shipped.replace(PROGRAM, program)
}

async fn sockets() -> Finding {
    let is_on = async |unit| show(unit, "ActiveState").await.is_some_and(|state| state == "active");
    let http = if is_on("noclaw-http.socket").await { "on" } else { "off" };
    if is_on("noclaw.socket").await {
        return Finding::ok("sockets", format!("noclaw.socket is on, HTTP by token is {http}"));
    }
    let socket = paths::socket();
    if tokio::net::UnixStream::connect(&socket).await.is_ok() {
        let detail = format!("a NoClaw that systemd has not started is at {}", socket.display());
        let hint = "stop it before noclaw.socket is turned on; `noclaw status` names its process";
        return Finding::warn("sockets", detail, hint);
    }
    Finding::warn("sockets", "noclaw.socket is off: nobody is answered", "noclaw setup")
}

/// A property of a unit's; `None` without a service manager that answers.
async fn show(unit: &str, property: &str) -> Option<String> {
    let args = ["--user", "show", "--value", "--property", property, unit];
    let said = programs::ask("systemctl", &args, PATIENCE).await.ok()?;
    said.well.then_some(said.out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_is_ours_wherever_the_program_is_and_not_when_it_says_something_else() {
        for (unit, shipped) in SHIPPED {
            let local = shipped.replace(PROGRAM, "/usr/local/bin/noclaw");
            assert!(is_ours(shipped, shipped, "/opt/noclaw"), "{unit}");
            assert!(is_ours(&local, shipped, "/usr/local/bin/noclaw"), "{unit}");
            let changed = shipped.replace("Description=", "Description=Another ");
            assert!(!is_ours(&changed, shipped, PROGRAM), "{unit}");
            assert!(!is_ours("", shipped, PROGRAM), "{unit}");
        }
    }
}
