//! What packages are made of, by the program that is in them: `packaging/debian/tests/smoke` is the
//! test of an installed one.

#![expect(clippy::disallowed_methods, reason = "a test makes files of its own")]

use std::error::Error;
use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

type Result<T = ()> = std::result::Result<T, Box<dyn Error>>;

/// What the program writes, for somebody whose folders are elsewhere than usual.
fn generate(program: &Path, home: &Path, args: &[&str]) -> Result<Output> {
    let mut command = Command::new(program);
    command.arg("generate").args(args).env_clear().env("HOME", home);
    command.env("XDG_RUNTIME_DIR", home.join("run")).env("XDG_CONFIG_HOME", home.join("settings"));
    let output = command.stdin(Stdio::null()).output()?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(output)
}

#[test]
fn man_pages_tell_nobodys_home() -> Result {
    let home = tempfile::tempdir()?;
    // Installed in a place of its own, and with the launcher where Fedora has it.
    let stage = home.path().join("stage/usr");
    let program = stage.join("bin/noclaw");
    fs::create_dir_all(stage.join("bin"))?;
    fs::create_dir_all(stage.join("libexec/noclaw"))?;
    fs::write(stage.join("libexec/noclaw/noclaw-cell"), "")?;
    fs::copy(env!("CARGO_BIN_EXE_noclaw"), &program)?;

    let pages = home.path().join("man");
    let folder = pages.to_string_lossy();
    generate(&program, home.path(), &["man", &folder, "--prefix", "/opt/noclaw"])?;
    let serve = fs::read_to_string(pages.join("noclaw-serve.1"))?.replace('\\', "");
    for default in [
        "~/.local/state/noclaw",
        "~/.config/noclaw",
        "$XDG_RUNTIME_DIR/noclaw/noclaw.sock",
        "$XDG_RUNTIME_DIR/podman/podman.sock",
        "/opt/noclaw/libexec/noclaw/noclaw-cell",
        "4, or fewer on a small machine",
    ] {
        assert!(serve.contains(&format!("[default: {default}]")), "{default}: {serve}");
    }
    let man = fs::read_to_string(pages.join("noclaw-generate-man.1"))?;
    assert!(man.contains("[default: /usr]"), "{man}");
    let own = home.path().to_string_lossy();
    for page in fs::read_dir(&pages)? {
        let path = page?.path();
        let text = fs::read_to_string(&path)?.replace('\\', "");
        assert!(!text.contains(&*own), "{} tells where it was made: {text}", path.display());
    }
    Ok(())
}

#[test]
fn completions_parse() -> Result {
    let home = tempfile::tempdir()?;
    let program = Path::new(env!("CARGO_BIN_EXE_noclaw"));
    let file = home.path().join("noclaw");
    fs::write(&file, generate(program, home.path(), &["completions", "bash"])?.stdout)?;
    let knows = r#". "$1" && complete -p noclaw"#;
    let output = Command::new("bash").args(["-c", knows, "_"]).arg(&file).output()?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for shell in ["zsh", "fish"] {
        let said = generate(program, home.path(), &["completions", shell])?.stdout;
        assert!(String::from_utf8_lossy(&said).contains("noclaw"), "{shell}");
    }
    Ok(())
}
