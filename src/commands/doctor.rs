//! `noclaw doctor`: what this machine needs to run NoClaw, each ok, warn or fail with a hint. It
//! asks the machine, not the service. What no flag or variable says is as `noclaw setup` has it.

mod escape;
mod landlock;
mod units;

use std::path::PathBuf;

use serde::Serialize;

use self::escape::{Outcome, Probed};
use super::serve::model::DEMO;
use super::setup::answers::Answers;
use super::{Ended, Failure, accepted, block_on, print, print_json, read_key};
use crate::assistant::ready;
use crate::cell::engine::Info;
use crate::cell::{Cells, image};
use crate::core::plan::Runtime;
use crate::core::problem::{ExitStatus, chain};
use crate::host::{machine, owned, paths};

/// Users that a container's user namespace needs.
const SUBUIDS: u64 = 65_536;

/// `noclaw doctor`
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Attack a real cell from inside instead, and tell what it held against
    #[arg(long)]
    escape: bool,
    /// Wait, too, for what would act in a cell only later: two to four minutes
    #[arg(long, requires = "escape")]
    patient: bool,
    /// State; the attacked cell has a folder of its own in it
    #[arg(long, value_name = "DIR", env = "NOCLAW_STATE", default_value_os_t = paths::state())]
    state: PathBuf,
    /// Podman's socket
    #[arg(long, value_name = "PATH", env = "NOCLAW_PODMAN", default_value_os_t = paths::podman())]
    podman: PathBuf,
    /// The program that is pid 1 of a cell
    #[arg(
        long,
        value_name = "PATH",
        env = "NOCLAW_LAUNCHER",
        default_value_os_t = paths::launcher()
    )]
    launcher: PathBuf,
    /// The Messages API, as for `serve`
    #[arg(long, value_name = "URL", env = "NOCLAW_MODEL_API")]
    model_api: Option<String>,
    /// The file that holds the key
    #[arg(long, value_name = "FILE", env = "NOCLAW_API_KEY_FILE")]
    api_key_file: Option<PathBuf>,
    /// Limits to do without, as for `serve`
    #[arg(long, value_name = "LIST", env = "NOCLAW_ACCEPT_WITHOUT", value_delimiter = ',')]
    accept_without: Vec<String>,
}

impl Args {
    /// The service that systemd runs has its key, model and limits by what setup has written.
    fn with_setup(mut self) -> Self {
        let kept = Answers::now();
        // Who names a key does not mean the demo.
        if self.model_api.is_none() && self.api_key_file.is_none() {
            self.model_api.clone_from(&kept.model_api);
        }
        self.api_key_file = self.api_key_file.take().or_else(|| kept.key());
        // `--accept-without=` is none of them, and not empty.
        if self.accept_without.is_empty() {
            self.accept_without = kept.accepted();
        }
        self
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Ok,
    Warn,
    Fail,
}

#[derive(Debug, Serialize)]
struct Finding {
    check: &'static str,
    result: Verdict,
    detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
}

impl Finding {
    fn ok(check: &'static str, detail: impl ToString) -> Self {
        Self { check, result: Verdict::Ok, detail: detail.to_string(), hint: None }
    }

    fn warn(check: &'static str, detail: impl ToString, hint: impl ToString) -> Self {
        let hint = Some(hint.to_string());
        Self { check, result: Verdict::Warn, detail: detail.to_string(), hint }
    }

    fn fail(check: &'static str, detail: impl ToString, hint: impl ToString) -> Self {
        Self { result: Verdict::Fail, ..Self::warn(check, detail, hint) }
    }
}

/// Checks everything; 0 when nothing fails, else 78. With `--escape`: 0 when nothing is open, 70
/// when something is, and another status when not every probe could be tried.
pub fn run(args: &Args) -> Ended {
    let args = &args.clone().with_setup();
    if args.escape {
        return escape(args);
    }
    let findings = block_on(async { Ok(check(args).await) })?;
    if args.json {
        print_json(&findings);
    } else {
        for Finding { check, result, detail, hint } in &findings {
            let mark = match result {
                Verdict::Ok => "ok  ",
                Verdict::Warn => "warn",
                Verdict::Fail => "FAIL",
            };
            print(format_args!("{mark}  {check:<12} {detail}"));
            if let Some(hint) = hint {
                print(format_args!("{:<19}hint: {hint}", ""));
            }
        }
    }
    let failed = findings.iter().filter(|f| f.result == Verdict::Fail).count();
    match failed {
        0 => Ok(ExitStatus::Ok),
        n => Err(Failure::new(
            ExitStatus::Config,
            format!("{n} of {} checks failed", findings.len()),
        )
        .hint("each FAIL says above what to do")),
    }
}

fn escape(args: &Args) -> Ended {
    let escape::Report { probed, failure } = block_on(async { Ok(escape::run(args).await) })?;
    if args.json {
        print_json(&probed);
    } else {
        for Probed { probe, result, detail } in &probed {
            let result = match result {
                Outcome::Blocked => "blocked",
                Outcome::Open => "OPEN",
                Outcome::NotTested => "not tested",
            };
            print(format_args!("{result:<10}  {probe:<48} {detail}"));
        }
    }
    if let Some(failure) = failure {
        return Err(failure);
    }
    let count = |outcome| probed.iter().filter(|probed| probed.result == outcome).count();
    let (open, untested) = (count(Outcome::Open), count(Outcome::NotTested));
    if open > 0 {
        let message = format!("{open} of {} probes found something open", probed.len());
        return Err(Failure::new(ExitStatus::Failed, message)
            .hint("do not serve on this machine before each OPEN above is explained"));
    }
    eprintln!("nothing is open: {} probes, {untested} not tested", probed.len());
    Ok(ExitStatus::Ok)
}

async fn check(args: &Args) -> Vec<Finding> {
    let cells = Cells::at(&args.podman);
    let mut findings = Vec::new();
    match cells.engine().info().await {
        Ok(info) => {
            let place = args.podman.display();
            findings.push(version(&info, &place.to_string()));
            findings.push(storage(&info));
            findings.push(runtime(&info.runtime));
            findings.push(controllers(&info, &args.accept_without));
            findings.push(image(&cells).await);
        }
        Err(error) => findings.push(Finding::fail(
            "podman",
            chain(&error),
            "install podman, then: systemctl --user enable --now podman.socket",
        )),
    }
    findings.push(subuids());
    findings.extend(landlock::findings());
    findings.extend([launcher(&args.launcher), key(args), linger()]);
    findings.extend(units::findings().await);
    findings
}

/// What of it needs neither Podman nor a service, for `noclaw setup`: the first that fails, and
/// what to do.
pub(super) fn beforehand() -> Option<(String, String)> {
    let mut findings = landlock::findings();
    findings.extend([subuids(), launcher(&paths::launcher())]);
    let failed = findings.into_iter().find(|finding| finding.result == Verdict::Fail)?;
    Some((format!("{}: {}", failed.check, failed.detail), failed.hint.unwrap_or_default()))
}

fn version(info: &Info, place: &str) -> Finding {
    let detail = format!("{} at {place}", info.version);
    let major = info.version.split('.').next().and_then(|major| major.parse::<u32>().ok());
    let minor = info.version.split('.').nth(1).and_then(|minor| minor.parse::<u32>().ok());
    match (major, minor) {
        _ if !info.rootless => {
            Finding::fail("podman", detail + ", as root", "use your own user's Podman, not root's")
        }
        (Some(major), Some(minor)) if (major, minor) < (4, 3) => {
            Finding::fail("podman", detail, "Podman 4.3 or newer is needed")
        }
        (Some(4), Some(3)) => {
            let hint = "noclaw makes one at a time, and does not crash it alone; runs that are \
                ended by it have failed, and can be tried again";
            let detail = detail + ": its service can crash when two containers are made at once";
            Finding::warn("podman", detail, hint)
        }
        (Some(_), Some(_)) => Finding::ok("podman", detail),
        _ => Finding::fail("podman", detail, "Podman 4.3 or newer is needed"),
    }
}

fn storage(info: &Info) -> Finding {
    match ready::storage(info) {
        None => Finding::ok("storage", &info.storage_driver),
        Some(problem) => {
            let hint = problem.hint.clone().unwrap_or_default();
            Finding::fail("storage", problem.detail, hint)
        }
    }
}

fn runtime(runtime: &Runtime) -> Finding {
    if runtime.restricts_writable() {
        return Finding::ok("runtime", runtime);
    }
    let detail = format!("{runtime} leaves nodev off folders that cells may write");
    let hint = "only permissions keep cells from device files that root has put there; crun \
        1.11.1 and newer does as it is asked";
    Finding::warn("runtime", detail, hint)
}

fn controllers(info: &Info, names: &[String]) -> Finding {
    let accepted = match accepted(names) {
        Ok(accepted) => accepted,
        Err(failure) => return Finding::fail("cgroups", failure.message, "--accept-without=LIST"),
    };
    let missing = ready::missing_controllers(info);
    let list: Vec<_> = missing.iter().map(|c| c.as_str()).collect();
    let list = list.join(",");
    if missing.is_empty() {
        Finding::ok("cgroups", "memory, pids and cpu can be limited")
    } else if missing.iter().all(|controller| accepted.contains(controller)) {
        let hint = "accepted by --accept-without; on a machine with systemd, delegate them instead";
        Finding::warn("cgroups", format!("no controller for {list}"), hint)
    } else {
        let hint = format!("delegate them to your user, or do without: --accept-without={list}");
        Finding::fail("cgroups", format!("no controller for {list}"), hint)
    }
}

async fn image(cells: &Cells) -> Finding {
    match image::current(cells.podman()).await {
        Ok(Some(image)) => {
            let size = image.size / 1_000_000;
            Finding::ok("image", format!("agent {}, {size} MB", image.agent))
        }
        Ok(None) => Finding::fail("image", "there is none", "noclaw image build"),
        Err(error) => Finding::fail("image", chain(&error), "see podman"),
    }
}

/// The users and groups of a container are the owner's subordinate ones.
fn subuids() -> Finding {
    let Ok(owner) = machine::owner() else {
        return Finding::fail(
            "subuids",
            "your login name is not a user's name",
            "use another user",
        );
    };
    let count = |file| machine::subordinate_ids(file, owner.as_str());
    let (uids, gids) = (count("/etc/subuid"), count("/etc/subgid"));
    let detail = format!("{uids} users, {gids} groups");
    if uids.min(gids) >= SUBUIDS {
        return Finding::ok("subuids", detail);
    }
    let hint = format!(
        "sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {owner}; \
         podman system migrate"
    );
    Finding::fail("subuids", detail, hint)
}

fn launcher(path: &std::path::Path) -> Finding {
    match owned::is_file(path) {
        true => Finding::ok("launcher", path.display()),
        false => Finding::fail(
            "launcher",
            format!("none at {}", path.display()),
            "install noclaw-cell, or name it: --launcher PATH",
        ),
    }
}

fn key(args: &Args) -> Finding {
    if args.model_api.as_deref() == Some(DEMO) {
        return Finding::ok("key", "the demo model needs none; for real answers: noclaw setup");
    }
    let Some(file) = &args.api_key_file else {
        let hint = "noclaw setup; or serve with --api-key-file FILE, or the demo: --model-api demo";
        return Finding::warn("key", "none was named here", hint);
    };
    match read_key(file, None) {
        Ok(_) => Finding::ok("key", file.display()),
        Err(failure) => Finding::fail("key", failure.message, "one line, mode 0600"),
    }
}

/// Without lingering a user's services end when the user logs out.
fn linger() -> Finding {
    let name = machine::owner().map(|owner| owner.to_string()).unwrap_or_default();
    if machine::lingers(&name) {
        return Finding::ok("linger", "on");
    }
    let hint =
        format!("so that it answers while you are logged out: sudo loginctl enable-linger {name}");
    Finding::warn("linger", "off", hint)
}
