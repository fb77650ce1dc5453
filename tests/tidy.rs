//! Style as an ordinary test: floors, sizes, words. It reads the checkout and nothing else.
//!
//! The rules are the tables of this page; how they are looked up is in `tidy/`. Each finding names
//! a file and a line, and says what to change. An exception is a row of [`EXCEPTIONS`] with its
//! reason, and a row that nothing needs any more is a finding, too.

#![expect(clippy::disallowed_methods, reason = "it reads the whole checkout")]

#[path = "tidy/checkout.rs"]
mod checkout;
#[path = "tidy/code.rs"]
mod code;
#[path = "tidy/floors.rs"]
mod floors;
#[path = "tidy/source.rs"]
mod source;
#[path = "tidy/words.rs"]
mod words;

use checkout::{checkout, judge, sources};

/// What a rule is not held against: rule, file, why.
const EXCEPTIONS: &[(&str, &str, &str)] = &[
    (
        "allow",
        "tests/support/mod.rs",
        "each test program uses another part of it: no expectation holds in all of them",
    ),
    (
        "paths",
        "src/store/open.rs",
        "SQLite opens the file by its path, too; nobody but the owner can write to where it is",
    ),
    (
        "paths",
        "src/cell/turn.rs",
        "the folder of Podman's socket is locked, and nothing in it is opened; it is the owner's",
    ),
    (
        "paths",
        "containerfiles/cell/src/main.rs",
        "the launcher is alone with its cell's own file system when it opens files",
    ),
    (
        "sleep",
        "tests/support/mod.rs",
        "`until` asks again for what another process only shows, and gives up in bounded time",
    ),
];

/// Where a module of `src/` lives. An import only points down.
const FLOORS: &[(&str, u8)] = &[
    ("main", 4),
    ("lib", 4),
    ("commands", 3),
    ("channels", 3),
    ("assistant", 2),
    ("scheduler", 2),
    ("delivery", 2),
    ("tools", 2),
    ("store", 1),
    ("cell", 1),
    ("gateway", 1),
    ("host", 1),
    ("http", 1),
    ("core", 0),
];

/// Imports that stay on their floor. Those of floor 2 need no row, they must only form no circle.
const BESIDE: &[(&str, &str, &str)] = &[
    ("main", "lib", "the binary is the library's first caller"),
    ("commands", "channels", "serve puts everything together; client commands share the views"),
];

/// What `core/` does not name, and what it does instead. Tests may.
const IMPURE: &[(&str, &str)] = &[
    ("tokio", "leave waiting to the floors above"),
    ("sea_orm", "the store translates"),
    ("nix", "leave the kernel to `host`"),
    ("tempfile", "leave files to `host`"),
    ("std::fs", "leave files to `host`"),
    ("std::env", "settings come in as arguments"),
    ("std::net", "leave sockets to the floors above"),
    ("std::process", "leave processes to the floors above"),
    ("std::thread", "leave threads to the floors above"),
    ("std::time::SystemTime", "take the time as an argument"),
    ("SystemTime::now", "take the time as an argument"),
    ("Instant::now", "take the time as an argument"),
    ("Timestamp::now", "take the time as an argument"),
    ("Zoned::now", "take the time as an argument"),
    ("rand", "take what was drawn as an argument"),
    ("getrandom", "take what was drawn as an argument"),
    ("Uuid::new_v4", "take the id as an argument"),
    ("Uuid::now_v7", "take the id as an argument"),
];

/// A file that is longer has two subjects. Its tests at the end do not count.
const FILE_LINES: usize = 400;
/// What does not fit on a screen is not read as one.
const FUNCTION_LINES: usize = 70;
/// Two files beside each other on a laptop. In tests, what another program said may be longer.
const LINE_CHARACTERS: usize = 100;
/// A module's documentation is 2 to 12 lines, and more where it holds a table or a drawing.
const MODULE_DOC_LINES: usize = 40;

/// Smaller limits: what begins with this path, lines in all, whether tests count, why.
const SMALLER: &[(&str, usize, bool, &str)] = &[
    ("src/assistant.rs", 200, true, "the story can be read by who has never seen the project"),
    ("src/main.rs", 40, true, "a table of contents"),
    ("src/gateway/demo", 420, false, "a stand-in must not grow: 400 lines of code, and comments"),
];

/// Documents: lines of 120 characters each, so that long lines are no way around.
const DOCUMENTS: &[(&str, usize, &str)] = &[
    ("README.md", 120, "what it is and how to run it, in five minutes"),
    ("ARCHITECTURE.md", 250, "invariants and walkthroughs; the rest is the code"),
    ("SECURITY.md", 200, "threats, layers, what remains; a reader in a hurry reads to its end"),
    ("CLAUDE.md", 80, "it is loaded into every session of who works with it"),
    ("CONTRIBUTING.md", 80, "one page"),
];

/// Documents whose promises name their tests: test: `name`.
const PROMISES: &[&str] = &["ARCHITECTURE.md", "SECURITY.md"];

/// Outside tests an error is a value: what ends the process instead, or hides that it could.
const PANICS: &[(&[&str], &str)] = &[
    (&[".", "unwrap", "("], "return the error, or choose another value"),
    (&[".", "unwrap_err", "("], "return the error, or choose another value"),
    (&[".", "expect", "("], "return the error, or choose another value"),
    (&[".", "expect_err", "("], "return the error, or choose another value"),
    (&["panic", "!"], "return an error"),
    (&["unreachable", "!"], "make a type that cannot hold it, or return an error"),
    (&["todo", "!"], "do it, or leave it out"),
    (&["unimplemented", "!"], "do it, or leave it out"),
    (&["dbg", "!"], "use tracing"),
    (&["unsafe"], "find a crate that does it; an exception is one file with SAFETY and a reason"),
];

/// Names that say nothing about what is inside.
const EMPTY_NAMES: &[&str] = &["util", "utils", "common", "helper", "helpers", "misc"];

/// The top level; files whose name begins with a dot may lie there, too.
const TOP: &[(&str, &str)] = &[
    ("src", "the service and the command line"),
    ("containerfiles", "what becomes the cell"),
    ("systemd", "units, presets, tmpfiles"),
    ("data", "shipped, read-only"),
    ("skills", "one folder a skill"),
    ("packaging", "Debian, Fedora, man pages, completions"),
    ("tests", "whatever can fail"),
    ("Cargo.toml", "the root package and the workspace"),
    ("Cargo.lock", "its dependencies, pinned"),
    ("Makefile", "the one entry point"),
    ("README.md", "run it"),
    ("ARCHITECTURE.md", "invariants, walkthroughs"),
    ("SECURITY.md", "threats, layers, tests"),
    ("CHANGELOG.md", "what changed for its user"),
    ("CONTRIBUTING.md", "how to take part"),
    ("CLAUDE.md", "for who works on it with Claude Code"),
    ("LICENSE-MIT", "one of the two licences"),
    ("LICENSE-APACHE", "the other one"),
    ("rust-toolchain.toml", "the compiler"),
    ("rustfmt.toml", "the format"),
    ("clippy.toml", "the lints' limits"),
    ("deny.toml", "what may be depended on"),
];

/// Where packages and images come from is the machine's own setting: mirrors and offline builds
/// work when no file here names a host. (`concat!` keeps this file from naming one.)
const HOSTS: &[&str] = &[
    concat!("docker", ".io"),
    concat!("docker", ".com"),
    concat!("quay", ".io"),
    concat!("ghcr", ".io"),
    concat!("gcr", ".io"),
    concat!("registry.k8s", ".io"),
    concat!("mcr.microsoft", ".com"),
    concat!("public.ecr", ".aws"),
    concat!("registry.fedoraproject", ".org"),
    concat!("registry.access.redhat", ".com"),
    concat!("crates", ".io"),
    concat!("static.rust-lang", ".org"),
    concat!("pypi", ".org"),
    concat!("pythonhosted", ".org"),
    concat!("deb.debian", ".org"),
    concat!("security.debian", ".org"),
    concat!("snapshot.debian", ".org"),
    concat!("archive.ubuntu", ".com"),
    concat!("npmjs", ".org"),
    concat!("proxy.golang", ".org"),
];

/// The file that cargo writes names cargo's index.
const HOSTS_NOT_IN: &str = "Cargo.lock";

/// Folders that exist on one machine only.
const MACHINES: &[&str] = &[concat!("/ro", "ot/"), concat!("/wo", "rk/"), concat!("/Us", "ers/")];

/// Homes of nobody: the agent's, in its cell.
const HOMES: &[&str] = &["agent"];

/// Data in which each rule has its reason.
const REASONED: &[&str] = &[
    "data/agent.json",
    "data/blocked.json",
    "data/cell.json",
    "data/landlock.json",
    "data/seccomp-agent.json",
    "data/seccomp.json",
    "data/service.json",
];

#[test]
fn imports_point_down() {
    judge([("floors", floors::imports(sources()))]);
}

#[test]
fn core_is_pure() {
    judge([("pure", floors::impure(sources()))]);
}

#[test]
fn every_module_has_a_floor_and_a_name() {
    judge([("names", code::names(sources())), ("floor", floors::without(sources()))]);
}

#[test]
fn files_functions_and_lines_are_short() {
    judge([
        ("file length", code::long_files(sources())),
        ("function length", code::long_functions(sources())),
        ("line length", code::long_lines(sources())),
    ]);
}

#[test]
fn modules_say_what_they_are_for() {
    judge([("module docs", code::module_docs(sources()))]);
}

#[test]
fn errors_are_values() {
    judge([("panics", code::panics(sources()))]);
}

#[test]
fn lints_are_expected_with_a_reason() {
    judge([("allow", code::allows(sources()))]);
}

#[test]
fn files_are_opened_by_path_in_host_alone() {
    judge([("paths", code::paths(sources()))]);
}

#[test]
fn tests_run_and_do_not_sleep() {
    judge([("ignore", code::ignored(sources())), ("sleep", code::sleeps(sources()))]);
}

#[test]
fn the_top_level_is_what_the_design_names() {
    judge([("top level", words::top(&checkout().top))]);
}

#[test]
fn documents_are_pages() {
    judge([("documents", words::pages(&checkout().texts))]);
}

#[test]
fn promises_name_tests_that_exist() {
    judge([("promises", words::promises(checkout()))]);
}

#[test]
fn no_file_names_a_registry_a_machine_or_a_key() {
    let texts = &checkout().texts;
    judge([
        ("hosts", words::hosts(texts)),
        ("machines", words::machines(texts)),
        ("keys", words::keys(texts)),
    ]);
}

#[test]
fn data_parses_and_gives_reasons() {
    judge([("data", words::data(&checkout().texts))]);
}
