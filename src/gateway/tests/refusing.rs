//! What does not pass: limits, budget, the end of a run, a model that is not there.

use serde_json::Value;

use super::*;
use crate::gateway::error::ModelError;

/// Status, type and message of an error.
async fn refusal(response: Response<ModelBody>) -> Result<(u16, String, String), BoxError> {
    let status = response.status().as_u16();
    let json: Value = serde_json::from_str(&whole(response).await?)?;
    assert_eq!(json.get("type"), Some(&Value::from("error")));
    let text = |path| json.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
    Ok((status, text("/error/type"), text("/error/message")))
}

fn limits() -> RunLimits {
    RunLimits { concurrent: 2, ..RunLimits::default() }
}

#[tokio::test]
async fn what_is_not_allowed_does_not_reach_the_model() -> Outcome {
    let mut model = Model::start().await?;
    let run = model.plain_run()?;
    let get = Request::get("/v1/messages").body(Full::new(Bytes::new()))?;
    let mut form = ask()?;
    let kind = hyper::header::HeaderValue::from_static("application/x-www-form-urlencoded");
    form.headers_mut().insert("content-type", kind);
    let mut packed = ask()?;
    let coding = hyper::header::HeaderValue::from_static("gzip");
    packed.headers_mut().insert("content-encoding", coding);
    let other = r#"{"model":"claude-opus-5"}"#;
    let server_tool = r#"{"model":"claude-sonnet-5-5","tools":[{"type":"web_search_20250305"}]}"#;
    for (request, status, kind) in [
        (get, 405, "invalid_request_error"),
        (post("/v1/files", "{}")?, 404, "not_found_error"),
        (post("/v1/messages?beta=1", ASK)?, 404, "not_found_error"),
        (post("/v1/messages", "[]")?, 400, "invalid_request_error"),
        (post("/v1/messages", r#"{"model":"gpt-4"}"#)?, 400, "invalid_request_error"),
        (post("/v1/messages", server_tool)?, 403, "permission_error"),
        (post("/v1/messages", other)?, 403, "permission_error"),
        (post("/v1/messages/count_tokens", other)?, 403, "permission_error"),
        (form, 415, "invalid_request_error"),
        (packed, 415, "invalid_request_error"),
        (
            post("/v1/messages/count_tokens", r#"{"model":"claude-sonnet-5-5","container":1}"#)?,
            403,
            "permission_error",
        ),
    ] {
        let what = format!("{request:?}");
        let (got, got_kind, _) = refusal(run.handle(request).await).await?;
        assert_eq!((got, got_kind.as_str()), (status, kind), "{what}");
    }
    assert!(model.asked.try_recv().is_err());
    let error = run.last_error().map(|e| e.to_string()).unwrap_or_default();
    assert_eq!(error, r#"a cell may not use the field "container""#);
    Ok(())
}

/// Asks and gets the whole of a short answer.
async fn answered(model: &mut Model, run: &RunGateway) -> Outcome {
    let handling = handle(run, ask()?);
    let usage = r#"{"model":"claude-sonnet-5-5","usage":{"input_tokens":10,"output_tokens":1}}"#;
    model.asked().await?.reply(json(200, usage)?)?;
    whole(within(handling).await??).await?;
    Ok(())
}

#[tokio::test]
async fn a_spent_budget_is_final() -> Outcome {
    let mut model = Model::start().await?;
    let run = model.run(30, limits(), Hooks::default())?;
    answered(&mut model, &run).await?;
    assert_eq!(run.meter().spent(), 30);
    let (status, kind, message) = refusal(run.handle(ask()?).await).await?;
    assert_eq!((status, kind.as_str()), (402, "billing_error"));
    assert_eq!(message, "the budget of this run is spent");
    let last = ModelError::Refused { status: 402, message };
    assert_eq!(run.last_error(), Some(last));
    Ok(())
}

#[tokio::test]
async fn a_run_asks_nothing_after_its_end() -> Outcome {
    let mut model = Model::start().await?;
    let run = model.plain_run()?;
    answered(&mut model, &run).await?;
    run.clone().close();
    let (status, kind, message) = refusal(run.handle(ask()?).await).await?;
    assert_eq!((status, kind.as_str()), (403, "permission_error"), "{message}");
    assert!(model.asked.try_recv().is_err());
    Ok(())
}

#[tokio::test]
async fn so_many_requests_at_a_time_counting_answers_that_still_stream() -> Outcome {
    let mut model = Model::start().await?;
    let run = model.run(1_000_000, limits(), Hooks::default())?;
    let (one, two) = (handle(&run, ask()?), handle(&run, ask()?));
    let (first, second) = (model.asked().await?, model.asked().await?);
    let (_frames, _others) = (first.stream()?, second.stream()?);
    let streaming = within(one).await??;
    let other = within(two).await??;
    let (status, kind, _) = refusal(run.handle(ask()?).await).await?;
    assert_eq!((status, kind.as_str()), (429, "rate_limit_error"));
    drop(streaming);
    answered(&mut model, &run).await?;
    drop(other);
    Ok(())
}

#[tokio::test]
async fn a_model_that_cannot_be_reached_is_named_and_the_key_is_not() -> Outcome {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?.to_string();
    drop(listener);
    let gateway = gateway(&address, Some(key()?))?;
    assert!(!format!("{gateway:?}").contains(KEY));
    let run = gateway.for_run(scope(), Meter::new(1), RunLimits::default(), Hooks::default());
    let (status, kind, message) = refusal(run.handle(ask()?).await).await?;
    assert_eq!((status, kind.as_str()), (502, "api_error"));
    assert!(message.starts_with(&format!("the model at {address} cannot be reached: ")));
    assert!(message.contains("refused") && !message.contains(KEY), "{message}");
    assert_eq!(run.meter().spent(), 0, "free");
    Ok(())
}

#[tokio::test]
async fn a_silent_model_is_given_up() -> Outcome {
    let mut model = Model::start().await?;
    let short = RunLimits { first_byte: Duration::from_millis(200), ..limits() };
    let run = model.run(1_000_000, short, Hooks::default())?;
    let handling = handle(&run, ask()?);
    let mut reply = model.asked().await?.reply;
    let (status, kind, message) = refusal(within(handling).await??).await?;
    assert_eq!((status, kind.as_str()), (504, "timeout_error"));
    assert!(message.contains("did not begin to answer"), "{message}");
    within(reply.closed()).await?;
    Ok(())
}

#[tokio::test]
async fn a_compressed_answer_is_refused_for_it_cannot_be_counted() -> Outcome {
    let mut model = Model::start().await?;
    let run = model.plain_run()?;
    let handling = handle(&run, ask()?);
    let mut answer = json(200, "x")?;
    let coding = hyper::header::HeaderValue::from_static("gzip");
    answer.headers_mut().insert("content-encoding", coding);
    model.asked().await?.reply(answer)?;
    assert_eq!(within(handling).await??.status(), 502);
    Ok(())
}
