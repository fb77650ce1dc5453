//! Golden transcripts of the pin: every line of a few turns, reduced to its shape. What the service
//! makes of these lines needs no cell and is checked beside them.

use std::fs;

use noclaw::cell::stream_json::{self, Line};
use noclaw::core::ids::RunId;
use serde_json::{Value, json};

use crate::golden::{self, Order};
use crate::support::{Result, until};
use crate::talk::{Lines, Place, is_result, new_run};

const LOOK: &str = "Look at what src/cell/stream_json.rs makes of it.";

/// When a turn is interrupted.
#[derive(Clone, Copy, PartialEq)]
enum Interrupt {
    Never,
    /// The model was asked.
    Asked,
    /// It has begun to write.
    Writing,
    /// Bash has made the file `begun`.
    Working,
}

impl Interrupt {
    fn is_due(self, line: &Value) -> bool {
        match self {
            Self::Never => false,
            Self::Asked => line["status"] == "requesting",
            Self::Writing => line["event"]["delta"]["type"] == "text_delta",
            Self::Working => line["event"]["type"] == "message_stop",
        }
    }
}

/// One turn of a session in a cell of its own: every line of it.
async fn turn(
    place: &Place,
    run: RunId,
    head: Option<RunId>,
    text: &str,
    interrupt: Interrupt,
) -> Result<Vec<Value>> {
    let (cell, up, down) = place.open(run, &place.job(run, head)?).await?;
    let mut lines = Lines::new(up, down);
    lines.tell(stream_json::initialize("initialize", "Be brief.")).await?;
    let mut heard = lines.until(|line| line["type"] == "control_response").await?;
    lines.say(text).await?;
    if interrupt != Interrupt::Never {
        heard.extend(lines.until(|line| interrupt.is_due(line)).await?);
        if interrupt == Interrupt::Working {
            let begun = place.path("workspace/begun");
            until("Bash works", || begun.exists().then_some(()))?;
        }
        lines.tell(stream_json::interrupt("interrupt")).await?;
    }
    heard.extend(lines.until(is_result).await?);
    heard.extend(lines.rest().await?);
    cell.end().await?;
    Ok(heard)
}

async fn recorded(name: &str, text: &str) -> Result {
    let place = Place::new().await?;
    let heard = turn(&place, new_run(), None, text, Interrupt::Never).await?;
    golden::compare(name, &golden::shapes(&heard), Order::Matters, LOOK)
}

/// The agent answers an interrupt, cuts off the model and writes down what it has, all at the same
/// time: which line comes first is by chance.
async fn interrupted(name: &str, text: &str, when: Interrupt) -> Result {
    let place = Place::new().await?;
    let heard = turn(&place, new_run(), None, text, when).await?;
    golden::compare(name, &golden::shapes(&heard), Order::ByChance, LOOK)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_echo() -> Result {
    recorded("echo.ndjson", "hello").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_tool() -> Result {
    recorded("tool.ndjson", r#"!tool Bash {"command":"echo hi"}"#).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_error_of_the_models() -> Result {
    recorded("error.ndjson", "!error 400").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_interrupt_before_the_answer() -> Result {
    interrupted("interrupt-asked.ndjson", "!sleep 30", Interrupt::Asked).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_interrupt_within_the_answer() -> Result {
    interrupted("interrupt-writing.ndjson", "!words 400", Interrupt::Writing).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_interrupt_of_a_tool() -> Result {
    let text = r#"!tool Bash {"command":"touch begun; tail -f /dev/null"}"#;
    interrupted("interrupt-working.ndjson", text, Interrupt::Working).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_fork_of_the_conversations_head() -> Result {
    let place = Place::new().await?;
    let (head, fork) = (new_run(), new_run());
    turn(&place, head, None, "hello", Interrupt::Never).await?;
    let before = fs::read(place.transcript(head))?;
    let heard = turn(&place, fork, Some(head), "!history", Interrupt::Never).await?;
    assert_eq!(fs::read(place.transcript(head))?, before, "a fork leaves its head as it was");
    assert!(place.transcript(fork).exists(), "a session's transcript has its name");
    let result = heard.iter().find(|line| is_result(line)).ok_or("no result")?;
    assert_eq!(result["result"], "hello\n!history", "each text once");
    golden::compare("fork.ndjson", &golden::shapes(&heard), Order::Matters, LOOK)
}

/// What each recording means to the service, runs of text as one.
const MEANT: [(&str, &[&str]); 7] = [
    ("echo.ndjson", &["control", "started", "text", "result"]),
    ("fork.ndjson", &["control", "started", "text", "result"]),
    ("tool.ndjson", &["control", "started", "tool Bash", "text", "result"]),
    ("error.ndjson", &["control", "started", "failed success"]),
    ("interrupt-asked.ndjson", &["control", "started", "control", STOPPED]),
    ("interrupt-writing.ndjson", &["control", "started", "text", "control", STOPPED]),
    ("interrupt-working.ndjson", &["control", "started", "tool Bash", "control", STOPPED]),
];
const STOPPED: &str = "failed error_during_execution";

fn meant(line: &Line) -> Option<String> {
    Some(match line {
        Line::Control { error: None, .. } => "control".to_owned(),
        Line::Control { error: Some(error), .. } => format!("refused: {error}"),
        Line::Asked { subtype, .. } => format!("asked {subtype}"),
        Line::Started { tools, .. } => {
            assert_eq!(tools[..], ["Bash", "Edit", "Read", "Write"]);
            "started".to_owned()
        }
        Line::Delta(_) => "text".to_owned(),
        Line::Tool { name, .. } => format!("tool {name}"),
        Line::Result(turn) if turn.failed => format!("failed {}", turn.subtype),
        Line::Result(_) => "result".to_owned(),
        Line::Other | Line::ToolDone => return None,
        Line::Broken => "broken".to_owned(),
    })
}

fn all_meant(lines: &[String]) -> Vec<String> {
    let parsed = lines.iter().flat_map(|line| stream_json::parse(line.as_bytes()));
    let mut all: Vec<_> = parsed.filter_map(|line| meant(&line)).collect();
    all.dedup();
    all
}

#[test]
fn every_recorded_line_means_what_it_should() {
    for (name, expected) in MEANT {
        assert_eq!(all_meant(&golden::lines(name)), expected, "{name}");
    }
}

/// The line with an unknown field in each of its objects but a tool's input.
fn newer(value: &Value) -> Value {
    match value {
        Value::Array(values) => values.iter().map(newer).collect(),
        Value::Object(object) => {
            let field = |(key, value): (&String, &Value)| {
                (key.clone(), if key == "input" { value.clone() } else { newer(value) })
            };
            let unknown = ("weather".to_owned(), json!({"sun": [true, null, 1.5]}));
            object.iter().map(field).chain([unknown]).collect()
        }
        plain => plain.clone(),
    }
}

#[test]
fn unknown_fields_and_types_change_nothing() -> Result {
    for (name, _) in MEANT {
        for line in golden::lines(name) {
            let value: Value = serde_json::from_str(&line)?;
            let newer = newer(&value).to_string();
            let known = stream_json::parse(line.as_bytes());
            assert_eq!(stream_json::parse(newer.as_bytes()), known, "{name}: {newer}");
            if value["type"] != "result" {
                let unknown = json!({"type": "weather", "subtype": 7, "was": value}).to_string();
                assert_eq!(stream_json::parse(unknown.as_bytes()), [Line::Other], "{unknown}");
            }
        }
    }
    Ok(())
}

#[test]
fn a_line_that_is_cut_off_is_broken_and_no_other_line() {
    for (name, _) in MEANT {
        for line in golden::lines(name) {
            let bytes = line.as_bytes();
            for cut in (0..bytes.len()).step_by(7) {
                assert_eq!(stream_json::parse(&bytes[..cut]), [Line::Broken], "{name} at {cut}");
            }
            let mut invalid = bytes.to_vec();
            invalid.insert(2, 0xff);
            assert_eq!(stream_json::parse(&invalid), [Line::Broken], "{name}: invalid UTF-8");
        }
    }
}
