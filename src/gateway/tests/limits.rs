//! What bounds a run: the length of a body, and what it may ask in all.

use std::pin::Pin;
use std::task::{Context, Poll};

use http_body_util::combinators::BoxBody;
use hyper::body::{Body, SizeHint};
use serde_json::Value;

use super::*;
use crate::gateway::error::ModelError;

/// A body that announces a length.
struct Announced {
    length: usize,
    body: BoxBody<Bytes, std::io::Error>,
}

impl Body for Announced {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.length as u64)
    }
}

type Piece = Result<Frame<Bytes>, BoxError>;

fn untold(pieces: Vec<Piece>) -> BoxBody<Bytes, std::io::Error> {
    let pieces = pieces.into_iter().map(|piece| piece.map_err(std::io::Error::other));
    StreamBody::new(stream::iter(pieces)).boxed()
}

fn request<B>(body: B) -> Result<Request<B>, BoxError> {
    let request = Request::post("/v1/messages").header("content-type", "application/json");
    Ok(request.body(body)?)
}

/// A request that announces `length` and has these pieces.
fn announced(length: usize, pieces: Vec<Piece>) -> Result<Request<Announced>, BoxError> {
    request(Announced { length, body: untold(pieces) })
}

/// One of which nothing comes.
fn stalled(length: usize) -> Result<Request<Announced>, BoxError> {
    let never = StreamBody::new(stream::pending::<Result<Frame<Bytes>, std::io::Error>>());
    request(Announced { length, body: never.boxed() })
}

/// Status and message of an error.
async fn refusal(response: Response<ModelBody>) -> Result<(u16, String), BoxError> {
    let status = response.status().as_u16();
    let json: Value = serde_json::from_str(&whole(response).await?)?;
    let message = json.pointer("/error/message").and_then(Value::as_str).unwrap_or_default();
    Ok((status, message.to_owned()))
}

#[tokio::test]
async fn a_body_is_as_long_as_it_announces() -> Outcome {
    let mut model = Model::start().await?;
    let run = model.plain_run()?;
    for (length, pieces) in [
        (ASK.len() - 1, vec![frame(ASK)]),
        (ASK.len() + 1, vec![frame(ASK)]),
        (ASK.len(), vec![frame(ASK), frame(ASK)]),
        (0, vec![frame(ASK)]),
    ] {
        let got = refusal(run.handle(announced(length, pieces)?).await).await?;
        assert_eq!(got, (400, "the request is not as long as it announced".to_owned()), "{length}");
    }
    let (status, message) = refusal(run.handle(request(untold(vec![frame(ASK)]))?).await).await?;
    assert_eq!(status, 411, "{message}");
    assert!(model.asked.try_recv().is_err());

    let (begin, end) = ASK.split_at(9);
    let twin = announced(ASK.len(), vec![frame(begin), frame(end)])?;
    let other = run.clone();
    let handling = tokio::spawn(async move { other.handle(twin).await });
    let asked = model.asked().await?;
    assert_eq!(asked.head.headers.get_all("content-length").iter().count(), 1);
    assert_eq!(asked.body, ASK);
    asked.reply(json(200, "{}")?)?;
    assert_eq!(within(handling).await??.status(), 200);
    Ok(())
}

#[tokio::test]
async fn a_body_is_bounded_in_size_and_time() -> Outcome {
    let model = Model::start().await?;
    let limits = RunLimits { body_bytes: 1000, ..RunLimits::default() };
    let run = model.run(1, limits, Hooks::default())?;
    // Not one byte of it is waited for.
    let (status, message) = refusal(run.handle(stalled(1001)?).await).await?;
    assert_eq!((status, message.as_str()), (413, "the request has more than 1000 bytes"));

    let limits = RunLimits { body_time: Duration::from_millis(1), ..limits };
    let run = model.run(1, limits, Hooks::default())?;
    let (status, message) = refusal(run.handle(stalled(2)?).await).await?;
    assert_eq!((status, message.as_str()), (400, "the request took too long to arrive"));

    let cut = announced(2, vec![frame("{"), Err("gone".into())])?;
    let (status, message) = refusal(run.handle(cut).await).await?;
    assert_eq!((status, message.as_str()), (400, "the request broke off"));
    Ok(())
}

/// What ends a run: the error that names it, final for the agent.
async fn over(run: &RunGateway, message: &str) -> Outcome {
    let error = within(run.cut()).await?;
    assert_eq!(error, ModelError::Refused { status: 402, message: message.to_owned() });
    let response = run.handle(ask()?).await;
    let again = response.headers().get("x-should-retry");
    assert_eq!(again.map(|h| h.as_bytes()), Some(&b"false"[..]));
    assert_eq!(refusal(response).await?, (402, message.to_owned()));
    Ok(())
}

#[tokio::test]
async fn a_run_makes_so_many_requests_refused_ones_too() -> Outcome {
    let mut model = Model::start().await?;
    let limits = RunLimits { requests: 3, ..RunLimits::default() };
    let run = model.run(1_000_000, limits, Hooks::default())?;
    for path in ["/v1/files", "/v1/models"] {
        assert_eq!(refusal(run.handle(post(path, "{}")?).await).await?.0, 404);
    }
    let handling = handle(&run, ask()?);
    model.asked().await?.reply(json(200, "{}")?)?;
    whole(within(handling).await??).await?;
    assert_eq!(run.is_cut(), None, "the last one is answered");
    assert_eq!(run.handle(ask()?).await.status(), 402);
    over(&run, "this run has made its 3 model requests").await?;
    assert!(model.asked.try_recv().is_err());
    Ok(())
}

#[tokio::test]
async fn a_run_sends_so_many_bytes() -> Outcome {
    let mut model = Model::start().await?;
    let sent_bytes = 2 * ASK.len() as u64;
    let limits = RunLimits { sent_bytes, ..RunLimits::default() };
    let run = model.run(1_000_000, limits, Hooks::default())?;
    // What was refused was sent as well.
    assert_eq!(run.handle(post("/v1/files", ASK)?).await.status(), 404);
    let handling = handle(&run, ask()?);
    model.asked().await?.reply(json(200, "{}")?)?;
    whole(within(handling).await??).await?;
    assert_eq!(run.is_cut(), None);
    assert_eq!(run.handle(post("/v1/messages", "1")?).await.status(), 402);
    over(&run, &format!("this run has sent its {sent_bytes} bytes")).await
}

#[tokio::test]
async fn a_run_is_answered_so_many_bytes() -> Outcome {
    let mut model = Model::start().await?;
    let answer_bytes = (START.len() + TEXT.len()) as u64;
    let limits = RunLimits { answer_bytes, ..RunLimits::default() };
    let run = model.run(1_000_000, limits, Hooks::default())?;
    let handling = handle(&run, ask()?);
    let frames = model.asked().await?.stream()?;
    let mut body = within(handling).await??.into_body();
    for text in [START, TEXT] {
        frames.send(frame(text)).await?;
        assert_eq!(next(&mut body).await?, text);
    }
    assert_eq!(run.is_cut(), None);
    frames.send(frame(END)).await?;
    let message = format!("this run was answered its {answer_bytes} bytes");
    let error = next(&mut body).await.err().map(|e| e.to_string());
    assert_eq!(error.as_ref(), Some(&message));
    drop(body);
    within(frames.closed()).await?;
    over(&run, &message).await
}

#[tokio::test]
async fn ten_thousand_requests_at_once_hold_four_bodies() -> Outcome {
    let model = Model::start().await?;
    let limits = RunLimits { requests: u32::MAX, ..RunLimits::default() };
    let run = model.run(1_000_000, limits, Hooks::default())?;
    let mut waiting = tokio::task::JoinSet::new();
    let mut refused = 0;
    for _ in 0..10_000 {
        let (run, request) = (run.clone(), stalled(1)?);
        waiting.spawn(async move { run.handle(request).await.status() });
    }
    while refused < 10_000 - limits.concurrent {
        let status = within(waiting.join_next()).await?.ok_or("none is left")??;
        assert_eq!(status, 429);
        refused += 1;
    }
    assert_eq!(waiting.len(), limits.concurrent);
    drop(waiting);
    Ok(())
}
