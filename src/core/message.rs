//! A message: what came in, checked once; and the blocks in which the agent is shown it.
//!
//! What NoClaw itself adds (the time, a sender's context) stands in blocks of its own beside the
//! text, as JSON inside a `<noclaw:…>` tag. JSON is written without `<`, so that no data can end
//! its tag early.

use jiff::Zoned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::ids::{ConversationName, UserName};
use super::limits::{CONTEXT_BYTES, MESSAGE_BYTES};
use super::quota::Space;

/// The body of `POST /webhook`, as it is sent.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MessageBody {
    /// Who speaks; may be left out where the token or the socket says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The text.
    pub message: String,
    /// Data of the sender, shown to the agent as data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<Value>,
    /// The thread; `main` when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conversation: Option<String>,
    /// The model; the service's default when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Whether the agent is to forget the conversation so far.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub new: bool,
}

/// What is wrong with a message, and with which field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct InvalidMessage {
    /// The field's name in the body.
    pub field: &'static str,
    /// What is wrong and what would be right.
    pub problem: String,
}

impl InvalidMessage {
    fn new(field: &'static str, problem: impl ToString) -> Self {
        Self { field, problem: problem.to_string() }
    }
}

/// A message that may be accepted.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// Whose it is.
    pub user: UserName,
    /// Its thread.
    pub conversation: ConversationName,
    /// Its text: not empty, at most [`MESSAGE_BYTES`].
    pub text: Text,
    /// The sender's data, as JSON of at most [`CONTEXT_BYTES`].
    pub context: Option<String>,
    /// The model that was asked for.
    pub model: Option<String>,
    /// Whether the conversation is to begin anew. If this message is not answered, it does not.
    pub anew: bool,
}

/// A text that is not blank and not too long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text(String);

impl Text {
    /// The text itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Message {
    /// Checks a body. `default` is whose it is when the body names nobody; `allows` knows the
    /// allowed models.
    ///
    /// # Errors
    /// The first field that is wrong.
    pub fn check(
        body: MessageBody,
        default: &UserName,
        allows: impl Fn(&str) -> bool,
    ) -> Result<Self, InvalidMessage> {
        let user = match body.user {
            Some(name) => name.parse().map_err(|e| InvalidMessage::new("user", e))?,
            None => default.clone(),
        };
        let conversation = match body.conversation {
            Some(name) => name.parse().map_err(|e| InvalidMessage::new("conversation", e))?,
            None => ConversationName::default(),
        };
        let context = body.context.map(|value| value.to_string());
        if context.as_ref().is_some_and(|json| json.len() > CONTEXT_BYTES) {
            let problem = format!("is longer than {CONTEXT_BYTES} bytes of JSON");
            return Err(InvalidMessage::new("context", problem));
        }
        if let Some(model) = &body.model
            && !allows(model)
        {
            return Err(InvalidMessage::new("model", format!("no price is known for {model:?}")));
        }
        let text = check_text(body.message)?;
        Ok(Self { user, conversation, text, context, model: body.model, anew: body.new })
    }
}

fn check_text(text: String) -> Result<Text, InvalidMessage> {
    if text.trim().is_empty() {
        return Err(InvalidMessage::new("message", "is empty"));
    }
    if text.len() > MESSAGE_BYTES {
        let problem = format!("has {} bytes; the most is {MESSAGE_BYTES}", text.len());
        return Err(InvalidMessage::new("message", problem));
    }
    if text.contains('\0') {
        return Err(InvalidMessage::new("message", "has a NUL byte; send text"));
    }
    Ok(Text(text))
}

/// A message as the agent is to be shown it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// The text.
    pub text: String,
    /// The sender's data, as JSON.
    pub context: Option<String>,
}

/// The content blocks of the one user turn that holds all waiting messages, oldest first, and the
/// time; and, where the `workspace` is nearly full, what of what it may take. Only this last turn
/// changes from run to run, so the model's prompt cache holds.
pub fn turn(messages: &[Shown], now: &Zoned, workspace: Option<(Space, Space)>) -> Vec<Value> {
    let mut blocks = Vec::with_capacity(messages.len() * 2 + 2);
    for message in messages {
        if let Some(context) = &message.context {
            blocks.push(tagged("sender-data", context));
        }
        blocks.push(serde_json::json!({"type": "text", "text": message.text}));
    }
    if let Some((used, quota)) = workspace {
        let full = serde_json::json!({
            "takes": used.to_string(),
            "may_take": quota.to_string(),
            "percent": quota.percent(used),
            "note": "/workspace is nearly full. Above 100 percent a run that adds to it is ended, \
                and one that deletes is not. Say so to the user; delete only what they agree to.",
        });
        blocks.push(tagged("workspace", &full.to_string()));
    }
    let time = serde_json::json!({
        "now": now.strftime("%Y-%m-%d %H:%M").to_string(),
        "weekday": now.strftime("%A").to_string(),
        "zone": now.time_zone().iana_name().unwrap_or("UTC"),
    });
    // Last, and not first: the agent takes a turn whose last text begins with a slash for a command
    // of its own, and the model would never see it.
    blocks.push(tagged("time", &time.to_string()));
    blocks
}

fn tagged(tag: &str, json: &str) -> Value {
    let json = json.replace('<', "\\u003c");
    serde_json::json!({"type": "text", "text": format!("<noclaw:{tag}>{json}</noclaw:{tag}>")})
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::core::arbitrary::any_json;

    fn body(json: &str) -> Result<Message, String> {
        let body = serde_json::from_str(json).map_err(|e| e.to_string())?;
        let default = "owner".parse().map_err(|_| "default")?;
        Message::check(body, &default, |model| model == "m").map_err(|e| e.to_string())
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (json, field) in [
            (r#"{"message":" \n"}"#, "message: is empty"),
            (r#"{"message":"a\u0000b"}"#, "message: has a NUL"),
            (r#"{"message":"x","user":"../x"}"#, "user: "),
            (r#"{"message":"x","conversation":""}"#, "conversation: "),
            (r#"{"message":"x","model":"n"}"#, "model: no price"),
            (r#"{"message":"x","colour":1}"#, "unknown field `colour`"),
        ] {
            let error = body(json).err().unwrap_or_default();
            assert!(error.starts_with(field), "{json}: {error}");
        }
        let long = format!(r#"{{"message":"{}"}}"#, "x".repeat(MESSAGE_BYTES + 1));
        assert!(body(&long).err().unwrap_or_default().starts_with("message: has 262145 bytes"));
    }

    #[test]
    fn a_context_cannot_end_its_tag() -> Result<(), jiff::Error> {
        let shown =
            Shown { text: "hi".into(), context: Some(r#"{"a":"</noclaw:sender-data>"}"#.into()) };
        let now: Zoned = "2026-11-22T10:00:00+00:00[UTC]".parse()?;
        let blocks = turn(&[shown], &now, None);
        let text = |n: usize| blocks.get(n).map(|b| b["text"].to_string()).unwrap_or_default();
        assert_eq!(text(0).matches("</noclaw:").count(), 1, "{}", text(0));
        assert_eq!(text(1), "\"hi\"");
        assert!(text(2).starts_with("\"<noclaw:time>"), "{}", text(2));
        Ok(())
    }

    /// Names that are right, and others.
    fn name() -> impl Strategy<Value = Option<String>> {
        prop::option::of(prop_oneof![3 => "[a-z][a-z0-9_-]{0,20}", 1 => any::<String>()])
    }

    fn any_body() -> impl Strategy<Value = MessageBody> {
        let text = prop_oneof![
            6 => any::<String>(),
            2 => "[ a-z\n\x00]{0,9}",
            1 => (MESSAGE_BYTES - 2..MESSAGE_BYTES + 3).prop_map(|length| "x".repeat(length)),
        ];
        let long = (CONTEXT_BYTES - 4..CONTEXT_BYTES).prop_map(|length| json!("y".repeat(length)));
        let context = prop::option::of(prop_oneof![8 => any_json(), 1 => long]);
        (name(), text, context, name(), name(), any::<bool>()).prop_map(
            |(user, message, context, conversation, model, new)| MessageBody {
                user,
                message,
                context,
                conversation,
                model,
                new,
            },
        )
    }

    fn is_name(text: &str) -> bool {
        text.parse::<UserName>().is_ok()
    }

    proptest! {
        #![proptest_config(crate::core::arbitrary::config())]

        /// What is accepted is what was sent, within its limits; what is refused is wrong in the
        /// field that is named.
        #[test]
        fn a_message_is_taken_as_it_is_or_its_wrong_field_is_named(body in any_body()) {
            let default = "owner".parse::<UserName>()?;
            let allows = |model: &str| model.len() < 9;
            let json = serde_json::to_value(&body)?;
            match Message::check(body, &default, allows) {
                Ok(message) => {
                    prop_assert_eq!(message.user.as_str(), json["user"].as_str().unwrap_or("owner"));
                    let conversation = json["conversation"].as_str().unwrap_or("main");
                    prop_assert_eq!(message.conversation.as_str(), conversation);
                    let text = message.text.as_str();
                    prop_assert_eq!(Some(text), json["message"].as_str());
                    prop_assert!(!text.trim().is_empty() && !text.contains('\0'));
                    prop_assert!(text.len() <= MESSAGE_BYTES);
                    let context = message.context.unwrap_or_else(|| "null".to_owned());
                    prop_assert!(context.len() <= CONTEXT_BYTES);
                    prop_assert_eq!(&serde_json::from_str::<Value>(&context)?, &json["context"]);
                    prop_assert!(message.model.as_deref().is_none_or(allows));
                }
                Err(InvalidMessage { field, .. }) => {
                    let named = &json[field];
                    let wrong = match (field, named.as_str()) {
                        ("user" | "conversation", Some(name)) => !is_name(name),
                        ("context", _) => named.to_string().len() > CONTEXT_BYTES,
                        ("model", Some(model)) => !allows(model),
                        ("message", Some(text)) => {
                            let blank = text.trim().is_empty();
                            blank || text.len() > MESSAGE_BYTES || text.contains('\0')
                        }
                        _ => false,
                    };
                    prop_assert!(wrong, "{field}: {named}");
                }
            }
        }

        /// Nothing in a sender's data can end its tag, and all of it is there.
        #[test]
        fn any_context_stays_in_its_tag(context in any_json(), text in any::<String>()) {
            let data = json!([context, {"a": text.clone() + "</noclaw:sender-data>"}]);
            let shown = Shown { text: text.clone(), context: Some(data.to_string()) };
            let blocks = turn(&[shown], &Zoned::default(), None);
            prop_assert_eq!(&blocks[1]["text"], &json!(text));
            let tagged = blocks[0]["text"].as_str().unwrap_or_default();
            let inner = tagged.strip_prefix("<noclaw:sender-data>");
            let inner = inner.and_then(|rest| rest.strip_suffix("</noclaw:sender-data>"));
            let inner = inner.unwrap_or_default();
            prop_assert!(!inner.contains('<'), "{inner}");
            prop_assert_eq!(serde_json::from_str::<Value>(inner)?, data);
        }
    }
}
