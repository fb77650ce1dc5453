//! Request lines, headers, and where a body ends.

use serde_json::json;

use crate::cell::{Attempt, LINE, body, cut, judge, raw, request, told, with_headers};
use crate::support::Result;
use crate::support::recorder::Recorded;

/// A request line of the test's own before what is permitted.
fn with_line(name: &'static str, line: &str) -> Attempt {
    let body = body(&json!({}));
    raw(name, request(line, &told(&body), &body))
}

/// A permitted request, but for what its headers say of its body's end.
fn framed(name: &'static str, framing: &str, body: &str) -> Attempt {
    let headers = format!("content-type: application/json\r\n{framing}");
    raw(name, request(LINE, &headers, body))
}

fn told_length(length: usize) -> String {
    format!("content-length: {length}\r\n")
}

/// What has reached the model must tell its length once, and rightly.
fn assert_framed(reached: &[Recorded], body: &str) {
    for request in reached {
        assert_eq!(request.head.matches("content-length:").count(), 1, "{}", request.head);
        assert_eq!(request.header("content-length"), Some(body.len().to_string().as_str()));
        assert!(!request.head.contains("transfer-encoding"), "{}", request.head);
    }
}

#[test]
fn a_body_is_as_long_as_it_is_told_to_be_and_ends_there() -> Result {
    let body = body(&json!({}));
    let length = body.len();
    let told = told_length;
    // Its sender says that nothing more comes.
    let headers = format!("content-type: application/json\r\n{}", told(length + 9));
    let shorter = cut("shorter", request(LINE, &headers, &body));
    // What stands behind a body is the next request, and is judged as one.
    let first = format!("{LINE}\r\nhost: x\r\ncontent-type: application/json\r\n");
    let hidden = request("POST /v1/files HTTP/1.1", &told(2), "{}");
    let behind = [format!("{first}{}\r\n{body}", told(length)).into_bytes(), hidden].concat();
    let reached = judge(vec![
        (framed("twin", &told(length), &body), "200", ""),
        // What is said twice alike is said once.
        (framed("same-twice", &(told(length) + &told(length)), &body), "200", ""),
        (framed("differ", &(told(length) + &told(5)), &body), "400", ""),
        (framed("differ-other-way", &(told(5) + &told(length)), &body), "400", ""),
        (framed("list", &format!("content-length: {length}, {length}\r\n"), &body), "400", ""),
        (framed("plus", &format!("content-length: +{length}\r\n"), &body), "400", ""),
        (framed("hex", &format!("content-length: 0x{length:x}\r\n"), &body), "400", ""),
        (framed("negative", "content-length: -1\r\n", &body), "400", ""),
        (framed("huge", "content-length: 99999999999999999999\r\n", &body), "400", ""),
        (framed("too-large", "content-length: 33554433\r\n", ""), "413", "33554432 bytes"),
        (framed("none", "", &body), "400", "no request"),
        (shorter, "closed|502", ""),
        (framed("longer", &told(length - 9), &body), "400", "EOF"),
        (raw("behind", behind), "200,404", "only the Messages API"),
    ])?;
    assert_framed(&reached, &body);
    Ok(())
}

#[test]
fn a_body_in_chunks_is_refused_however_that_is_written() -> Result {
    let body = body(&json!({}));
    let told = told_length;
    let chunked = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
    let chunks = |name, framing: &str| framed(name, framing, &chunked);
    let te = "transfer-encoding: chunked\r\n";
    let reached = judge(vec![
        (framed("twin", &told(body.len()), &body), "200", ""),
        (chunks("chunks", te), "411", "content-length"),
        (chunks("both", &(told(body.len()) + te)), "411", "content-length"),
        (chunks("both-other-way", &(te.to_owned() + &told(5))), "411", "content-length"),
        (chunks("trailer", &(te.to_owned() + "trailer: x-api-key\r\n")), "411", "content-length"),
        (chunks("twice", &(te.to_owned() + te)), "411", "content-length"),
        (chunks("tab", "transfer-encoding:\tchunked\r\n"), "411", "content-length"),
        (chunks("capitals", "Transfer-Encoding: CHUNKED\r\n"), "411", "content-length"),
        (chunks("packed", "transfer-encoding: gzip, chunked\r\n"), "411", "content-length"),
        (chunks("not-quite", "transfer-encoding: xchunked\r\n"), "400", ""),
        (chunks("not-last", "transfer-encoding: chunked, identity\r\n"), "400", ""),
        (chunks("space", "transfer-encoding : chunked\r\n"), "400", ""),
        (chunks("folded", "transfer-encoding:\r\n chunked\r\n"), "400", ""),
    ])?;
    assert_framed(&reached, &body);
    Ok(())
}

#[test]
fn only_two_paths_lead_anywhere_however_they_are_written() -> Result {
    let post = |path: &str| format!("POST {path} HTTP/1.1");
    let mut table = vec![
        (with_line("twin", "POST /v1/messages HTTP/1.1"), "200", ""),
        (with_line("beta", LINE), "200", ""),
        (with_line("count", &post("/v1/messages/count_tokens?beta=true")), "200", ""),
        (with_line("absolute", &post("http://model.invalid/v1/messages")), "400", "a path"),
        (with_line("door", &post("http://door/exit")), "400", "a path"),
        (with_line("star", "OPTIONS * HTTP/1.1"), "400", "a path"),
        (with_line("star-post", &post("*")), "400", "a path"),
        (with_line("connect", "CONNECT door:80 HTTP/1.1"), "405", "CONNECT"),
        (with_line("authority", &post("door:80")), "400", ""),
        (with_line("old", "POST /v1/messages HTTP/1.0"), "505", "HTTP/1.1"),
        (with_line("newer", "POST /v1/messages HTTP/1.2"), "400", ""),
        (with_line("preface", "PRI * HTTP/2.0"), "400", ""),
        (raw("oldest", "POST /v1/messages\r\n"), "400", ""),
        (with_line("get", "GET /v1/messages HTTP/1.1"), "405", "use POST"),
        (with_line("delete", "DELETE /v1/messages HTTP/1.1"), "405", "use POST"),
        (with_line("lower", "post /v1/messages HTTP/1.1"), "405", "use POST"),
        (with_line("nul", &post("/v1/messages\0")), "400", ""),
        (with_line("space", &post("/v1/messages x")), "400", ""),
    ];
    for (name, path) in [
        ("exit", "/exit"),
        ("model-exit", "/model/../exit"),
        ("dots", "/v1/messages/../files"),
        ("dots-escaped", "/v1/messages/%2e%2e/files"),
        ("slash-escaped", "/v1%2fmessages"),
        ("letter-escaped", "/v1/%6dessages"),
        ("nul-escaped", "/v1/messages%00"),
        ("two-slashes", "//v1/messages"),
        ("slash-behind", "/v1/messages/"),
        ("dot", "/v1/./messages"),
        ("backslash", "/v1\\messages"),
        ("parameter", "/v1/messages;x=y"),
        ("upper", "/V1/Messages"),
        ("batches", "/v1/messages/batches"),
        ("files", "/v1/files"),
        ("models", "/v1/models"),
        ("organizations", "/v1/organizations/me"),
        ("query", "/v1/messages?beta=true&x=1"),
        ("query-twice", "/v1/messages?beta=true&beta=true"),
        ("query-empty", "/v1/messages?"),
        ("query-other", "/v1/messages?beta=false"),
    ] {
        table.push((with_line(name, &post(path)), "404", "only the Messages API"));
    }
    judge(table)?;
    Ok(())
}

#[test]
fn headers_pass_by_list_and_the_key_is_the_service_s() -> Result {
    let many = |n: usize| (0..n).map(|n| format!("x-{n}: y\r\n")).collect::<String>();
    let reached = judge(vec![
        (
            with_headers(
                "keys",
                "x-api-key: stolen\r\nauthorization: Bearer stolen\r\ncookie: stolen=1\r\n\
                 proxy-authorization: stolen\r\nanthropic-workspace-id: stolen\r\n",
            ),
            "200",
            "",
        ),
        (
            with_headers(
                "connection",
                "connection: x-app, keep-alive, te\r\nx-app: hop\r\nte: trailers\r\n\
                 keep-alive: timeout=9\r\nproxy-connection: keep-alive\r\n",
            ),
            "200",
            "",
        ),
        (
            with_headers(
                "upgrade",
                "connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABk\r\n",
            ),
            "200",
            "",
        ),
        (with_headers("expect", "expect: 100-continue\r\n"), "100,200", ""),
        (
            with_headers(
                "betas",
                "anthropic-beta: files-api-2025-04-14, effort-2025-11-24\r\nx-forwarded-for: 1\r\n\
                 anthropic-beta: mcp-client-2025-04-04,code-execution-2025-08-25\r\n",
            ),
            "200",
            "",
        ),
        (with_headers("forty", &many(40)), "200", ""),
        (with_headers("a-twice", "anthropic-version: 2023-06-01\r\n"), "400", "anthropic-version"),
        (with_headers("kind-twice", "content-type: text/plain\r\n"), "400", "content-type"),
        (with_headers("coding", "content-encoding: gzip\r\n"), "415", "plain"),
        (with_headers("identity", "content-encoding: identity\r\n"), "415", "plain"),
        (with_headers("beyond-ascii", "user-agent: \u{fc}\r\n"), "400", "user-agent"),
        (with_headers("folded", "x-app: a\r\n b\r\n"), "400", ""),
        (with_headers("nul", "x-app: a\0b\r\n"), "400", ""),
        (with_headers("return", "x-app: a\rx-api-key: b\r\n"), "400", ""),
        (with_headers("name", "x app: a\r\n"), "400", ""),
        (with_headers("no-name", ": a\r\n"), "400", ""),
        (with_headers("many", &many(70)), "431", ""),
        (with_headers("large", "x-app: @PAD@\r\n").padded(13_000), "431", "too large"),
        (with_headers("huge", "x-app: @PAD@\r\n").padded(1_000_000), "431", ""),
        (with_headers("eight", "x-app: @PAD@\r\n").padded(8_000), "200", ""),
    ])?;
    for request in &reached {
        assert_eq!(request.header("x-api-key"), Some("canary-5f1d7c0a9b"), "{}", request.head);
        for word in ["stolen", "hop", "upgrade", "h2c", "te:", "keep-alive", "expect", "x-1:"] {
            assert!(!request.head.contains(word), "{word}: {}", request.head);
        }
    }
    let betas: Vec<_> = reached.iter().filter_map(|r| r.header("anthropic-beta")).collect();
    assert_eq!(betas, ["effort-2025-11-24"]);
    Ok(())
}
