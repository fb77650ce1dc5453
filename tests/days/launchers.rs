//! Launchers that are not what the service expects as pid 1 of a cell.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};

use serde_json::Value;

use crate::ends::{assert_failed, assert_gone};
use crate::support::{House, Result, ground};

/// Begins the real launcher, in the one folder of a cell where a test can put it, with nothing of
/// the shell's in its environment.
const REAL: &str = "unset PWD; exec /workspace/launcher";

/// A service whose launcher does what stands in the user's workspace.
fn house() -> Result<House> {
    let mut house = House::closed(&ground("NOCLAW_PODMAN")?, &["--model-api", "demo"])?;
    let path = house.path("launcher");
    fs::write(&path, "#!/bin/sh\n. /workspace/launch\n")?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    house.args(&["--launcher", &path.display().to_string()]);
    house.open()?;
    Ok(house)
}

/// The run of a user whose launcher does this.
fn launched(house: &House, user: &str, script: &str) -> Result<Value> {
    let workspace = house.path("state/users").join(user).join("workspace");
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&workspace)?;
    fs::copy(ground("NOCLAW_TEST_LAUNCHER")?, workspace.join("launcher"))?;
    fs::write(workspace.join("launch"), script)?;
    let run = house.run(&["-u", user, "hello"])?;
    assert_gone(house)?;
    Ok(run)
}

#[test]
fn a_launcher_that_stays_silent_is_given_up() -> Result {
    let house = house()?;
    let run = launched(&house, "silent", "exec sleep 600")?;
    assert_failed(&run, &["door lost", "the cell opened no door"]);
    let run = launched(&house, "real", REAL)?;
    assert_eq!(run["reply"], "You said: hello", "{run}");
    Ok(())
}

#[test]
fn a_cell_that_measures_short_is_not_given_an_agent() -> Result {
    let house = house()?;
    let run = launched(&house, "short", &format!("ulimit -n 100; {REAL}"))?;
    assert_failed(&run, &["preflight: ", "the limit of open files", "4096", "100"]);
    assert_eq!(run["usage"]["requests"], 0, "no agent has spoken: {run}");
    let run = launched(&house, "real", REAL)?;
    assert_eq!(run["reply"], "You said: hello", "{run}");
    Ok(())
}
