//! Who may import whom.

use std::collections::{BTreeMap, BTreeSet};

use crate::checkout::Finding;
use crate::source::{Named, Source};
use crate::{BESIDE, FLOORS, IMPURE};

/// The module of a file of `src/`, from the root of its crate.
fn module(path: &str) -> Option<Vec<String>> {
    let path = path.strip_prefix("src/")?.strip_suffix(".rs")?;
    let names = path.split('/').filter(|name| *name != "mod" && *name != "lib");
    Some(names.map(str::to_owned).collect())
}

fn top(module: &[String]) -> &str {
    module.first().map_or("lib", String::as_str)
}

fn floor(name: &str) -> Option<u8> {
    FLOORS.iter().find(|(module, _)| *module == name).map(|(_, floor)| *floor)
}

/// What a path means, from the root; nothing if it is no path of this crate.
fn resolve(from: &[String], path: &Named) -> Option<Vec<String>> {
    let mut here = [from, path.within.as_slice()].concat();
    let mut names = path.names.iter().peekable();
    match names.next()?.as_str() {
        "crate" if top(from) == "main" => return None,
        "noclaw" if top(from) == "main" => here.clear(),
        "crate" => here.clear(),
        "super" => drop(here.pop()),
        "self" => {}
        _ => return None,
    }
    while names.next_if(|name| *name == "super").is_some() {
        here.pop();
    }
    here.extend(names.cloned());
    Some(here)
}

struct Import<'a> {
    source: &'a Source,
    line: usize,
    from: String,
    to: String,
}

fn crossings(sources: &[Source]) -> Vec<Import<'_>> {
    let mut found = Vec::new();
    for source in sources {
        let Some(from) = module(&source.path) else { continue };
        for path in source.paths() {
            let Some(to) = resolve(&from, &path) else { continue };
            let (from, to) = (top(&from).to_owned(), top(&to).to_owned());
            if from != to {
                found.push(Import { source, line: path.line, from, to });
            }
        }
    }
    found
}

/// Imports that do not point down.
pub fn imports(sources: &[Source]) -> Vec<Finding> {
    let imports = crossings(sources);
    let mut below: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for import in &imports {
        below.entry(&import.from).or_default().insert(&import.to);
    }
    let mut found = Vec::new();
    for Import { source, line, from, to } in &imports {
        let mut say = |text: String| found.push(Finding::new(&source.path, *line, text));
        let (Some(high), Some(low)) = (floor(from), floor(to)) else {
            if floor(to).is_none() {
                say(format!(
                    "`{to}` is no module with a floor: import from the module that has it"
                ));
            }
            continue;
        };
        if low > high {
            say(format!(
                "`{from}` (floor {high}) imports `{to}` (floor {low}): hand it in instead"
            ));
        } else if low == high && low == 2 {
            if reaches(&below, to, from) {
                say(format!("`{from}` and `{to}` import one another in a circle: cut it"));
            }
        } else if low == high
            && !BESIDE.iter().any(|(a, b, _)| (a, b) == (&from.as_str(), &to.as_str()))
        {
            say(format!("`{from}` imports `{to}` beside it: let the floor above join them"));
        }
    }
    for source in sources.iter().filter(|source| source.path.starts_with("src/")) {
        for (at, token) in source.tokens.iter().enumerate() {
            if source.follows(at, &["#", "[", "path"]) {
                let say = "a file stands where its module does: remove the path attribute";
                found.push(Finding::new(&source.path, token.line, say));
            }
        }
    }
    found
}

/// Whether `to` is imported by `from`, or by what it imports.
fn reaches(below: &BTreeMap<&str, BTreeSet<&str>>, from: &str, to: &str) -> bool {
    let mut seen = BTreeSet::new();
    let mut next = vec![from];
    while let Some(name) = next.pop() {
        if name == to {
            return true;
        }
        if seen.insert(name) {
            next.extend(below.get(name).into_iter().flatten());
        }
    }
    false
}

/// Modules that the table of floors does not know.
pub fn without(sources: &[Source]) -> Vec<Finding> {
    let unknown =
        |source: &&Source| module(&source.path).is_some_and(|module| floor(top(&module)).is_none());
    let say = "this module has no floor: DESIGN names the floors, tests/tidy.rs has their table";
    sources.iter().filter(unknown).map(|source| Finding::new(&source.path, 1, say)).collect()
}

/// What `core/` names though it must not.
pub fn impure(sources: &[Source]) -> Vec<Finding> {
    let mut found = Vec::new();
    for source in sources.iter().filter(|source| source.path.starts_with("src/core/")) {
        for path in source.paths().iter().filter(|path| !path.test) {
            for (banned, instead) in IMPURE {
                let banned_names = banned.split("::").collect::<Vec<_>>();
                // `std::fs` and `tokio` begin a path; `Timestamp::now` may end a longer one.
                let anywhere = banned.starts_with(char::is_uppercase);
                let mut windows = path.names.windows(banned_names.len()).enumerate();
                if windows.any(|(at, names)| (at == 0 || anywhere) && names == banned_names) {
                    let say = format!("`core` names `{banned}`: {instead}");
                    found.push(Finding::new(&source.path, path.line, say));
                }
            }
        }
    }
    found
}

fn found(check: fn(&[Source]) -> Vec<Finding>, files: &[(&str, &str)]) -> String {
    let sources = files.iter().map(|(path, text)| Source::new(path, text)).collect::<Vec<_>>();
    let lines = check(&sources).into_iter().map(|found| format!("{}:{}", found.file, found.line));
    lines.collect::<Vec<_>>().join(" ")
}

#[test]
fn an_import_that_points_up_is_found() {
    let up = |path, text| found(imports, &[(path, text)]);
    assert_eq!(up("src/core/x.rs", "\nuse crate::store::Store;"), "src/core/x.rs:2");
    assert_eq!(up("src/core/x.rs", "fn f() { crate::cell::f() }"), "src/core/x.rs:1");
    assert_eq!(up("src/core/x.rs", "use super::super::host;"), "src/core/x.rs:1");
    assert_eq!(up("src/store/mod.rs", "use super::{core::a,\nhttp::b};"), "src/store/mod.rs:2");
    assert_eq!(up("src/store/x.rs", "use crate::{core::a, assistant::b};"), "src/store/x.rs:1");
    assert_eq!(up("src/channels/x.rs", "use crate::commands::a;"), "src/channels/x.rs:1");
    assert_eq!(up("src/cell/x.rs", "mod t { use super::super::super::host; }"), "src/cell/x.rs:1");
    assert_eq!(up("src/cell/x.rs", "#[cfg(test)] mod t { use crate::http; }"), "src/cell/x.rs:1");
    assert_eq!(up("src/cell/x.rs", "use crate::*;"), "src/cell/x.rs:1");
    assert_eq!(up("src/cell/x.rs", "#[path = \"../host/y.rs\"] mod y;"), "src/cell/x.rs:1");
}

#[test]
fn an_import_that_points_down_is_not() {
    let down = |path, text| found(imports, &[(path, text)]);
    assert_eq!(down("src/main.rs", "noclaw::commands::main();"), "");
    assert_eq!(down("src/commands/x.rs", "use crate::{channels::a, assistant, core::b};"), "");
    assert_eq!(
        down("src/cell/x.rs", "use super::y; mod t { use super::*; use super::super::y; }"),
        ""
    );
    assert_eq!(down("src/assistant/x.rs", "use super::y; use crate::store::Store;"), "");
    assert_eq!(down("src/core/x.rs", "// crate::store\nconst S: &str = \"crate::store::a\";"), "");
}

#[test]
fn a_circle_on_floor_two_is_found() {
    let one = ("src/assistant.rs", "use crate::tools::a;");
    let other = ("src/tools/a.rs", "use crate::delivery::b;");
    let back = ("src/delivery.rs", "use crate::assistant::c;");
    assert_eq!(found(imports, &[one, other]), "");
    assert_eq!(
        found(imports, &[one, other, back]),
        "src/assistant.rs:1 src/tools/a.rs:1 src/delivery.rs:1"
    );
}

#[test]
fn a_clock_in_core_is_found() {
    let clock = |text| found(impure, &[("src/core/x.rs", text)]);
    assert_eq!(clock("use std::{fmt,\nfs};"), "src/core/x.rs:2");
    assert_eq!(clock("fn f() { jiff::Timestamp::now(); }"), "src/core/x.rs:1");
    assert_eq!(clock("fn f() { uuid::Uuid::now_v7(); }"), "src/core/x.rs:1");
    assert_eq!(clock("use tokio::sync::Notify;"), "src/core/x.rs:1");
    assert_eq!(clock("use std::time::Duration; use jiff::Timestamp;"), "");
    assert_eq!(clock("#[cfg(test)] mod tests { use std::fs; }"), "");
}

#[test]
fn a_module_without_a_floor_is_found() {
    assert_eq!(found(without, &[("src/attic/mod.rs", "")]), "src/attic/mod.rs:1");
    assert_eq!(found(without, &[("src/attic.rs", ""), ("src/core/mod.rs", "")]), "src/attic.rs:1");
}
