//! The demo model in a process of its own, so that it outlives the service, behind a proxy that
//! keeps what it was shown.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;

use super::support::{NOCLAW, Result};

pub struct Model {
    pub url: String,
    demo: Child,
    shown: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Model {
    pub fn start() -> Result<Self> {
        let mut demo = Command::new(NOCLAW);
        demo.arg("demo-model").stdin(Stdio::null()).stdout(Stdio::piped());
        let mut demo = demo.spawn()?;
        let mut line = String::new();
        BufReader::new(demo.stdout.take().ok_or("no output")?).read_line(&mut line)?;
        let address = line.trim().trim_start_matches("http://").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let url = format!("http://{}", listener.local_addr()?);
        let shown = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&shown);
        // It ends with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (kept, address) = (Arc::clone(&kept), address.clone());
                std::thread::spawn(move || pass(&stream, &address, &kept).ok());
            }
        });
        Ok(Self { url, demo, shown })
    }

    /// What the model was shown since this was asked last.
    pub fn shown(&self) -> Result<Vec<Value>> {
        let shown = std::mem::take(&mut *self.shown.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(shown
            .iter()
            .map(|body| serde_json::from_slice(body))
            .collect::<serde_json::Result<_>>()?)
    }
}

impl Drop for Model {
    fn drop(&mut self) {
        self.demo.kill().ok();
        self.demo.wait().ok();
    }
}

/// One request on a connection: it is kept, sent on, and its answer comes back as it comes.
fn pass(mut client: &TcpStream, model: &str, kept: &Mutex<Vec<Vec<u8>>>) -> Result {
    let mut reader = BufReader::new(client);
    let (mut head, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let name = line.split(':').next().unwrap_or_default().to_ascii_lowercase();
        match name.as_str() {
            "connection" => continue,
            "content-length" => length = line.split(':').nth(1).unwrap_or("").trim().parse()?,
            _ if line == "\r\n" => break,
            _ => {}
        }
        head.push_str(&line);
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    if head.starts_with("POST /v1/messages?") || head.starts_with("POST /v1/messages ") {
        kept.lock().unwrap_or_else(PoisonError::into_inner).push(body.clone());
    }
    let mut upstream = TcpStream::connect(model)?;
    upstream.write_all(format!("{head}connection: close\r\n\r\n").as_bytes())?;
    upstream.write_all(&body)?;
    let mut piece = vec![0; 64 * 1024];
    loop {
        let read = upstream.read(&mut piece)?;
        let Some(read) = piece.get(..read).filter(|read| !read.is_empty()) else { break };
        // The service may be dead; the model need not talk on then.
        client.write_all(read)?;
    }
    Ok(client.shutdown(Shutdown::Both)?)
}
