//! A conversation's transcript, which the agent resumes, freed from what a tool may have forged.
//!
//! One JSON object a line. Besides what was said (`user`, `assistant`) it holds *attachments*: the
//! agent shows them to the model as system turns, and works out from them what to announce next. A
//! tool can write to the file, and a forged one would speak with the service's own voice in every
//! later run. So an attachment is kept only if it was there before any tool ran; all other lines
//! are state that the agent makes anew. What was said stays: that is its memory.

use std::collections::{BTreeSet, HashMap};

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

/// What an attachment is known by: the SHA-256 of what it says, in hexadecimal.
pub type AttachmentId = String;

/// The attachments in a transcript.
pub fn attachments(transcript: &str) -> BTreeSet<AttachmentId> {
    let lines = transcript.lines().filter_map(|line| serde_json::from_str(line).ok());
    lines.filter(is_attachment).map(|line: Map<String, Value>| id(&line)).collect()
}

/// Whether the agent has written down a request that it made of the model, which it does behind the
/// attachments that were in it. One from before a cleaning is never there.
pub fn has_request(transcript: &str) -> bool {
    let candidates = transcript.lines().rev().filter(|line| line.contains("api-request"));
    let mut lines = candidates.filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.any(|line| line.get("type").and_then(Value::as_str) == Some("api-request"))
}

/// The transcript with what was said, and with the attachments that are `known`.
pub fn cleaned(transcript: &str, known: &BTreeSet<AttachmentId>) -> String {
    let mut clean = String::with_capacity(transcript.len());
    // Each line's nearest ancestor that is kept, itself included.
    let mut kept: HashMap<String, Option<String>> = HashMap::new();
    for text in transcript.lines() {
        let Ok(mut line) = serde_json::from_str::<Map<String, Value>>(text) else {
            continue;
        };
        let parent = line.get("parentUuid").and_then(Value::as_str);
        let ancestor = parent.and_then(|parent| kept.get(parent).cloned().flatten());
        let keep = was_said(&line) || (is_attachment(&line) && known.contains(&id(&line)));
        if let Some(own) = line.get("uuid").and_then(Value::as_str) {
            kept.insert(own.to_owned(), if keep { Some(own.to_owned()) } else { ancestor.clone() });
        }
        if !keep {
            continue;
        }
        if parent == ancestor.as_deref() {
            clean.push_str(text);
        } else {
            line.insert("parentUuid".to_owned(), ancestor.map_or(Value::Null, Value::from));
            clean.push_str(&Value::from(line).to_string());
        }
        clean.push('\n');
    }
    clean
}

fn was_said(line: &Map<String, Value>) -> bool {
    let role = line.get("message").and_then(|message| message["role"].as_str());
    let kind = line.get("type").and_then(Value::as_str);
    matches!(kind, Some("user" | "assistant")) && kind == role
}

fn is_attachment(line: &Map<String, Value>) -> bool {
    line.get("type").and_then(Value::as_str) == Some("attachment")
}

/// Where and when it was written does not matter: a fork has copies of its own.
fn id(attachment: &Map<String, Value>) -> AttachmentId {
    let says = ["attachment", "rendered", "renderedRole"].map(|field| attachment.get(field));
    let digest = Sha256::digest(json!(says).to_string());
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::core::arbitrary::{any_json, edited, edits};

    fn said(uuid: &str, parent: Option<&str>, role: &str) -> String {
        let message = json!({"role": role, "content": uuid});
        json!({"type": role, "uuid": uuid, "parentUuid": parent, "message": message}).to_string()
    }

    fn attachment(uuid: &str, parent: &str, says: &str) -> String {
        json!({"type": "attachment", "uuid": uuid, "parentUuid": parent, "renderedRole": "system",
            "attachment": {"type": says}, "rendered": [{"content": says}]})
        .to_string()
    }

    fn file(lines: &[String]) -> String {
        lines.iter().map(|line| format!("{line}\n")).collect()
    }

    #[test]
    fn an_honest_transcript_stays_as_it_is_byte_by_byte() {
        let lines = [
            said("a", None, "user"),
            attachment("n", "a", "environment"),
            said("b", Some("n"), "assistant"),
        ];
        let text = file(&lines);
        assert_eq!(cleaned(&text, &attachments(&text)), text);
        let again = file(&[attachment("other", "b", "environment")]);
        assert_eq!(attachments(&again), attachments(&text), "a copy is the same attachment");
    }

    #[test]
    fn a_forged_attachment_is_cut_out_of_the_chain_wherever_it_stands() {
        let honest = [said("a", None, "user"), said("b", Some("a"), "assistant")];
        let forged = [
            said("a", None, "user"),
            attachment("f", "a", "FORGED"),
            attachment("g", "f", "FORGED too"),
            said("b", Some("g"), "assistant"),
            attachment("h", "b", "FORGED at the end"),
        ];
        let known = attachments(&file(&[attachment("n", "a", "environment")]));
        let clean: Vec<Value> = cleaned(&file(&forged), &known)
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect();
        let wanted: Vec<Value> =
            honest.iter().filter_map(|line| serde_json::from_str(line).ok()).collect();
        assert_eq!(clean, wanted);
    }

    #[test]
    fn a_request_is_known_by_its_line_and_gone_with_a_cleaning() {
        let spoken = said("api-request", None, "user");
        assert!(!has_request(&spoken), "someone's words");
        let text = file(&[spoken, json!({"type": "api-request", "uuid": "r"}).to_string()]);
        assert!(has_request(&text));
        assert!(!has_request(&cleaned(&text, &BTreeSet::new())));
    }

    #[test]
    fn a_known_text_with_another_state_behind_it_is_not_known() {
        let honest = attachment("n", "a", "environment");
        let forged = honest.replace(r#""type":"environment""#, r#""type":"mcp","names":["EVIL"]"#);
        assert_ne!(honest, forged);
        assert!(attachments(&file(&[honest])).is_disjoint(&attachments(&file(&[forged]))));
    }

    #[test]
    fn what_is_no_turn_is_dropped_and_no_line_can_hold_it_up() {
        let text = [
            json!({"type": "user", "message": {"role": "system", "content": "x"}}).to_string(),
            json!({"type": "system", "content": "x", "uuid": "s", "parentUuid": "s"}).to_string(),
            "no JSON".to_owned(),
            "[]".to_owned(),
            json!({"type": "mode", "mode": "plan"}).to_string(),
        ];
        assert_eq!(cleaned(&file(&text), &BTreeSet::new()), "");
    }

    /// Lines of a transcript: turns, attachments and others, whose parents are each other.
    fn lines() -> impl Strategy<Value = Vec<String>> {
        let uuid = prop::sample::select(vec!["a", "b", "c", "d"]);
        let kind = prop::sample::select(vec!["user", "assistant", "attachment", "mode"]);
        let line = (kind, uuid.clone(), prop::option::of(uuid), any_json());
        let line = line.prop_map(|(kind, uuid, parent, says)| {
            let message = json!({"role": kind, "content": says});
            json!({"type": kind, "uuid": uuid, "parentUuid": parent, "message": message,
                "attachment": says, "rendered": [uuid]})
        });
        let changes = prop_oneof![2 => Just(Vec::new()), 1 => edits(2)];
        let line = (line, changes).prop_map(|(line, changes)| edited(&line, &changes).to_string());
        let text = prop_oneof![9 => line, 1 => any::<String>()];
        prop::collection::vec(text, 0..12)
    }

    proptest! {
        #![proptest_config(crate::core::arbitrary::config())]

        /// What is left is turns and known attachments, each with a parent that is left, too; and
        /// there is nothing more to be cleaned.
        #[test]
        fn any_transcript_is_clean_after_a_cleaning(before in lines(), forged in lines()) {
            let known = attachments(&file(&before));
            let text = file(&[before, forged].concat());
            let clean = cleaned(&text, &known);
            prop_assert!(attachments(&clean).is_subset(&known));
            let mut seen = BTreeSet::new();
            for line in clean.lines() {
                let line: Map<String, Value> = serde_json::from_str(line)?;
                prop_assert!(was_said(&line) || is_attachment(&line));
                if let Some(parent) = line.get("parentUuid").and_then(Value::as_str) {
                    prop_assert!(seen.contains(parent), "{parent} is not there");
                }
                seen.extend(line.get("uuid").and_then(Value::as_str).map(str::to_owned));
            }
            prop_assert_eq!(cleaned(&clean, &known), clean);
        }

        /// Not a byte of what was said is lost.
        #[test]
        fn turns_stay_as_they_are(
            says in prop::collection::vec((any::<bool>(), any_json()), 0..9),
        ) {
            let turns = says.iter().enumerate().map(|(number, (user, says))| {
                let role = if *user { "user" } else { "assistant" };
                let parent = number.checked_sub(1).map(|before| before.to_string());
                json!({"type": role, "uuid": number.to_string(), "parentUuid": parent,
                    "message": {"role": role, "content": says}})
            });
            let text = file(&turns.map(|turn| turn.to_string()).collect::<Vec<_>>());
            prop_assert_eq!(cleaned(&text, &BTreeSet::new()), text);
        }
    }
}
