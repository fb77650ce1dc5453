//! How a file of Rust looks: its length, its words, its documentation.

use crate::checkout::Finding;
use crate::source::Source;
use crate::{
    EMPTY_NAMES, FILE_LINES, FUNCTION_LINES, LINE_CHARACTERS, MODULE_DOC_LINES, PANICS, SMALLER,
};

/// Modules whose name says nothing.
pub fn names(sources: &[Source]) -> Vec<Finding> {
    let empty = |source: &&Source| {
        let mut names = source.path.trim_end_matches(".rs").split('/');
        names.any(|name| EMPTY_NAMES.contains(&name))
    };
    let say = "name it for what it does, not for whom it helps";
    sources.iter().filter(empty).map(|source| Finding::new(&source.path, 1, say)).collect()
}

/// Lines of tests: from the first to the last of each stretch.
fn test_lines(source: &Source) -> Vec<(usize, usize)> {
    let stretches = source.tokens.chunk_by(|a, b| a.test == b.test);
    let tests = stretches.filter(|tokens| tokens.first().is_some_and(|token| token.test));
    tests.filter_map(|tokens| Some((tokens.first()?.line, tokens.last()?.line))).collect()
}

/// The file's length, with or without its tests. A file that is all tests counts in full.
fn length(source: &Source, with_tests: bool) -> usize {
    let all = source.text.lines().count();
    if with_tests || source.tokens.iter().all(|token| token.test) {
        return all;
    }
    let tests = test_lines(source).into_iter().map(|(first, last)| last + 1 - first);
    all.saturating_sub(tests.sum())
}

/// Files, or what begins alike, that are longer than they may be.
pub fn long_files(sources: &[Source]) -> Vec<Finding> {
    let mut found = Vec::new();
    for source in sources {
        let lines = length(source, false);
        if lines > FILE_LINES {
            let say = format!("{lines} lines without tests, {FILE_LINES} at most: two subjects?");
            found.push(Finding::new(&source.path, lines, say));
        }
    }
    for (path, most, tests, reason) in SMALLER {
        let these = sources.iter().filter(|source| source.path.starts_with(path));
        let lines = these.map(|source| length(source, *tests)).sum::<usize>();
        if lines > *most {
            let say = format!("{lines} lines, {most} at most: {reason}");
            found.push(Finding::new(path, lines, say));
        }
    }
    found
}

/// Functions that do not fit on a screen.
pub fn long_functions(sources: &[Source]) -> Vec<Finding> {
    let mut found = Vec::new();
    for source in sources {
        for function in source.functions() {
            let lines = function.last + 1 - function.first;
            if lines > FUNCTION_LINES {
                let name = &function.name;
                let say =
                    format!("`{name}` has {lines} lines, {FUNCTION_LINES} at most: name its parts");
                found.push(Finding::new(&source.path, function.first, say));
            }
        }
    }
    found
}

/// Lines that are too wide. A row of a table cannot be broken; what a test quotes need not be.
pub fn long_lines(sources: &[Source]) -> Vec<Finding> {
    let mut found = Vec::new();
    for source in sources {
        let tests = test_lines(source);
        for (index, text) in source.text.lines().enumerate() {
            let line = index + 1;
            let mut wide = text.chars().count();
            if tests.iter().any(|(first, last)| (*first..=*last).contains(&line)) {
                wide -= source.literal.get(&line).copied().unwrap_or(0).min(wide);
            }
            let row = text.trim_start().strip_prefix("//").is_some_and(|rest| {
                rest.trim_start_matches(['/', '!', ' ']).starts_with('|') && rest.ends_with('|')
            });
            if wide > LINE_CHARACTERS && !row {
                let say = format!("{wide} characters, {LINE_CHARACTERS} at most: break the line");
                found.push(Finding::new(&source.path, line, say));
            }
        }
    }
    found
}

/// Files that do not begin with a sentence about themselves, or with too many.
pub fn module_docs(sources: &[Source]) -> Vec<Finding> {
    let mut found = Vec::new();
    for source in sources {
        let docs = source.text.lines().map_while(|line| line.strip_prefix("//!"));
        let docs = docs.map(str::trim).collect::<Vec<_>>();
        let first = docs.iter().take_while(|line| !line.is_empty()).copied().collect::<Vec<_>>();
        let first = first.join(" ");
        let sentence =
            first.split_whitespace().count() > 2 && first.ends_with(['.', ':', '!', '?']);
        if !sentence {
            let say = "begin with `//!` and a sentence: what it is for, what it leaves to others";
            found.push(Finding::new(&source.path, 1, say));
        }
        if docs.len() > MODULE_DOC_LINES {
            let lines = docs.len();
            let say = format!("{lines} lines about the module, {MODULE_DOC_LINES} at most");
            found.push(Finding::new(&source.path, lines, say));
        }
    }
    found
}

/// What ends the process where an error could be returned.
pub fn panics(sources: &[Source]) -> Vec<Finding> {
    let mut found = Vec::new();
    for source in sources {
        for (at, token) in source.tokens.iter().enumerate() {
            for (banned, instead) in PANICS {
                // `unsafe` is never right; the rest is a test's way to fail. `panic != x` is none.
                let here = !token.test || *banned == ["unsafe"];
                if here && source.follows(at, banned) && source.at(at + banned.len()) != "=" {
                    let say = format!("`{}`: {instead}", banned.concat());
                    found.push(Finding::new(&source.path, token.line, say));
                }
            }
        }
    }
    found
}

/// Lints that are switched off without being needed, or without a reason.
pub fn allows(sources: &[Source]) -> Vec<Finding> {
    let mut found = Vec::new();
    for source in sources {
        for (at, token) in source.tokens.iter().enumerate() {
            if !source.follows(at, &["#", "["]) && !source.follows(at, &["#", "!", "["]) {
                continue;
            }
            let inside = at..source.attribute_end(at);
            if inside.clone().any(|at| source.follows(at, &["allow", "("])) {
                let say = "write #[expect(…, reason = \"…\")]: it is gone when nothing needs it";
                found.push(Finding::new(&source.path, token.line, say));
            }
            let expects = inside.clone().any(|at| source.follows(at, &["expect", "("]));
            if expects && !inside.clone().any(|at| source.follows(at, &["reason", "="])) {
                let say = "say why it is expected: reason = \"…\"";
                found.push(Finding::new(&source.path, token.line, say));
            }
        }
    }
    found
}

/// Files that are opened by path elsewhere than in `host`: clippy finds the call (`clippy.toml`),
/// this who says that it is expected. Tests make files of their own.
pub fn paths(sources: &[Source]) -> Vec<Finding> {
    let elsewhere = |source: &&Source| {
        !source.path.starts_with("src/host/") && !source.path.starts_with("tests/")
    };
    let mut found = Vec::new();
    for source in sources.iter().filter(elsewhere) {
        for token in source.tokens.iter().filter(|token| !token.test) {
            if token.text == "disallowed_methods" {
                let say =
                    "open files in `host` (`owned.rs`, `tree.rs`), and say who can write to them";
                found.push(Finding::new(&source.path, token.line, say));
            }
        }
    }
    found
}

/// Tests that do not run. What another test of the file starts as a process of its own says so.
pub fn ignored(sources: &[Source]) -> Vec<Finding> {
    let mut found = Vec::new();
    for source in sources {
        let tests = source.functions().into_iter().filter(|function| source.is_test(function));
        let parts = tests.map(|test| format!("\"it is a part of {}", test.name));
        let parts = parts.collect::<Vec<_>>();
        for (at, token) in source.tokens.iter().enumerate() {
            if !source.follows(at, &["#", "[", "ignore"]) {
                continue;
            }
            let line = source.text.lines().nth(token.line - 1).unwrap_or_default();
            if !parts.iter().any(|part| line.contains(part)) {
                let say = "run it, or remove it: nobody reads a test that does not run";
                found.push(Finding::new(&source.path, token.line, say));
            }
        }
    }
    found
}

/// Tests that wait for time to pass instead of for what they want to see.
pub fn sleeps(sources: &[Source]) -> Vec<Finding> {
    let mut found = Vec::new();
    for source in sources {
        for (at, token) in source.tokens.iter().enumerate().filter(|(_, token)| token.test) {
            let called = source.at(at + 1) == "(" && at > 0 && source.at(at - 1) != "fn";
            if called && matches!(token.text.as_str(), "sleep" | "sleep_until" | "sleep_ms") {
                let say = "wait for the event, bounded by a time";
                found.push(Finding::new(&source.path, token.line, say));
            }
        }
    }
    found
}

fn found(check: fn(&[Source]) -> Vec<Finding>, path: &str, text: &str) -> String {
    let lines = check(&[Source::new(path, text)]).into_iter().map(|found| found.line.to_string());
    lines.collect::<Vec<_>>().join(" ")
}

#[test]
fn a_panic_is_found_outside_tests() {
    let text = "fn a() { b.unwrap();\nc\n.expect(d); // .unwrap()\n\".unwrap()\";\npanic!(); }\n\
                #[expect(e)]\n#[test]\nfn f() { g.unwrap(); panic!(); }\nfn h() { unsafe {} }";
    assert_eq!(found(panics, "src/x.rs", text), "1 3 5 9");
    assert_eq!(found(panics, "tests/x.rs", text), "9");
    let fine = "fn a() { b.unwrap_or(c); d.expect_more(); panic != e; let unsafe_f = panic; }";
    assert_eq!(found(panics, "src/x.rs", fine), "");
}

#[test]
fn a_long_function_is_found() {
    let body = |lines| format!("\nimpl A {{\nfn b(c: [u8; 4]) -> D {{{}}}\n}}", "\n".repeat(lines));
    assert_eq!(found(long_functions, "src/x.rs", &body(FUNCTION_LINES - 1)), "");
    assert_eq!(found(long_functions, "src/x.rs", &body(FUNCTION_LINES)), "3");
}

#[test]
fn a_long_file_is_found() {
    let lines = |lines| "fn a();\n".repeat(lines);
    let tests = format!("#[cfg(test)]\nmod tests {{\n{}}}\n", lines(FILE_LINES));
    assert_eq!(found(long_files, "src/x.rs", &(lines(FILE_LINES) + &tests)), "");
    assert_ne!(found(long_files, "src/x.rs", &(lines(FILE_LINES + 1) + &tests)), "");
    assert_ne!(found(long_files, "tests/x.rs", &(lines(FILE_LINES + 1))), "");
    assert_eq!(found(long_files, "src/assistant.rs", &lines(200)), "");
    assert_ne!(found(long_files, "src/assistant.rs", &(lines(200) + "#[test]\nfn b() {}")), "");
}

#[test]
fn a_long_line_is_found() {
    let wide = "x".repeat(LINE_CHARACTERS);
    assert_eq!(found(long_lines, "src/x.rs", &wide), "");
    assert_eq!(found(long_lines, "src/x.rs", &format!("\n/{wide}")), "2");
    assert_eq!(found(long_lines, "src/x.rs", &format!("//! | {wide} |\n//! {wide}")), "2");
    let quotes = format!("fn a() {{ \"{wide}\" }}");
    assert_eq!(found(long_lines, "src/x.rs", &format!("{quotes}\n#[test]\n{quotes}")), "1");
}

#[test]
fn a_module_without_a_sentence_is_found() {
    let docs = |text| found(module_docs, "src/x.rs", text);
    assert_eq!(docs("//! What it\n//! is for.\n//!\n//! More"), "");
    assert_eq!(docs("//! Words"), "1");
    assert_eq!(docs("use a::b;\n//! What it is for."), "1");
    assert_eq!(docs(&"//! What it is for.\n".repeat(MODULE_DOC_LINES + 1)), "41");
    assert_eq!(found(names, "src/cell/utils.rs", ""), "1");
    assert_eq!(found(names, "src/misc/x.rs", ""), "1");
    assert_eq!(found(names, "src/cell/utility_bill.rs", ""), "");
}

#[test]
fn a_switched_off_lint_a_sleep_and_an_ignored_test_are_found() {
    let lint = |text| found(allows, "src/x.rs", text);
    assert_eq!(lint("#![allow(a, reason = \"b\")]"), "1");
    assert_eq!(lint("#[cfg_attr(c, allow(a))]"), "1");
    assert_eq!(lint("#[expect(a)]\nfn b() {}"), "1");
    assert_eq!(lint("#[expect(a, reason = \"b\")]\nfn allow() {}"), "");
    let text = "fn a() { sleep(b) }\n#[test]\n#[ignore = \"c\"]\nfn d() { tokio::time::sleep(e) }";
    assert_eq!(found(sleeps, "src/x.rs", text), "4");
    assert_eq!(found(sleeps, "tests/x.rs", text), "1 4");
    let lint = "#[expect(clippy::disallowed_methods, reason = \"b\")]\nfn b() {}";
    assert_eq!(found(paths, "src/cell/x.rs", lint), "1");
    assert_eq!(found(paths, "src/host/x.rs", lint), "");
    assert_eq!(found(paths, "src/cell/x.rs", &format!("#[test]\n{lint}")), "");
    assert_eq!(found(ignored, "src/x.rs", text), "3");
    assert_eq!(found(ignored, "src/x.rs", &text.replace("\"c", "\"it is a part of d")), "");
}
