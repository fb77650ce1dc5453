//! `noclaw mount`: what may be granted of the owner's folders. It asks the machine, and needs no
//! service.

use std::path::Path;

use serde::Serialize;

use super::places::Places;
use super::{Ended, Failure, block_on, complain, print, print_json};
use crate::assistant::ready;
use crate::cell::Cells;
use crate::core::mounts::blocked::Blocked;
use crate::core::mounts::folder::FolderPath;
use crate::core::mounts::{Passed, Place, Step, access};
use crate::core::problem::{ExitStatus, chain};
use crate::host::mounts::file::AllowlistError;
use crate::host::mounts::{Denied, Judged, ListedRoot, Rules, inside};
use crate::host::paths;

/// `noclaw mount`
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Show the allowlist as it is in force, and what is refused always
    ///
    /// The allowlist is mount-allowlist.json in the configuration directory, mode 600:
    ///
    /// {"allowedRoots": [{"path": "~/projects", "allowReadWrite": false}],
    ///  "blockedPatterns": ["node_modules"]}
    ///
    /// A folder can be granted if it is one of the roots or lies in one, and no name on its way is
    /// blocked: a whole name, names in a row (.config/gh), *.EXTENSION, or NAME.*. The nearest root
    /// decides whether writing may be granted. Each run reads the file anew.
    #[command(verbatim_doc_comment)]
    List(List),
    /// Say whether a folder could be granted, step by step; 77 when not
    Check(Check),
}

/// `noclaw mount list`
#[derive(Debug, clap::Args)]
pub struct List {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    places: Places,
}

/// `noclaw mount check`
#[derive(Debug, clap::Args)]
pub struct Check {
    /// The folder
    path: String,
    /// Ask for writing, too
    #[arg(long)]
    rw: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    places: Places,
}

/// Shows or checks.
pub fn run(command: Command) -> Ended {
    match command {
        Command::List(args) => list(&args),
        Command::Check(args) => check(&args),
    }
}

/// A path as it is typed: from `/`, from `~`, or from where one is.
pub fn folder(text: &str) -> Result<FolderPath, Failure> {
    let typed = match text.starts_with('~') {
        true => Ok(text.to_owned()),
        false => std::path::absolute(text).map(|path| path.to_string_lossy().into_owned()),
    };
    let typed = typed.map_err(|error| Failure::of(ExitStatus::Data, &error))?;
    let home = paths::home().to_string_lossy().into_owned();
    let parse = |text: String| {
        FolderPath::try_from(text).map_err(|error| Failure::of(ExitStatus::Data, &error))
    };
    Ok(parse(typed)?.expand(&parse(home)?))
}

#[derive(Debug, Serialize)]
struct ListView<'a> {
    allowlist: &'a Path,
    exists: bool,
    roots: Vec<RootView<'a>>,
    blocked: &'a [Blocked],
    refused: Vec<PlaceView<'a>>,
}

#[derive(Debug, Serialize)]
struct RootView<'a> {
    path: &'a FolderPath,
    read_write: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

#[derive(Debug, Serialize)]
struct PlaceView<'a> {
    path: &'a str,
    what: &'a str,
}

impl<'a> ListView<'a> {
    fn of(rules: &'a Rules) -> Self {
        let root = |root: &'a ListedRoot| RootView {
            path: &root.path,
            read_write: root.read_write,
            problem: root.opened.as_ref().err().map(|error| chain(error)),
        };
        let place = |place: &'a Place| PlaceView { path: &place.path, what: &place.what };
        // Names that are blocked everywhere are places in the home, too: they are shown once.
        let named = |place: &&Place| {
            let names: Vec<_> = place.path.split('/').collect();
            rules.policy.blocked.iter().any(|blocked| blocked.pattern.ends(&names))
        };
        Self {
            allowlist: &rules.file,
            exists: rules.exists,
            roots: rules.roots.iter().map(root).collect(),
            blocked: &rules.policy.blocked,
            refused: rules.policy.places.iter().filter(|place| !named(place)).map(place).collect(),
        }
    }
}

fn list(args: &List) -> Ended {
    let rules = rules(&args.places)?;
    let view = ListView::of(&rules);
    if args.json {
        print_json(&view);
        return Ok(ExitStatus::Ok);
    }
    print(format_args!("folders that may be granted, by {}:", rules.file.display()));
    for RootView { path, read_write, problem } in &view.roots {
        let problem = problem.as_ref().map(|problem| format!(": not now, {problem}"));
        let problem = problem.unwrap_or_default();
        print(format_args!("  {:<15} {path}{problem}", access(*read_write)));
    }
    if view.roots.is_empty() {
        print("  none");
    }
    print("names that are blocked on the way to a folder:");
    for blocked in view.blocked {
        print(format_args!("  {:<30} {}", blocked.pattern.as_str(), blocked.reason));
    }
    print(
        "refused always, with whatever contains one of them, or one of those names in your home:",
    );
    for PlaceView { path, what } in &view.refused {
        print(format_args!("  {path:<46} {what}"));
    }
    if !rules.exists {
        eprintln!("hint: {}", rules.how_to_begin());
    }
    Ok(ExitStatus::Ok)
}

#[derive(Debug, Serialize)]
struct CheckView<'a> {
    path: &'a FolderPath,
    read_write: bool,
    granted: bool,
    passed: Vec<Passed>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refused: Option<RefusedView>,
    notes: Vec<String>,
}

#[derive(Debug, Serialize)]
struct RefusedView {
    step: Step,
    reason: String,
    hint: String,
}

fn check(args: &Check) -> Ended {
    let path = &folder(&args.path)?;
    let rules = rules(&args.places)?;
    let Judged { passed, result } = rules.judge(path, args.rw);
    let looked = result.and_then(|opened| {
        inside::look(&opened, &rules.policy.blocked).notes().map_err(Denied::from)
    });
    let (refused, notes) = match looked {
        Ok(notes) => (None, notes),
        Err(denied) => {
            let (step, hint) = (denied.step(), rules.hint(&denied));
            (Some(RefusedView { step, reason: chain(&denied), hint }), Vec::new())
        }
    };
    let granted = refused.is_none();
    let view = CheckView { path, read_write: args.rw, granted, passed, refused, notes };
    if args.json {
        print_json(&view);
        return Ok(if granted { ExitStatus::Ok } else { ExitStatus::NotAllowed });
    }
    for Passed { step, found } in view.passed {
        print(format_args!("ok      {step:<7} {found}"));
    }
    for note in view.notes {
        print(format_args!("note    {:<7} {note}", "inside"));
    }
    match view.refused {
        None => {
            print(format_args!("granted {path}, {}", access(args.rw)));
            Ok(ExitStatus::Ok)
        }
        Some(RefusedView { step, reason, hint }) => {
            print(format_args!("REFUSED {step:<7} {reason}"));
            let message = format!("{path} is not granted: {reason}");
            Err(Failure::new(ExitStatus::NotAllowed, message).hint(hint))
        }
    }
}

/// The policy as it is now. Podman says where its storage is; without it, that is taken to be where
/// it always is, and no run begins.
fn rules(places: &Places) -> Result<Rules, Failure> {
    let guard = places.guard(None)?;
    let cells = Cells::at(&places.podman);
    let podman = block_on(async { Ok(ready::podman(&cells).await) })?;
    if let Err(problem) = &podman {
        let message = format!("Podman was not asked where its storage is: {problem}");
        complain(&message, problem.hint.as_deref());
    }
    let storage = podman.map(|podman| podman.storage).unwrap_or_default();
    let invalid =
        |error: AllowlistError| Failure::of(ExitStatus::Config, &error).hint(error.hint());
    guard.rules(&storage).map_err(invalid)
}
