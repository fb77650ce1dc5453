//! `noclaw setup` where it cannot go through: without a service manager, or with answers that are
//! none. It says why and what to do, and has changed nothing. `make vm-test` has it go through. And
//! what it has written is known to `noclaw doctor`.

#![expect(clippy::disallowed_methods, reason = "a test looks at a home of its own")]
#![expect(clippy::indexing_slicing, reason = "a JSON value has null at what is not there")]

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use support::{NOCLAW, Result, exits, ground, told};

/// Sets up in an empty home, in which nothing may be afterwards.
fn refused(args: &[&str]) -> Result<Output> {
    let home = tempfile::tempdir()?;
    let mut command = Command::new(NOCLAW);
    command.arg("setup").args(args).stdin(Stdio::null());
    command.env("HOME", home.path()).env("XDG_RUNTIME_DIR", home.path());
    for variable in ["XDG_CONFIG_HOME", "XDG_STATE_HOME", "NOCLAW_SOCKET", "NOCLAW_STATE"] {
        command.env_remove(variable);
    }
    let output = command.output()?;
    let left: Vec<_> = fs::read_dir(home.path())?.collect();
    assert!(left.is_empty(), "{left:?}: {}", told(&output));
    Ok(output)
}

#[test]
fn without_a_service_manager_it_says_so_and_changes_nothing() -> Result {
    for args in [["--yes", "--demo"].as_slice(), &["--yes"], &[], &["--undo"]] {
        let said = refused(args)?;
        exits(&said, 69);
        let said = told(&said);
        let known = ["systemd does not run this machine", "you have no service manager: "];
        assert!(known.iter().any(|known| said.contains(known)), "{said}");
        assert!(said.contains("hint: "), "{said}");
    }
    Ok(())
}

#[test]
fn answers_that_are_none_are_refused_with_what_is_one() -> Result {
    let refusals: [(&[&str], &str); 9] = [
        (&["--zone", "Berlin"], "this machine knows no zone \"Berlin\"; one is Europe/Berlin"),
        (&["--budget", "0"], "a sum above 0"),
        (&["--budget", "lots"], "a sum above 0"),
        (&["--budget", "inf"], "a sum above 0"),
        (&["--demo", "--api-key-file", "key"], "cannot be used with"),
        (&["--undo", "--zone", "UTC"], "cannot be used with"),
        (&["--user", "ann"], "--user is for root"),
        (&["--accept-without", "cpu,foo"], "memory, pids or cpu"),
        (&["--model-api", "api.example.org"], "write https://HOST"),
    ];
    for (args, words) in refusals {
        let said = refused(args)?;
        exits(&said, 64);
        assert!(told(&said).contains(words), "{args:?}: {}", told(&said));
    }
    Ok(())
}

/// What the doctor finds in this home: of the key, and of the limits.
fn doctor(home: &Path, args: &[&str]) -> Result<[(String, String); 2]> {
    let mut command = Command::new(NOCLAW);
    command.args(["doctor", "--json"]).args(args).env("HOME", home);
    for variable in ["XDG_CONFIG_HOME", "NOCLAW_MODEL_API", "NOCLAW_API_KEY_FILE"] {
        command.env_remove(variable);
    }
    let output = command.env_remove("NOCLAW_ACCEPT_WITHOUT").output()?;
    let rows: Vec<Value> = serde_json::from_slice(&output.stdout)?;
    let row = |check: &str| {
        let row = rows.iter().find(|row| row["check"] == check).cloned().unwrap_or_default();
        (row["result"].to_string(), row["detail"].to_string())
    };
    Ok([row("key"), row("cgroups")])
}

#[test]
fn the_doctor_knows_what_setup_has_kept_for_the_service() -> Result {
    let home = tempfile::tempdir()?;
    let config = home.path().join(".config");
    let [key, limits] = doctor(home.path(), &[])?;
    assert_eq!(key, ("\"warn\"".into(), "\"none was named here\"".into()));
    // Where this machine has every controller there is nothing to be accepted.
    let missing = std::env::var("NOCLAW_ACCEPT_WITHOUT").unwrap_or_default();
    assert_eq!(limits.0 == "\"fail\"", !missing.is_empty(), "{limits:?}");

    let drop_in = config.join("systemd/user/noclaw.service.d/setup.conf");
    let file = config.join("noclaw/key");
    fs::create_dir_all(drop_in.parent().ok_or("no folder")?)?;
    fs::create_dir_all(file.parent().ok_or("no folder")?)?;
    fs::write(&file, "sk-kept-by-setup\n")?;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600))?;
    let kept = format!(
        "[Service]\nLoadCredential=api-key:{}\nEnvironment=\"NOCLAW_ACCEPT_WITHOUT={missing}\"\n",
        file.display()
    );
    fs::write(&drop_in, kept)?;
    let [key, limits] = doctor(home.path(), &[])?;
    assert_eq!(key, ("\"ok\"".into(), format!("\"{}\"", file.display())));
    assert_ne!(limits.0, "\"fail\"", "{limits:?}");
    // What is said now goes before.
    let [_, limits] = doctor(home.path(), &["--accept-without="])?;
    assert_eq!(limits.0 == "\"fail\"", !missing.is_empty(), "{limits:?}");
    let [key, _] = doctor(home.path(), &["--api-key-file", "/none"])?;
    assert_eq!(key.0, "\"fail\"", "{key:?}");

    fs::write(&drop_in, "[Service]\nEnvironment=\"NOCLAW_MODEL_API=demo\"\n")?;
    let [key, _] = doctor(home.path(), &[])?;
    assert!(key.0 == "\"ok\"" && key.1.contains("the demo model needs none"), "{key:?}");
    Ok(())
}

#[test]
fn a_bar_shows_how_far_an_image_has_come_and_what_is_no_image_is_told() -> Result {
    let house = support::House::closed(&ground("NOCLAW_PODMAN")?, &[])?;
    let file = house.path("no-image");
    fs::create_dir_all(file.parent().ok_or("no folder")?)?;
    fs::write(&file, vec![7; 3_000_000])?;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600))?;
    let load =
        |name: &str, input: Stdio| house.noclaw(&["image", "load", name]).stdin(input).output();
    let named = load(&file.display().to_string(), Stdio::null())?;
    let read = load("-", fs::File::open(&file)?.into())?;
    for output in [named, read] {
        exits(&output, 65);
        let said = told(&output);
        let begun = said.contains("loading the image   0 %") || said.contains("loading the image ");
        assert!(begun && said.contains(" of 3 MB"), "{said}");
    }
    Ok(())
}
