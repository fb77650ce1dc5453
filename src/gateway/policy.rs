//! What of a request and of an answer may pass: allowlists with a reason for each line.
//!
//! | what is not listed | what happens |
//! |---|---|
//! | a header, a beta feature | left out; the model then behaves as if it had not been asked for |
//! | a field of the request | refused: it may cost more, or reach beyond the run |
//!
//! The lists are what the pinned agent was seen to send, and what its flags may add. A name that
//! ends in `*` stands for all names that begin so.

use hyper::header::{ACCEPT_ENCODING, HeaderMap, HeaderName, HeaderValue};

use super::key::ApiKey;

type Rules = &'static [(&'static str, &'static str)];

const API_KEY: HeaderName = HeaderName::from_static("x-api-key");
const BETA: HeaderName = HeaderName::from_static("anthropic-beta");

/// Headers of a request. Claude Code 2.1.330 sends the first six, `x-claude-code-session-id` and
/// eight of `x-stainless-*`, over TCP and over its Unix socket alike. The cell's key, cookies,
/// forwarding and proxy headers, `host` and all that belongs to one connection are not here.
const REQUEST_HEADERS: Rules = &[
    ("accept", "the form of the answer"),
    ("content-type", "the form of the body"),
    ("user-agent", "the agent and its version, by which the API knows its client"),
    ("anthropic-version", "the API's version; the API wants it"),
    ("anthropic-dangerous-direct-browser-access", "sent by the agent's client library"),
    ("x-app", "which of its faces the agent shows"),
    ("x-claude-code-*", "the session's id and the kind of request"),
    ("x-stainless-*", "the client library's platform, retry count and time-out"),
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

/// The headers to send for those that came, with the key.
pub(super) fn request_headers(from: &HeaderMap, key: Option<&ApiKey>) -> HeaderMap {
    let mut headers = pass(REQUEST_HEADERS, from);
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
    fn what_the_agent_sends_passes_and_nothing_of_its_connection() {
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
            ("proxy-authorization", "x"),
            ("anthropic-workspace-id", "another"),
        ]) {
            got.insert(name, value.clone());
        }
        let key = ApiKey::for_demo();
        let passed = request_headers(&got, Some(&key));
        let mut wanted = sent;
        wanted.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        wanted.insert(API_KEY, key.header());
        assert_eq!(passed, wanted);
        assert_eq!(request_headers(&got, None).get("x-api-key"), None);
    }

    #[test]
    fn beta_features_are_known_by_name_whatever_their_date() {
        let sent = headers(&[(
            "anthropic-beta",
            "claude-code-20250219, effort-2027-01-01,files-api-2025-04-14,context-1m-2025-08-07,\
             mcp-client-2025-04-04,fast-mode-2026-02-01,effort,effort-x-2025-11-24,",
        )]);
        let passed = request_headers(&sent, None);
        let kept = "claude-code-20250219,effort-2027-01-01,context-1m-2025-08-07";
        assert_eq!(passed.get("anthropic-beta").map(HeaderValue::as_bytes), Some(kept.as_bytes()));
        let none = headers(&[("anthropic-beta", "files-api-2025-04-14")]);
        assert!(!request_headers(&none, None).contains_key("anthropic-beta"));
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
