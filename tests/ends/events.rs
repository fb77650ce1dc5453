//! What Podman itself says of the removal of containers: its stream of events.

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use serde_json::Value;

use super::support::{House, Result, ground, until};

/// When containers were removed.
pub struct Removals {
    podman: Child,
    times: Arc<Mutex<HashMap<String, Timestamp>>>,
}

impl Removals {
    /// Listens from now on to what happens to the house's containers.
    pub fn watch(house: &House) -> Result<Self> {
        let instance = fs::read_to_string(house.path("state/instance"))?;
        let mut podman = Command::new("podman");
        podman.args(["--url", &format!("unix://{}", ground("NOCLAW_PODMAN")?)]);
        podman.args(["events", "--format", "json", "--filter", "event=remove"]);
        podman.args(["--filter", &format!("label=io.noclaw.instance={instance}")]);
        let mut podman = podman.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let lines = BufReader::new(podman.stdout.take().ok_or("no output")?).lines();
        let times = Arc::new(Mutex::new(HashMap::new()));
        let kept = Arc::clone(&times);
        // It ends with Podman's stream.
        std::thread::spawn(move || {
            for (id, time) in lines.map_while(std::io::Result::ok).filter_map(|line| read(&line)) {
                kept.lock().unwrap_or_else(PoisonError::into_inner).insert(id, time);
            }
        });
        Ok(Self { podman, times })
    }

    /// When this container was removed.
    pub fn of(&self, container: &str) -> Result<Timestamp> {
        until("Podman tells of the removal", || {
            self.times.lock().unwrap_or_else(PoisonError::into_inner).get(container).copied()
        })
    }
}

impl Drop for Removals {
    fn drop(&mut self) {
        self.podman.kill().ok();
        self.podman.wait().ok();
    }
}

fn read(line: &str) -> Option<(String, Timestamp)> {
    let event: Value = serde_json::from_str(line).ok()?;
    let time = match event.get("timeNano").and_then(Value::as_i64) {
        Some(nanos) => Timestamp::from_nanosecond(nanos.into()).ok()?,
        None => event.get("Time")?.as_str()?.parse().ok()?,
    };
    Some((event.get("ID")?.as_str()?.to_owned(), time))
}
