//! What a cell may ask and what not, by example.

use serde_json::{Value, json};

use super::*;

const MODEL: &str = "claude-sonnet-5-5";

fn ask(body: &str) -> Result<String, String> {
    ask_as(&Scope { model: MODEL.to_owned(), ..Scope::default() }, body)
}

fn ask_as(scope: &Scope, body: &str) -> Result<String, String> {
    let prices = Prices::shipped().map_err(|e| e.to_string())?;
    model(body.as_bytes(), &prices, scope).map_err(|e| match e {
        ModelError::Refused { status, message } => format!("{status} {message}"),
        other => other.to_string(),
    })
}

/// A request with `field` beside its model.
fn with(field: &str, value: &Value) -> Result<String, String> {
    ask(&json!({"model": MODEL, field: value}).to_string())
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
        with("metadata", &Value::Null),
        with("max_tokens", &json!(128_000)),
        with("context_management", &json!({"edits": []})),
        with(
            "context_management",
            &json!({"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]}),
        ),
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
        with_block("assistant", &json!({"type": "thinking", "thinking": "", "signature": "s"})),
        with_block("system", &added(&json!({"name": "x"}))),
        with_block("system", &json!({"type": "tool_removal", "tool": {"name": "x"}})),
        // What a tool is called with is between the model and the agent.
        with_block("assistant", &json!({"type": "tool_use", "input": {"type": "url"}})),
    ] {
        assert_eq!(got.as_deref(), Ok(MODEL));
    }
}

#[test]
fn what_reaches_beyond_the_run_is_refused_by_name() {
    let url = image(&json!({"type": "url", "url": "https://elsewhere/?secret"}));
    let file = image(&json!({"type": "file", "file_id": "f"}));
    let nested = json!({"type": "content", "content": [file]});
    let both = image(&json!({"type": "base64", "data": "AAAA", "url": "https://elsewhere"}));
    let bucket = image(&json!({"type": "bucket"}));
    let hidden = image(&json!({"type": "text", "file_id": "f"}));
    let search = json!({"type": "web_search_20250305", "name": "web_search"});
    for (got, what) in [
        (with("mcp_servers", &json!([])), r#"the field "mcp_servers""#),
        (with("container", &json!("c")), r#"the field "container""#),
        (with("thread", &json!({"type": "continue"})), r#"the field "thread""#),
        (with("speed", &json!("fast")), r#"the field "speed""#),
        (with("service_tier", &json!("auto")), r#"the field "service_tier""#),
        (with("inference_geo", &json!("us")), r#"the field "inference_geo""#),
        (with("betas", &json!(["files-api-2025-04-14"])), r#"the field "betas""#),
        (with("fallbacks", &json!([])), r#"the field "fallbacks""#),
        (with("Model", &json!("claude-opus-5")), r#"the field "Model""#),
        (with("model\0", &json!("claude-opus-5")), r#"the field "model"#),
        (
            with("context_management", &json!({"edits": [{"type": "compact_20260112"}]})),
            r#"the context edit "compact_20260112""#,
        ),
        (with_block("user", &bucket), r#"a source of the type "bucket""#),
        (with_block("user", &both), r#"a source of the type "base64""#),
        (with_block("user", &hidden), r#"a source of the type "text""#),
        (with_block("user", &json!({"type": "mcp_tool_use"})), r#"the block "mcp_tool_use""#),
        (with_block("user", &json!({"type": "server_tool_use"})), r#"the block "server_tool_use""#),
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
            r#"the block "container_upload""#,
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
        r#"{"model":"claude-sonnet-5-5","model":"claude-opus-5"}"#,
        r#"{"model":"claude-sonnet-5-5","\u006dodel":"claude-opus-5"}"#,
        r#"{"model":["claude-sonnet-5-5"]}"#,
        r#"{"model":"claude-sonnet-5-5","max_tokens":1e9}"#,
        r#"{"model":"claude-sonnet-5-5","max_tokens":-1}"#,
        r#"{"model":"claude-sonnet-5-5","max_tokens":4294967296}"#,
        r#"{"model":"claude-sonnet-5-5","temperature":1e999}"#,
        r#"{"model":"claude-sonnet-5-5","stream":"true"}"#,
        r#"{"model":"claude-sonnet-5-5","metadata":{"user_id":"x","who":"y"}}"#,
        r#"{"model":"claude-sonnet-5-5","context_management":{"compact":true}}"#,
        r#"{"model":"claude-sonnet-5-5","thinking":{"type":"disabled","type":"enabled"}}"#,
        r#"{"model":"claude-sonnet-5-5","messages":[{"content":[{"text":"no type"}]}]}"#,
        r#"{"model":"claude-sonnet-5-5","messages":[{"content":[{"type":"image","source":{}}]}]}"#,
        r#"{"model":"claude-sonnet-5-5","system":"\ud800"}"#,
        "{}",
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
fn a_run_asks_for_the_model_it_was_begun_with() {
    let own = |model: &str| Scope { model: model.to_owned(), ..Scope::default() };
    let asks =
        |scope: &str, model: &str| ask_as(&own(scope), &json!({ "model": model }).to_string());
    for model in ["gpt-4", "", "claude-sonnet-5-5 ", "CLAUDE-SONNET-5-5"] {
        let error = asks(MODEL, model).err().unwrap_or_default();
        assert!(error.starts_with("400 model not allowed: no price"), "{model}: {error}");
    }
    let other = asks(MODEL, "claude-opus-5").err().unwrap_or_default();
    assert!(other.starts_with(r#"403 a cell may not use the model "claude-opus-5""#), "{other}");
    for (scope, model) in [
        ("claude-opus-5", "claude-opus-5"),
        ("claude-haiku-4-5", "claude-haiku-4-5-20251001"),
        ("claude-haiku-4-5-20251001", "claude-haiku-4-5"),
    ] {
        assert_eq!(asks(scope, model).as_deref(), Ok(model));
    }
}

#[test]
fn a_tool_on_the_model_s_side_passes_where_it_was_granted() {
    let granted = Scope {
        model: MODEL.to_owned(),
        server_tools: BTreeSet::from(["web_search_20250305".to_owned()]),
    };
    let with = |tools: &[&str], block: &str| {
        let tools: Vec<_> = tools.iter().map(|kind| json!({ "type": kind })).collect();
        let messages = json!([{"role": "assistant", "content": [{"type": block}]}]);
        let body = json!({"model": MODEL, "tools": tools, "messages": messages});
        ask_as(&granted, &body.to_string())
    };
    assert!(with(&["web_search_20250305"], "server_tool_use").is_ok());
    assert!(with(&["custom"], "web_search_tool_result").is_ok());
    let other = with(&["web_search_20250305", "web_fetch_20250910"], "text");
    assert!(other.err().unwrap_or_default().contains(r#"the tool "web_fetch_20250910""#));
    assert!(with(&[], "container_upload").is_err());
    let kinds: Vec<_> = (0..1000).map(|n| format!("kind_{n}")).collect();
    let many = with(&kinds.iter().map(String::as_str).collect::<Vec<_>>(), "text");
    assert!(many.err().unwrap_or_default().contains("more than 16 tools"));
}

#[test]
fn two_paths_one_method() -> Result<(), Box<dyn std::error::Error>> {
    for (path, found) in [
        ("/v1/messages", Some(Endpoint::Messages)),
        ("/v1/messages?beta=true", Some(Endpoint::Messages)),
        ("/v1/messages/count_tokens?beta=true", Some(Endpoint::CountTokens)),
        ("/v1/messages?beta=false", None),
        ("/v1/messages?", None),
        ("/v1/messages?beta=true&beta=true", None),
        ("/v1/messages?BETA=true", None),
        ("/v1/messages?beta=tru%65", None),
        ("/v1/messages;x", None),
        ("/v1/messages%00", None),
        ("/v1/messages%2fbatches", None),
        ("/v1/messages/../files", None),
        ("/v1/messages/%2e%2e/files", None),
        ("/v1/./messages", None),
        ("/V1/messages", None),
        ("http://elsewhere/v1/files", None),
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
