//! What must not be lost when a part fails at a bad moment: the database at the start.

mod support;

use std::process::{Command, Stdio};

use support::{House, Result, until};

#[test]
fn runs_are_settled_however_long_the_database_is_locked() -> Result {
    let mut house = House::start(&[])?;
    let run = house.post("/webhook?wait=0", r#"{"message":"!sleep 2"}"#)?.json()?;
    until("it runs", || house.show(&run).ok().filter(|run| run["status"] == "running"))?;
    house.kill()?;
    // Another program holds the lock, as a backup may.
    let mut other = Command::new("python3");
    other.arg("-c").arg(
        "import sqlite3, sys\nstore = sqlite3.connect(sys.argv[1], isolation_level=None)\n\
         store.execute('BEGIN IMMEDIATE')\nsys.stdin.read()",
    );
    let mut other = other.arg(house.path("state/noclaw.db")).stdin(Stdio::piped()).spawn()?;
    house.open()?;
    until("runs cannot be settled", || {
        house.logged().contains("cannot settle runs").then_some(())
    })?;
    drop(other.stdin.take());
    other.wait()?;
    let id = run["run"].as_str().ok_or("no run")?;
    let run = house.get(&format!("/v1/runs/{id}?wait=30"))?.json()?;
    assert_eq!(run["status"], "answered", "{run}");
    Ok(())
}
