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

#[test]
fn what_an_installed_document_names_is_installed() -> Result {
    let root = tempfile::tempdir()?;
    let bin = root.path().join("usr/bin");
    fs::create_dir_all(&bin)?;
    fs::copy(env!("CARGO_BIN_EXE_noclaw"), bin.join("noclaw"))?;
    let checkout = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut install = Command::new(checkout.join("packaging/install.sh"));
    let output = install.arg(root.path()).args(["/usr", "/usr/share/zsh"]).output()?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    let folder = root.path().join("usr/share/doc/noclaw");
    // Packages have the one under a name of their own; the other is for the checkout.
    let elsewhere = ["CHANGELOG.md", "CLAUDE.md"];
    let mut found = 0;
    for document in ["README.md", "ARCHITECTURE.md", "SECURITY.md"] {
        let text = fs::read_to_string(folder.join(document))?;
        let links = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for link in links.filter(|link| !link.contains("://") && !elsewhere.contains(link)) {
            assert!(folder.join(link).is_file(), "{document} names {link}");
            found += 1;
        }
        let named = text.split('`').filter(|word| word.starts_with("data/"));
        for data in named.filter(|word| word.ends_with(".json")) {
            assert!(folder.join(data).is_file(), "{document} names {data}");
            found += 1;
        }
    }
    assert!(found >= 9, "{found} links");
    Ok(())
}

/// Who purges the package is told of all that `noclaw setup` has made so.
#[test]
fn a_purge_names_what_setup_has_made() -> Result {
    let postrm = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/debian/postrm");
    let text = fs::read_to_string(postrm)?;
    for made in [
        "noclaw*.d",
        "noclaw-base",
        ".cache/noclaw",
        "storage.conf",
        "podman.socket",
        "linger",
        "image rm",
    ] {
        assert!(text.contains(made), "{made}");
    }
    Ok(())
}
