//! The service's own sandbox, in the real service: what it cannot do, and that it still does all it
//! is there for. Each thing that it refuses is tried out beside the code (`src/host/sandbox.rs`).

#![expect(clippy::disallowed_methods, reason = "a test makes files of its own")]

mod support;

use std::fs;

use support::{House, Result, ground, until};

#[test]
fn the_service_writes_nowhere_but_in_its_own_places() -> Result {
    let outside = tempfile::tempdir()?;
    let mut house = House::closed(&ground("NOCLAW_PODMAN")?, &["--model-api", "demo"])?;
    // A debug build makes a file where a test says, in the middle of a run.
    let forbidden = outside.path().join("reached");
    house.env("NOCLAW_TEST_PAUSE", &format!("prepared:{}", forbidden.display()));
    house.open()?;
    let run = house.run(&["hello"])?;
    assert_eq!(run["status"], "answered", "{run}");
    assert!(!forbidden.exists(), "the service wrote outside its places");
    house.close()?;

    let permitted = house.point("reached")?;
    house.env("NOCLAW_TEST_PAUSE", &format!("prepared:{}", permitted.display()));
    house.open()?;
    let mut send = house.noclaw(&["send", "hello"]).spawn()?;
    until("the service writes in its places", || permitted.exists().then_some(()))?;
    fs::remove_file(permitted)?;
    assert!(send.wait()?.success());
    Ok(())
}

#[test]
fn a_confined_service_says_so_and_still_answers_and_logs() -> Result {
    let house = House::start(&[])?;
    let pid = house.pid().ok_or("no process")?;
    let kernel = fs::read_to_string(format!("/proc/{pid}/status"))?;
    assert!(kernel.contains("NoNewPrivs:\t1"), "{kernel}");

    let landlock = &house.get("/v1/status")?.json()?["landlock"];
    assert_eq!(landlock["floor_enforced"], true, "{landlock}");
    assert!(landlock["abi"].as_u64() >= Some(2), "{landlock}");
    let told = house.noclaw(&["status"]).output()?;
    let told = String::from_utf8(told.stdout)?;
    assert!(told.contains("confined         Landlock ABI"), "{told}");

    assert_eq!(house.send(&["hello"])?, "You said: hello");
    assert!(house.logged().contains("ready for messages"), "{}", house.logged());
    Ok(())
}
