//! A conversation with the agent over its two streams, within limits.
//!
//! | what comes | what follows |
//! |---|---|
//! | a line over its limit, or too much in all | the run fails: breach |
//! | a line that is no JSON | skipped, up to a number; then the run fails |
//! | the end, before a result | the run fails: the agent ended |
//! | a request for something that is not served | it is told so |

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::Value;
use tokio::sync::mpsc;

use super::stream_json::{self, Line};
use crate::core::limits::{AGENT_BROKEN_LINES, AGENT_BYTES, AGENT_LINE_BYTES};

/// What can go wrong in the conversation.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// Its output ended.
    #[error("the agent ended its output before a result")]
    Ended,
    /// The door broke under it.
    #[error("the agent's stream broke")]
    Broke(#[source] hyper::Error),
    /// It does not take any input.
    #[error("the agent takes no input")]
    Deaf,
    /// It said no to the first line.
    #[error("the agent refused to initialize: {0}")]
    Refused(String),
    /// A line, or all of it, is too long.
    #[error("the agent wrote {what} of more than {most} bytes")]
    TooMuch {
        /// A line, or the output.
        what: &'static str,
        /// The limit.
        most: usize,
    },
    /// Its lines are not its protocol.
    #[error("the agent wrote {0} lines that are not its protocol; one of them: {1}")]
    Garbage(u32, String),
}

impl AgentError {
    /// Whether the agent is no longer there: how it ended is known elsewhere.
    pub const fn is_end(&self) -> bool {
        matches!(self, Self::Ended | Self::Broke(_) | Self::Deaf)
    }
}

/// The agent, as far as its streams go.
pub struct Agent {
    up: Incoming,
    down: Option<mpsc::Sender<Bytes>>,
    buffer: BytesMut,
    // How much of the buffer holds no line's end.
    searched: usize,
    read: usize,
    broken: u32,
    limits: LineLimits,
    // Lines of one message that were read together.
    waiting: std::collections::VecDeque<Line>,
}

/// What an agent may write.
#[derive(Debug, Clone, Copy)]
pub struct LineLimits {
    /// Bytes of a line.
    pub bytes: usize,
    /// Lines that are not its protocol.
    pub broken: u32,
}

impl LineLimits {
    /// Anything.
    pub const NONE: Self = Self { bytes: usize::MAX, broken: u32::MAX };
}

impl Default for LineLimits {
    fn default() -> Self {
        Self { bytes: AGENT_LINE_BYTES, broken: AGENT_BROKEN_LINES }
    }
}

impl Agent {
    /// Speaks over these streams.
    pub fn new(up: Incoming, down: mpsc::Sender<Bytes>, limits: LineLimits) -> Self {
        Self {
            up,
            down: Some(down),
            buffer: BytesMut::new(),
            searched: 0,
            read: 0,
            broken: 0,
            limits,
            waiting: std::collections::VecDeque::new(),
        }
    }

    /// Says the first line and waits until the agent is ready for a message.
    ///
    /// # Errors
    /// When it is not.
    pub async fn initialize(&mut self, instructions: &str) -> Result<(), AgentError> {
        const ID: &str = "initialize";
        self.write(stream_json::initialize(ID, instructions)).await?;
        loop {
            match self.next().await? {
                Line::Control { id, error: None } if id == ID => {
                    tracing::debug!("the agent is ready");
                    return Ok(());
                }
                Line::Control { id, error: Some(error) } if id == ID => {
                    return Err(AgentError::Refused(error));
                }
                _ => {}
            }
        }
    }

    /// Sends a user's turn.
    ///
    /// # Errors
    /// When the agent takes no input.
    pub async fn say(&mut self, blocks: &[Value]) -> Result<(), AgentError> {
        self.write(stream_json::user(blocks)).await
    }

    /// Asks the agent to stop its turn; its result follows.
    ///
    /// # Errors
    /// When the agent takes no input.
    pub async fn interrupt(&mut self) -> Result<(), AgentError> {
        self.write(stream_json::interrupt("interrupt")).await
    }

    /// Tells the agent that nothing more comes; it then exits.
    pub fn close(&mut self) {
        tracing::debug!("the agent is told that nothing more comes");
        self.down = None;
    }

    /// Waits for the next line; one that means nothing here is a sign of life.
    ///
    /// # Errors
    /// See the table at the module's head.
    pub async fn next(&mut self) -> Result<Line, AgentError> {
        loop {
            while let Some(line) = self.waiting.pop_front() {
                match line {
                    Line::Asked { id, subtype } => {
                        self.write(stream_json::refuse(&id, &subtype)).await?;
                    }
                    line => return Ok(line),
                }
            }
            let line = self.line().await?;
            self.waiting.extend(stream_json::parse(&line));
            if self.waiting.front() == Some(&Line::Broken) {
                self.waiting.clear();
                self.count_broken(&line)?;
            }
        }
    }

    fn count_broken(&mut self, line: &[u8]) -> Result<(), AgentError> {
        self.broken += 1;
        let shown = String::from_utf8_lossy(line);
        let shown: String = shown.trim_end().chars().take(200).collect();
        let bytes = line.len();
        tracing::debug!(bytes, "the agent wrote a line that is not its protocol");
        if self.broken > self.limits.broken {
            return Err(AgentError::Garbage(self.broken, shown));
        }
        Ok(())
    }

    async fn write(&mut self, line: String) -> Result<(), AgentError> {
        let down = self.down.as_ref().ok_or(AgentError::Deaf)?;
        down.send(line.into()).await.map_err(|_| AgentError::Deaf)
    }

    async fn line(&mut self) -> Result<Bytes, AgentError> {
        loop {
            let fresh = self.buffer.get(self.searched..).unwrap_or_default();
            if let Some(at) = fresh.iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(self.searched + at + 1).freeze();
                self.searched = 0;
                return Ok(line);
            }
            self.searched = self.buffer.len();
            if self.searched > self.limits.bytes {
                return Err(AgentError::TooMuch { what: "a line", most: self.limits.bytes });
            }
            let Some(frame) = self.up.frame().await else {
                return Err(AgentError::Ended);
            };
            let frame = frame.map_err(AgentError::Broke)?;
            let Some(data) = frame.data_ref() else {
                continue;
            };
            self.read += data.len();
            if self.read > AGENT_BYTES {
                return Err(AgentError::TooMuch { what: "output", most: AGENT_BYTES });
            }
            self.buffer.extend_from_slice(data);
        }
    }
}
