//! People: made, looked at and changed, by HTTP and by the command line.

#![expect(clippy::disallowed_methods, reason = "a test makes files of its own")]

mod support;

use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Output, Stdio};

use serde_json::{Value, json};
use support::{House, Result, exits, post};

fn noclaw(house: &House, args: &[&str]) -> Result<Output> {
    Ok(house.noclaw(args).output()?)
}

/// A program of the test's own.
fn program(house: &House, name: &str, script: &str) -> Result<PathBuf> {
    let path = house.path(name);
    fs::write(&path, format!("#!/bin/sh\n{script}\n"))?;
    fs::set_permissions(&path, Permissions::from_mode(0o700))?;
    Ok(path)
}

#[test]
fn users_are_made_listed_and_changed_over_http() -> Result {
    let house = House::start(&[])?;
    let bob = json!({"name": "bob", "time_zone": "europe/berlin", "instructions": "be brief"});
    let made = house.call("POST", "/v1/users", &bob)?;
    assert_eq!(made.status, 201, "{made:?}");
    assert_eq!(made.json()?["time_zone"], "Europe/Berlin", "as the database writes it");
    assert!(house.workspace("bob").is_dir());
    let users = house.get("/v1/users")?.json()?;
    let names: Vec<_> = users["users"].as_array().ok_or("no users")?.iter().collect();
    assert_eq!(names.len(), 2, "the owner's own user always exists: {users}");
    let changed = house.call("PATCH", "/v1/users/bob", &json!({"time_zone": null}))?;
    assert_eq!(changed.json()?["time_zone"], Value::Null, "{changed:?}");
    let text = house.get("/v1/users/bob/instructions")?.json()?;
    assert_eq!(text, json!({"instructions": "be brief"}));

    let long = "x".repeat(64 * 1024 + 1);
    for (method, path, body, status, word) in [
        ("POST", "/v1/users", bob, 409, "bob already"),
        ("POST", "/v1/users", json!({"name": "../x"}), 422, "name"),
        ("POST", "/v1/users", json!({"name": "cyd", "time_zone": "Moon/Sea"}), 422, "time_zone"),
        ("POST", "/v1/users", json!({"name": "cyd", "colour": 1}), 422, "colour"),
        ("PATCH", "/v1/users/bob", json!({"time_zone": "../passwd"}), 422, "time_zone"),
        ("PATCH", "/v1/users/eve", json!({}), 404, "no user eve"),
        ("GET", "/v1/users/a%2fb", json!({}), 404, "no user"),
        ("GET", "/v1/users/eve/instructions", json!({}), 404, "no user eve"),
        ("PUT", "/v1/users/eve/instructions", json!({"instructions": ""}), 404, "no user eve"),
        ("PUT", "/v1/users/bob/instructions", json!({"instructions": long}), 422, "65537 bytes"),
        ("PUT", "/v1/users/bob/instructions", json!({"instructions": "\u{0}"}), 422, "NUL"),
        ("GET", "/v1/users/eve/history", json!({}), 404, "no user eve"),
        ("DELETE", "/v1/users/eve", json!({}), 404, "no user eve"),
        ("PUT", "/v1/users/bob", json!({}), 405, "PUT"),
        ("POST", "/v1/users/bob/history", json!({}), 405, "POST"),
        ("GET", "/v1/users/bob/secrets", json!({}), 404, "no route"),
    ] {
        let answer = house.call(method, path, &body)?;
        assert_eq!(answer.status, status, "{method} {path}: {answer:?}");
        answer.problem()?;
        let detail = answer.json()?["detail"].to_string();
        assert!(detail.contains(word), "{method} {path}: {detail}");
    }
    let text = house.get("/v1/users/bob/instructions")?.json()?;
    assert_eq!(text["instructions"], "be brief", "what was refused changed nothing");
    Ok(())
}

#[test]
fn a_users_token_reads_its_own_history_and_nothing_else() -> Result {
    let house = House::start(&["--listen", "127.0.0.1:0"])?;
    let made = house.call("POST", "/v1/tokens", &json!({"user": "bob"}))?.json()?;
    let token = made["token"].as_str().ok_or("no token")?;
    let headers = format!("authorization: Bearer {token}\r\n");
    let ask = |method: &str, path: &str| {
        house.tcp(post(path, &headers, "{}").replacen("POST", method, 1))
    };
    assert_eq!(ask("GET", "/v1/users/bob/history")?.status, 200);
    for (method, path) in [
        ("GET", "/v1/users/eve/history"),
        ("GET", "/v1/users"),
        ("POST", "/v1/users"),
        ("GET", "/v1/users/bob"),
        ("DELETE", "/v1/users/bob"),
        ("PATCH", "/v1/users/bob"),
        ("GET", "/v1/users/bob/instructions"),
        ("PUT", "/v1/users/bob/instructions"),
        ("GET", "/v1/users/bob/mounts"),
        ("POST", "/v1/users/bob/mounts"),
        ("DELETE", "/v1/users/bob/mounts/x"),
        ("GET", "/v1/news"),
        ("POST", "/v1/news/seen"),
    ] {
        assert_eq!(ask(method, path)?.status, 403, "{method} {path}");
    }
    Ok(())
}

#[test]
fn changed_instructions_reach_the_next_run_of_the_same_conversation() -> Result {
    let house = House::start(&[])?;
    let at = "/v1/users/bob/instructions";
    exits(&noclaw(&house, &["user", "add", "bob"])?, 0);
    let system = || house.send(&["-u", "bob", "!system"]);
    assert!(!system()?.contains("the password is swordfish"));
    let text = json!({"instructions": "the password is swordfish"});
    assert_eq!(house.call("PUT", at, &text)?.status, 200);
    assert!(system()?.contains("the password is swordfish"));
    house.call("PUT", at, &json!({"instructions": "the password is halibut"}))?;
    let shown = system()?;
    assert!(shown.contains("halibut") && !shown.contains("swordfish"), "{shown}");
    Ok(())
}

#[test]
fn the_command_line_makes_lists_and_changes_users() -> Result {
    let house = House::start(&[])?;
    let file = house.path("bob.md");
    fs::write(&file, "bob likes tea")?;
    let file = file.display().to_string();
    let add = ["user", "add", "bob", "--zone", "Asia/Tokyo", "--instructions", &file];
    let said = exits(&noclaw(&house, &add)?, 0);
    assert!(said.contains(&house.workspace("bob").display().to_string()), "{said}");
    let said = exits(&noclaw(&house, &add)?, 65);
    assert!(said.contains("hint: noclaw user edit bob"), "{said}");
    let said = exits(&noclaw(&house, &["user", "list"])?, 0);
    let row = said.lines().find(|line| line.starts_with("bob")).ok_or("no bob")?;
    for word in ["Asia/Tokyo", " 0 ", &house.workspace("bob").display().to_string()] {
        assert!(row.contains(word), "{row}");
    }
    let listed = noclaw(&house, &["user", "list", "--json"])?.stdout;
    let listed: Value = serde_json::from_slice(&listed)?;
    assert_eq!(listed["users"].as_array().map(Vec::len), Some(2));

    let mut edit = house.noclaw(&["user", "edit", "bob", "--zone", "", "--instructions", "-"]);
    let mut edit = edit.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    edit.stdin.take().ok_or("no stdin")?.write_all(b"bob likes coffee")?;
    exits(&edit.wait_with_output()?, 0);
    let bob = house.get("/v1/users/bob")?.json()?;
    assert_eq!(bob["time_zone"], Value::Null);
    let text = house.get("/v1/users/bob/instructions")?.json()?;
    assert_eq!(text["instructions"], "bob likes coffee");
    let said = exits(&noclaw(&house, &["user", "edit", "bob", "--zone", "Moon/Sea"])?, 65);
    assert!(said.contains("time_zone") && said.contains("hint:"), "{said}");
    let said = exits(&noclaw(&house, &["user", "edit", "eve", "--zone", "UTC"])?, 65);
    assert!(said.contains("no user eve") && said.contains("hint: noclaw user list"), "{said}");
    exits(&noclaw(&house, &["user", "add", "../x"])?, 64);
    Ok(())
}

#[test]
fn an_editor_that_fails_or_is_refused_loses_no_text() -> Result {
    let house = House::start(&[])?;
    exits(&noclaw(&house, &["user", "add", "bob"])?, 0);
    fs::create_dir(house.path("tmp"))?;
    let edit = |script: &str| -> Result<(Output, Vec<PathBuf>)> {
        let editor = program(&house, "editor", script)?;
        let mut edit = house.noclaw(&["user", "edit", "bob"]);
        edit.env("VISUAL", editor).env("EDITOR", "false").env("TMPDIR", house.path("tmp"));
        let output = edit.output()?;
        let left = fs::read_dir(house.path("tmp"))?;
        let left = left.map(|file| file.map(|file| file.path()));
        Ok((output, left.collect::<std::io::Result<_>>()?))
    };
    let present = || -> Result<Value> {
        Ok(house.get("/v1/users/bob/instructions")?.json()?["instructions"].clone())
    };
    let (output, left) = edit(r#"[ "$(stat -c %a "$1")" = 600 ] && echo tea >"$1""#)?;
    exits(&output, 0);
    assert_eq!((present()?, left.len()), (json!("tea\n"), 0));
    let (output, left) = edit(r#"[ "$(cat "$1")" = tea ]"#)?;
    assert!(exits(&output, 0).contains("nothing was changed"));
    assert_eq!(left.len(), 0);

    for (script, status, word) in [
        (r#"echo coffee >"$1"; exit 3"#, 70, "the editor ended"),
        (r#"head -c 70000 /dev/zero | tr '\0' x >"$1""#, 65, "65536"),
        (r#"printf 'caf\351' >"$1""#, 65, "utf-8"),
    ] {
        let (output, left) = edit(script)?;
        let said = exits(&output, status);
        assert!(said.contains(word), "{said}");
        let [kept] = left.as_slice() else { return Err(format!("{left:?}").into()) };
        assert!(said.contains(&format!("kept in {}", kept.display())), "{said}");
        assert_eq!(fs::metadata(kept)?.permissions().mode() & 0o777, 0o600);
        assert_eq!(present()?, "tea\n");
        fs::remove_file(kept)?;
    }
    let (output, left) = edit("exit 3")?;
    exits(&output, 70);
    assert_eq!(left.len(), 0, "there was nothing to keep");
    let mut edit = house.noclaw(&["user", "edit", "bob"]);
    exits(&edit.env_remove("VISUAL").env_remove("EDITOR").output()?, 64);
    Ok(())
}
