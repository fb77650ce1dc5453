//! Reads a JSON body: its declared type, its size, its time, its form; each has its own refusal.

use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::Request;
use hyper::body::{Body, Incoming};
use hyper::header::CONTENT_TYPE;
use serde::de::DeserializeOwned;

use crate::core::limits::{BODY_BYTES, REQUEST_TIME};
use crate::core::problem::{Problem, ProblemKind};

/// How deep serde_json follows, so that nobody can exhaust the stack.
const DEPTH: usize = 127;

/// Reads and parses the body.
///
/// # Errors
/// 415, 413, 408, 400 or 422, in this order of checks; 422 names the field.
pub async fn json<T: DeserializeOwned>(request: Request<Incoming>) -> Result<T, Problem> {
    let (parts, body) = request.into_parts();
    let kind = parts.headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or("");
    let essence = kind.split(';').next().unwrap_or("").trim();
    if !essence.eq_ignore_ascii_case("application/json") {
        let detail = format!("the content type is {essence:?}");
        return Err(Problem::new(ProblemKind::UnsupportedMediaType, detail)
            .hint("send `Content-Type: application/json`"));
    }
    parse(&read(body).await?)
}

async fn read(body: Incoming) -> Result<Bytes, Problem> {
    let too_large = || {
        let detail = format!("a body may have {BODY_BYTES} bytes at most");
        Problem::new(ProblemKind::BodyTooLarge, detail)
    };
    // What declares itself too large is not read at all.
    if body.size_hint().lower() > BODY_BYTES as u64 {
        return Err(too_large());
    }
    let body = Limited::new(body, BODY_BYTES).collect();
    match tokio::time::timeout(REQUEST_TIME, body).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(_)) => Err(Problem::new(ProblemKind::BadRequest, "the body ended early")),
        Err(_) => Err(Problem::new(ProblemKind::RequestTimeout, "the body did not come in time")),
    }
}

/// Parses JSON; the error names the place or the field.
///
/// # Errors
/// 400 for what is no JSON, 422 for JSON of another form.
pub fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path().to_string();
        let inner = error.into_inner();
        if inner.is_data() {
            // Serde names an unknown or missing field itself; the path names the others.
            let at = if path == "." { String::new() } else { format!("{path}: ") };
            return Problem::new(ProblemKind::InvalidField, format!("{at}{inner}"));
        }
        if inner.to_string().starts_with("recursion limit exceeded") {
            // It is JSON. Only the path's begin helps: its rest is as deep as the JSON.
            let field = path.split(['.', '[']).next().unwrap_or("?");
            let detail = format!("{field}: is nested deeper than {DEPTH} levels");
            return Problem::new(ProblemKind::InvalidField, detail)
                .hint("send it flatter, or as a string that holds the JSON");
        }
        Problem::new(ProblemKind::MalformedJson, inner)
    })?;
    json.end().map_err(|error| Problem::new(ProblemKind::MalformedJson, error))?;
    // Serde would read an object's fields from an array, too, in their order.
    if !bytes.trim_ascii_start().starts_with(b"{") {
        return Err(Problem::new(ProblemKind::InvalidField, "the body must be a JSON object"));
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::sample::Index;
    use serde_json::{Value, json};

    use super::*;
    use crate::core::arbitrary::{any_json, edited, edits};
    use crate::core::message::MessageBody;

    #[test]
    fn what_is_nested_too_deep_is_called_so() {
        let nested = |depth| {
            let (open, close) = ("[".repeat(depth), "]".repeat(depth));
            format!(r#"{{"message":"x","context":{open}{close}}}"#)
        };
        let deepest = nested(DEPTH - 1);
        assert!(parse::<MessageBody>(deepest.as_bytes()).is_ok());
        for depth in [DEPTH, 10_000] {
            let problem = parse::<MessageBody>(nested(depth).as_bytes()).err();
            let problem = problem.map(|p| (p.kind, p.detail));
            let detail = "context: is nested deeper than 127 levels".to_owned();
            assert_eq!(problem, Some((ProblemKind::InvalidField, detail)), "{depth}");
        }
    }

    #[test]
    fn what_is_wrong_decides_the_kind_and_the_field_is_named() {
        for (json, kind, word) in [
            ("", ProblemKind::MalformedJson, "EOF"),
            ("{\"message\":", ProblemKind::MalformedJson, "EOF"),
            ("{'message':1}", ProblemKind::MalformedJson, "key"),
            ("{\"message\":\"x\"} trailing", ProblemKind::MalformedJson, "trailing"),
            ("[]", ProblemKind::InvalidField, "MessageBody"),
            (r#"[null,"x",null,null,null]"#, ProblemKind::InvalidField, "object"),
            ("{}", ProblemKind::InvalidField, "`message`"),
            ("{\"message\":7}", ProblemKind::InvalidField, "message: "),
            ("{\"message\":\"x\",\"user\":[]}", ProblemKind::InvalidField, "user: "),
            ("{\"message\":\"x\",\"colour\":1}", ProblemKind::InvalidField, "`colour`"),
            ("{\"message\":\"x\",\"message\":\"y\"}", ProblemKind::InvalidField, "`message`"),
        ] {
            let problem = parse::<MessageBody>(json.as_bytes()).err();
            let problem = problem.map(|p| (p.kind, p.detail)).unwrap_or((kind, String::new()));
            assert_eq!(problem.0, kind, "{json}: {}", problem.1);
            assert!(problem.1.contains(word), "{json}: {}", problem.1);
        }
    }

    /// Bodies as they are sent, changed a little.
    fn bodies() -> impl Strategy<Value = Value> {
        let good = json!({
            "user": "bob", "message": "hello", "context": {"place": ["home", 7, null]},
            "conversation": "main", "model": "m", "new": true,
        });
        edits(4).prop_map(move |edits| edited(&good, &edits))
    }

    /// What is read is all that the bytes say; what is refused is refused for what it is.
    fn fits(bytes: &[u8]) -> Result<(), TestCaseError> {
        let json = serde_json::from_slice::<Value>(bytes);
        match (parse::<MessageBody>(bytes), json) {
            (Ok(read), Ok(mut said)) => {
                if let Some(object) = said.as_object_mut() {
                    object.retain(|name, it| !it.is_null() && (name != "new" || *it != false));
                }
                prop_assert_eq!(serde_json::to_value(read)?, said);
            }
            (Ok(read), Err(error)) => prop_assert!(false, "{error}, and was read: {read:?}"),
            (Err(problem), json) => {
                prop_assert!(!problem.detail.is_empty());
                let wrong = problem.kind == ProblemKind::InvalidField;
                prop_assert!(wrong || problem.kind == ProblemKind::MalformedJson);
                prop_assert!(wrong || json.is_err(), "JSON, and called none: {}", problem.detail);
            }
        }
        Ok(())
    }

    proptest! {
        #![proptest_config(crate::core::arbitrary::config())]

        #[test]
        fn any_bytes_are_a_body_or_are_refused(
            bytes in prop_oneof![
                prop::collection::vec(any::<u8>(), 0..200),
                any_json().prop_map(|json| json.to_string().into_bytes()),
                // The fields' values in their order, without their names.
                prop::collection::vec(prop::option::of("[a-z]{1,3}"), 1..7)
                    .prop_map(|values| json!(values).to_string().into_bytes()),
            ],
        ) {
            fits(&bytes)?;
        }

        #[test]
        fn a_body_is_read_whole_or_refused(
            body in bodies(),
            cut in any::<Index>(),
            behind in "[ x}\\]]{0,3}",
        ) {
            let body = body.to_string();
            fits(body.as_bytes())?;
            fits(&body.as_bytes()[..cut.index(body.len())])?;
            fits(format!("{body}{behind}").as_bytes())?;
        }
    }
}
