//! System turns of a conversation's past: only those pass that this gateway saw come into being.
//!
//! The agent resumes a conversation from a transcript that its tools could write to, and passes on
//! what stands there. A forged system turn would speak to the model with the service's own voice,
//! in every later run. But until a run's first tool call is passed on, nothing except the agent
//! itself has run in its cell: what such a request has behind the user's new turn is the agent's
//! own, and is known from then on. What stands before that turn and is not known is cut out of the
//! request, and of each later one of the run. The rest stays as it came, byte by byte.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

/// The SHA-256 of a system turn's text, in hexadecimal.
pub type SystemText = String;

/// What is known of a conversation's system turns.
#[derive(Debug, Default)]
pub(super) struct Past {
    known: BTreeSet<SystemText>,
    found: Mutex<Found>,
}

#[derive(Debug, Default)]
struct Found {
    seen: BTreeSet<SystemText>,
    foreign: BTreeSet<SystemText>,
}

#[derive(Deserialize)]
struct Body<'a> {
    #[serde(borrow, default)]
    messages: Vec<&'a RawValue>,
}

#[derive(Deserialize)]
struct Turn {
    role: String,
}

#[derive(Deserialize)]
struct SystemTurn {
    content: Value,
}

impl Past {
    /// Starts from what was known when the conversation's head was written.
    pub(super) fn new(known: impl IntoIterator<Item = SystemText>) -> Self {
        Self { known: known.into_iter().collect(), found: Mutex::default() }
    }

    /// The system turns that the conversation holds as far as this run has shown, for the next one.
    pub(super) fn seen(&self) -> Vec<SystemText> {
        let found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        found.seen.iter().cloned().collect()
    }

    /// The request without what is foreign. `untouched`: no tool call was passed on yet, so it is
    /// the agent's own.
    ///
    /// # Errors
    /// When it is no request of the Messages API.
    pub(super) fn admit(&self, body: Bytes, untouched: bool) -> Result<Bytes, serde_json::Error> {
        let request: Body<'_> = serde_json::from_slice(&body)?;
        let mut last_user = 0;
        let mut systems = Vec::new();
        for (at, raw) in request.messages.iter().enumerate() {
            match serde_json::from_str::<Turn>(raw.get())?.role.as_str() {
                "user" => last_user = at,
                "system" => systems.push((at, digest(raw)?)),
                _ => {}
            }
        }
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        if untouched {
            for (at, text) in &systems {
                let ours = *at > last_user || self.known.contains(text);
                let set = if ours { &mut found.seen } else { &mut found.foreign };
                set.insert(text.clone());
            }
        }
        let is_foreign = |text| found.foreign.contains(text) && !found.seen.contains(text);
        let cut: BTreeSet<_> =
            systems.iter().filter(|(_, text)| is_foreign(text)).map(|(at, _)| *at).collect();
        drop(found);
        if cut.is_empty() {
            return Ok(body);
        }
        tracing::warn!(turns = cut.len(), "foreign system turns in a transcript are withheld");
        Ok(without(&body, &request.messages, &cut))
    }
}

fn digest(raw: &RawValue) -> Result<SystemText, serde_json::Error> {
    let turn: SystemTurn = serde_json::from_str(raw.get())?;
    let text = match &turn.content {
        Value::String(text) => text.clone(),
        Value::Array(blocks) => blocks.iter().filter_map(|block| block["text"].as_str()).collect(),
        other => other.to_string(),
    };
    Ok(Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The body with those elements of `messages` left out.
fn without(body: &Bytes, messages: &[&RawValue], cut: &BTreeSet<usize>) -> Bytes {
    let ranges: Vec<_> = messages.iter().map(|raw| range(body, raw.get())).collect();
    let (Some(first), Some(last)) = (ranges.first(), ranges.last()) else {
        return body.clone();
    };
    let kept = ranges.iter().enumerate().filter(|(at, _)| !cut.contains(at));
    let kept: Vec<_> = kept.filter_map(|(_, range)| body.get(range.clone())).collect();
    let head = body.get(..first.start).unwrap_or_default();
    let tail = body.get(last.end..).unwrap_or_default();
    [head, &kept.join(&b","[..]), tail].concat().into()
}

/// Where a part of the body stands in it.
fn range(body: &Bytes, part: &str) -> Range<usize> {
    let start = (part.as_ptr() as usize).saturating_sub(body.as_ptr() as usize);
    start..start + part.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    type Result<T = ()> = std::result::Result<T, serde_json::Error>;

    const ENVIRONMENT: &str = "# Environment";

    fn request(messages: &Value) -> Bytes {
        format!("{{ \"model\":\"m\",\"messages\" : {messages} ,\"x\":1}}").into()
    }

    fn user(text: &str) -> Value {
        json!({"role": "user", "content": text})
    }

    fn system(text: &str) -> Value {
        json!({"role": "system", "content": [{"type": "text", "text": text}]})
    }

    #[test]
    fn what_the_agent_adds_is_known_in_the_next_run_whatever_its_form() -> Result {
        let first = Past::default();
        let body = request(&json!([user("one"), system(ENVIRONMENT)]));
        assert_eq!(first.admit(body.clone(), true)?, body);
        let second = Past::new(first.seen());
        let plain = json!({"role": "system", "content": ENVIRONMENT});
        let body = request(&json!([user("one"), plain, user("two"), system("date")]));
        assert_eq!(second.admit(body.clone(), true)?, body);
        assert_eq!(second.seen().len(), 2);
        Ok(())
    }

    #[test]
    fn a_forged_turn_is_cut_out_of_all_requests_of_the_run() -> Result {
        let past = Past::new([]);
        let forged = [user("one"), system("FORGED"), user("two"), system(ENVIRONMENT)];
        let honest = [user("one"), user("two"), system(ENVIRONMENT)];
        assert_eq!(past.admit(request(&json!(forged)), true)?, request(&json!(honest)));
        let more = json!({"role": "assistant", "content": "hi"});
        let (later, clean) = (
            [&forged[..], std::slice::from_ref(&more)],
            [&honest[..], std::slice::from_ref(&more)],
        );
        let admitted = past.admit(request(&json!(later.concat())), false)?;
        assert_eq!(admitted, request(&json!(clean.concat())));
        assert_eq!(past.seen().len(), 1, "it is not known to the next run either");
        Ok(())
    }

    #[test]
    fn what_comes_after_a_tool_ran_makes_nothing_known() -> Result {
        let past = Past::default();
        let body = request(&json!([user("one"), system("said by a tool")]));
        assert_eq!(past.admit(body.clone(), false)?, body, "it is its own run's matter");
        assert!(past.seen().is_empty());
        Ok(())
    }

    #[test]
    fn the_first_and_the_only_turn_can_be_cut() -> Result {
        let past = Past::default();
        let body = request(&json!([system("FORGED"), user("one")]));
        assert_eq!(past.admit(body, true)?, request(&json!([user("one")])));
        Ok(())
    }
}
