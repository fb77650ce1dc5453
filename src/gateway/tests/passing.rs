//! What passes through: headers, frames as they come, what is counted, when a run is touched.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use hyper::header::HeaderValue;
use tokio::sync::{Notify, Semaphore};

use super::*;
use crate::core::money::Usage;
use crate::gateway::error::ModelError;

/// One answer to one question, and the two ends of it.
async fn open(
    model: &mut Model,
    run: &RunGateway,
) -> Result<(mpsc::Sender<Result<Frame<Bytes>, BoxError>>, Response<ModelBody>), BoxError> {
    let handling = handle(run, ask()?);
    let sender = model.asked().await?.stream()?;
    Ok((sender, within(handling).await??))
}

#[tokio::test]
async fn the_key_is_added_and_the_cells_own_is_dropped() -> Outcome {
    let mut model = Model::start().await?;
    let run = model.plain_run()?;
    let handling = handle(&run, ask()?);
    let asked = model.asked().await?;
    assert_eq!(asked.head.uri, "/v1/messages?beta=true");
    assert_eq!(asked.body, ASK);
    let keys: Vec<_> = asked.head.headers.get_all("x-api-key").iter().collect();
    assert_eq!(keys, [KEY]);
    assert!(!asked.head.headers.contains_key("authorization"));
    assert_eq!(
        asked.head.headers.get("host").map(|h| h.as_bytes()),
        Some(model.address.as_bytes())
    );
    asked.stream()?;
    let response = within(handling).await??;
    assert_eq!(response.headers().get("request-id").map(|h| h.as_bytes()), Some(&b"req_1"[..]));
    assert!(!response.headers().contains_key("anthropic-organization-id"));
    Ok(())
}

#[tokio::test]
async fn a_frame_is_passed_on_before_the_next_one_exists() -> Outcome {
    let mut model = Model::start().await?;
    let (sender, receiver) = std::sync::mpsc::channel();
    let hooks = Hooks {
        first_byte: Some(Box::new(move |at| sender.send(at).unwrap_or_default())),
        ..Hooks::default()
    };
    let run = model.run(1_000_000, RunLimits::default(), hooks)?;
    let (frames, response) = open(&mut model, &run).await?;
    let mut body = response.into_body();
    assert!(receiver.try_recv().is_err());
    for text in [START, TEXT, TOOL, TEXT, END] {
        frames.send(frame(text)).await?;
        assert_eq!(next(&mut body).await?, text);
    }
    assert_eq!(receiver.try_iter().count(), 1);
    drop(frames);
    assert!(within(body.frame()).await?.is_none());
    Ok(())
}

#[tokio::test]
async fn what_an_answer_used_counts_at_the_price_of_the_model_that_gave_it() -> Outcome {
    let mut model = Model::start().await?;
    let run = model.plain_run()?;
    let (frames, response) = open(&mut model, &run).await?;
    let mut body = response.into_body();
    for text in [START, TEXT, END] {
        frames.send(frame(text)).await?;
        next(&mut body).await?;
    }
    // Counted before the agent could know that it is over.
    let used = Usage { input_tokens: 1000, output_tokens: 100, requests: 1, ..Usage::default() };
    assert_eq!((run.meter().usage(), run.meter().spent()), (used, 1000 + 500));
    drop((frames, body));
    assert_eq!(run.meter().usage(), used, "once");
    assert_eq!(run.last_error(), None);
    Ok(())
}

#[tokio::test]
async fn a_cell_that_hangs_up_pays_for_what_it_read_and_frees_the_model() -> Outcome {
    let mut model = Model::start().await?;
    let run = model.plain_run()?;
    let (frames, response) = open(&mut model, &run).await?;
    let mut body = response.into_body();
    frames.send(frame(START)).await?;
    next(&mut body).await?;
    frames.send(frame(TEXT)).await?;
    next(&mut body).await?;
    drop(body);
    let used = Usage { input_tokens: 1000, output_tokens: 4, requests: 1, ..Usage::default() };
    assert_eq!(run.meter().usage(), used);
    within(frames.closed()).await?;

    let handling = handle(&run, ask()?);
    let asked = model.asked().await?;
    handling.abort();
    let mut reply = asked.reply;
    within(reply.closed()).await?;
    let estimate = (ASK.len() as u64).div_ceil(3);
    assert_eq!(run.meter().usage(), Usage { input_tokens: 1000 + estimate, ..used });
    Ok(())
}

#[tokio::test]
async fn a_model_that_hangs_up_cuts_the_answer_and_says_so() -> Outcome {
    let mut model = Model::start().await?;
    let run = model.plain_run()?;
    let (frames, response) = open(&mut model, &run).await?;
    let mut body = response.into_body();
    frames.send(frame(START)).await?;
    next(&mut body).await?;
    frames.send(Err("cut".into())).await?;
    let error = next(&mut body).await.err().map(|e| e.to_string()).unwrap_or_default();
    assert!(error.starts_with("the model's answer broke off"), "{error}");
    assert!(matches!(run.last_error(), Some(ModelError::BrokeOff { .. })));
    drop(body);
    assert_eq!(run.meter().usage().input_tokens, 1000);
    Ok(())
}

#[tokio::test]
async fn an_error_within_a_stream_is_remembered() -> Outcome {
    let mut model = Model::start().await?;
    let run = model.plain_run()?;
    let (frames, response) = open(&mut model, &run).await?;
    let error = r#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}"#;
    frames.send(frame(&format!("event: error\ndata: {error}\n\n"))).await?;
    drop(frames);
    whole(response).await?;
    let why = "overloaded_error: Overloaded".to_owned();
    assert_eq!(run.last_error(), Some(ModelError::BrokeOff { why }));
    Ok(())
}

/// Hooks that wait for a permit each, and count.
fn gated() -> (Hooks, Arc<Semaphore>, Arc<AtomicU32>, Arc<Notify>) {
    let gate = Arc::new(Semaphore::new(0));
    let count = Arc::new(AtomicU32::new(0));
    let begun = Arc::new(Notify::new());
    let (g, c, b) = (Arc::clone(&gate), Arc::clone(&count), Arc::clone(&begun));
    let hooks = Hooks {
        touched: Some(Box::new(move || {
            let (gate, count, begun) = (Arc::clone(&g), Arc::clone(&c), Arc::clone(&b));
            Box::pin(async move {
                begun.notify_one();
                gate.acquire().await?.forget();
                count.fetch_add(1, Ordering::SeqCst);
                Ok(())
            })
        })),
        first_byte: None,
    };
    (hooks, gate, count, begun)
}

#[tokio::test]
async fn a_tool_call_waits_until_the_run_is_marked_as_touched() -> Outcome {
    let mut model = Model::start().await?;
    let (hooks, gate, count, begun) = gated();
    let run = model.run(1_000_000, RunLimits::default(), hooks)?;
    let (frames, response) = open(&mut model, &run).await?;
    let mut body = response.into_body();
    for text in [START, TEXT] {
        frames.send(frame(text)).await?;
        assert_eq!(next(&mut body).await?, text);
    }
    frames.send(frame(TOOL)).await?;
    tokio::select! {
        biased;
        got = next(&mut body) => return Err(format!("passed on too early: {got:?}").into()),
        begun = within(begun.notified()) => begun?,
    }
    assert_eq!(count.load(Ordering::SeqCst), 0);
    gate.add_permits(1);
    assert_eq!(next(&mut body).await?, TOOL);
    assert_eq!(count.load(Ordering::SeqCst), 1);
    // The next one of the run does not wait: the gate has no permit left.
    frames.send(frame(END)).await?;
    next(&mut body).await?;
    drop((frames, body));
    let (frames, response) = open(&mut model, &run).await?;
    frames.send(frame(TOOL)).await?;
    assert_eq!(next(&mut response.into_body()).await?, TOOL);
    assert_eq!(count.load(Ordering::SeqCst), 1);
    Ok(())
}

#[tokio::test]
async fn a_tool_call_is_withheld_when_the_run_cannot_be_marked() -> Outcome {
    let mut model = Model::start().await?;
    let (hooks, gate, ..) = gated();
    gate.close();
    let run = model.run(1_000_000, RunLimits::default(), hooks)?;
    let (frames, response) = open(&mut model, &run).await?;
    frames.send(frame(TOOL)).await?;
    let mut body = response.into_body();
    assert!(next(&mut body).await.is_err());
    assert!(within(body.frame()).await?.is_none(), "nothing after it either");
    assert!(matches!(run.last_error(), Some(ModelError::Withheld { .. })));
    drop(body);
    within(frames.closed()).await?;
    Ok(())
}

#[tokio::test]
async fn an_answer_that_is_not_streamed_is_counted_and_marked_too() -> Outcome {
    let mut model = Model::start().await?;
    let (hooks, gate, count, _) = gated();
    gate.add_permits(1);
    let run = model.run(1_000_000, RunLimits::default(), hooks)?;
    let handling = handle(&run, ask()?);
    let answer = concat!(
        r#"{"model":"unheard-of","content":[{"type":"tool_use"}],"#,
        r#""usage":{"input_tokens":10,"output_tokens":20}}"#
    );
    model.asked().await?.reply(json(200, answer)?)?;
    assert_eq!(whole(within(handling).await??).await?, answer);
    // A model without a price costs what was asked for: 10 × 2 + 20 × 10.
    assert_eq!(run.meter().spent(), 220);
    assert_eq!(count.load(Ordering::SeqCst), 1);
    Ok(())
}

#[tokio::test]
async fn an_error_of_the_model_passes_and_is_kept_without_the_key() -> Outcome {
    let mut model = Model::start().await?;
    let run = model.plain_run()?;
    let handling = handle(&run, ask()?);
    let body = format!(
        r#"{{"type":"error","error":{{"type":"overloaded_error","message":"{KEY} is busy"}}}}"#
    );
    let mut answer = json(529, &body)?;
    answer.headers_mut().insert("retry-after", hyper::header::HeaderValue::from_static("7"));
    model.asked().await?.reply(answer)?;
    let response = within(handling).await??;
    assert_eq!(response.status(), 529);
    assert_eq!(response.headers().get("retry-after").map(|h| h.as_bytes()), Some(&b"7"[..]));
    whole(response).await?;
    let error = run.last_error().map(|e| e.to_string()).unwrap_or_default();
    assert_eq!(error, "model answered 529 overloaded_error: … is busy");
    assert_eq!(run.meter().usage(), Usage::default(), "errors are not billed");
    open(&mut model, &run).await?;
    assert_eq!(run.last_error(), None, "a good answer wipes it out");
    Ok(())
}

#[tokio::test]
async fn a_refused_key_is_final_for_the_agent_cannot_mend_it() -> Outcome {
    let mut model = Model::start().await?;
    let run = model.plain_run()?;
    let handling = handle(&run, ask()?);
    model.asked().await?.reply(json(401, "{}")?)?;
    let response = within(handling).await??;
    let again = response.headers().get("x-should-retry");
    assert_eq!(again.map(|h| h.as_bytes()), Some(&b"false"[..]));
    Ok(())
}

#[tokio::test]
async fn counting_tokens_costs_nothing() -> Outcome {
    let mut model = Model::start().await?;
    let run = model.plain_run()?;
    let request = post("/v1/messages/count_tokens?beta=true", r#"{"model":"claude-sonnet-5-5"}"#)?;
    let handling = handle(&run, request);
    let asked = model.asked().await?;
    assert_eq!(asked.head.uri, "/v1/messages/count_tokens?beta=true");
    asked.reply(json(200, r#"{"input_tokens":14}"#)?)?;
    assert_eq!(whole(within(handling).await??).await?, r#"{"input_tokens":14}"#);
    assert_eq!(run.meter().usage(), Usage::default());
    Ok(())
}

#[tokio::test]
async fn a_key_that_the_model_s_side_quotes_does_not_reach_the_cell() -> Outcome {
    let mut model = Model::start().await?;
    let run = model.plain_run()?;
    let answer = handle(&run, ask()?);
    let error = format!(r#"{{"error":{{"message":"invalid x-api-key: {KEY}, again {KEY}"}}}}"#);
    let mut refusal = json(401, &error)?;
    refusal.headers_mut().insert("request-id", HeaderValue::from_str(&format!("req_{KEY}"))?);
    model.asked().await?.reply(refusal)?;
    let answer = within(answer).await??;
    assert_eq!((answer.status().as_u16(), answer.headers().get("request-id")), (401, None));
    assert_eq!(whole(answer).await?, error.replace(KEY, "…"));
    assert!(run.last_error().is_some_and(|error| error.to_string().contains("x-api-key: …")));

    let answer = handle(&run, ask()?);
    let stream = model.asked().await?.stream()?;
    let (front, back) = TEXT.split_once("456789").ok_or("no digits")?;
    for piece in [START, front, "sk-ant-can", "ary-0123456", "789", back, END, "sk-ant"] {
        stream.send(Ok(frame(piece)?)).await?;
    }
    drop(stream);
    let wanted = format!("{START}{front}…{back}{END}sk-ant");
    assert_eq!(whole(within(answer).await??).await?, wanted);
    Ok(())
}
