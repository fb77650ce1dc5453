//! What the demo model reads in a request, and what it makes of it. Pure.
//!
//! **User texts** are the text blocks of entries with the role `user`, except those that begin with
//! `<system-reminder>` (the agent's) or `<noclaw:` (ours). The agent's `environment` entry has the
//! role `system` and counts as a system text; results of tools are blocks of type `tool_result`.
//! The **last turn** is the texts since the last answer or result; its results are those after it.
//! Turns are told apart by blocks, for the agent merges entries: a text may stand behind a result.
//!
//! The last turn's lines are carried out in order: a request does what stands after the last tool
//! that has a result. A line that is not exactly of its form is plain text.

use std::time::Duration;

use hyper::StatusCode;
use serde_json::{Map, Value};

/// More would only be a way to hang.
const SLEEP_MOST: Duration = Duration::from_secs(3600);
const WORDS_MOST: u32 = 100_000;

/// What the model was shown.
#[derive(Debug, Default)]
pub(super) struct Shown {
    texts: Vec<String>,
    turn: Vec<String>,
    results: Vec<String>,
    system: Vec<String>,
    tools: Vec<String>,
}

/// What it does: wait, then answer.
#[derive(Debug, PartialEq)]
pub(super) struct Deed {
    pub wait: Duration,
    /// Or the status to fail with, and whether to quote the key that came.
    pub reply: Result<Reply, (StatusCode, bool)>,
}

/// What it answers.
#[derive(Debug, PartialEq)]
pub(super) enum Reply {
    Tool {
        name: String,
        input: Map<String, Value>,
    },
    /// A text, and that many words after it, slowly.
    Text {
        text: String,
        words: u32,
    },
}

enum Step {
    Sleep(Duration),
    Fail(StatusCode, bool),
    Call(Reply),
    Show(fn(&Shown) -> &[String]),
    Words(u32),
}

impl Shown {
    pub(super) fn read(request: &Value) -> Self {
        let mut shown = Self { system: texts(request.get("system")), ..Self::default() };
        let tools = request.get("tools").and_then(Value::as_array);
        shown.tools = tools
            .into_iter()
            .flatten()
            .filter_map(|t| Some(t.get("name")?.as_str()?.into()))
            .collect();
        let mut in_turn = false;
        for entry in request.get("messages").and_then(Value::as_array).into_iter().flatten() {
            let content = entry.get("content");
            match entry.get("role").and_then(Value::as_str) {
                Some("system") => shown.system.extend(texts(content)),
                Some("user") => shown.read_user(content, &mut in_turn),
                _ => in_turn = false,
            }
        }
        shown
    }

    fn read_user(&mut self, content: Option<&Value>, in_turn: &mut bool) {
        for block in blocks(content) {
            if block.get("type").and_then(Value::as_str) == Some("tool_result") {
                self.results.push(texts(block.get("content")).join("\n"));
                *in_turn = false;
            }
            let Some(text) = text(&block).filter(|text| is_users(text)) else { continue };
            if !std::mem::replace(in_turn, true) {
                self.turn.clear();
                self.results.clear();
            }
            self.turn.push(text.clone());
            self.texts.push(text);
        }
    }

    /// Words it was shown; they stand for tokens.
    pub(super) fn words(&self) -> u64 {
        let all = self.texts.iter().chain(&self.results).chain(&self.system);
        all.map(|text| words(text)).sum()
    }

    /// What to do about it.
    pub(super) fn deed(&self) -> Deed {
        let mut wait = Duration::ZERO;
        let mut out = Vec::new();
        let mut count: u32 = 0;
        let mut results = self.results.iter();
        for step in self.turn.iter().flat_map(|text| text.lines()).filter_map(step) {
            match step {
                Step::Sleep(time) => wait += time,
                Step::Fail(status, quotes) => return Deed { wait, reply: Err((status, quotes)) },
                Step::Call(call) => match results.next() {
                    Some(result) => {
                        // What stands before it was done by an earlier request.
                        wait = Duration::ZERO;
                        out.push(result.clone());
                    }
                    None => return Deed { wait, reply: Ok(call) },
                },
                Step::Show(list) => out.push(list(self).join("\n")),
                Step::Words(n) => count = count.saturating_add(n).min(WORDS_MOST),
            }
        }
        if out.is_empty() && count == 0 {
            out.push(format!("You said: {}", self.turn.join("\n")));
        }
        Deed { wait, reply: Ok(Reply::Text { text: out.join("\n"), words: count }) }
    }
}

/// How many words `text` has, at least one.
pub(super) fn words(text: &str) -> u64 {
    (text.split_whitespace().count() as u64).max(1)
}

fn is_users(text: &str) -> bool {
    let text = text.trim_start();
    !text.starts_with("<system-reminder>") && !text.starts_with("<noclaw:")
}

fn step(line: &str) -> Option<Step> {
    let (verb, rest) = line.trim().split_once(' ').unwrap_or((line.trim(), ""));
    let rest = rest.trim();
    match verb {
        "!history" if rest.is_empty() => Some(Step::Show(|shown| &shown.texts)),
        "!system" if rest.is_empty() => Some(Step::Show(|shown| &shown.system)),
        "!tools" if rest.is_empty() => Some(Step::Show(|shown| &shown.tools)),
        "!words" => rest.parse().ok().map(Step::Words),
        "!error" | "!quote" => {
            let status = StatusCode::from_bytes(rest.as_bytes()).ok()?;
            let is_error = status.is_client_error() || status.is_server_error();
            is_error.then_some(Step::Fail(status, verb == "!quote"))
        }
        "!sleep" => {
            let time = Duration::try_from_secs_f64(rest.parse().ok()?).ok()?;
            Some(Step::Sleep(time.min(SLEEP_MOST)))
        }
        "!tool" => {
            let (name, json) = rest.split_once(' ')?;
            let input = serde_json::from_str(json).ok()?;
            Some(Step::Call(Reply::Tool { name: name.into(), input }))
        }
        _ => None,
    }
}

fn blocks(content: Option<&Value>) -> Vec<Value> {
    match content {
        Some(Value::String(text)) => vec![serde_json::json!({"type": "text", "text": text})],
        Some(Value::Array(blocks)) => blocks.clone(),
        _ => Vec::new(),
    }
}

fn text(block: &Value) -> Option<String> {
    let text = block.get("text")?.as_str()?;
    (block.get("type")?.as_str()? == "text").then(|| text.to_owned())
}

fn texts(content: Option<&Value>) -> Vec<String> {
    blocks(content).iter().filter_map(text).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn reply(messages: Value) -> Deed {
        let tools = json!([{"name": "Bash"}, {"name": "Read"}]);
        Shown::read(&json!({"system": "top", "tools": tools, "messages": messages})).deed()
    }

    fn says(messages: Value, wanted: &str) {
        let reply = reply(messages).reply;
        assert_eq!(reply, Ok(Reply::Text { text: wanted.into(), words: 0 }));
    }

    fn user(text: &str) -> Value {
        json!({"role": "user", "content": [
            {"type": "text", "text": "<system-reminder>\nx\n</system-reminder>\n"},
            {"type": "text", "text": "<noclaw:time>{}</noclaw:time>"},
            {"type": "text", "text": text},
        ]})
    }

    fn call() -> Value {
        json!({"role": "assistant", "content": [{"type": "tool_use", "name": "Bash"}]})
    }

    fn result(text: &str) -> Value {
        json!({"type": "tool_result", "content": [{"type": "text", "text": text}]})
    }

    #[test]
    fn a_text_is_echoed_and_what_others_added_is_not() {
        let environment = json!({"role": "system", "content": "# Environment"});
        says(json!([user("hello"), environment]), "You said: hello");
        says(json!([{"role": "user", "content": "a\nb"}]), "You said: a\nb");
        let several = json!({"role": "user", "content": [
            {"type": "text", "text": "one"}, {"type": "image"}, {"type": "text", "text": "two"}]});
        says(json!([several]), "You said: one\ntwo");
        says(json!([user("!tool Bash {broken"), environment]), "You said: !tool Bash {broken");
        says(json!([]), "You said: ");
    }

    #[test]
    fn tools_are_called_one_after_the_other() {
        let text =
            user("please\n!tool Bash {\"command\":\"id\"}\n!sleep 1.5\n!tool Read {}\nthanks");
        let input = json!({"command": "id"}).as_object().cloned().unwrap_or_default();
        let first = reply(json!([text]));
        assert_eq!(first.reply, Ok(Reply::Tool { name: "Bash".into(), input }));
        assert_eq!(first.wait, Duration::ZERO);
        let one = json!({"role": "user", "content": [result("1000")]});
        let second = reply(json!([text, call(), one]));
        assert_eq!(second.reply, Ok(Reply::Tool { name: "Read".into(), input: Map::new() }));
        assert_eq!(second.wait, Duration::from_millis(1500));
        let two = json!({"role": "user", "content": [result("file")]});
        says(json!([text, call(), one, call(), two]), "1000\nfile");
    }

    #[test]
    fn a_new_turn_begins_after_an_answer_or_a_result() {
        let before = [user("!tool Bash {}"), call()];
        let next = json!({"role": "user", "content": [result("old"),
            {"type": "text", "text": "<noclaw:time>{}</noclaw:time>"},
            {"type": "text", "text": "hi"}, {"type": "text", "text": "!history"}]});
        let [first, second] = &before;
        says(json!([first, second, next]), "!tool Bash {}\nhi\n!history");
        let answer = json!({"role": "assistant", "content": "ok"});
        says(json!([user("a"), answer, user("b")]), "You said: b");
    }

    #[test]
    fn it_shows_what_it_was_shown() {
        let environment = json!({"role": "system", "content": [{"type": "text", "text": "env"}]});
        says(json!([user("!system"), environment]), "top\nenv");
        says(json!([user("!tools\n!history"), environment]), "Bash\nRead\n!tools\n!history");
    }

    #[test]
    fn errors_words_and_sleep() {
        let error = reply(json!([user("!sleep 2\n!error 529")]));
        assert_eq!(error.wait, Duration::from_secs(2));
        assert_eq!(error.reply, Err((StatusCode::from_u16(529).unwrap_or_default(), false)));
        assert_eq!(reply(json!([user("!quote 401")])).reply, Err((StatusCode::UNAUTHORIZED, true)));
        let words = reply(json!([user("!words 3")])).reply;
        assert_eq!(words, Ok(Reply::Text { text: String::new(), words: 3 }));
        for plain in ["!error 200", "!quote x", "!sleep -1", "!sleep", "!words", "!history 3"] {
            says(json!([user(plain)]), &format!("You said: {plain}"));
        }
    }
}
