//! Figures, as ratios within one run: `make bench`. Nothing here passes or fails but
//! the comparison with another build.
//!
//! A cold message through NoClaw is compared with `podman run … claude -p` typed by hand: the same
//! image, the same model, the same flags of the agent; both in turn, so that a busy machine slows
//! both. With `AGAINST=DIR` another build's `noclaw` and `noclaw-cell`, in that folder, are
//! compared with these, too.

#![expect(clippy::disallowed_methods, reason = "a test makes files of its own")]
#![expect(clippy::indexing_slicing, reason = "a JSON value has null at what is not there")]

#[path = "../support/mod.rs"]
mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use noclaw::core::ids::RunId;
use noclaw::core::message::{Message, MessageBody};
use noclaw::store::accept::{NewMessage, QueueLimits};
use noclaw::store::{Store, StoreOptions};
use support::{House, NOCLAW, Result, until};

/// Cold messages, each way.
const ROUNDS: usize = 15;
/// How much longer a cold message may take than with another build.
const MORE: Duration = Duration::from_millis(10);
/// Messages before memory is looked at.
const MESSAGES: usize = 100;
/// Senders at a time, and messages of each, at the store.
const SENDERS: usize = 64;
const EACH: usize = 50;

fn main() -> Result {
    // `cargo bench` and `cargo test --benches` pass flags of their harness, which this has not.
    sizes()?;
    store()?;
    ready()?;
    let house =
        House::start(&["--rate", "100000", "--burst", "100000", "--queue-per-user", "1000"])?;
    cold(&house)?;
    against(&house)?;
    memory(&house)?;
    Ok(())
}

fn row(what: &str, figure: impl std::fmt::Display) {
    println!("{what:<44} {figure}");
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

/// A message in a conversation of its own, and its cell's end, which is not counted.
fn one(house: &House, n: usize) -> Result<Duration> {
    let start = Instant::now();
    house.send(&["-c", &format!("c{n}"), "hello"])?;
    let took = start.elapsed();
    until("its container is gone", || house.containers().ok().filter(Vec::is_empty))?;
    Ok(took)
}

/// Messages in turn through this build and through another one.
fn against(house: &House) -> Result {
    let Some(other) = std::env::var_os("NOCLAW_BENCH_AGAINST").map(PathBuf::from) else {
        return Ok(());
    };
    let mut before = House::closed(&support::ground("NOCLAW_PODMAN")?, &["--model-api", "demo"])?;
    before.program = other.join("noclaw");
    before.args(&["--launcher", &other.join("noclaw-cell").display().to_string()]);
    before.args(&["--rate", "100000", "--burst", "100000"]);
    before.open()?;
    one(&before, 0)?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for n in 0..3 * ROUNDS {
        ours.push(one(house, 1000 + n)?);
        theirs.push(one(&before, 1000 + n)?);
    }
    let (ours, theirs) = (median(&mut ours), median(&mut theirs));
    row("cold message → reply, median", format_args!("{ours:.1?}"));
    row("the same with the other build, median", format_args!("{theirs:.1?}"));
    let more = ours.as_secs_f64() - theirs.as_secs_f64();
    row("more than there", format_args!("{:.1} ms", more * 1e3));
    row("ratio", format_args!("{:.3}", ours.as_secs_f64() / theirs.as_secs_f64()));
    match more > MORE.as_secs_f64() {
        true => Err(format!("a cold message takes more than {MORE:?} longer than there").into()),
        false => Ok(()),
    }
}

fn cold(house: &House) -> Result {
    let model = DemoModel::start()?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    by_hand(&model.url)?;
    for n in 0..ROUNDS {
        ours.push(one(house, n)?);
        let start = Instant::now();
        by_hand(&model.url)?;
        theirs.push(start.elapsed());
    }
    let (ours, theirs) = (median(&mut ours), median(&mut theirs));
    row("cold message → reply, median", format_args!("{ours:.0?}"));
    row("podman run … claude -p by hand, median", format_args!("{theirs:.0?}"));
    row("ratio", format_args!("{:.2}", ours.as_secs_f64() / theirs.as_secs_f64()));
    Ok(())
}

/// The demo model on its own, for the comparison.
struct DemoModel {
    child: std::process::Child,
    url: String,
}

impl DemoModel {
    fn start() -> Result<Self> {
        let mut command = Command::new(NOCLAW);
        let mut child = command.arg("demo-model").stdout(Stdio::piped()).spawn()?;
        let mut url = String::new();
        let stdout = child.stdout.take().ok_or("no output")?;
        std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut url)?;
        Ok(Self { child, url: url.trim().to_owned() })
    }
}

impl Drop for DemoModel {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn by_hand(model: &str) -> Result {
    let agent: serde_json::Value = serde_json::from_str(include_str!("../../data/agent.json"))?;
    let mut args: Vec<String> = ["run", "--rm", "--network=host", "--read-only", "--cap-drop=all"]
        .iter()
        .map(ToString::to_string)
        .collect();
    args.push("--security-opt=no-new-privileges".into());
    args.push("--userns=keep-id:uid=1000,gid=1000".into());
    args.extend([
        "--tmpfs=/home/agent".into(),
        "--tmpfs=/workspace".into(),
        "-w=/workspace".into(),
    ]);
    for variable in agent["env"].as_array().into_iter().flatten() {
        let (name, value) = (variable["name"].as_str(), variable["value"].as_str());
        match (name, value) {
            (Some("ANTHROPIC_UNIX_SOCKET"), _) | (None, _) | (_, None) => {}
            (Some("ANTHROPIC_BASE_URL"), _) => args.push(format!("-e=ANTHROPIC_BASE_URL={model}")),
            (Some(name), Some(value)) => args.push(format!("-e={name}={value}")),
        }
    }
    args.extend(["localhost/noclaw-agent:latest", "claude", "-p", "hello"].map(str::to_owned));
    args.extend(
        ["--tools", "Bash,Read,Write,Edit", "--model", "claude-sonnet-5-5"].map(str::to_owned),
    );
    args.extend(["--setting-sources", "", "--strict-mcp-config"].map(str::to_owned));
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let said = support::podman(&args)?;
    if said.trim() != "You said: hello" {
        return Err(format!("by hand it said {said:?}").into());
    }
    Ok(())
}

fn memory(house: &House) -> Result {
    let start = Instant::now();
    for n in 0..MESSAGES {
        let body = format!(r#"{{"message":"hello","conversation":"m{}"}}"#, n % 10);
        house.post("/webhook?wait=0", &body)?;
    }
    until("all are answered", || {
        let status = house.get("/v1/status").ok()?.json().ok()?;
        (status["active"] == 0 && status["queued"] == 0).then_some(())
    })?;
    let status = std::fs::read_to_string(format!("/proc/{}/status", house.pid().unwrap_or(0)))?;
    let field = |name: &str| -> String {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or("?").trim_start_matches(':').trim().to_owned()
    };
    let took = start.elapsed().as_secs();
    row(&format!("RSS after {MESSAGES} messages ({took} s)"), field("VmRSS"));
    row("of it anonymous", field("RssAnon"));
    row("threads", field("Threads"));
    Ok(())
}

fn ready() -> Result {
    let mut house = House::closed(&support::ground("NOCLAW_PODMAN")?, &["--model-api", "demo"])?;
    let mut times = Vec::new();
    for _ in 0..10 {
        let start = Instant::now();
        house.open()?;
        times.push(start.elapsed());
        house.close()?;
    }
    row("start → listening, median", format_args!("{:.0?}", median(&mut times)));
    Ok(())
}

fn store() -> Result {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let dir = tempfile::tempdir()?;
        let options = StoreOptions { path: dir.path().join("db"), max_pages: || None };
        let store = Arc::new(Store::open(options).await?);
        let (one, _) = accepts(&store, 1, 200).await?;
        let before = store.counters();
        let (mut times, took) = accepts(&store, SENDERS, EACH).await?;
        let after = store.counters();
        let (accepts, commits) =
            (after.operations - before.operations, after.commits - before.commits);
        #[expect(clippy::cast_precision_loss, reason = "small numbers")]
        let group = accepts as f64 / commits as f64;
        row(&format!("accepts per fsync, {SENDERS} senders"), format_args!("{group:.1}"));
        times.sort();
        let p99 = times.get(times.len() * 99 / 100).copied().unwrap_or_default();
        row("accepts a second", accepts * 1000 / u64::try_from(took.as_millis())?.max(1));
        row("accept p99, 64 senders", format_args!("{p99:.1?}"));
        let mut one = one;
        row("accept median, one sender", format_args!("{:.0?}", median(&mut one)));
        Ok(())
    })
}

async fn accepts(
    store: &Arc<Store>,
    senders: usize,
    each: usize,
) -> Result<(Vec<Duration>, Duration)> {
    let start = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for sender in 0..senders {
        let store = Arc::clone(store);
        tasks.spawn(async move {
            let mut times = Vec::new();
            for n in 0..each {
                let user = format!("u{sender}").parse().map_err(|_| "name")?;
                let conversation = Some(format!("c{n}"));
                let body =
                    MessageBody { message: "hello".into(), conversation, ..MessageBody::default() };
                let message = Message::check(body, &user, |_| true)?;
                let run_if_new = RunId::new(uuid::Uuid::now_v7());
                let new = NewMessage {
                    message,
                    run_if_new,
                    channel: "bench".into(),
                    now_ms: 0,
                    token: None,
                    key: None,
                };
                let limits = QueueLimits { per_user: 1 << 20, all: 1 << 20, messages_per_run: 20 };
                let start = Instant::now();
                store.accept(new, limits).await?;
                times.push(start.elapsed());
            }
            Result::Ok(times)
        });
    }
    let mut all = Vec::new();
    while let Some(times) = tasks.join_next().await {
        all.extend(times??);
    }
    Ok((all, start.elapsed()))
}

fn sizes() -> Result {
    let kib = |path: &str| -> Result<u64> { Ok(std::fs::metadata(path)?.len() / 1024) };
    row("noclaw", format_args!("{} KiB", kib(NOCLAW)?));
    row("noclaw-cell", format_args!("{} KiB", kib(&support::ground("NOCLAW_TEST_LAUNCHER")?)?));
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for folder in
        ["core", "store", "cell", "gateway", "host", "http", "assistant", "channels", "commands"]
    {
        row(&format!("lines of src/{folder}"), lines(&root.join("src").join(folder))?);
    }
    row("lines of containerfiles/cell", lines(&root.join("containerfiles/cell/src"))?);
    row("lines of tests", lines(&root.join("tests"))?);
    Ok(())
}

fn lines(folder: &Path) -> Result<usize> {
    let mut sum = 0;
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            sum += lines(&path)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            sum += std::fs::read_to_string(&path)?.lines().count();
        }
    }
    Ok(sum)
}
