//! Reads along in an answer while it streams through: what it used, and whether it asks for a tool.
//!
//! | what is odd in the stream | what happens |
//! |---|---|
//! | cut anywhere, CR LF, comments, unknown events, no JSON | read around |
//! | a line longer than [`LINE_BYTES`] | counted as output, not read |
//! | no usage, or cut before the last one | the output is estimated from its length, upwards |
//!
//! Nothing here stops or changes the stream.

use serde_json::Value;

use crate::core::limits::{KIB, MIB};
use crate::core::money::Usage;

/// A line of the stream. Those that are read have under 2 KiB.
const LINE_BYTES: usize = 64 * KIB;
/// An answer that is not streamed: the longest output, with its escapes.
const JSON_BYTES: usize = 4 * MIB;
/// An error's body.
const ERROR_BYTES: usize = 16 * KIB;
/// Bytes a token, for what the model does not tell. English has about four.
const BYTES_PER_TOKEN: u64 = 3;

/// What an answer has told so far.
#[derive(Debug)]
pub(super) struct Scan {
    form: Form,
    buffer: Vec<u8>,
    // The rest of a line that is too long, or of a body that is.
    overflown: bool,
    tool_use: Finder,
    output_bytes: u64,
    /// The model that answered.
    pub model: Option<String>,
    /// An error in the answer: its type and message.
    pub error: Option<String>,
    /// The stream said that it is complete.
    pub complete: bool,
    counts: Option<Counts>,
    last_count: bool,
}

/// The forms an answer comes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// Server-sent events.
    Events,
    /// One JSON object.
    Json,
    /// The JSON object of an error; it is not billed.
    Error,
}

impl Scan {
    pub(super) fn new(form: Form) -> Self {
        Self {
            form,
            buffer: Vec::new(),
            overflown: false,
            tool_use: Finder::default(),
            output_bytes: 0,
            model: None,
            error: None,
            complete: false,
            counts: None,
            last_count: false,
        }
    }

    /// Reads a piece of the answer.
    pub(super) fn feed(&mut self, data: &[u8]) {
        self.tool_use.feed(data);
        match self.form {
            Form::Events => self.feed_lines(data),
            Form::Json => {
                self.output_bytes += data.len() as u64;
                self.keep(data, JSON_BYTES);
            }
            Form::Error => self.keep(data, ERROR_BYTES),
        }
    }

    /// The body is over.
    pub(super) fn end(&mut self) {
        if self.form == Form::Events || self.complete {
            return;
        }
        self.complete = true;
        let json: Value = serde_json::from_slice(&self.buffer).unwrap_or_default();
        if self.form == Form::Error {
            let plain = || String::from_utf8_lossy(&self.buffer).into_owned();
            self.error = Some(error_text(&json).unwrap_or_else(plain));
            return;
        }
        self.note_message(&json);
        self.last_count = self.counts.is_some();
    }

    /// Whether a call of one of the agent's tools has begun. It is found by the bytes of its type,
    /// which in a text would be escaped: no broken or huge line can hide it.
    pub(super) fn asks_for_a_tool(&self) -> bool {
        self.form != Form::Error && self.tool_use.found
    }

    /// Errors are not.
    pub(super) fn is_billed(&self) -> bool {
        self.form != Form::Error
    }

    /// What the answer used, for a request of `sent` bytes. Estimated upwards where the answer was
    /// cut before it told: else a cell could read answers without paying by hanging up early.
    pub(super) fn usage(&self, sent: usize) -> Usage {
        let mut usage = match &self.counts {
            Some(counts) => counts.usage(),
            None => estimated_input(sent),
        };
        if !self.last_count {
            let estimate = self.output_bytes.div_ceil(BYTES_PER_TOKEN);
            usage.output_tokens = usage.output_tokens.max(estimate);
        }
        usage.requests = 1;
        usage
    }

    fn keep(&mut self, data: &[u8], most: usize) {
        let room = most.saturating_sub(self.buffer.len());
        self.buffer.extend(data.iter().take(room));
        self.overflown |= data.len() > room;
    }

    fn feed_lines(&mut self, data: &[u8]) {
        for piece in data.split_inclusive(|byte| *byte == b'\n') {
            let (before, was) = (self.buffer.len(), self.overflown);
            self.keep(piece, LINE_BYTES);
            if self.overflown {
                // All of the line, also what had come of it until now.
                let kept = if was { 0 } else { before };
                self.output_bytes += (kept + piece.len()) as u64;
            }
            if !piece.ends_with(b"\n") {
                return;
            }
            let mut line = std::mem::take(&mut self.buffer);
            if !std::mem::take(&mut self.overflown) {
                self.line(&line);
            }
            line.clear();
            self.buffer = line;
        }
    }

    fn line(&mut self, line: &[u8]) {
        let Some(data) = line.strip_prefix(b"data:") else { return };
        let Ok(event) = serde_json::from_slice::<Value>(data) else { return };
        match event.get("type").and_then(Value::as_str) {
            Some("message_start") => {
                if let Some(message) = event.get("message") {
                    self.note_message(message);
                }
            }
            Some("content_block_delta") => {
                let texts = ["text", "thinking", "partial_json"]
                    .iter()
                    .filter_map(|name| event.get("delta")?.get(name)?.as_str());
                self.output_bytes += texts.map(|text| text.len() as u64).sum::<u64>();
            }
            Some("message_delta") => {
                if let Some(usage) = event.get("usage") {
                    self.counts.get_or_insert_default().update(usage);
                    self.last_count = true;
                }
            }
            Some("message_stop") => self.complete = true,
            Some("error") => self.error = error_text(&event),
            _ => {}
        }
    }

    fn note_message(&mut self, message: &Value) {
        self.model = message.get("model").and_then(Value::as_str).map(str::to_owned);
        if let Some(usage) = message.get("usage") {
            self.counts.get_or_insert_default().update(usage);
        }
    }
}

/// What a prompt of `bytes` may have used, when nothing is known. Images would count far too high,
/// so it is bounded by a usual window.
pub(super) fn estimated_input(bytes: usize) -> Usage {
    let input_tokens = (bytes as u64).div_ceil(BYTES_PER_TOKEN).min(200_000);
    Usage { input_tokens, ..Usage::default() }
}

fn error_text(json: &Value) -> Option<String> {
    let error = json.get("error")?;
    let kind = error.get("type").and_then(Value::as_str).unwrap_or("error");
    let message = error.get("message").and_then(Value::as_str).unwrap_or_default();
    Some(format!("{kind}: {message}"))
}

/// The API's numbers. Each one that is told replaces the one before: they are running totals.
#[derive(Debug, Default, Clone, Copy)]
struct Counts {
    input: u64,
    output: u64,
    write: u64,
    write_1h: u64,
    read: u64,
    // Steps on the model's side that the numbers above leave out: compaction.
    beside: Usage,
}

impl Counts {
    fn update(&mut self, usage: &Value) {
        let set = |place: &mut u64, value: Option<&Value>| {
            if let Some(number) = value.and_then(Value::as_u64) {
                *place = number;
            }
        };
        set(&mut self.input, usage.get("input_tokens"));
        set(&mut self.output, usage.get("output_tokens"));
        set(&mut self.write, usage.get("cache_creation_input_tokens"));
        set(&mut self.read, usage.get("cache_read_input_tokens"));
        let split = usage.get("cache_creation");
        set(&mut self.write_1h, split.and_then(|s| s.get("ephemeral_1h_input_tokens")));
        if let Some(steps) = usage.get("iterations").and_then(Value::as_array) {
            let beside = steps.iter().filter(|step| {
                step.get("type").and_then(Value::as_str).is_some_and(|kind| kind != "message")
            });
            self.beside = beside.fold(Usage::default(), |sum, step| {
                let mut counts = Self::default();
                counts.update(step);
                sum.plus(counts.usage())
            });
        }
    }

    fn usage(&self) -> Usage {
        Usage {
            input_tokens: self.input,
            output_tokens: self.output,
            // The total holds both kinds; without a split it is all of the five-minute kind.
            cache_write_tokens: self.write.saturating_sub(self.write_1h),
            cache_write_1h_tokens: self.write_1h,
            cache_read_tokens: self.read,
            requests: 0,
        }
        .plus(self.beside)
    }
}

/// Finds `"tool_use"` in a stream of bytes, across pieces.
#[derive(Debug, Default)]
struct Finder {
    matched: usize,
    found: bool,
}

impl Finder {
    const WANTED: &'static [u8] = b"\"tool_use\"";

    fn feed(&mut self, data: &[u8]) {
        if self.found {
            return;
        }
        for byte in data {
            // The quote stands only at both ends, so a mismatch can begin anew only with a quote.
            self.matched = match Self::WANTED.get(self.matched) {
                Some(wanted) if wanted == byte => self.matched + 1,
                _ => usize::from(*byte == b'"'),
            };
            if self.matched == Self::WANTED.len() {
                self.found = true;
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests;
