//! The Agent SDK's stream-json protocol, line by line, as pure parsing and writing.
//!
//! Unknown types and fields are skipped: the agent may learn new ones. What is needed is read
//! strictly. A line that is no JSON object is [`Line::Broken`]; the reader counts those.

use serde::Deserialize;
use serde_json::{Value, json};

/// How much of a tool's input is shown to people.
const SUMMARY_CHARS: usize = 200;
/// How much of a tool's name is: real ones are shorter, but a tool can write a line of its own to
/// the agent's output, with a name of any length.
const NAME_CHARS: usize = 100;

/// What a line of the agent's means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    /// The answer to one of our control requests.
    Control {
        /// Which request.
        id: String,
        /// Its error, if it failed.
        error: Option<String>,
    },
    /// The agent asks for something of ours.
    Asked {
        /// Which request.
        id: String,
        /// What for.
        subtype: String,
    },
    /// The session has begun.
    Started {
        /// Its id.
        session: String,
        /// The tools it offers.
        tools: Vec<String>,
    },
    /// Text, as it is written.
    Delta(String),
    /// A tool was called.
    Tool {
        /// Its name, cut short.
        name: String,
        /// Its input, cut short.
        summary: String,
    },
    /// A tool has come to its end.
    ToolDone,
    /// The turn has ended.
    Result(TurnResult),
    /// Something that is not needed.
    Other,
    /// No JSON object.
    Broken,
}

/// The end of a turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TurnResult {
    /// The session that holds the conversation now.
    pub session: String,
    /// The reply, or the agent's words on what went wrong.
    pub text: String,
    /// `success`, `error_during_execution`, `error_max_turns`, …
    pub subtype: String,
    /// Whether the turn failed.
    pub failed: bool,
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Raw {
    ControlResponse {
        response: RawResponse,
    },
    ControlRequest {
        request_id: String,
        request: RawRequest,
    },
    System {
        subtype: String,
        session_id: Option<String>,
        tools: Option<Vec<String>>,
    },
    StreamEvent {
        event: Value,
        parent_tool_use_id: Option<String>,
    },
    Assistant {
        message: Value,
    },
    User {
        message: Value,
    },
    Result(RawResult),
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
struct RawResponse {
    subtype: String,
    request_id: String,
    error: Option<String>,
}

#[derive(Deserialize)]
struct RawRequest {
    subtype: String,
}

#[derive(Deserialize)]
struct RawResult {
    subtype: String,
    is_error: bool,
    session_id: String,
    result: Option<String>,
    errors: Option<Vec<String>>,
}

/// Reads a line.
pub fn parse(line: &[u8]) -> Vec<Line> {
    // Serde would read an object's fields from an array, too, in their order.
    if !line.trim_ascii_start().starts_with(b"{") {
        return vec![Line::Broken];
    }
    let Ok(raw) = serde_json::from_slice::<Raw>(line) else {
        let object = serde_json::from_slice::<serde_json::Map<String, Value>>(line);
        // An object that we cannot read in full may be a newer agent's: only a result must be.
        let needed = object.as_ref().is_ok_and(|o| o.get("type") == Some(&json!("result")));
        return vec![if object.is_ok() && !needed { Line::Other } else { Line::Broken }];
    };
    vec![match raw {
        Raw::ControlResponse { response } => {
            let failed = response.subtype != "success";
            let error = failed.then(|| response.error.unwrap_or(response.subtype));
            Line::Control { id: response.request_id, error }
        }
        Raw::ControlRequest { request_id, request } => {
            Line::Asked { id: request_id, subtype: request.subtype }
        }
        Raw::System { subtype, session_id: Some(session), tools: Some(tools) }
            if subtype == "init" =>
        {
            Line::Started { session, tools }
        }
        Raw::StreamEvent { event, parent_tool_use_id: None } => delta(&event),
        Raw::Assistant { message } => return tools(&message),
        Raw::User { message } => return tools_done(&message),
        Raw::Result(result) => Line::Result(TurnResult {
            session: result.session_id,
            text: result.result.or(result.errors.map(|e| e.join("; "))).unwrap_or_default(),
            failed: result.is_error || result.subtype != "success",
            subtype: result.subtype,
        }),
        Raw::System { .. } | Raw::StreamEvent { .. } | Raw::Other => Line::Other,
    }]
}

fn delta(event: &Value) -> Line {
    let delta = &event["delta"];
    match (event["type"].as_str(), delta["type"].as_str(), delta["text"].as_str()) {
        (Some("content_block_delta"), Some("text_delta"), Some(text)) => Line::Delta(text.into()),
        _ => Line::Other,
    }
}

fn tools(message: &Value) -> Vec<Line> {
    let line = |call: &Value| Line::Tool {
        name: call["name"].as_str().unwrap_or("?").chars().take(NAME_CHARS).collect(),
        summary: call["input"].to_string().chars().take(SUMMARY_CHARS).collect(),
    };
    or_other(blocks(message, "tool_use").map(line).collect())
}

fn tools_done(message: &Value) -> Vec<Line> {
    or_other(blocks(message, "tool_result").map(|_| Line::ToolDone).collect())
}

fn blocks<'a>(message: &'a Value, kind: &'a str) -> impl Iterator<Item = &'a Value> {
    let blocks = message["content"].as_array().map(Vec::as_slice).unwrap_or_default();
    blocks.iter().filter(move |block| block["type"] == kind)
}

fn or_other(lines: Vec<Line>) -> Vec<Line> {
    if lines.is_empty() { vec![Line::Other] } else { lines }
}

/// The first line to an agent. `instructions` are appended to its own system prompt.
pub fn initialize(id: &str, instructions: &str) -> String {
    let request = json!({"subtype": "initialize", "appendSystemPrompt": instructions});
    line(&json!({"type": "control_request", "request_id": id, "request": request}))
}

/// A user's turn.
pub fn user(blocks: &[Value]) -> String {
    let message = json!({"role": "user", "content": blocks});
    line(&json!({"type": "user", "message": message, "parent_tool_use_id": null}))
}

/// Asks the agent to stop its turn.
pub fn interrupt(id: &str) -> String {
    let request = json!({"subtype": "interrupt"});
    line(&json!({"type": "control_request", "request_id": id, "request": request}))
}

/// Refuses what the agent asked for.
pub fn refuse(id: &str, subtype: &str) -> String {
    let error = format!("{subtype} is not served here");
    let response = json!({"subtype": "error", "request_id": id, "error": error});
    line(&json!({"type": "control_response", "response": response}))
}

fn line(value: &Value) -> String {
    format!("{value}\n")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::core::arbitrary::{any_json, edited, edits};

    #[test]
    fn what_is_unknown_is_skipped_and_what_is_broken_is_told() {
        assert_eq!(parse(br#"{"type":"weather","sun":true}"#), [Line::Other]);
        assert_eq!(parse(br#"{"type":"system","subtype":"init","tools":7}"#), [Line::Other]);
        assert_eq!(parse(br#"{"type":"result","subtype":"success"}"#), [Line::Broken]);
        for broken in [&b"Killed"[..], b"", b"[1]", b"{", b"\xff\xfe"] {
            assert_eq!(parse(broken), [Line::Broken], "{broken:?}");
        }
    }

    #[test]
    fn what_is_shown_of_a_tool_is_short_however_long_it_came() {
        let long = "ä".repeat(100_000);
        let call = json!({"type": "tool_use", "name": &long, "input": {"command": &long}});
        let line = json!({"type": "assistant", "message": {"content": [call]}}).to_string();
        let [Line::Tool { name, summary }] = &parse(line.as_bytes())[..] else { panic!("no tool") };
        assert_eq!(name.chars().count(), NAME_CHARS);
        assert_eq!(summary.chars().count(), SUMMARY_CHARS);
    }

    #[test]
    fn a_success_that_is_an_error_has_failed() {
        let line = br#"{"type":"result","subtype":"success","is_error":true,"session_id":"s",
            "result":"API Error: 401","new":1}"#;
        let [Line::Result(result)] = &parse(line)[..] else { panic!("no result") };
        assert!(result.failed);
        assert_eq!(result.text, "API Error: 401");
    }

    #[test]
    fn what_is_written_is_one_line_whatever_the_text() {
        let blocks = [json!({"type": "text", "text": "a\nb\r\u{2028}c"})];
        for text in [user(&blocks), initialize("1", "x\ny"), interrupt("2"), refuse("3", "z\n")] {
            assert_eq!(text.matches('\n').count(), 1);
            assert!(text.ends_with('\n'));
        }
    }

    /// Lines of a real agent, without what changes from run to run.
    fn real() -> impl Strategy<Value = Value> {
        let files = [
            include_str!("../../tests/golden/error.ndjson"),
            include_str!("../../tests/golden/interrupt-writing.ndjson"),
            include_str!("../../tests/golden/tool.ndjson"),
        ];
        let lines: Vec<Value> = files
            .iter()
            .flat_map(|file| file.lines())
            .map(|line| serde_json::from_str(line).expect("it is JSON"))
            .collect();
        prop::sample::select(lines)
    }

    /// What a line may be taken for, whatever it is.
    fn fits(line: &[u8]) -> Result<(), TestCaseError> {
        let read = parse(line);
        let Ok(object) = serde_json::from_slice::<serde_json::Map<String, Value>>(line) else {
            prop_assert_eq!(read, [Line::Broken]);
            return Ok(());
        };
        let object = Value::from(object);
        let kind = object["type"].as_str().unwrap_or_default();
        prop_assert!(!read.is_empty());
        for line in read {
            let wanted = match line {
                Line::Broken | Line::Result(_) => "result",
                Line::Control { .. } => "control_response",
                Line::Asked { .. } => "control_request",
                Line::Started { .. } => "system",
                Line::Delta(_) => "stream_event",
                Line::Tool { .. } => "assistant",
                Line::ToolDone => "user",
                Line::Other => continue,
            };
            prop_assert_eq!(kind, wanted);
            match line {
                Line::Tool { name, summary } => {
                    prop_assert!(name.chars().count() <= NAME_CHARS);
                    prop_assert!(summary.chars().count() <= SUMMARY_CHARS);
                }
                Line::Delta(text) => {
                    prop_assert_eq!(&object["event"]["delta"]["text"], &json!(text));
                    prop_assert_eq!(&object["parent_tool_use_id"], &Value::Null);
                }
                Line::Result(result) => {
                    let well = object["subtype"] == "success" && object["is_error"] == false;
                    prop_assert_eq!(result.failed, !well);
                    prop_assert_eq!(&object["session_id"], &json!(result.session));
                }
                Line::Control { error, .. } => {
                    let well = object["response"]["subtype"] == "success";
                    prop_assert_eq!(error.is_none(), well);
                }
                _ => {}
            }
        }
        Ok(())
    }

    proptest! {
        #![proptest_config(crate::core::arbitrary::config())]

        #[test]
        fn any_bytes_are_read_or_broken(line in prop::collection::vec(any::<u8>(), 0..200)) {
            fits(&line)?;
        }

        #[test]
        fn any_json_is_read_for_what_it_says_it_is(
            mut line in any_json(),
            kind in prop::sample::select(vec!["result", "assistant", "user", "system", "x"]),
            well in any::<[bool; 2]>(),
        ) {
            if let Some(object) = line.as_object_mut() {
                object.insert("type".to_owned(), kind.into());
                let subtype = if well[0] { "success" } else { "error_max_turns" };
                object.insert("subtype".to_owned(), subtype.into());
                object.insert("is_error".to_owned(), (!well[1]).into());
                object.insert("session_id".to_owned(), "s".into());
            }
            fits(line.to_string().as_bytes())?;
        }

        #[test]
        fn a_real_line_is_read_and_a_changed_one_taken_for_nothing_better(
            line in real(),
            edits in edits(3),
            cut in any::<prop::sample::Index>(),
        ) {
            prop_assert!(!parse(line.to_string().as_bytes()).contains(&Line::Broken));
            let changed = edited(&line, &edits).to_string();
            fits(changed.as_bytes())?;
            fits(&changed.as_bytes()[..cut.index(changed.len())])?;
        }

        #[test]
        fn what_is_written_is_a_line_that_says_it(blocks in prop::collection::vec(any_json(), 0..4),
            text in any::<String>()) {
            let lines = [
                (user(&blocks), "/message/content", json!(blocks)),
                (initialize(&text, &text), "/request/appendSystemPrompt", json!(text)),
                (interrupt(&text), "/request_id", json!(text)),
                (refuse(&text, "x"), "/response/request_id", json!(text)),
            ];
            for (line, place, said) in lines {
                prop_assert_eq!(line.find('\n'), Some(line.len() - 1));
                let read: Value = serde_json::from_str(&line)?;
                prop_assert_eq!(read.pointer(place), Some(&said));
            }
        }
    }
}
