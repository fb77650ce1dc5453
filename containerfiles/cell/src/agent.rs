//! The agent's process, from the confined half to its end, and its streams.

use std::error::Error;
use std::process::Stdio;

use bytes::Bytes;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use noclaw_cell::job::{Exit, Job};
use noclaw_cell::preflight::Measured;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::sync::{mpsc, oneshot};

use crate::door::Door;
use crate::measure;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// Chunks on their way up; the pipe and HTTP/2's windows hold the rest back.
const CHUNKS: usize = 4;
const CHUNK_BYTES: usize = 64 * 1024;
/// The confined half's measurements: about 32 mounts.
const MEASURED_BYTES: usize = 256 * 1024;

/// The confined half; after [`Agent::go`] it is the agent.
pub struct Agent {
    child: Child,
    pid: i32,
    stdin: ChildStdin,
    stdout: ChildStdout,
    stderr: ChildStderr,
}

impl Agent {
    /// Starts the confined half and tells it what to give up.
    pub async fn start(job: &Job) -> Result<Self> {
        let mut child = Command::new("/proc/self/exe")
            .arg("confine")
            .args(&job.argv)
            .env_clear()
            .envs(&job.env)
            .current_dir(&job.cwd)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).ok_or("no pid")?;
        let mut stdin = child.stdin.take().ok_or("no standard input")?;
        let stdout = child.stdout.take().ok_or("no standard output")?;
        let stderr = child.stderr.take().ok_or("no standard error")?;
        let mut confinement = serde_json::to_vec(&job.confinement)?;
        confinement.push(b'\n');
        stdin.write_all(&confinement).await?;
        Ok(Self { child, pid, stdin, stdout, stderr })
    }

    /// The process's id.
    pub const fn pid(&self) -> i32 {
        self.pid
    }

    /// Reads what the confined half measured. It then waits for [`Agent::go`].
    pub async fn measured(&mut self) -> Result<Measured> {
        let mut line = Vec::new();
        // The confined half writes one line and waits, so nothing of the agent's is read here.
        while !line.ends_with(b"\n") {
            if line.len() > MEASURED_BYTES {
                return Err("the confined half's measurements are too long".into());
            }
            if self.stdout.read_buf(&mut line).await? == 0 {
                let mut why = String::new();
                self.stderr.read_to_string(&mut why).await?;
                return Err(format!("the confined half gave up: {}", why.trim()).into());
            }
        }
        Ok(serde_json::from_slice(&line)?)
    }

    /// Lets the confined half become the agent.
    pub async fn go(&mut self) -> Result<()> {
        Ok(self.stdin.write_all(b"go\n").await?)
    }

    /// Joins the agent's streams to the door until the agent has ended.
    pub async fn join(mut self, door: &Door, stderr_bytes: usize) -> Result<Exit> {
        let (up, chunks) = mpsc::channel(CHUNKS);
        let mut upward = tokio::spawn(read_all(self.stdout, up));
        let tail = tokio::spawn(tail(self.stderr, stderr_bytes));
        // Dropped with the body, when all of it is on its way.
        let (passing, passed) = oneshot::channel::<()>();
        let body = futures_util::stream::unfold((chunks, passing), |(mut chunks, passing)| async {
            let chunk: Bytes = chunks.recv().await?;
            Some((Ok(Frame::data(chunk)), (chunks, passing)))
        });
        let down = door.stream("/agent", BodyExt::boxed(StreamBody::new(body))).await?;
        // It ends with the door. To drop the answer would cancel the whole stream, and with it the
        // agent's last words that are still on their way up.
        tokio::spawn(write_all(down, self.stdin));
        let status = self.child.wait().await?;
        // A daemon of the agent's may hold its streams open: what was read by now is all there is.
        let grace = std::time::Duration::from_secs(1);
        tokio::time::timeout(grace, &mut upward).await.ok();
        upward.abort();
        tokio::time::timeout(grace, passed).await.ok();
        let stderr = match tokio::time::timeout(grace, tail).await {
            Ok(Ok(bytes)) => String::from_utf8_lossy(&bytes).into_owned(),
            _ => String::new(),
        };
        Ok(Exit {
            status: status.code(),
            signal: std::os::unix::process::ExitStatusExt::signal(&status),
            memory_peak: measure::memory_peak(),
            oom_kills: measure::oom_kills(),
            stderr,
        })
    }
}

async fn read_all(mut stdout: ChildStdout, up: mpsc::Sender<Bytes>) -> std::io::Result<()> {
    let mut buffer = bytes::BytesMut::new();
    loop {
        buffer.reserve(CHUNK_BYTES);
        if stdout.read_buf(&mut buffer).await? == 0
            || up.send(buffer.split().freeze()).await.is_err()
        {
            return Ok(());
        }
    }
}

/// Writes what comes down until its end, which is the end of the agent's input. What an agent that
/// has closed its input does not take is thrown away.
async fn write_all(mut down: Incoming, stdin: ChildStdin) {
    let mut stdin = Some(stdin);
    while let Some(Ok(frame)) = down.frame().await {
        if let (Some(open), Ok(data)) = (&mut stdin, frame.into_data())
            && open.write_all(&data).await.is_err()
        {
            stdin = None;
        }
    }
}

/// Reads to the end and keeps the last `most` bytes.
async fn tail(mut stderr: ChildStderr, most: usize) -> Vec<u8> {
    let mut kept = Vec::new();
    let mut chunk = vec![0; 4096];
    while let Ok(read @ 1..) = stderr.read(&mut chunk).await {
        kept.extend_from_slice(chunk.get(..read).unwrap_or_default());
        let over = kept.len().saturating_sub(most);
        kept.drain(..over);
    }
    kept
}
