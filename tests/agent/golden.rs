//! What was seen of the pinned agent and looked at once: files in `tests/golden/`, compared line by
//! line. `NOCLAW_BLESS=1` writes what is seen instead.
//!
//! Lines of the agent's are kept as their shape: names, structure, truths. Whatever varies or is
//! prose stands there as the name of its type.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::support::{Result, ground};

/// Strings and numbers that are names of the protocol or were given by the test.
const KEPT: [&str; 13] = [
    "api_error_status",
    "apiKeySource",
    "cwd",
    "decision",
    "output_style",
    "permissionMode",
    "request_id",
    "role",
    "status",
    "stop_reason",
    "subtype",
    "terminal_reason",
    "type",
];

/// What a value looks like.
pub fn shape(value: &Value) -> Value {
    match value {
        Value::Null | Value::Bool(_) => value.clone(),
        Value::Number(_) => "number".into(),
        Value::String(_) => "string".into(),
        Value::Array(values) => {
            let mut shapes: Vec<Value> = Vec::new();
            for shape in values.iter().map(shape) {
                if !shapes.contains(&shape) {
                    shapes.push(shape);
                }
            }
            shapes.into()
        }
        Value::Object(object) => {
            object.iter().map(|(key, value)| field(object, key, value)).collect()
        }
    }
}

fn field(object: &Map<String, Value>, key: &str, value: &Value) -> (String, Value) {
    let kept = KEPT.contains(&key)
        || (key == "name" && is(object, "tool_use"))
        || (key == "tools" && is(object, "system"));
    let value = if kept && !value.is_object() { value.clone() } else { shape(value) };
    (key.to_owned(), value)
}

fn is(object: &Map<String, Value>, kind: &str) -> bool {
    object.get("type").is_some_and(|found| found == kind)
}

/// The shapes of these lines, one a line; equal ones that follow each other are one.
pub fn shapes(lines: &[Value]) -> Vec<String> {
    let mut shapes: Vec<_> = lines.iter().map(|line| shape(line).to_string()).collect();
    shapes.dedup();
    shapes
}

/// Where a golden file is.
pub fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// Its lines; none when there is no such file.
pub fn lines(name: &str) -> Vec<String> {
    let text = fs::read_to_string(path(name)).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// Whether lines must come in the order of the golden file.
#[derive(Clone, Copy, PartialEq)]
pub enum Order {
    Matters,
    /// They may come in any order, and any number of times.
    ByChance,
}

/// Fails if what is seen is not what the golden file has, or writes it there. `look` says what to
/// look at.
#[expect(clippy::panic, reason = "an error would be shown in one line")]
pub fn compare(name: &str, seen: &[String], order: Order, look: &str) -> Result {
    let golden = lines(name);
    let set = |lines: &[String]| lines.iter().cloned().collect::<BTreeSet<_>>();
    if seen == golden || order == Order::ByChance && set(seen) == set(&golden) {
        return Ok(());
    }
    if std::env::var_os("NOCLAW_BLESS").is_some() {
        return bless(name, seen);
    }
    let difference = difference(&golden, seen);
    panic!(
        "the agent is not as tests/golden/{name} has it (- gone, + new):\n\n{difference}\n\
         {look}\nIf it is all right, run this test with NOCLAW_BLESS=1.\n"
    )
}

#[expect(clippy::panic, reason = "an error would be shown in one line")]
fn bless(name: &str, seen: &[String]) -> Result {
    let text = seen.iter().fold(String::new(), |text, line| text + line + "\n");
    if fs::write(path(name), &text).is_ok() {
        return Ok(());
    }
    // In the test ground the checkout is not the test's to write.
    let aside = Path::new(&ground("NOCLAW_TEST_DIR")?).join("golden");
    fs::create_dir_all(&aside)?;
    fs::write(aside.join(name), text)?;
    panic!("the checkout is read-only here: cp {} tests/golden/", aside.join(name).display())
}

fn difference(golden: &[String], seen: &[String]) -> String {
    let (golden, seen) = (pretty(golden), pretty(seen));
    // The lengths of the longest common subsequences of what is left of both.
    let mut common = vec![vec![0_usize; seen.len() + 1]; golden.len() + 1];
    for (i, old) in golden.iter().enumerate().rev() {
        for (j, new) in seen.iter().enumerate().rev() {
            common[i][j] = if old.1 == new.1 {
                common[i + 1][j + 1] + 1
            } else {
                common[i + 1][j].max(common[i][j + 1])
            };
        }
    }
    let (mut i, mut j, mut text) = (0, 0, String::new());
    while i < golden.len() || j < seen.len() {
        let (old, new) = (golden.get(i), seen.get(j));
        if let (Some(old), Some(new)) = (old, new)
            && old.1 == new.1
        {
            (i, j) = (i + 1, j + 1);
        } else if let Some((line, old)) = old
            && (new.is_none() || common[i + 1][j] >= common[i][j + 1])
        {
            writeln!(text, "{line:>5} - {old}").ok();
            i += 1;
        } else if let Some((line, new)) = new {
            writeln!(text, "{line:>5} + {new}").ok();
            j += 1;
        }
    }
    text
}

/// Lines with their numbers; JSON is spread out.
fn pretty(lines: &[String]) -> Vec<(usize, String)> {
    let mut all = Vec::new();
    for (number, line) in (1..).zip(lines) {
        let value = serde_json::from_str::<BTreeMap<String, Value>>(line).ok();
        let text = value.and_then(|value| serde_json::to_string_pretty(&value).ok());
        let text = text.unwrap_or_else(|| line.clone());
        all.extend(text.lines().map(|part| (number, part.to_owned())));
    }
    all
}
