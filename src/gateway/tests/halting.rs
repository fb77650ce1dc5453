//! A halt: what was on its way is cut, and nothing follows.

use std::io::{ErrorKind, Read};
use std::net::{TcpListener as StdListener, TcpStream as StdStream};

use nix::sys::socket::{setsockopt, sockopt};

use super::*;
use crate::core::halt::Halt;
use crate::gateway::error::ModelError;

fn halt() -> Halt {
    Halt { since_ms: 1, reason: "key leaked".parse().ok() }
}

fn run(gateway: &Gateway) -> RunGateway {
    let meter = Meter::new(1_000_000);
    gateway.for_run(scope(), meter, RunLimits::default(), Hooks::default())
}

/// Reads what has arrived, until nothing is there at the moment. `false`: the connection has ended.
fn drain(stream: &mut StdStream, read: &mut usize) -> Result<bool, BoxError> {
    let mut buffer = [0; 64 * 1024];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(false),
            Ok(n) => *read += n,
            Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(true),
            Err(e) if e.kind() == ErrorKind::ConnectionReset => return Ok(false),
            Err(e) => return Err(e.into()),
        }
    }
}

/// What a test leaves room for.
const SMALL: usize = 64 * 1024;

/// How much has arrived and was not read. A connection that was reset has nothing.
fn arrived(stream: &StdStream) -> Result<usize, BoxError> {
    match stream.peek(&mut [0; 4 * SMALL]) {
        Ok(0) => Err("it ended by itself".into()),
        Err(e) if e.kind() == ErrorKind::WouldBlock => Ok(0),
        Err(e) if e.kind() == ErrorKind::ConnectionReset => Ok(0),
        there => Ok(there?),
    }
}

/// A model that has taken a connection and reads nothing until it is told to.
async fn accepted(listener: StdListener) -> Result<StdStream, BoxError> {
    let accepting = tokio::task::spawn_blocking(move || listener.accept());
    let (stream, _) = within(accepting).await???;
    stream.set_nonblocking(true)?;
    Ok(stream)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_halt_no_byte_of_a_request_reaches_the_model() -> Outcome {
    let listener = StdListener::bind("127.0.0.1:0")?;
    // So little fits in here that the kernel has more to send, and the gateway still more.
    setsockopt(&listener, sockopt::RcvBuf, &SMALL)?;
    let gateway = gateway(&listener.local_addr()?.to_string(), Some(key()?))?;
    let run = run(&gateway);
    let text = "x".repeat(30_000_000);
    let body = format!(r#"{{"model":"claude-sonnet-5-5","messages":[],"system":"{text}"}}"#);
    let handling = handle(&run, post("/v1/messages", &body)?);
    let mut stream = accepted(listener).await?;
    while arrived(&stream)? < SMALL / 2 {
        tokio::task::yield_now().await;
    }

    assert_eq!(within(gateway.halt(halt())).await?, halt());
    // More would come as soon as there is room for it.
    let there = arrived(&stream)?;
    let mut read = 0;
    let ended = async {
        while drain(&mut stream, &mut read)? {
            tokio::task::yield_now().await;
        }
        Ok::<_, BoxError>(())
    };
    within(ended).await??;
    assert_eq!(read, there, "bytes came after the halt");
    let response = within(handling).await??;
    assert_eq!(response.status(), 403);
    assert_eq!(response.headers().get("x-should-retry").map(|h| h.as_bytes()), Some(&b"false"[..]));
    assert_eq!(run.last_error(), Some(ModelError::Halted(halt())));
    Ok(())
}

#[tokio::test]
async fn a_halt_cuts_an_answer_and_ends_its_connection() -> Outcome {
    let mut model = Model::start().await?;
    let gateway = gateway(&model.address, Some(key()?))?;
    let run = run(&gateway);
    let handling = handle(&run, ask()?);
    let frames = model.asked().await?.stream()?;
    let mut body = within(handling).await??.into_body();
    frames.send(frame(START)).await?;
    assert_eq!(next(&mut body).await?, START);
    within(gateway.halt(halt())).await?;
    let error = next(&mut body).await.err().map(|e| e.to_string()).unwrap_or_default();
    assert_eq!(error, "the owner has halted NoClaw: key leaked");
    within(frames.closed()).await?;
    assert_eq!(within(run.cut()).await?, ModelError::Halted(halt()));
    Ok(())
}

#[tokio::test]
async fn while_it_holds_nothing_is_asked_and_then_only_by_new_runs() -> Outcome {
    let mut model = Model::start().await?;
    let gateway = gateway(&model.address, Some(key()?))?;
    let old = run(&gateway);
    let handling = handle(&old, ask()?);
    model.asked().await?.reply(json(200, "{}")?)?;
    whole(within(handling).await??).await?;

    assert_eq!(gateway.halted(), None);
    gateway.halt(halt()).await;
    let second = Halt { since_ms: 2, reason: None };
    assert_eq!(gateway.halt(second).await, halt(), "the first one stands");
    assert_eq!(gateway.halted(), Some(halt()));
    let meanwhile = run(&gateway);
    for run in [&old, &meanwhile] {
        assert_eq!(within(run.handle(ask()?)).await?.status(), 403);
    }
    gateway.unhalt();
    gateway.unhalt();
    assert_eq!(gateway.halted(), None);
    for run in [&old, &meanwhile] {
        assert_eq!(within(run.handle(ask()?)).await?.status(), 403, "it is being ended");
    }
    assert!(model.asked.try_recv().is_err());

    let new = run(&gateway);
    let handling = handle(&new, ask()?);
    model.asked().await?.reply(json(200, "{}")?)?;
    assert_eq!(within(handling).await??.status(), 200);
    Ok(())
}

#[tokio::test]
async fn a_halt_ends_a_connection_that_only_waits() -> Outcome {
    let listener = StdListener::bind("127.0.0.1:0")?;
    let gateway = gateway(&listener.local_addr()?.to_string(), Some(key()?))?;
    let handling = handle(&run(&gateway), ask()?);
    let mut stream = accepted(listener).await?;
    let mut read = 0;
    while read < ASK.len() {
        assert!(drain(&mut stream, &mut read)?, "it ended by itself");
        tokio::task::yield_now().await;
    }
    let answer =
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}";
    std::io::Write::write_all(&mut stream, answer)?;
    assert_eq!(whole(within(handling).await??).await?, "{}");
    // The rest of the request may have come in a second piece.
    assert!(drain(&mut stream, &mut read)?, "it is kept for the next request");
    within(gateway.halt(halt())).await?;
    let ended = async {
        while drain(&mut stream, &mut read)? {
            tokio::task::yield_now().await;
        }
        Ok::<_, BoxError>(())
    };
    within(ended).await?
}
