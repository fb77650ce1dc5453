//! `noclaw setup` where it cannot go through: without a service manager, or with answers that are
//! none. It says why and what to do, and has changed nothing. `make vm-test` has it go through.

#![expect(clippy::disallowed_methods, reason = "a test looks at a home of its own")]

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output, Stdio};

use support::{NOCLAW, Result, exits, told};

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
    let refusals: [(&[&str], &str); 7] = [
        (&["--zone", "Berlin"], "this machine knows no zone \"Berlin\"; one is Europe/Berlin"),
        (&["--budget", "0"], "a sum above 0"),
        (&["--budget", "lots"], "a sum above 0"),
        (&["--budget", "inf"], "a sum above 0"),
        (&["--demo", "--api-key-file", "key"], "cannot be used with"),
        (&["--undo", "--zone", "UTC"], "cannot be used with"),
        (&["--user", "ann"], "--user is for root"),
    ];
    for (args, words) in refusals {
        let said = refused(args)?;
        exits(&said, 64);
        assert!(told(&said).contains(words), "{args:?}: {}", told(&said));
    }
    Ok(())
}

#[test]
fn a_bar_shows_how_far_an_image_has_come_and_what_is_no_image_is_told() -> Result {
    let house = support::House::closed(&support::ground("NOCLAW_PODMAN")?, &[])?;
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
