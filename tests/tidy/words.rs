//! What a text says, whatever kind of file it is: documents, data, scripts, code.

use serde_json::Value;

use crate::checkout::{Checkout, Finding, Text};
use crate::{DOCUMENTS, HOMES, HOSTS, HOSTS_NOT_IN, MACHINES, PROMISES, REASONED, TOP};

/// A document is counted in lines of so many characters.
const DOCUMENT_CHARACTERS: usize = 120;

/// What lies at the top level though nobody planned it.
pub fn top(names: &[String]) -> Vec<Finding> {
    let unknown =
        |name: &&String| !name.starts_with('.') && TOP.iter().all(|(known, _)| known != name);
    let say = "move it into a folder: the top level is DESIGN's (the table is in tests/tidy.rs)";
    names.iter().filter(unknown).map(|name| Finding::new(name, 1, say)).collect()
}

/// Documents that grew.
pub fn pages(texts: &[Text]) -> Vec<Finding> {
    let mut found = Vec::new();
    for (path, most, reason) in DOCUMENTS {
        for text in texts.iter().filter(|text| text.path == *path) {
            let wide = |line: &str| line.chars().count().div_ceil(DOCUMENT_CHARACTERS).max(1);
            let lines = text.text.lines().map(wide).sum::<usize>();
            if lines > *most {
                let say = format!(
                    "{lines} lines of {DOCUMENT_CHARACTERS} characters, {most} at most: {reason}"
                );
                found.push(Finding::new(path, text.text.lines().count(), say));
            }
        }
    }
    found
}

/// Calls `find` with each line of each file.
fn lines(texts: &[Text], find: impl Fn(&str, &str) -> Option<String>) -> Vec<Finding> {
    let mut found = Vec::new();
    for file in texts {
        for (index, line) in file.text.lines().enumerate() {
            if let Some(say) = find(&file.path, line) {
                found.push(Finding::new(&file.path, index + 1, say));
            }
        }
    }
    found
}

/// Hosts of registries.
pub fn hosts(texts: &[Text]) -> Vec<Finding> {
    lines(texts, |path, line| {
        let line = line.to_ascii_lowercase();
        let host = HOSTS.iter().find(|host| path != HOSTS_NOT_IN && line.contains(**host))?;
        Some(format!("`{host}`: where packages and images come from is the machine's setting"))
    })
}

/// Folders of one machine.
pub fn machines(texts: &[Text]) -> Vec<Finding> {
    let home = concat!("/ho", "me/");
    lines(texts, |_, line| {
        let machine = MACHINES.iter().find(|folder| absolute(line, folder).next().is_some());
        let somebody = absolute(line, home).find_map(|rest| {
            let name = rest.split(|c: char| !c.is_alphanumeric() && c != '_' && c != '-').next()?;
            (!name.is_empty() && !HOMES.contains(&name)).then(|| format!("{home}{name}"))
        });
        let folder = machine.map(|folder| (*folder).to_owned()).or(somebody)?;
        Some(format!("`{folder}` is a folder of one machine: say ~, $HOME or where it comes from"))
    })
}

/// What stands behind each place where `folder` begins a path.
fn absolute<'a>(line: &'a str, folder: &'a str) -> impl Iterator<Item = &'a str> {
    line.match_indices(folder).filter_map(move |(at, _)| {
        let (before, here) = line.split_at(at);
        // `a/b`, `../b`, `$a/b`, `${a}/b`, `$(a)/b`, `*/b` begin elsewhere.
        let inner = |c: char| c.is_alphanumeric() || "_.~-})*/".contains(c);
        (!before.ends_with(inner)).then_some(here.split_at(folder.len()).1)
    })
}

/// Keys: of Anthropic's, and private ones.
pub fn keys(texts: &[Text]) -> Vec<Finding> {
    let say = "this looks like a key: revoke it, remove it from the history, make one in the test";
    lines(texts, |_, line| {
        let looks = line.match_indices(concat!("sk-", "ant-")).any(|(at, _)| {
            let here = line.split_at(at).1;
            let is_part = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
            let key = here.split(|c| !is_part(c)).next().unwrap_or_default();
            // What a test makes up is short and reads like words.
            key.len() >= 40 && key.contains(|c: char| c.is_ascii_digit())
        });
        let private = line.contains(concat!("BEGIN ", "PRIVATE KEY"))
            || (line.contains(concat!("-----", "BEGIN")) && line.contains("PRIVATE KEY-----"));
        (looks || private).then(|| say.to_owned())
    })
}

/// Data that does not parse, or rules without a reason.
pub fn data(texts: &[Text]) -> Vec<Finding> {
    let mut found = Vec::new();
    let json = |text: &&Text| text.path.starts_with("data/") && text.path.ends_with(".json");
    for file in texts.iter().filter(json) {
        match serde_json::from_str::<Value>(&file.text) {
            Err(error) => {
                found.push(Finding::new(&file.path, error.line(), format!("no JSON: {error}")));
            }
            Ok(value) if REASONED.contains(&file.path.as_str()) => {
                let mut rules = Vec::new();
                collect_rules(&value, false, &mut rules);
                if rules.is_empty() {
                    found.push(Finding::new(&file.path, 1, "it holds no rule"));
                }
                let bare = |rule: &&&Value| {
                    // Podman's form and seccompiler's call it a comment.
                    let reason = rule.get("reason").or_else(|| rule.get("comment"));
                    let reason = reason.and_then(Value::as_str).unwrap_or_default();
                    reason.trim().is_empty()
                };
                for rule in rules.iter().filter(bare) {
                    let say = format!("give its reason: {rule}");
                    found.push(Finding::new(&file.path, 1, say));
                }
            }
            Ok(_) => {}
        }
    }
    found
}

/// The objects that are entries of a list.
fn collect_rules<'a>(value: &'a Value, is_entry: bool, out: &mut Vec<&'a Value>) {
    match value {
        Value::Object(_) if is_entry => out.push(value),
        Value::Object(fields) => fields.values().for_each(|field| collect_rules(field, false, out)),
        Value::Array(entries) => entries.iter().for_each(|entry| collect_rules(entry, true, out)),
        _ => {}
    }
}

/// The tests that a document names, and where: what follows `test: ` in backticks, and every
/// `tests/FILE.rs::NAME`. A sentence may go on in the next line.
fn promised(text: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    let mut after_test = false;
    for (index, line) in text.lines().enumerate() {
        after_test &= !line.trim().is_empty();
        for (part, text) in line.split('`').enumerate() {
            let quoted = part % 2 == 1;
            if quoted && (after_test || (text.starts_with("tests/") && text.contains("::"))) {
                found.push((index + 1, text));
            } else if !quoted {
                let between = text.trim().trim_matches([',', ';']).trim();
                let says = between.to_ascii_lowercase();
                let begins = ["test:", "tests:"].iter().any(|word| says.ends_with(word));
                after_test = begins || (after_test && matches!(between, "" | "and"));
            }
        }
    }
    found
}

/// Promises whose test does not exist, and documents that name none.
pub fn promises(checkout: &Checkout) -> Vec<Finding> {
    let mut tests = Vec::new();
    for source in &checkout.sources {
        let these = source.functions().into_iter().filter(|function| source.is_test(function));
        tests.extend(these.map(|function| (source.path.as_str(), function.name)));
    }
    let mut found = Vec::new();
    for file in checkout.texts.iter().filter(|text| PROMISES.contains(&text.path.as_str())) {
        let names = promised(&file.text);
        if names.is_empty() {
            let say = "no promise names its test: write test: `name`";
            found.push(Finding::new(&file.path, 1, say));
        }
        for (line, promise) in names {
            let exists = |(path, function): &(&str, String)| {
                let file = promise.split("::").next().filter(|file| file.ends_with(".rs"));
                promise.rsplit("::").next() == Some(function) && file.is_none_or(|f| f == *path)
            };
            if !tests.iter().any(exists) {
                let say = format!("there is no test `{promise}`: write it, or delete the promise");
                found.push(Finding::new(&file.path, line, say));
            }
        }
    }
    found
}

fn text(path: &str, text: &str) -> Vec<Text> {
    vec![Text { path: path.to_owned(), text: text.to_owned() }]
}

fn found(findings: Vec<Finding>) -> String {
    findings.iter().map(|found| found.line.to_string()).collect::<Vec<_>>().join(" ")
}

#[test]
fn a_registry_a_machine_and_a_key_are_found() {
    let host = format!("FROM https://{}/x\nFROM debian", HOSTS.concat());
    assert_eq!(found(hosts(&text("a/Containerfile", &host))), "1");
    assert_eq!(found(hosts(&text(HOSTS_NOT_IN, &host))), "");

    let home = concat!("/ho", "me/");
    let machine = |line: String| found(machines(&text("a", &line)));
    assert_eq!(machine(format!("\ncd {home}somebody")), "2");
    assert_eq!(machine(format!("\"{home}agent/.claude\" {home}* {home}$USER")), "");
    for folder in MACHINES {
        assert_eq!(machine(format!("cd {folder}x")), "1");
        assert_eq!(machine(format!("cd ..{folder}x $base{folder} ${{base}}{folder}")), "");
    }

    let key = |line: String| found(keys(&text("a", &line)));
    assert_eq!(key(format!("sk-{}-{}", "ant", "api03-aB3".repeat(9))), "1");
    assert_eq!(key(format!("sk-{}-canary-of-the-owner", "ant")), "");
    assert_eq!(key(format!("-----{} RSA PRIVATE KEY-----", "BEGIN")), "1");
}

#[test]
fn a_rule_without_a_reason_is_found() {
    let rules = |json| found(data(&text("data/agent.json", json)));
    assert_eq!(rules(r#"{"env": [{"name": "A", "reason": "b"}], "c": {"d": 1}}"#), "");
    assert_eq!(rules(r#"{"env": [{"name": "A", "reason": "b"}, {"name": "B"}]}"#), "1");
    assert_eq!(rules(r#"[{"path": "/", "reason": " "}]"#), "1");
    assert_eq!(rules("[]"), "1");
    assert_eq!(rules("[\n{,"), "2");
    assert_eq!(found(data(&text("data/prices.json", r#"[{"name": "B"}]"#))), "");
}

#[test]
fn a_promise_without_a_test_is_found() {
    let names = |text| promised(text).into_iter().map(|(_, name)| name).collect::<Vec<_>>();
    assert_eq!(
        names("One door (test: `a_b`, `tests/c.rs::d`\nand `e`), like `f`."),
        ["a_b", "tests/c.rs::d", "e"]
    );
    assert_eq!(names("`tests/tidy.rs` checks it; `tests/x.rs::y` too"), ["tests/x.rs::y"]);
    assert_eq!(names("| `a` | test: `b` | `c` |\n\n`d`"), ["b"]);

    let check = |document: &str| {
        let sources =
            vec![crate::source::Source::new("tests/x.rs", "#[test]\nfn a() {}\nfn b() {}")];
        let texts = text("SECURITY.md", document);
        found(promises(&Checkout { top: Vec::new(), texts, sources }))
    };
    assert_eq!(check("test: `a`, tests: `tests/x.rs::a`"), "");
    assert_eq!(check("\ntest: `b`"), "2");
    assert_eq!(check("test: `tests/y.rs::a`"), "1");
    assert_eq!(check("# Nothing"), "1");
}

#[test]
fn a_document_that_grew_and_a_stray_file_are_found() {
    assert_eq!(found(pages(&text("README.md", &"x\n".repeat(120)))), "");
    assert_eq!(found(pages(&text("README.md", &"x\n".repeat(121)))), "121");
    assert_eq!(found(pages(&text("README.md", &"x".repeat(121 * 120)))), "1");
    let names = |name: &str| found(top(&[name.to_owned()]));
    assert_eq!(
        (names("notes.txt"), names("src"), names(".ci")),
        ("1".into(), "".into(), "".into())
    );
}
