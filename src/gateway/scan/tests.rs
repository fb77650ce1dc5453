//! Answers of every kind, however they are cut.

use proptest::prelude::*;

use super::*;

const STREAM: &str = concat!(
    "event: message_start\r\n",
    r#"data: {"type":"message_start","message":{"model":"claude-sonnet-5-5-20260901","#,
    r#""usage":{"input_tokens":10,"cache_creation_input_tokens":30,"output_tokens":1,"#,
    r#""cache_read_input_tokens":5,"cache_creation":{"ephemeral_5m_input_tokens":10,"#,
    r#""ephemeral_1h_input_tokens":20}}}}"#,
    "\r\n\r\n: a comment\n\nevent: ping\ndata: {\"type\":\"ping\"}\n\ndata: no json\n\n",
    r#"data: {"type":"content_block_start","content_block":{"text":"say \"tool_use\""}}"#,
    "\n\n",
    r#"data: {"type":"content_block_delta","delta":{"type":"text_delta","text":"abcdef"}}"#,
    "\n\n",
    r#"data: {"type":"content_block_start","content_block":{"type":"tool_use","name":"a"}}"#,
    "\n\n",
    r#"data: {"type":"message_delta","delta":{},"usage":{"output_tokens":7}}"#,
    "\n\ndata: {\"type\":\"message_stop\"}\n\n",
);

fn whole() -> Usage {
    Usage {
        input_tokens: 10,
        output_tokens: 7,
        cache_write_tokens: 10,
        cache_write_1h_tokens: 20,
        cache_read_tokens: 5,
        requests: 1,
    }
}

#[test]
fn a_stream_is_read_however_it_is_cut() {
    for size in [1, 2, 3, 7, 64, STREAM.len()] {
        let mut scan = Scan::new(Form::Events);
        for piece in STREAM.as_bytes().chunks(size) {
            scan.feed(piece);
        }
        assert_eq!(scan.usage(9), whole(), "pieces of {size}");
        assert_eq!(scan.model.as_deref(), Some("claude-sonnet-5-5-20260901"));
        assert!(scan.complete && scan.asks_for_a_tool());
    }
}

#[test]
fn a_tool_call_is_found_where_it_begins_and_not_in_a_text() {
    let mut scan = Scan::new(Form::Events);
    let (before, after) = STREAM.split_at(STREAM.find(r#"{"type":"tool_use""#).unwrap_or(0));
    scan.feed(before.as_bytes());
    assert!(!scan.asks_for_a_tool());
    scan.feed(after.as_bytes());
    assert!(scan.asks_for_a_tool());
    let mut server = Scan::new(Form::Events);
    server.feed(br#"data: {"type":"server_tool_use"} "tool_" "" "tool_use \"tool_use\""#);
    assert!(!server.asks_for_a_tool());
    server.feed(br#"""tool_use""#);
    assert!(server.asks_for_a_tool());
}

#[test]
fn a_cut_stream_is_estimated_upwards() {
    let mut scan = Scan::new(Form::Events);
    assert_eq!(scan.usage(10), Usage { input_tokens: 4, requests: 1, ..Usage::default() });
    assert_eq!(scan.usage(usize::MAX).input_tokens, 200_000);
    let cut = STREAM.find("data: {\"type\":\"message_delta\"").unwrap_or(0);
    scan.feed(STREAM.get(..cut).unwrap_or_default().as_bytes());
    assert_eq!(scan.usage(9), Usage { output_tokens: 2, ..whole() });
}

#[test]
fn a_huge_line_is_passed_over() {
    let mut scan = Scan::new(Form::Events);
    scan.feed(b"data: {\"type\":\"x\",\"y\":\"");
    for _ in 0..100 {
        scan.feed(&[b'y'; KIB]);
    }
    assert!(scan.buffer.len() <= LINE_BYTES);
    scan.feed(b"\"}\n");
    scan.feed(STREAM.as_bytes());
    assert_eq!(scan.usage(9), whole());
}

#[test]
fn an_answer_that_is_not_streamed_is_read_at_its_end() {
    let mut scan = Scan::new(Form::Json);
    scan.feed(br#"{"model":"m","content":[],"usage":{"input_tokens":3,"output_tok"#);
    scan.feed(br#"ens":4,"cache_creation":null}}"#);
    scan.end();
    let usage = Usage { input_tokens: 3, output_tokens: 4, requests: 1, ..Usage::default() };
    assert_eq!((scan.usage(900), scan.model.as_deref()), (usage, Some("m")));
    let mut cut = Scan::new(Form::Json);
    cut.feed(br#"{"usage":{"#);
    assert_eq!(cut.usage(30).input_tokens, 10);
}

#[test]
fn compaction_on_the_models_side_counts_too() {
    let mut scan = Scan::new(Form::Events);
    let own = r#""input_tokens":5,"output_tokens":2"#;
    let steps = format!(
        r#"[{{"type":"compaction","input_tokens":100,"output_tokens":20}},
        {{"type":"message",{own}}}]"#
    );
    let line = r#"data: {"type":"message_delta","usage":{OWN,"iterations":STEPS}}"#;
    let line = line.replace("OWN", own).replace("STEPS", &steps.replace('\n', ""));
    scan.feed(format!("{line}\n").as_bytes());
    let usage = scan.usage(9);
    assert_eq!((usage.input_tokens, usage.output_tokens), (105, 22));
}

#[test]
fn an_error_is_remembered() {
    let mut scan = Scan::new(Form::Events);
    let error = r#"{"type":"overloaded_error","message":"Overloaded"}"#;
    scan.feed(format!("data: {{\"type\":\"error\",\"error\":{error}}}\n").as_bytes());
    assert_eq!(scan.error.as_deref(), Some("overloaded_error: Overloaded"));
    let mut plain = Scan::new(Form::Error);
    plain.feed(b"upstream connect error");
    plain.end();
    assert_eq!(plain.error.as_deref(), Some("upstream connect error"));
}

/// Pieces of streams, real and not.
fn answer() -> impl Strategy<Value = Vec<u8>> {
    let events: Vec<_> = STREAM.split_inclusive('\n').map(|l| l.as_bytes().to_vec()).collect();
    let piece = prop_oneof![
        6 => prop::sample::select(events),
        2 => prop::collection::vec(any::<u8>(), 0..30),
        2 => "(\"|\"tool_|tool_use\"|\"tool_use\"){1,3}".prop_map(String::into_bytes),
        1 => (LINE_BYTES - 30..LINE_BYTES + 30).prop_map(|length| vec![b'z'; length]),
    ];
    prop::collection::vec(piece, 0..20).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(crate::core::arbitrary::config())]

    /// However an answer is cut, it tells the same, and no more of it is kept than a line.
    #[test]
    fn any_answer_is_read_however_it_is_cut(
        answer in answer(),
        cuts in prop::collection::vec(1..2000usize, 1..9),
        form in prop::sample::select(vec![Form::Events, Form::Json, Form::Error]),
    ) {
        let mut whole = Scan::new(form);
        whole.feed(&answer);
        whole.end();
        let mut scan = Scan::new(form);
        let mut rest = &answer[..];
        for most in cuts.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (piece, after) = rest.split_at(rest.len().min(*most));
            scan.feed(piece);
            prop_assert!(form != Form::Events || scan.buffer.len() <= LINE_BYTES);
            rest = after;
        }
        scan.end();
        prop_assert_eq!(scan.usage(9), whole.usage(9));
        let told = |scan: &Scan| (scan.model.clone(), scan.error.clone(), scan.complete);
        prop_assert_eq!(told(&scan), told(&whole));
        prop_assert_eq!(scan.asks_for_a_tool(), whole.asks_for_a_tool());
        let calls = answer.windows(10).any(|bytes| bytes == b"\"tool_use\"");
        prop_assert_eq!(scan.asks_for_a_tool(), calls && form != Form::Error);
    }
}
