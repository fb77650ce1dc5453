//! People: made, changed and removed, by HTTP and by the command line; a removal survives `kill -9`
//! at any moment, and nobody inherits anything.

#![expect(clippy::indexing_slicing, reason = "a JSON value has null at what is not there")]

mod support;

use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use sea_orm::{ConnectOptions, ConnectionTrait, Database, DatabaseConnection};
use serde_json::{Value, json};
use support::{Answer, House, Result, post, told, until};

fn call(house: &House, method: &str, path: &str, body: &Value) -> Result<Answer> {
    let request = post(path, "", &body.to_string());
    house.request(request.replacen("POST", method, 1))
}

fn noclaw(house: &House, args: &[&str]) -> Result<Output> {
    Ok(house.noclaw(args).output()?)
}

/// The command must exit so; returns what it wrote to both of its streams.
fn exits(output: &Output, status: i32) -> String {
    assert_eq!(output.status.code(), Some(status), "{}", told(output));
    told(output)
}

fn workspace(house: &House, user: &str) -> PathBuf {
    house.path(&format!("state/users/{user}/workspace"))
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
    let made = call(&house, "POST", "/v1/users", &bob)?;
    assert_eq!(made.status, 201, "{made:?}");
    assert_eq!(made.json()?["time_zone"], "Europe/Berlin", "as the database writes it");
    assert!(workspace(&house, "bob").is_dir());
    let users = house.get("/v1/users")?.json()?;
    let names: Vec<_> = users["users"].as_array().ok_or("no users")?.iter().collect();
    assert_eq!(names.len(), 2, "the owner's own user always exists: {users}");
    let changed = call(&house, "PATCH", "/v1/users/bob", &json!({"time_zone": null}))?;
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
        let answer = call(&house, method, path, &body)?;
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
    let made = call(&house, "POST", "/v1/tokens", &json!({"user": "bob"}))?.json()?;
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
    assert_eq!(call(&house, "PUT", at, &text)?.status, 200);
    assert!(system()?.contains("the password is swordfish"));
    call(&house, "PUT", at, &json!({"instructions": "the password is halibut"}))?;
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
    assert!(said.contains(&workspace(&house, "bob").display().to_string()), "{said}");
    let said = exits(&noclaw(&house, &add)?, 65);
    assert!(said.contains("hint: noclaw user edit bob"), "{said}");
    let said = exits(&noclaw(&house, &["user", "list"])?, 0);
    let row = said.lines().find(|line| line.starts_with("bob")).ok_or("no bob")?;
    for word in ["Asia/Tokyo", " 0 ", &workspace(&house, "bob").display().to_string()] {
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

#[test]
fn a_removal_asks_says_what_goes_and_takes_everything() -> Result {
    let house = House::start(&[])?;
    house.send(&["-u", "bob", r#"!tool Bash {"command":"printf 12345 >five; chmod 0 ."}"#])?;
    house.send(&["-u", "bob.b", r#"!tool Bash {"command":"echo mine >note"}"#])?;
    call(&house, "POST", "/v1/tokens", &json!({"user": "bob"}))?;
    fs::set_permissions(workspace(&house, "bob"), Permissions::from_mode(0o700))?;
    symlink(workspace(&house, "bob.b"), workspace(&house, "bob").join("way-out"))?;
    until("its run is over", || {
        let runs = house.get("/v1/runs?user=bob").ok()?.json().ok()?;
        runs["runs"][0]["gone_at"].is_string().then_some(())
    })?;

    let said = exits(&noclaw(&house, &["user", "remove", "bob"])?, 64);
    for word in
        ["1 messages", "1 runs", "1 conversations", "1 tokens", "2 files of 5 bytes", "--yes"]
    {
        assert!(said.contains(word), "{word}: {said}");
    }
    // At a terminal it asks.
    let exe = support::NOCLAW;
    let at_terminal = |answer: &str| -> Result<Output> {
        let mut script = Command::new("script");
        script.args(["-qec", &format!("{exe} user remove bob"), "/dev/null"]);
        script.env("NOCLAW_SOCKET", house.socket()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = script.spawn()?;
        child.stdin.take().ok_or("no stdin")?.write_all(answer.as_bytes())?;
        Ok(child.wait_with_output()?)
    };
    let said = exits(&at_terminal("n\n")?, 130);
    assert!(said.contains("[y/N]") && said.contains("bob was not removed"), "{said}");
    assert_eq!(house.get("/v1/users/bob")?.status, 200);
    let said = exits(&at_terminal("y\n")?, 0);
    assert!(said.contains("removed bob: 1 messages"), "{said}");

    assert_eq!(house.get("/v1/users/bob")?.status, 404);
    assert!(!house.path("state/users/bob").exists());
    assert_eq!(fs::read_dir(house.path("state/removed"))?.count(), 0);
    assert_eq!(house.get("/v1/tokens")?.json()?["tokens"], json!([]));
    let note = fs::read_to_string(workspace(&house, "bob.b").join("note"))?;
    assert_eq!(note, "mine\n", "a link out of the workspace was not followed");
    // A later user of the name finds nothing.
    assert_eq!(house.send(&["-u", "bob", "!history"])?, "!history");
    let own = house.get("/v1/users")?.json()?;
    let own = own["users"].as_array().ok_or("no users")?.iter().find(|user| user["owner"] == true);
    let own = own.and_then(|user| user["name"].as_str()).ok_or("no owner")?;
    let said = exits(&noclaw(&house, &["user", "remove", own, "--yes"])?, 65);
    assert!(said.contains("always exists"), "{said}");
    exits(&noclaw(&house, &["user", "remove", "eve", "--yes"])?, 65);
    Ok(())
}

#[test]
fn a_user_with_a_run_that_is_not_over_is_not_removed() -> Result {
    let house = House::start(&[])?;
    let body = json!({"user": "bob", "message": "!sleep 3"});
    let run = call(&house, "POST", "/webhook?wait=0", &body)?.json()?;
    let refused = call(&house, "DELETE", "/v1/users/bob", &json!({}))?;
    assert_eq!((refused.status, refused.problem()?.as_str()), (409, "conflict"), "{refused:?}");
    until("the run is over", || house.show(&run).ok().filter(|run| run["gone_at"].is_string()))?;
    assert_eq!(house.show(&run)?["reply"], "You said: !sleep 3");
    let removed = call(&house, "DELETE", "/v1/users/bob", &json!({}))?;
    assert_eq!(removed.status, 200, "{removed:?}");
    assert_eq!(removed.json()?["messages"], 1);
    assert_eq!(house.show(&run)?["status"], 404, "the run went, too");
    Ok(())
}

/// Kills the service at `point` of a removal of bob, who has a note, and starts it again.
fn killed_at(point: &str) -> Result<House> {
    let mut house = House::start(&[])?;
    exits(&noclaw(&house, &["user", "add", "bob", "--zone", "Asia/Tokyo"])?, 0);
    fs::write(workspace(&house, "bob").join("note"), "bob's")?;
    house.close()?;
    let reached = house.path("reached");
    house.env("NOCLAW_TEST_PAUSE", &format!("{point}:{}", reached.display()));
    house.open()?;
    let mut removal = house.noclaw(&["user", "remove", "bob", "--yes"]);
    let mut removal = removal.stderr(Stdio::null()).spawn()?;
    until("the removal is under way", || reached.exists().then_some(()))?;
    assert!(!workspace(&house, "bob").exists());
    house.kill()?;
    assert!(!removal.wait()?.success());
    house.env("NOCLAW_TEST_PAUSE", "");
    house.open()?;
    assert_eq!(fs::read_dir(house.path("state/removed"))?.count(), 0);
    Ok(house)
}

#[test]
fn a_removal_killed_before_its_rows_are_deleted_is_undone() -> Result {
    let house = killed_at("user_moved")?;
    assert_eq!(house.get("/v1/users/bob")?.json()?["time_zone"], "Asia/Tokyo");
    assert_eq!(fs::read_to_string(workspace(&house, "bob").join("note"))?, "bob's");
    let said = exits(&noclaw(&house, &["user", "remove", "bob", "--yes"])?, 0);
    assert!(said.contains("1 files of 5 bytes"), "{said}");
    Ok(())
}

#[test]
fn a_removal_killed_after_its_rows_are_deleted_is_completed() -> Result {
    let house = killed_at("user_rows_removed")?;
    assert_eq!(house.get("/v1/users/bob")?.status, 404);
    let listing = r#"!tool Bash {"command":"ls -A /workspace | wc -l"}"#;
    assert_eq!(house.send(&["-u", "bob", listing])?, "0", "a later bob inherits nothing");
    Ok(())
}

/// Another process that writes to the house's database: until it is dropped, nobody else can.
struct Rival(tokio::runtime::Runtime, DatabaseConnection);

impl Rival {
    fn new(house: &House) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let path = house.path("state/noclaw.db");
        let mut options = ConnectOptions::new(format!("sqlite:{}", path.display()));
        let connection = runtime.block_on(async {
            let connection = Database::connect(options.max_connections(1).to_owned()).await?;
            connection.execute_unprepared("BEGIN IMMEDIATE").await.map(|_| connection)
        })?;
        Ok(Self(runtime, connection))
    }

    fn leave(self) -> Result {
        Ok(self.0.block_on(self.1.close())?)
    }
}

/// Connections to the house's socket, its listener not counted.
fn connections(house: &House) -> Result<usize> {
    let socket = house.socket().display().to_string();
    let all = fs::read_to_string("/proc/net/unix")?;
    Ok(all.lines().filter(|line| line.ends_with(&socket)).count() - 1)
}

#[test]
fn a_removal_goes_on_when_its_caller_has_gone() -> Result {
    let house = House::start(&[])?;
    exits(&noclaw(&house, &["user", "add", "bob"])?, 0);
    until("nobody is connected", || (connections(&house).ok()? == 0).then_some(()))?;
    let rival = Rival::new(&house)?;
    let request = post("/v1/users/bob", "", "{}").replacen("POST", "DELETE", 1);
    let mut stream = UnixStream::connect(house.socket())?;
    stream.write_all(request.as_bytes())?;
    until("it began", || (!house.path("state/users/bob").exists()).then_some(()))?;
    assert_eq!(connections(&house)?, 1);
    drop(stream);
    until("the service saw it", || (connections(&house).ok()? == 0).then_some(()))?;
    assert_eq!(house.get("/v1/users/bob")?.status, 200, "the rows are still there");
    rival.leave()?;
    until("nothing is left", || {
        fs::read_dir(house.path("state/removed")).ok()?.next().is_none().then_some(())
    })?;
    assert_eq!(house.get("/v1/users/bob")?.status, 404);
    Ok(())
}
