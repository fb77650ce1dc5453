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
    use super::*;

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
}
