//! What the pin offers, reads and leaves behind, by name. A new pin that brings another tool,
//! variable or file fails here until somebody has looked at it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use noclaw::cell::start::StartLine;
use noclaw::cell::stream_json;
use noclaw::core::ids::RunId;
use noclaw_cell::job::Job;
use serde_json::{Value, json};

use crate::golden::{self, Order};
use crate::support::Result;
use crate::talk::{Lines, Place, is_result, new_run};

/// The agent's name for it in its first line; the model is offered another one.
const RENAMED: [(&str, &str); 1] = [("Task", "Agent")];

/// A session of one turn; returns its first line of the type `system`.
async fn session(place: &Place, run: RunId, job: &Job, text: &str) -> Result<Value> {
    let (cell, up, down) = place.open(run, job).await?;
    let mut lines = Lines::new(up, down);
    lines.tell(stream_json::initialize("initialize", "")).await?;
    lines.say(text).await?;
    let heard = lines.until(is_result).await?;
    lines.rest().await?;
    cell.end().await?;
    assert_eq!(heard.last().map(|line| &line["is_error"]), Some(&json!(false)), "{heard:#?}");
    let started = heard.into_iter().find(|line| line["subtype"] == "init");
    Ok(started.ok_or("it did not say how it started")?)
}

/// Has the agent call tools one after the other.
fn calls(calls: &[(&str, Value)]) -> String {
    let lines: Vec<_> = calls.iter().map(|(tool, input)| format!("!tool {tool} {input}")).collect();
    lines.join("\n")
}

fn bash(command: &str) -> (&'static str, Value) {
    ("Bash", json!({"command": command}))
}

fn names(list: &Value, name: impl Fn(&Value) -> &Value) -> Vec<String> {
    let list = list.as_array().into_iter().flatten();
    let mut names: Vec<_> =
        list.filter_map(|entry| Some(name(entry).as_str()?.to_owned())).collect();
    names.sort();
    names
}

/// The tools of the session's first line, which must be those that the model is offered.
async fn tools(job: impl Fn(Job) -> Job) -> Result<Vec<String>> {
    let place = Place::new().await?;
    let run = new_run();
    let started = session(&place, run, &job(place.job(run, None)?), "hello").await?;
    let mut said = names(&started["tools"], |tool| tool);
    for (there, here) in RENAMED {
        said.iter_mut().filter(|name| *name == there).for_each(|name| *name = here.to_owned());
    }
    said.sort();
    for asked in place.asked()? {
        assert_eq!(names(&asked["tools"], |tool| &tool["name"]), said, "what the model is offered");
    }
    Ok(said)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_model_is_offered_the_listed_tools_and_no_others() -> Result {
    let mut listed = StartLine::shipped()?.tools;
    listed.sort();
    assert_eq!(tools(|job| job).await?, listed);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn every_tool_of_the_pins_is_listed_with_a_reason() -> Result {
    let without_list = |mut job: Job| {
        let at = job.argv.iter().position(|arg| arg == "--tools").unwrap_or_default();
        job.argv.drain(at..at + 2);
        job
    };
    let offered = StartLine::shipped()?.tools;
    let listed = golden::lines("tools.txt");
    let reasons: BTreeMap<_, _> = listed
        .iter()
        .filter_map(|line| line.split_once(' ').map(|(name, rest)| (name, rest.trim_start())))
        .filter_map(|(name, rest)| Some((name, rest.split_once(' ')?.1.trim_start())))
        .collect();
    let row = |name: &String| {
        let place = if offered.contains(name) { "offered" } else { "kept-away" };
        let reason = reasons.get(name.as_str()).unwrap_or(&"?");
        format!("{name:<18}{place:<11}{reason}")
    };
    let seen: Vec<_> = tools(without_list).await?.iter().map(row).collect();
    let look = "What could a tool do in a cell? data/agent.json says which are offered; write the \
                reason in place of each `?`.";
    golden::compare("tools.txt", &seen, Order::Matters, look)?;
    let unexplained: Vec<_> = seen.iter().filter(|line| line.ends_with('?')).collect();
    assert!(unexplained.is_empty(), "without a reason in tests/golden/tools.txt: {unexplained:#?}");
    Ok(())
}

/// Has the agent's Bash write lines to `/workspace/seen`, after other calls.
async fn seen(before: &[(&str, Value)], command: &str) -> Result<(Place, RunId, Vec<String>)> {
    let place = Place::new().await?;
    let run = new_run();
    let last = bash(&format!("( {command} ) >/workspace/seen"));
    let text = calls(&[before, &[last]].concat());
    session(&place, run, &place.job(run, None)?, &text).await?;
    let text = fs::read_to_string(place.path("workspace/seen"))?;
    let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
    lines.sort();
    lines.dedup();
    Ok((place, run, lines))
}

/// Names that begin like the agent's variables anywhere in its program, and whatever its source
/// reads from its environment under another name. Some are no variables: they do no harm here.
const VARIABLES: &str = r#"rg --text --only-matching --no-filename --no-line-number \
    --regexp '(?-u:\b)(?:CLAUDE|ANTHROPIC|DISABLE|ENABLE|MCP|BASH|API)_[A-Z0-9_]+(?-u:\b)' \
    --regexp '(?-u:\b)process\.env\.[A-Z][A-Z0-9_]*(?-u:\b)' \
    "$(command -v claude)" | sed 's/^process\.env\.//'"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn every_variable_of_the_pins_is_listed() -> Result {
    let (_, _, seen) = seen(&[], VARIABLES).await?;
    let look = "Does a new one let a workspace or a model do what it may not, or switch off what \
                acts by itself? data/agent.json sets those that matter; the cell has no others.";
    golden::compare("variables.txt", &seen, Order::Matters, look)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn every_variable_that_bash_is_given_is_listed() -> Result {
    let (_, _, seen) = seen(&[], "compgen -e").await?;
    let look = "What can a command do with a new one?";
    golden::compare("environment.txt", &seen, Order::Matters, look)
}

/// Every file of a cell's own, with its type as find(1) has it.
const FILES: &str = "find /home/agent /transcripts /workspace /tmp -mindepth 1 \
    -printf 'inside %y %p\\n'";

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn every_file_that_is_left_behind_is_listed() -> Result {
    let note = "/workspace/note.txt";
    let before = [
        ("Write", json!({"file_path": note, "content": "remember the milk"})),
        ("Read", json!({"file_path": note})),
        bash("echo hi"),
    ];
    let (place, run, inside) = seen(&before, FILES).await?;
    let mut left = Vec::new();
    for folder in ["transcripts", "workspace"] {
        walk(&place.path(folder), &format!("/{folder}"), &mut left)?;
    }
    let listed = golden::lines("files.txt");
    let mut seen: Vec<_> =
        inside.iter().chain(&left).map(|line| listed_as(line, run, &listed)).collect();
    // Some files live for a moment only: what is listed inside need not be there when we look.
    seen.extend(listed.iter().filter(|line| line.starts_with("inside ")).cloned());
    seen.sort();
    seen.dedup();
    let look = "`inside` ends with the cell. What is `left` comes back in the next cell of this user \
                or conversation: could it act there by itself? (assistant/after.rs keeps only the \
                transcript.) Write `*` in the place of what differs from run to run.";
    golden::compare("files.txt", &seen, Order::Matters, look)
}

fn walk(folder: &Path, name: &str, found: &mut Vec<String>) -> Result {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = format!("{name}/{}", entry.file_name().to_string_lossy());
        let kind = entry.file_type()?;
        let letter = if kind.is_dir() {
            'd'
        } else if kind.is_file() {
            'f'
        } else {
            '?'
        };
        found.push(format!("left {letter} {name}"));
        if kind.is_dir() {
            walk(&entry.path(), &name, found)?;
        }
    }
    Ok(())
}

/// The line of the list that this one is, or itself without the session's id.
fn listed_as(line: &str, run: RunId, listed: &[String]) -> String {
    let line = line.replace(&run.to_string(), "*");
    let known = listed.iter().find(|pattern| {
        let Some((begin, end)) = pattern.rsplit_once('*') else { return false };
        let varies = line.strip_prefix(begin).and_then(|rest| rest.strip_suffix(end));
        varies.is_some_and(|varies| !varies.is_empty() && !varies.contains('/'))
    });
    known.cloned().unwrap_or(line)
}
