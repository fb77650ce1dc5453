//! What becomes of a unit's failures where no service manager runs: they are counted, and shown to
//! whoever asks how things are. `make vm-test` has the owner told by a real one.

#![expect(clippy::disallowed_methods, reason = "a test makes files of its own")]

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use support::{NOCLAW, Result, exits, told};

const UNIT: &str = "noclaw.service";

struct Session(tempfile::TempDir);

impl Session {
    fn noclaw(&self, args: &[&str]) -> Command {
        let mut command = Command::new(NOCLAW);
        command.args(args).env("XDG_RUNTIME_DIR", self.0.path()).env_remove("JOURNAL_STREAM");
        for variable in ["NOCLAW_SOCKET", "DBUS_SESSION_BUS_ADDRESS", "SERVICE_RESULT"] {
            command.env_remove(variable);
        }
        command
    }

    /// As systemd calls it when the unit has ended; returns what it says.
    fn ended(&self, result: &str, status: &str) -> Result<String> {
        let mut command = self.noclaw(&["notice", "failed", UNIT]);
        let output = command.env("SERVICE_RESULT", result).env("EXIT_STATUS", status).output()?;
        exits(&output, 0);
        Ok(told(&output))
    }

    fn file(&self) -> std::path::PathBuf {
        self.0.path().join("noclaw-failures").join(UNIT)
    }

    fn kept(&self) -> Result<serde_json::Value> {
        Ok(serde_json::from_str(&fs::read_to_string(self.file())?)?)
    }
}

#[test]
fn failures_are_counted_and_shown_and_a_stop_is_none() -> Result {
    let session = Session(tempfile::tempdir()?);
    session.ended("success", "0")?;
    assert!(!session.file().exists());

    for (count, status) in [(1, "70"), (2, "78")] {
        let said = session.ended("exit-code", status)?;
        assert!(said.contains("the owner is not told: "), "no manager can have told it: {said}");
        let kept = session.kept()?;
        assert_eq!((kept["count"].as_u64(), kept["told"].as_bool()), (Some(count), Some(false)));
        assert_eq!(kept["why"], format!("it ended with status {status}"));
    }
    assert_eq!(fs::metadata(session.file())?.permissions().mode() & 0o777, 0o600);

    // Once it was told, the next ones are only counted.
    let known = fs::read_to_string(session.file())?;
    fs::write(session.file(), known.replace("\"told\":false", "\"told\":true"))?;
    let said = session.ended("signal", "KILL")?;
    assert!(!said.contains("told"), "{said}");
    assert_eq!(session.kept()?["count"], 3);

    for args in [["status"].as_slice(), &[]] {
        let shown = exits(&session.noclaw(args).output()?, 69);
        let head = "FAILED  noclaw.service has failed 3 times since ";
        assert!(shown.contains(head) && shown.contains("ended by signal KILL; see: noclaw logs"));
        let socket = session.0.path().join("another.sock").display().to_string();
        let other = [args, &["--socket", &socket]].concat();
        let shown = exits(&session.noclaw(&other).output()?, 69);
        assert!(!shown.contains("FAILED"), "another NoClaw's are its own: {shown}");
    }
    let shown = exits(&session.noclaw(&["notice", "show", UNIT]).output()?, 0);
    assert!(shown.contains("failed 3 times"), "{shown}");
    let telling = session.noclaw(&["notice", "tell", UNIT]).output()?;
    exits(&telling, 0);
    assert!(told(&telling).contains("ERROR noclaw.service has failed 3 times"));

    // An hour after the last one they are over.
    let mut old = session.kept()?;
    old["last"] = serde_json::json!(old["last"].as_i64().unwrap_or(0) - 3_600_001);
    fs::write(session.file(), old.to_string())?;
    let shown = exits(&session.noclaw(&["status"]).output()?, 69);
    assert!(!shown.contains("FAILED"), "{shown}");
    session.ended("signal", "KILL")?;
    assert_eq!(session.kept()?["count"], 1);
    Ok(())
}

#[test]
fn a_count_that_somebody_else_could_write_or_that_nobody_can_keep_is_said_and_no_failure() -> Result
{
    let session = Session(tempfile::tempdir()?);
    session.ended("watchdog", "ABRT")?;
    fs::set_permissions(session.file(), fs::Permissions::from_mode(0o666))?;
    let said = session.ended("watchdog", "ABRT")?;
    assert!(said.contains("failures are not known: ") && said.contains("chmod go-w it"), "{said}");
    assert_eq!(session.kept()?["count"], 1, "it was begun anew, in a file of the owner's alone");
    assert_eq!(fs::metadata(session.file())?.permissions().mode() & 0o777, 0o600);
    fs::write(session.file(), "half of a f")?;
    session.ended("watchdog", "ABRT")?;
    assert_eq!(session.kept()?["count"], 1);

    let folder = session.0.path().join("noclaw-failures");
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o500))?;
    let said = session.ended("watchdog", "ABRT")?;
    assert!(said.contains("failures of noclaw.service are not counted: "), "{said}");
    assert_eq!(session.kept()?["count"], 1);
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o700))?;

    exits(&session.noclaw(&["notice", "failed", UNIT]).output()?, 64);
    exits(&session.noclaw(&["notice", "failed", "../../x"]).output()?, 64);
    Ok(())
}
