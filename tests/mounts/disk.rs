//! Folders on another disk than NoClaw's own: one that is soon full, with a device file of root's.

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::home::Home;
use crate::support::{Result, exits};

/// The test ground has such a disk; an ordinary user's machine has none, and says so.
fn small_disk() -> Option<PathBuf> {
    let disk = std::env::var_os("NOCLAW_TEST_DISK").map(PathBuf::from);
    if disk.is_none() {
        println!("not tested: there is no small disk outside of the test ground");
    }
    disk
}

#[test]
fn a_granted_disk_is_not_filled_and_a_full_one_is_not_written() -> Result {
    let Some(disk) = small_disk() else { return Ok(()) };
    let folder = tempfile::tempdir_in(disk)?;
    let mut home = Home::new("demo")?;
    home.house.args(&["--disk-free", "16"]);
    let home = home.open()?;
    exits(&home.house.noclaw(&["user", "add", "ann"]).output()?, 0);
    home.allow(&json!([{"path": folder.path(), "allowReadWrite": true}]))?;
    let grant = || {
        let body = json!({"path": folder.path(), "read_write": true});
        home.house.call("POST", "/v1/users/ann/mounts", &body)
    };
    let granted = grant()?.json()?;
    let place = granted["in_cell"].as_str().ok_or("not granted")?.to_owned();
    let look = || home.shell("ann", "ls -d /mounts/*/ 2>/dev/null; echo end");
    assert_eq!(look()?, format!("{place}/\nend"));
    let bytes = format!("head -c 56M /dev/zero >{place}/f; sleep 60");
    let files = format!(
        "python3 -c 'import os\nfor i in range(15000): os.close(os.open(\"{place}/%d\" % i, 65))'; \
         sleep 60"
    );
    for (fill, words) in [(bytes, "must stay free"), (files, "more files can be made")] {
        let fill = format!("!tool Bash {}", json!({"command": fill}));
        let run = home.house.run(&["-u", "ann", "--new", &fill])?;
        let error = run["error"].as_str().unwrap_or_default();
        assert!(error.starts_with(&format!("quota: {place}: only ")), "{run}");
        assert!(run["status"] == "failed" && error.contains(words), "{run}");
        assert_eq!(look()?, "end", "a run that could fill it further");
        let refused = home.mounts("ann")?[0]["refused"].to_string();
        assert!(refused.contains(words), "{refused}");
        for entry in fs::read_dir(folder.path())? {
            fs::remove_file(entry?.path())?;
        }
        assert_eq!(look()?, format!("{place}/\nend"));
    }
    Ok(())
}

/// What `doctor` says of the runtime is so: a device file can be opened in no folder that may only
/// be read, and in one that may be written where the runtime is too old.
#[test]
fn a_device_file_in_a_folder_is_opened_only_where_doctor_warns_of_it() -> Result {
    let Some(disk) = small_disk() else { return Ok(()) };
    let mut home = Home::new("demo")?;
    home.house.args(&["--disk-free", "0"]);
    let home = home.open()?;
    let doctor = home.noclaw(&["doctor", "--json"])?.output()?;
    let rows: Vec<Value> = serde_json::from_slice(&doctor.stdout)?;
    let row = rows.iter().find(|row| row["check"] == "runtime").ok_or("no row")?;
    let is_old = row["result"] == "warn";
    home.allow(&json!([{"path": disk, "allowReadWrite": true}]))?;
    for (user, read_write, opened) in [("reader", false, false), ("writer", true, is_old)] {
        exits(&home.house.noclaw(&["user", "add", user]).output()?, 0);
        let body = json!({"path": disk, "read_write": read_write});
        let granted = home.house.call("POST", &format!("/v1/users/{user}/mounts"), &body)?;
        let place = granted.json()?["in_cell"].as_str().ok_or("not granted")?.to_owned();
        let said = home.shell(user, &format!("ls {place}/zero; head -c 1 {place}/zero | wc -c"))?;
        let lines: Vec<_> = said.lines().collect();
        assert_eq!(lines.first(), Some(&format!("{place}/zero").as_str()), "{said}");
        assert_eq!(lines.last() == Some(&"1"), opened, "{said}, and doctor says {row}");
    }
    Ok(())
}
