//! A model of a test's own: it speaks the Messages API, keeps every request, and answers as it is
//! told.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};

use super::Result;

/// A request that came in.
#[derive(Debug, Clone)]
pub struct Recorded {
    pub head: String,
    pub body: Value,
}

impl Recorded {
    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    /// The texts of the tool results in it, the newest last.
    pub fn results(&self) -> Vec<String> {
        let messages = self.body["messages"].as_array().into_iter().flatten();
        let blocks = messages.filter_map(|m| m["content"].as_array()).flatten();
        let results = blocks.filter(|block| block["type"] == "tool_result");
        results.map(|block| text(&block["content"])).collect()
    }
}

/// A content that is a string or a list of blocks.
fn text(content: &Value) -> String {
    match content.as_array() {
        Some(blocks) => blocks.iter().map(|b| b["text"].as_str().unwrap_or("")).collect(),
        None => content.as_str().unwrap_or("").to_owned(),
    }
}

/// What the model says next.
pub enum Say {
    Text(String),
    Tool(&'static str, Value),
    /// An error's status and body.
    Status(u16, String),
    /// A text in the middle of which the connection ends.
    Cut(String),
    /// A text after which nothing comes any more.
    Hang(String),
}

/// The model.
pub struct Recorder {
    pub url: String,
    requests: Arc<Mutex<Vec<Recorded>>>,
}

impl Recorder {
    /// Listens; `answer` is given each request and its number.
    pub fn start(answer: impl Fn(usize, &Recorded) -> Say + Send + 'static) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let url = format!("http://{}", listener.local_addr()?);
        let requests = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&requests);
        // It ends with the test's process.
        std::thread::spawn(move || {
            let mut hanging = Vec::new();
            for stream in listener.incoming().flatten() {
                // One after the other: the agent asks one thing at a time.
                hanging.extend(serve(stream, &kept, &answer).ok().flatten());
            }
        });
        Ok(Self { url, requests })
    }

    /// The requests so far.
    pub fn requests(&self) -> Vec<Recorded> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn serve(
    mut stream: TcpStream,
    kept: &Mutex<Vec<Recorded>>,
    answer: &impl Fn(usize, &Recorded) -> Say,
) -> Result<Option<TcpStream>> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head)? == 0 {
            return Ok(None);
        }
    }
    let mut request = Recorded { head, body: Value::Null };
    let length = request.header("content-length").unwrap_or("0").parse()?;
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    request.body = serde_json::from_slice(&body)?;
    let number = {
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.push(request.clone());
        kept.len() - 1
    };
    let say = answer(number, &request);
    let (status, body) = match &say {
        Say::Status(status, body) => (*status, body.clone()),
        _ => (200, events(&say, number, &request.body["model"])),
    };
    let kind = if status == 200 { "text/event-stream" } else { "application/json" };
    let more = if matches!(say, Say::Cut(_) | Say::Hang(_)) { 1000 } else { 0 };
    let response = format!(
        "HTTP/1.1 {status} x\r\ncontent-type: {kind}\r\nconnection: close\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len() + more
    );
    stream.write_all(response.as_bytes())?;
    Ok(matches!(say, Say::Hang(_)).then_some(stream))
}

/// The agent joins what has the same name.
fn events(say: &Say, number: usize, model: &Value) -> String {
    let (block, delta, stop) = match say {
        Say::Text(text) | Say::Status(_, text) | Say::Cut(text) | Say::Hang(text) => (
            json!({"type": "text", "text": ""}),
            json!({"type": "text_delta", "text": text}),
            "end_turn",
        ),
        Say::Tool(name, input) => (
            json!({"type": "tool_use", "id": format!("toolu_{number}"), "name": name, "input": {}}),
            json!({"type": "input_json_delta", "partial_json": input.to_string()}),
            "tool_use",
        ),
    };
    let message = json!({"id": format!("msg_{number}"), "type": "message", "role": "assistant", "model": model,
        "content": [], "stop_reason": null, "stop_sequence": null,
        "usage": {"input_tokens": 1000, "output_tokens": 1}});
    let whole = !matches!(say, Say::Cut(_) | Say::Hang(_));
    [
        json!({"type": "message_start", "message": message}),
        json!({"type": "content_block_start", "index": 0, "content_block": block}),
        json!({"type": "content_block_delta", "index": 0, "delta": delta}),
        json!({"type": "content_block_stop", "index": 0}),
        json!({"type": "message_delta", "delta": {"stop_reason": stop, "stop_sequence": null},
            "usage": {"output_tokens": 1000}}),
        json!({"type": "message_stop"}),
    ]
    .iter()
    .take(if whole { usize::MAX } else { 3 })
    .map(|event| format!("event: {}\ndata: {event}\n\n", event["type"].as_str().unwrap_or("")))
    .collect()
}
