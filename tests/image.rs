//! The image on its way to another machine, which here is a Podman with storage of its own: it goes
//! as an archive, and nothing that is no image of NoClaw's, or no good one, takes the place of the
//! one that serves.

#![expect(clippy::disallowed_methods, reason = "a test makes files of its own")]

mod support;

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;
use support::podmans::OtherPodman;
use support::{NOCLAW, Result, exits, ground, podman_at, told};

const SERVES: &str = "localhost/noclaw-agent:latest";

fn image(podman: &str, args: &[&str]) -> Result<Output> {
    let recipe = concat!(env!("CARGO_MANIFEST_DIR"), "/containerfiles");
    let state = Path::new(&ground("NOCLAW_TEST_DIR")?).join("image");
    let mut command = Command::new(NOCLAW);
    command.arg("image").args(args).env("NOCLAW_PODMAN", podman).env("NOCLAW_STATE", state);
    Ok(command.env("NOCLAW_CONTAINERFILES", recipe).output()?)
}

fn status(podman: &str) -> Result<Value> {
    let output = image(podman, &["status", "--json"])?;
    serde_json::from_slice(&output.stdout).map_err(|_| told(&output).into())
}

/// A name in a folder of the test's own.
fn text(path: &Path) -> Result<&str> {
    path.to_str().ok_or_else(|| "no UTF-8".into())
}

#[test]
fn an_image_goes_to_another_machine_as_an_archive() -> Result {
    let (here, there) = (ground("NOCLAW_PODMAN")?, OtherPodman::start("overlay")?);
    let dir = tempfile::tempdir()?;
    let archive = dir.path().join("image.tar");
    assert!(exits(&image(&here, &["save", text(&archive)?])?, 0).contains("saved: agent "));
    assert_eq!(fs::read_dir(dir.path())?.count(), 1, "nothing but the archive is left");

    let said = exits(&image(&there.socket(), &["status"])?, 78);
    assert!(said.contains("there is no image"), "{said}");
    let said = exits(&image(&there.socket(), &["load", text(&archive)?])?, 0);
    assert!(said.contains("self-test") && said.contains(SERVES), "{said}");
    let (sent, came) = (status(&here)?, status(&there.socket())?);
    for field in ["agent", "recipe", "up_to_date"] {
        assert_eq!(sent[field], came[field], "{field}");
    }
    let names = podman_at(&there.socket(), &["images", "--format", "{{.Repository}}:{{.Tag}}"])?;
    assert_eq!(names.trim(), SERVES, "the candidate's name is gone");
    Ok(())
}

/// A recipe that is none, at a terminal.
#[test]
fn a_build_shows_a_bar_and_what_went_wrong() -> Result {
    let dir = tempfile::tempdir()?;
    let recipe = concat!(env!("CARGO_MANIFEST_DIR"), "/containerfiles");
    for file in ["Containerfile", "agent-requirements.txt", "packages.txt", "base.sh", "build.sh"] {
        fs::copy(Path::new(recipe).join(file), dir.path().join(file))?;
    }
    let script = "#!/bin/sh\necho step 1/2 one\necho a detail >&2\necho step 2/2 two\nexit 7\n";
    fs::write(dir.path().join("build.sh"), script)?;
    let build = format!("{NOCLAW} image build --containerfiles {}", text(dir.path())?);
    let mut command = Command::new("script");
    command.args(["--quiet", "--return", "--command", &build, "/dev/null"]);
    let output = command.env("NOCLAW_PODMAN", ground("NOCLAW_PODMAN")?).output()?;
    let said = told(&output);
    for word in
        ["step 1/2 one", "making the image [", "]  50 %", "a detail", "the image was not built"]
    {
        assert!(said.contains(word), "{word}: {said}");
    }
    assert_eq!(output.status.code(), Some(70), "{said}");
    Ok(())
}

#[test]
fn what_is_no_image_of_ours_does_not_take_the_place_of_the_one_that_serves() -> Result {
    let (ours, theirs) = (OtherPodman::with_the_real_agent()?, OtherPodman::with_agent("")?);
    let before = status(&ours.socket())?;
    let dir = tempfile::tempdir()?;
    let path = |name: &str| dir.path().join(name);

    fs::write(path("garbage"), "no archive")?;
    let said = exits(&image(&ours.socket(), &["load", text(&path("garbage"))?])?, 65);
    assert!(said.contains("hint: an archive that `noclaw image save` wrote"), "{said}");

    let said = exits(&image(&ours.socket(), &["load", text(&path("missing"))?])?, 65);
    assert!(said.contains("cannot be read") && said.contains("hint: "), "{said}");

    // It bears the name of the one that serves.
    let foreign = path("foreign");
    podman_at(&theirs.socket(), &["save", "--quiet", "--output", text(&foreign)?, SERVES])?;
    let said = exits(&image(&ours.socket(), &["load", text(&foreign)?])?, 65);
    assert!(said.contains("no recipe of NoClaw's made it"), "{said}");
    assert_eq!(status(&ours.socket())?["image"], before["image"], "the same serves on");
    Ok(())
}

#[test]
fn an_archive_that_cannot_be_written_leaves_nothing() -> Result {
    let here = ground("NOCLAW_PODMAN")?;
    let dir = tempfile::tempdir()?;
    let inside = dir.path().join("missing/image.tar");
    let said = exits(&image(&here, &["save", text(&inside)?])?, 70);
    assert!(said.contains("cannot be written") && said.contains("hint: "), "{said}");
    // A folder stands where the archive shall be.
    let taken = dir.path().join("taken");
    fs::create_dir(&taken)?;
    exits(&image(&here, &["save", text(&taken)?])?, 70);
    assert_eq!(fs::read_dir(dir.path())?.count(), 1, "a part of an archive is left");
    Ok(())
}
