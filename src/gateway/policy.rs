//! What of a request and of an answer may pass: allowlists with a reason for each line.
//!
//! | what comes | what happens |
//! |---|---|
//! | a header or a beta feature that is not listed | left out, as if it had not been asked for |
//! | a listed header twice, or with bytes beyond ASCII | 400: two readers may take another one |
//! | a body that is not plain JSON by its headers | 415 |
//! | a field, a kind of block or of context edit that is not listed | 403 |
//!
//! What is refused may cost more, or reach beyond the run. The lists are what the pinned agent was
//! seen to send, and what its flags may add. A name that ends in `*` stands for all that begin so.

use hyper::StatusCode;
use hyper::header::{
    ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue,
};

use super::error::ModelError;
use super::key::ApiKey;

type Rules = &'static [(&'static str, &'static str)];

const API_KEY: HeaderName = HeaderName::from_static("x-api-key");
const BETA: HeaderName = HeaderName::from_static("anthropic-beta");

/// Headers of a request. Claude Code 2.1.330 sends all but the last one, over TCP and over its Unix
/// socket alike. The cell's key, cookies, forwarding and proxy headers, `host` and all that belongs
/// to one connection are not here.
const REQUEST_HEADERS: Rules = &[
    ("accept", "the form of the answer"),
    ("content-type", "the form of the body"),
    ("user-agent", "the agent and its version, by which the API knows its client"),
    ("anthropic-version", "the API's version; the API wants it"),
    ("anthropic-dangerous-direct-browser-access", "sent by the agent's client library"),
    ("x-app", "which of its faces the agent shows"),
    ("x-claude-code-session-id", "the session, which is the run"),
    ("x-stainless-arch", "the client library's platform"),
    ("x-stainless-lang", "the client library's platform"),
    ("x-stainless-os", "the client library's platform"),
    ("x-stainless-package-version", "the client library's version"),
    ("x-stainless-retry-count", "how often a request was tried before"),
    ("x-stainless-runtime", "the client library's platform"),
    ("x-stainless-runtime-version", "the client library's platform"),
    ("x-stainless-timeout", "how long the client waits"),
    ("x-client-request-id", "finds a request in the API's logs"),
];

/// Headers of an answer. What names the owner's organisation stays outside.
const RESPONSE_HEADERS: Rules = &[
    ("content-type", "tells a stream from JSON"),
    ("request-id", "finds a request in the API's logs"),
    ("retry-after*", "how long to wait, in seconds or milliseconds"),
    ("x-should-retry", "the API's word on whether a repetition makes sense"),
    ("anthropic-ratelimit-*", "how much is left"),
];

/// Beta features, without their dates; 2.1.330 asks for the first eight. Not here: what reaches
/// beyond the run (files, threads, containers, remote MCP), what costs otherwise than the price
/// list knows (fast mode, a fallback to another model, an advisor), and tools that run on the
/// model's side.
const BETAS: Rules = &[
    ("claude-code", "the agent's own marker"),
    ("interleaved-thinking", "thinking between tool calls"),
    ("context-management", "leaving out old thinking and tool results"),
    ("per-turn-control", "effort for a single turn"),
    ("mid-conversation-tool-changes", "tools added later; checked like the others"),
    ("thinking-token-count", "how long it thinks"),
    ("effort", "how hard to think"),
    ("thinking-display-updates", "thinking shown as short updates"),
    ("claude-code-side-query", "its small requests beside the conversation"),
    ("redact-thinking", "thinking that is not shown"),
    ("thinking-binding-controls", "which thinking a later turn may use"),
    ("timing", "when a turn took place"),
    ("task-budgets", "a budget of tokens that the model is told"),
    ("mid-conversation-system-clear-at", "notes that end with their turn"),
    ("context-1m", "long prompts; the price list knows them"),
    ("extended-cache-ttl", "the one-hour cache; the price list knows it"),
    ("prompt-caching-scope", "how far a cached prompt is shared"),
    ("cache-diagnosis", "why the cache was missed"),
    ("structured-outputs", "answers of a given form"),
    ("fine-grained-tool-streaming", "tool calls streamed as they are written"),
];

/// Fields of a request's body. Not here, and therefore refused: `mcp_servers`, `container`,
/// `thread` (state on the model's side, shared by all who use the key), `speed`, `inference_geo`,
/// `service_tier`, `fallbacks` (another price).
const FIELDS: Rules = &[
    ("model", "must have a price"),
    ("messages", "the conversation"),
    ("system", "instructions"),
    ("tools", "tools that the agent carries out itself"),
    ("tool_choice", "whether a tool must be called"),
    ("max_tokens", "the longest answer"),
    ("stream", "whether to stream"),
    ("stop_sequences", "where to stop"),
    ("temperature", "sampling"),
    ("top_p", "sampling"),
    ("top_k", "sampling"),
    ("thinking", "whether and how to think"),
    ("output_config", "effort and form of the answer"),
    ("output_format", "an older way to ask for a form"),
    ("context_management", "leaving out old thinking and tool results"),
    ("cache_control", "where the prompt is cached"),
    ("diagnostics", "why the cache was missed"),
    ("metadata", "an opaque id of the session"),
];

/// Kinds of blocks in a conversation. Not here, and therefore refused: `container_upload` and
/// whatever else brings files of the account's into it.
const BLOCKS: Rules = &[
    ("text", "what was said"),
    ("image", "its data; where it comes from is looked at"),
    ("document", "its data; where it comes from is looked at"),
    ("thinking", "what the model thought before"),
    ("redacted_thinking", "the same, unreadable"),
    ("tool_use", "a call of one of the agent's tools"),
    ("tool_result", "what it gave"),
    ("tool_reference", "names a tool that is offered"),
    ("tool_addition", "a tool that is offered from here on; checked like the others"),
    ("tool_removal", "and one that is not any more"),
    ("search_result", "a text that a tool found"),
];

/// Kinds of blocks that tools on the model's side bring in, for runs that were granted one.
const SERVER_BLOCKS: Rules = &[
    ("server_tool_use", "a call of such a tool"),
    ("web_search_tool_result", "what was found"),
    ("web_fetch_tool_result", "what was fetched"),
];

/// Edits that the model's side makes to a prompt. Not here: compaction, which is billed as another
/// request, and which the agent does by itself.
const EDITS: Rules = &[
    ("clear_thinking_20251015", "leaves out old thinking; the agent asks for it each time"),
    ("clear_tool_uses_20250919", "leaves out old tool results"),
];

fn listed(rules: Rules, name: &str) -> bool {
    rules.iter().any(|(rule, _)| match rule.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => *rule == name,
    })
}

/// Whether a request may have this field.
pub(super) fn field(name: &str) -> bool {
    listed(FIELDS, name)
}

/// Whether a conversation may hold blocks of this kind.
pub(super) fn block(kind: &str) -> bool {
    listed(BLOCKS, kind)
}

/// Whether it may where a tool on the model's side was granted.
pub(super) fn server_block(kind: &str) -> bool {
    listed(SERVER_BLOCKS, kind)
}

/// Whether a prompt may be edited so.
pub(super) fn edit(kind: &str) -> bool {
    listed(EDITS, kind)
}

/// The headers to send for those that came, with the key.
pub(super) fn request_headers(
    from: &HeaderMap,
    key: Option<&ApiKey>,
) -> Result<HeaderMap, ModelError> {
    let headers = pass(REQUEST_HEADERS, from);
    let ambiguous = |name: &&HeaderName| {
        let mut values = headers.get_all(*name).iter();
        values.next().is_some_and(|value| value.to_str().is_err()) || values.next().is_some()
    };
    if let Some(name) = headers.keys().find(ambiguous) {
        let message = format!("the header {name} must be there once, in ASCII");
        return Err(ModelError::refused(StatusCode::BAD_REQUEST, message));
    }
    plain_json(from)?;
    Ok(complete(headers, from, key))
}

/// The body is what is checked: JSON as it is, and called so.
fn plain_json(from: &HeaderMap) -> Result<(), ModelError> {
    let refused = |what| Err(ModelError::refused(StatusCode::UNSUPPORTED_MEDIA_TYPE, what));
    let kind = from.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    let kind = kind.split_once(';').map_or(kind, |(kind, _)| kind).trim();
    if !kind.eq_ignore_ascii_case("application/json") {
        return refused("the body must be application/json");
    }
    if from.contains_key(CONTENT_ENCODING) {
        return refused("the body must be plain: without content-encoding");
    }
    Ok(())
}

fn complete(mut headers: HeaderMap, from: &HeaderMap, key: Option<&ApiKey>) -> HeaderMap {
    if let Some(value) = betas(from) {
        headers.insert(BETA, value);
    }
    // A compressed answer could not be counted.
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    if let Some(key) = key {
        headers.insert(API_KEY, key.header());
    }
    headers
}

/// The headers to pass on with an answer.
pub(super) fn response_headers(from: &HeaderMap) -> HeaderMap {
    pass(RESPONSE_HEADERS, from)
}

fn pass(rules: Rules, from: &HeaderMap) -> HeaderMap {
    let kept = from.iter().filter(|(name, _)| listed(rules, name.as_str()));
    let mut headers = HeaderMap::new();
    for (name, value) in kept {
        headers.append(name, value.clone());
    }
    headers
}

fn betas(from: &HeaderMap) -> Option<HeaderValue> {
    let all = from.get_all(BETA).iter().filter_map(|value| value.to_str().ok());
    let kept: Vec<&str> =
        all.flat_map(|list| list.split(',')).map(str::trim).filter(|beta| is_beta(beta)).collect();
    if kept.is_empty() { None } else { HeaderValue::from_str(&kept.join(",")).ok() }
}

/// `claude-code-20250219` and `effort-2025-11-24` are known by what stands before their dates: a
/// new pin of the agent brings new dates of the same features.
fn is_beta(beta: &str) -> bool {
    let name = beta.trim_end_matches(|c: char| c.is_ascii_digit() || c == '-');
    name.len() < beta.len() && listed(BETAS, name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(list: &[(&'static str, &'static str)]) -> HeaderMap {
        list.iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn what_the_agent_sends_passes_and_nothing_of_its_connection() -> Result<(), ModelError> {
        let sent = headers(&[
            ("accept", "application/json"),
            ("content-type", "application/json"),
            ("user-agent", "claude-cli/2.1.330 (external, sdk-cli)"),
            ("x-claude-code-session-id", "1"),
            ("x-stainless-arch", "x64"),
            ("x-stainless-retry-count", "0"),
            ("anthropic-dangerous-direct-browser-access", "true"),
            ("anthropic-version", "2023-06-01"),
            ("x-app", "cli"),
        ]);
        let mut got = sent.clone();
        for (name, value) in &headers(&[
            ("x-api-key", "not-a-key"),
            ("authorization", "Bearer x"),
            ("cookie", "a=b"),
            ("host", "elsewhere"),
            ("connection", "keep-alive"),
            ("content-length", "1"),
            ("transfer-encoding", "chunked"),
            ("accept-encoding", "gzip, deflate, br, zstd"),
            ("expect", "100-continue"),
            ("forwarded", "for=1.2.3.4"),
            ("x-forwarded-for", "1.2.3.4"),
            ("x-stainless-helper", "x"),
            ("x-claude-code-route-final-answer", "x"),
            ("anthropic-user-profile-id", "another"),
            ("proxy-authorization", "x"),
            ("anthropic-workspace-id", "another"),
        ]) {
            got.insert(name, value.clone());
        }
        let key = ApiKey::for_demo();
        let passed = request_headers(&got, Some(&key))?;
        let mut wanted = sent;
        wanted.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        wanted.insert(API_KEY, key.header());
        assert_eq!(passed, wanted);
        assert_eq!(request_headers(&got, None)?.get("x-api-key"), None);
        Ok(())
    }

    #[test]
    fn what_two_readers_may_take_differently_is_refused() {
        let plain = headers(&[("content-type", "Application/JSON; charset=utf-8")]);
        assert!(request_headers(&plain, None).is_ok());
        for (name, value, status) in [
            ("content-type", "application/json", 400),
            ("content-encoding", "gzip", 415),
            ("content-encoding", "identity", 415),
        ] {
            let mut more = plain.clone();
            more.append(name, HeaderValue::from_static(value));
            let refused = request_headers(&more, None);
            assert!(
                matches!(refused, Err(ModelError::Refused { status: s, .. }) if s == status),
                "{name}: {refused:?}"
            );
        }
        for kind in ["", "text/plain", "application/jsonl", "multipart/form-data; boundary=x"] {
            let mut other = HeaderMap::new();
            other.extend(HeaderValue::from_str(kind).ok().map(|kind| (CONTENT_TYPE, kind)));
            let refused = request_headers(&other, None);
            assert!(matches!(refused, Err(ModelError::Refused { status: 415, .. })), "{kind}");
        }
        let mut twice = plain.clone();
        for version in ["2023-06-01", "2023-06-01"] {
            twice.append("anthropic-version", HeaderValue::from_static(version));
        }
        assert!(request_headers(&twice, None).is_err());
        let mut beyond = plain;
        beyond
            .extend(HeaderValue::from_bytes(b"\xff").ok().map(|v| (hyper::header::USER_AGENT, v)));
        assert!(request_headers(&beyond, None).is_err());
    }

    #[test]
    fn beta_features_are_known_by_name_whatever_their_date() -> Result<(), ModelError> {
        let json = ("content-type", "application/json");
        let sent = headers(&[
            json,
            (
                "anthropic-beta",
                "claude-code-20250219, effort-2027-01-01,files-api-2025-04-14,context-1m-2025-08-07,\
             mcp-client-2025-04-04,fast-mode-2026-02-01,effort,effort-x-2025-11-24,",
            ),
        ]);
        let passed = request_headers(&sent, None)?;
        let kept = "claude-code-20250219,effort-2027-01-01,context-1m-2025-08-07";
        assert_eq!(passed.get("anthropic-beta").map(HeaderValue::as_bytes), Some(kept.as_bytes()));
        let none = headers(&[json, ("anthropic-beta", "files-api-2025-04-14")]);
        assert!(!request_headers(&none, None)?.contains_key("anthropic-beta"));
        Ok(())
    }

    #[test]
    fn an_answer_keeps_what_the_agent_needs() {
        let got = headers(&[
            ("content-type", "text/event-stream"),
            ("request-id", "req_1"),
            ("retry-after", "3"),
            ("retry-after-ms", "3000"),
            ("anthropic-ratelimit-requests-remaining", "1"),
            ("anthropic-organization-id", "the owner's"),
            ("set-cookie", "a=b"),
            ("location", "https://elsewhere"),
            ("connection", "close"),
            ("content-length", "7"),
        ]);
        let names: Vec<String> =
            response_headers(&got).keys().map(|name| name.as_str().to_owned()).collect();
        assert_eq!(names.len(), 5, "{names:?}");
        assert!(names.iter().all(|name| listed(RESPONSE_HEADERS, name)), "{names:?}");
    }
}
