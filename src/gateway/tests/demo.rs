//! The demo model behind the gateway, over its own listener.

use serde_json::{Value, json};

use super::*;
use crate::core::money::Usage;
use crate::gateway::demo;

async fn run(key: Option<ApiKey>) -> Result<RunGateway, BoxError> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?.to_string();
    tokio::spawn(demo::serve(listener, std::future::pending()));
    let gateway = gateway(&address, key)?;
    Ok(gateway.for_run(scope(), Meter::new(1_000_000), RunLimits::default(), Hooks::default()))
}

fn says(text: &str, stream: bool) -> Result<Request<Full<Bytes>>, BoxError> {
    let body = json!({
        "model": "claude-sonnet-5-5",
        "max_tokens": 9,
        "stream": stream,
        "tools": [{"name": "Bash"}],
        "messages": [{"role": "user", "content": text}],
    });
    post("/v1/messages?beta=true", &body.to_string())
}

/// The events of a stream.
fn events(stream: &str) -> Result<Vec<Value>, BoxError> {
    let data = stream.lines().filter_map(|line| line.strip_prefix("data: "));
    Ok(data.map(serde_json::from_str).collect::<Result<_, _>>()?)
}

fn text(events: &[Value]) -> String {
    events.iter().filter_map(|event| event.pointer("/delta/text")?.as_str()).collect()
}

#[tokio::test]
async fn it_streams_an_echo_that_is_counted() -> Outcome {
    let run = run(Some(ApiKey::for_demo())).await?;
    let response = run.handle(says("hello\nworld", true)?).await;
    let events = events(&whole(response).await?)?;
    assert_eq!(text(&events), "You said: hello\nworld");
    let kinds: Vec<_> = events.iter().filter_map(|e| e.get("type")?.as_str()).collect();
    let wanted = "message_start content_block_start content_block_delta content_block_delta \
                  content_block_stop message_delta message_stop";
    assert_eq!(kinds.join(" "), wanted);
    let used = Usage { input_tokens: 2, output_tokens: 4, requests: 1, ..Usage::default() };
    assert_eq!(run.meter().usage(), used);
    Ok(())
}

#[tokio::test]
async fn it_answers_at_once_too() -> Outcome {
    let run = run(Some(ApiKey::for_demo())).await?;
    let answer: Value =
        serde_json::from_str(&whole(run.handle(says("!tools\n!words 2", false)?).await).await?)?;
    assert_eq!(answer.pointer("/content/0/text"), Some(&json!("Bash\nword1 word2")));
    assert_eq!(answer.get("stop_reason"), Some(&json!("end_turn")));
    let call: Value = serde_json::from_str(
        &whole(run.handle(says("!tool Bash {\"a\":1}", false)?).await).await?,
    )?;
    assert_eq!(call.pointer("/content/0/input"), Some(&json!({"a": 1})));
    assert_eq!(call.get("stop_reason"), Some(&json!("tool_use")));
    assert_ne!(call.get("id"), answer.get("id"));
    Ok(())
}

#[tokio::test]
async fn it_calls_tools_fails_and_writes_words() -> Outcome {
    let run = run(Some(ApiKey::for_demo())).await?;
    let call = whole(run.handle(says("!tool Bash {\"command\":\"id\"}", true)?).await).await?;
    let call = events(&call)?;
    let name = call.iter().find_map(|event| event.pointer("/content_block/name")?.as_str());
    assert_eq!(name, Some("Bash"));
    let input = call.iter().find_map(|event| event.pointer("/delta/partial_json")?.as_str());
    assert_eq!(input, Some(r#"{"command":"id"}"#));
    let failed = run.handle(says("!error 429", true)?).await;
    assert_eq!(failed.status(), 429);
    whole(failed).await?;
    let last = run.last_error().map(|e| e.to_string()).unwrap_or_default();
    assert_eq!(last, "model answered 429 rate_limit_error: the demo model was told to fail");
    let words = whole(run.handle(says("!words 3", true)?).await).await?;
    assert_eq!(text(&events(&words)?), "word1 word2 word3");
    Ok(())
}

#[tokio::test]
async fn it_wants_a_key_and_knows_two_paths() -> Outcome {
    let without = run(None).await?;
    assert_eq!(without.handle(says("hello", true)?).await.status(), 401);
    let run = run(Some(ApiKey::for_demo())).await?;
    let body =
        json!({"model": "claude-sonnet-5-5", "messages": [{"role": "user", "content": "a b c"}]});
    let count = run.handle(post("/v1/messages/count_tokens", &body.to_string())?).await;
    assert_eq!(whole(count).await?, r#"{"input_tokens":3}"#);
    Ok(())
}

#[tokio::test]
async fn it_ends_when_it_is_told_to() -> Outcome {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = tokio::spawn(demo::serve(listener, async { stopped.await.unwrap_or_default() }));
    stop.send(()).map_err(|()| "it had ended before")?;
    within(serving).await??;
    Ok(())
}

#[tokio::test]
async fn localhost_is_this_machine_by_either_protocol() -> Outcome {
    for listen in ["127.0.0.1:0", "[::1]:0"] {
        let Ok(listener) = TcpListener::bind(listen).await else {
            // A machine without IPv6 has nothing to be reached there.
            assert_ne!(listen, "127.0.0.1:0");
            continue;
        };
        let port = listener.local_addr()?.port();
        tokio::spawn(demo::serve(listener, std::future::pending()));
        let gateway = gateway(&format!("localhost:{port}"), Some(ApiKey::for_demo()))?;
        let run = gateway.for_run(scope(), Meter::new(1), RunLimits::default(), Hooks::default());
        assert_eq!(within(run.handle(ask()?)).await?.status(), 200, "{listen}");
    }
    Ok(())
}
