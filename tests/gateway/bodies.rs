//! What a body asks for.

use serde_json::{Value, json};

use crate::cell::{Attempt, MODEL, body, judge, raw, request, told, with_body};
use crate::support::Result;

/// A permitted request but for these fields.
fn with(name: &'static str, more: &Value) -> Attempt {
    with_body(name, &body(more))
}

/// A permitted request but for this block of the user's.
fn with_block(name: &'static str, block: &Value) -> Attempt {
    with(name, &json!({"messages": [{"role": "user", "content": [block]}]}))
}

fn source(name: &'static str, source: &Value) -> Attempt {
    with_block(name, &json!({"type": "image", "source": source}))
}

#[test]
fn a_body_is_one_request_to_every_reader() -> Result {
    let own = body(&json!({}));
    let beside = |field: &str| own.replacen('{', &format!("{{{field},"), 1);
    let deep = |n: usize| {
        let nested = "[".repeat(n) + &"]".repeat(n);
        beside(&format!(r#""tool_choice":{nested}"#))
    };
    let mut invalid = request(crate::cell::LINE, &told(&own), &own);
    let at = invalid.windows(5).position(|w| w == b"hello").ok_or("no text")?;
    invalid[at] = 0xff;
    judge(vec![
        (with_body("twin", &own), "200", ""),
        (with_body("deep-twin", &deep(90)), "200", ""),
        (with_body("deep", &deep(120)), "400", "nested deeper than 100"),
        (with_body("model-twice", &beside(r#""model":"claude-opus-5""#)), "400", "stands twice"),
        (with_body("escaped", &beside(r#""mod\u0065l":"claude-opus-5""#)), "400", "stands twice"),
        (with_body("inner", &beside(r#""thinking":{"a":1,"a":2}"#)), "400", "stands twice"),
        (with_body("case", &beside(r#""Model":"claude-opus-5""#)), "403", "Model"),
        (with_body("number", &beside(r#""temperature":1e999"#)), "400", "out of range"),
        (with_body("surrogate", &beside(r#""stop_sequences":["\ud800"]"#)), "400", "hex escape"),
        (with_body("two", &(own.clone() + &own)), "400", "trailing"),
        (with_body("mark", &format!("\u{feff}{own}")), "400", "expected value"),
        (with_body("no-json", "model=x"), "400", "no request"),
        (with_body("list", &format!("[{own}]")), "400", "no request"),
        (raw("utf-8", invalid), "400", "not UTF-8"),
    ])?;
    Ok(())
}

#[test]
fn nothing_of_the_model_s_side_is_reached_that_was_not_granted() -> Result {
    let data = json!({"type": "base64", "media_type": "image/png", "data": "AAAA"});
    let tool = |kind: &str| json!({"tools": [{"name": "x", "type": kind}]});
    let own = json!({"tools": [{"name": "x", "type": "custom", "input_schema": {}}]});
    let nested = json!({"type": "tool_result", "tool_use_id": "t", "content": [
        {"type": "document", "source": {"type": "url", "url": "https://elsewhere.example/?secret"}}]});
    let url = json!({"type": "url", "url": "https://elsewhere.example/?secret"});
    let both = json!({"type": "base64", "media_type": "image/png", "data": "AAAA", "file_id": "f"});
    let edits = |kind: &str| json!({"context_management": {"edits": [{"type": kind}]}});
    judge(vec![
        (source("data", &data), "200", ""),
        (with("own-tool", &own), "200", ""),
        (with("edit", &edits("clear_thinking_20251015")), "200", ""),
        (with("metadata", &json!({"metadata": {"user_id": "x"}})), "200", ""),
        (source("url", &url), "403", "send the data itself"),
        (source("file", &json!({"type": "file", "file_id": "f"})), "403", "send the data itself"),
        (source("both", &both), "403", "send the data itself"),
        (with_block("nested-url", &nested), "403", "send the data itself"),
        (
            with_block("upload", &json!({"type": "container_upload", "file_id": "f"})),
            "403",
            "block",
        ),
        (with("search", &tool("web_search_20250305")), "403", "runs on the model's side"),
        (with("fetch", &tool("web_fetch_20250910")), "403", "runs on the model's side"),
        (with("code", &tool("code_execution_20250825")), "403", "runs on the model's side"),
        (with("computer", &tool("computer_20250124")), "403", "runs on the model's side"),
        (with("memory", &tool("memory_20250818")), "403", "runs on the model's side"),
        (
            with("mcp", &json!({"mcp_servers": [{"url": "https://elsewhere.example"}]})),
            "403",
            "mcp",
        ),
        (with("container", &json!({"container": "c"})), "403", "container"),
        (with("tier", &json!({"service_tier": "priority"})), "403", "service_tier"),
        (with("geo", &json!({"inference_geo": "us"})), "403", "inference_geo"),
        (with("betas", &json!({"betas": ["files-api-2025-04-14"]})), "403", "betas"),
        (with("compact", &edits("compact_20260112")), "403", "compact_20260112"),
        (with("who", &json!({"metadata": {"user_id": "x", "org": "y"}})), "400", "unknown field"),
        (with("unheard-of", &json!({"shiny_new_thing": true})), "403", "shiny_new_thing"),
    ])?;
    Ok(())
}

#[test]
fn a_run_may_ask_for_its_own_model_only() -> Result {
    let dated = format!("{MODEL}-20260901");
    let count = |name: &'static str, model: &str| {
        let body = json!({"model": model, "messages": []}).to_string();
        raw(name, request("POST /v1/messages/count_tokens HTTP/1.1", &told(&body), &body))
    };
    judge(vec![
        (with("own", &json!({"model": MODEL})), "200", ""),
        (with("dated", &json!({"model": dated})), "200", ""),
        (count("count", MODEL), "200", ""),
        (with("dear", &json!({"model": "claude-opus-4-1"})), "403", "this run was begun with"),
        (with("cheap", &json!({"model": "claude-haiku-4-5"})), "403", "this run was begun with"),
        (with("unpriced", &json!({"model": "gpt-4"})), "400", "no price"),
        (count("count-dear", "claude-opus-4-1"), "403", "this run was begun with"),
    ])?;
    Ok(())
}
