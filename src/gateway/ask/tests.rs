//! What a cell may ask and what not, by example.

use serde_json::{Value, json};

use super::*;

fn ask(body: &str) -> Result<String, String> {
    let prices = Prices::shipped().map_err(|e| e.to_string())?;
    model(body.as_bytes(), &prices).map_err(|e| match e {
        ModelError::Refused { status, message } => format!("{status} {message}"),
        other => other.to_string(),
    })
}

/// A request with `field` beside its model.
fn with(field: &str, value: &Value) -> Result<String, String> {
    ask(&json!({"model": "claude-sonnet-5-5", "max_tokens": 1, field: value}).to_string())
}

/// A request with this block in its conversation.
fn with_block(role: &str, block: &Value) -> Result<String, String> {
    with("messages", &json!([{"role": role, "content": [block]}]))
}

fn image(source: &Value) -> Value {
    json!({"type": "image", "source": source})
}

fn added(tool: &Value) -> Value {
    json!({"type": "tool_addition", "tool": {"type": "tool_definition", "definition": tool}})
}

#[test]
fn what_the_agent_asks_for_passes() {
    let data = image(&json!({"type": "base64", "media_type": "image/png", "data": "AAAA"}));
    let text = json!({"type": "text", "text": "a"});
    for got in [
        with("stream", &json!(true)),
        with("system", &json!("a")),
        with("system", &json!([text])),
        with("thinking", &json!({"type": "adaptive", "display": "updates"})),
        with("metadata", &json!({"user_id": "x"})),
        with("context_management", &json!({"edits": []})),
        with("output_config", &json!({"effort": "medium"})),
        with("tools", &Value::Null),
        with("tools", &json!([{"name": "Bash", "input_schema": {}}, {"type": "custom"}])),
        with("messages", &json!([{"role": "system", "content": "a", "output_config": {}}])),
        with("messages", &json!([{"role": "assistant", "content": null}])),
        with_block("user", &data),
        with_block("user", &json!({"type": "tool_result", "content": [text, data]})),
        with_block("user", &json!({"type": "tool_result", "content": "a"})),
        with_block("user", &json!({"type": "search_result", "source": "b", "content": [text]})),
        with_block("user", &json!({"type": "document", "source": {"type": "text"}})),
        with_block("system", &added(&json!({"name": "x"}))),
        with_block("system", &json!({"type": "tool_removal", "tool": {"name": "x"}})),
        // What a tool is called with is between the model and the agent.
        with_block("assistant", &json!({"type": "tool_use", "input": {"type": "url"}})),
    ] {
        assert_eq!(got.as_deref(), Ok("claude-sonnet-5-5"));
    }
}

#[test]
fn what_reaches_beyond_the_run_is_refused_by_name() {
    let url = image(&json!({"type": "url", "url": "https://elsewhere/?secret"}));
    let file = image(&json!({"type": "file", "file_id": "f"}));
    let nested = json!({"type": "content", "content": [file]});
    let search = json!({"type": "web_search_20250305", "name": "web_search"});
    for (got, what) in [
        (with("mcp_servers", &json!([])), r#"the field "mcp_servers""#),
        (with("container", &json!("c")), r#"the field "container""#),
        (with("thread", &json!({"type": "continue"})), r#"the field "thread""#),
        (with("speed", &json!("fast")), r#"the field "speed""#),
        (with("tools", &json!([{"name": "a"}, search])), r#"the tool "web_search_20250305""#),
        (with_block("system", &added(&search)), r#"the tool "web_search_20250305""#),
        (with_block("user", &url), r#"a source of the type "url""#),
        (with("system", &json!([url])), r#"a source of the type "url""#),
        (
            with_block("user", &json!({"type": "tool_result", "content": [url]})),
            r#"a source of the type "url""#,
        ),
        (
            with_block("user", &json!({"type": "document", "source": nested})),
            r#"a source of the type "file""#,
        ),
        (
            with_block("user", &json!({"type": "container_upload", "file_id": "f"})),
            "files on the model's side",
        ),
    ] {
        let error = got.err().unwrap_or_default();
        assert!(error.starts_with(&format!("403 a cell may not use {what}")), "{what}: {error}");
    }
    let escaped = r#"{"model":"claude-sonnet-5-5","\u0073peed":"fast"}"#;
    assert!(ask(escaped).err().unwrap_or_default().starts_with("403"));
}

#[test]
fn what_is_no_request_is_refused() {
    let deep = format!(r#"{{"messages":{}"#, r#"[{"content":"#.repeat(500));
    for body in [
        "",
        "[]",
        "{",
        r#"{"model":"claude-haiku-4-5"}{"#,
        r#"{"model":"claude-haiku-4-5","model":"claude-opus-5"}"#,
        r#"{"tools":[],"tools":[{"type":"x"}]}"#,
        r#"{"tools":[{"type":"custom","type":"x"}]}"#,
        r#"{"tools":{"type":"x"}}"#,
        r#"{"messages":"hi"}"#,
        r#"{"messages":[{"content":5}]}"#,
        r#"{"messages":[{"content":[],"content":"x"}]}"#,
        r#"{"messages":[{"content":[{"source":{"type":"base64","type":"url"}}]}]}"#,
        &deep,
    ] {
        let error = ask(body).err().unwrap_or_default();
        assert!(error.starts_with("400 this is no request"), "{body}: {error}");
    }
}

#[test]
fn only_models_with_a_price() {
    for body in [r#"{"model":"gpt-4"}"#, r#"{"model":""}"#, "{}"] {
        assert!(ask(body).err().unwrap_or_default().starts_with("400 "), "{body}");
    }
    assert!(ask(r#"{"model":"claude-haiku-4-5-20251001"}"#).is_ok());
}

#[test]
fn two_paths_one_method() -> Result<(), Box<dyn std::error::Error>> {
    for (path, found) in [
        ("/v1/messages", Some(Endpoint::Messages)),
        ("/v1/messages?beta=true", Some(Endpoint::Messages)),
        ("/v1/messages/count_tokens?beta=true", Some(Endpoint::CountTokens)),
        ("/v1/messages?beta=false", None),
        ("/v1/messages/", None),
        ("/v1/messages/batches", None),
        ("/v1/files", None),
        ("//v1/messages", None),
        ("/v1/%6dessages", None),
        ("/", None),
    ] {
        let uri: Uri = path.parse()?;
        let got = Endpoint::of(&Method::POST, &uri);
        assert_eq!(got.as_ref().ok().map(|(endpoint, _)| *endpoint), found, "{path}");
        if let Ok((_, sent)) = got {
            assert_eq!(sent, path);
        }
    }
    let get = Endpoint::of(&Method::GET, &"/v1/messages".parse()?);
    assert!(matches!(get, Err(ModelError::Refused { status: 405, .. })));
    Ok(())
}
