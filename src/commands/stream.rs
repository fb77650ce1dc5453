//! A run's events, as the command line reads them: server-sent events, of which our own service
//! writes only `id`, `event`, one line of `data`, and comments.

use bytes::BytesMut;
use http_body_util::BodyExt;
use hyper::Response;
use hyper::body::Incoming;
use hyper::header::LOCATION;

use crate::channels::events::{DeltaData, StateData, ToolData};
use crate::channels::view::RunView;
use crate::core::ids::RunId;

/// An event.
#[derive(Debug)]
pub enum Told {
    /// The run is now here.
    State(StateData),
    /// The agent said more.
    Delta(DeltaData),
    /// The agent called a tool.
    Tool(ToolData),
    /// The run has ended.
    Result(Box<RunView>),
}

/// A run's events.
pub struct Stream {
    body: Incoming,
    buffer: BytesMut,
    run: Option<RunId>,
    last: Option<String>,
}

impl Stream {
    /// Reads an answer: what follows the event `after`, the last one until another comes.
    pub fn of(response: Response<Incoming>, after: Option<&str>) -> Self {
        let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
        let run = location.and_then(|path| path.rsplit('/').next()?.parse().ok());
        let last = after.map(str::to_owned);
        Self { body: response.into_body(), buffer: BytesMut::new(), run, last }
    }

    /// Whose events these are.
    pub const fn run(&self) -> Option<RunId> {
        self.run
    }

    /// The id of the last event.
    pub fn last(&self) -> Option<&str> {
        self.last.as_deref()
    }

    /// Waits for the next event. `None` when the connection has ended; it may be dropped meanwhile.
    pub async fn next(&mut self) -> Option<Told> {
        loop {
            while let Some(end) = self.buffer.windows(2).position(|pair| pair == b"\n\n") {
                let event = self.buffer.split_to(end + 2);
                if let Some(told) = self.read(&String::from_utf8_lossy(&event)) {
                    return Some(told);
                }
            }
            let frame = self.body.frame().await?.ok()?;
            if let Some(data) = frame.data_ref() {
                self.buffer.extend_from_slice(data);
            }
        }
    }

    fn read(&mut self, event: &str) -> Option<Told> {
        let field = |name| event.lines().find_map(|line| line.strip_prefix(name));
        self.last = field("id: ").map(str::to_owned).or(self.last.take());
        let data = field("data: ")?;
        // What cannot be read is a newer service's.
        match field("event: ")? {
            "state" => serde_json::from_str(data).ok().map(Told::State),
            "delta" => serde_json::from_str(data).ok().map(Told::Delta),
            "tool" => serde_json::from_str(data).ok().map(Told::Tool),
            "result" => serde_json::from_str(data).ok().map(|run| Told::Result(Box::new(run))),
            _ => None,
        }
    }
}
