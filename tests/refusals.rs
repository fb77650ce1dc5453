//! Wrong input and missing parts: each no has its status, its exit status, a text that names what
//! is wrong, and leaves nothing behind.

#![expect(clippy::disallowed_methods, reason = "a test makes files of its own")]
#![expect(clippy::indexing_slicing, reason = "a JSON value has null at what is not there")]

mod support;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use support::podmans::OtherPodman;
use support::{House, NOCLAW, Result, ground, post, told, until};

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// `send` must exit so, say all of these words on standard error, and nothing on standard output.
fn assert_refused(house: &House, status: i32, words: &[&str]) -> Result {
    let output = house.noclaw(&["send", "hello"]).output()?;
    assert_eq!(output.status.code(), Some(status), "{}", told(&output));
    assert!(output.stdout.is_empty(), "{}", told(&output));
    for word in words {
        assert!(stderr(&output).contains(word), "{word:?} is missing: {}", told(&output));
    }
    let runs = house.get("/v1/runs")?.json()?;
    assert_eq!(runs["runs"], serde_json::json!([]), "a refused message was kept");
    Ok(())
}

#[test]
fn bodies_that_are_wrong_are_named() -> Result {
    let house = House::start(&[])?;
    let long = format!(r#"{{"message":"{}"}}"#, "x".repeat(256 * 1024 + 1));
    let context = format!(r#"{{"message":"x","context":"{}"}}"#, "x".repeat(64 * 1024));
    for (body, status, problem, word) in [
        (r#"{"message":"#, 400, "malformed-json", "EOF"),
        ("hello", 400, "malformed-json", "line 1"),
        (r#"{"message":"x"}{}"#, 400, "malformed-json", "trailing"),
        (r#"["x"]"#, 422, "invalid-field", "MessageBody"),
        (r#"{"text":"x"}"#, 422, "invalid-field", "text"),
        (r#"{"message":"x","colour":"red"}"#, 422, "invalid-field", "colour"),
        (r#"{"message":7}"#, 422, "invalid-field", "message"),
        (r#"{"message":"x","user":["bob"]}"#, 422, "invalid-field", "user"),
        (r#"{"user":"bob"}"#, 422, "invalid-field", "message"),
        (r#"{"message":"  "}"#, 422, "invalid-field", "message: is empty"),
        (r#"{"message":"x","user":"../etc"}"#, 422, "invalid-field", "user"),
        (r#"{"message":"x","conversation":"a b"}"#, 422, "invalid-field", "conversation"),
        (r#"{"message":"x","model":"gpt-4"}"#, 422, "invalid-field", "model"),
        (&long, 422, "invalid-field", "262144"),
        (&context, 422, "invalid-field", "context"),
    ] {
        let answer = house.post("/webhook", body)?;
        let shown = body.get(..80).unwrap_or(body);
        assert_eq!(answer.status, status, "{shown}: {answer:?}");
        assert_eq!(answer.problem()?, problem, "{shown}: {answer:?}");
        let detail = answer.json()?["detail"].to_string();
        assert!(detail.contains(word), "{shown}: {detail}");
        assert_eq!(answer.header("content-type"), Some("application/problem+json"));
    }
    let runs = house.get("/v1/runs")?.json()?;
    assert_eq!(runs["runs"], serde_json::json!([]), "a wrong message was kept");
    Ok(())
}

#[test]
fn requests_that_are_wrong_are_refused_before_they_are_read() -> Result {
    let house = House::start(&[])?;
    let giant = format!(r#"{{"message":"{}"}}"#, "x".repeat(1024 * 1024));
    assert_eq!(house.post("/webhook", &giant)?.status, 413);
    let declared = "POST /webhook HTTP/1.1\r\nhost: n\r\ncontent-type: application/json\r\n\
                    connection: close\r\ncontent-length: 99999999\r\n\r\n";
    assert_eq!(house.request(declared)?.problem()?, "body-too-large");
    let plain =
        post("/webhook", "", r#"{"message":"x"}"#).replace("application/json", "text/plain");
    assert_eq!(house.request(&plain)?.status, 415);
    let none = post("/webhook", "", r#"{"message":"x"}"#).replace("content-type", "x-type");
    assert_eq!(house.request(&none)?.problem()?, "unsupported-media-type");
    let heads = format!("GET /healthz HTTP/1.1\r\nhost: n\r\nx: {}\r\n\r\n", "x".repeat(20_000));
    assert_eq!(house.request(&heads)?.status, 431);
    for (path, status) in [
        ("/v1/runs/01a202bb-b4d1-7017-bb47-9fb1a54004e1", 404),
        ("/v1/runs/nonsense", 404),
        ("/nothing", 404),
        ("/v1/runs?status=sleeping", 400),
        ("/v1/runs?limit=0", 400),
        ("/v1/runs?colour=red", 400),
        ("/webhook", 405),
    ] {
        let answer = house.get(path)?;
        assert_eq!(answer.status, status, "{path}: {answer:?}");
        answer.problem()?;
    }
    assert_eq!(house.post("/webhook?wait=soon", r#"{"message":"x"}"#)?.status, 400);
    assert_eq!(house.post("/v1/runs", "{}")?.status, 405);
    for headers in ["idempotency-key: \r\n", "idempotency-key: a\r\nidempotency-key: b\r\n"] {
        assert_eq!(house.request(post("/webhook", headers, r#"{"message":"x"}"#))?.status, 400);
    }
    Ok(())
}

#[test]
fn a_wrong_method_is_told_the_right_ones() -> Result {
    let house = House::start(&[])?;
    for (path, methods) in [
        ("/webhook", "POST"),
        ("/healthz", "GET"),
        ("/v1/runs", "GET"),
        ("/v1/runs/x", "GET, DELETE"),
        ("/v1/runs/x/retry", "POST"),
        ("/v1/runs/x/events", "GET"),
        ("/v1/tokens", "GET, POST"),
        ("/v1/tokens/1", "DELETE"),
        ("/v1/status", "GET"),
        ("/v1/news/seen", "POST"),
        ("/v1/users", "GET, POST"),
        ("/v1/users/bob", "GET, PATCH, DELETE"),
        ("/v1/users/bob/instructions", "GET, PUT"),
        ("/v1/users/bob/history", "GET"),
    ] {
        let answer = house.request(post(path, "", "{}").replacen("POST", "PROPFIND", 1))?;
        assert_eq!((answer.status, answer.header("allow")), (405, Some(methods)), "{path}");
        assert_eq!(answer.problem()?, "method-not-allowed", "{path}");
    }
    assert_eq!(house.get("/v1/runs/x/y/z")?.status, 404);
    Ok(())
}

#[test]
fn tcp_asks_for_a_token_and_a_user_s_token_is_that_user_s() -> Result {
    let house = House::start(&["--listen", "127.0.0.1:0"])?;
    let message = r#"{"message":"hello"}"#;
    for header in ["", "authorization: Bearer nonsense\r\n", "authorization: Basic eDp5\r\n"] {
        let answer = house.tcp(post("/webhook", header, message))?;
        assert_eq!(answer.status, 401, "{answer:?}");
        assert!(answer.header("www-authenticate").is_some_and(|value| value.starts_with("Bearer")));
    }
    assert_eq!(
        house.tcp("GET /healthz HTTP/1.1\r\nhost: n\r\nconnection: close\r\n\r\n")?.status,
        200
    );

    let made = |args: &[&str]| -> Result<String> {
        let output = house.noclaw(&[&["token", "create"], args].concat()).output()?;
        Ok(format!("authorization: Bearer {}\r\n", String::from_utf8(output.stdout)?.trim()))
    };
    let (owner, bob) = (made(&[])?, made(&["--user", "bob"])?);
    let answer = house.tcp(post("/webhook", &owner, r#"{"message":"hello","user":"ann"}"#))?;
    assert_eq!(answer.json()?["reply"], "You said: hello", "{answer:?}");
    let ann = answer.json()?["run"].as_str().ok_or("no run")?.to_owned();
    let answer = house.tcp(post("/webhook", &bob, message))?;
    assert_eq!(answer.json()?["user"], "bob", "{answer:?}");

    let answer = house.tcp(post("/webhook", &bob, r#"{"message":"hello","user":"ann"}"#))?;
    assert_eq!(answer.problem()?, "forbidden");
    let get = |path: &str| {
        house.tcp(format!("GET {path} HTTP/1.1\r\nhost: n\r\n{bob}connection: close\r\n\r\n"))
    };
    assert_eq!(get(&format!("/v1/runs/{ann}"))?.status, 404, "another user's run does not exist");
    assert_eq!(get("/v1/runs?user=ann")?.status, 403);
    assert_eq!(get("/v1/runs")?.json()?["runs"].as_array().map(Vec::len), Some(1));
    assert_eq!(get("/v1/tokens")?.status, 403);
    assert_eq!(get("/v1/status")?.status, 403);

    let list = house.get("/v1/tokens")?;
    assert!(!list.body.contains("noclaw_"), "a token is told once: {}", list.body);
    house.noclaw(&["token", "remove", "2"]).output()?;
    assert_eq!(get("/v1/runs")?.status, 401, "a removed token is no good");
    let database = std::fs::read(house.path("state/noclaw.db"))?;
    let wal = std::fs::read(house.path("state/noclaw.db-wal")).unwrap_or_default();
    let token = owner.trim_start_matches("authorization: Bearer ").trim();
    let held = |bytes: &[u8]| bytes.windows(token.len()).any(|window| window == token.as_bytes());
    assert!(!held(&database) && !held(&wal), "only a token's hash is kept");
    Ok(())
}

#[test]
fn the_socket_is_its_owner_s_alone() -> Result {
    let house = House::start(&[])?;
    let mode = std::fs::metadata(house.socket())?.permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
    let mode = std::fs::metadata(house.path("state/noclaw.db"))?.permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
    Ok(())
}

#[test]
fn without_podman_nothing_is_accepted() -> Result {
    let mut house = House::closed("/nonexistent/podman.sock", &["--model-api", "demo"])?;
    house.open()?;
    let answer = house.get("/readyz")?;
    assert_eq!((answer.status, answer.problem()?.as_str()), (503, "podman-unavailable"));
    assert_eq!(house.get("/healthz")?.status, 200, "liveness does not ask Podman");
    assert_refused(&house, 69, &["podman.sock", "hint: "])?;
    // The state has no container to look for: the house may end without Podman.
    house.close()
}

#[test]
fn without_an_image_the_hint_says_how_to_build_it() -> Result {
    let podman = OtherPodman::start("overlay")?;
    let mut house = House::closed(&podman.socket(), &["--model-api", "demo"])?;
    house.open()?;
    assert_eq!(house.get("/readyz")?.problem()?, "image-missing");
    assert_refused(&house, 78, &["hint: noclaw image build"])?;
    house.close()
}

#[test]
fn storage_that_copies_the_image_for_every_cell_is_refused() -> Result {
    let podman = OtherPodman::start("vfs")?;
    let mut house = House::closed(&podman.socket(), &["--model-api", "demo"])?;
    house.open()?;
    assert_eq!(house.get("/readyz")?.problem()?, "storage-driver");
    assert_refused(&house, 78, &["vfs", "overlay"])?;
    house.close()?;
    let doctor =
        house.noclaw(&["doctor", "--json"]).env("NOCLAW_PODMAN", podman.socket()).output()?;
    let findings: serde_json::Value = serde_json::from_slice(&doctor.stdout)?;
    let storage = findings.as_array().and_then(|all| all.iter().find(|f| f["check"] == "storage"));
    assert_eq!(storage.map(|found| &found["result"]), Some(&"fail".into()), "{findings}");
    assert_eq!(doctor.status.code(), Some(78));
    Ok(())
}

#[test]
fn without_a_key_and_without_the_demo_both_ways_out_are_named() -> Result {
    let mut house = House::closed(&ground("NOCLAW_PODMAN")?, &[])?;
    house.open()?;
    assert_eq!(house.get("/readyz")?.problem()?, "key-missing");
    assert_refused(&house, 78, &["--api-key-file", "--model-api demo"])?;
    house.close()
}

#[test]
fn limits_that_cannot_be_enforced_are_refused_unless_accepted_by_name() -> Result {
    let mut house = House::closed(&ground("NOCLAW_PODMAN")?, &["--model-api", "demo"])?;
    let accepted = std::env::var("NOCLAW_ACCEPT_WITHOUT").unwrap_or_default();
    if accepted.is_empty() {
        // This machine has every controller: there is nothing to be accepted, and cells are
        // limited.
        house.open()?;
        return house.send(&["hello"]).map(drop);
    }
    let log = std::fs::File::create(house.path("log"))?;
    let mut child = house.serve()?.env_remove("NOCLAW_ACCEPT_WITHOUT").stderr(log).spawn()?;
    let ready = until("the service listens", || house.get("/readyz").ok());
    let refused = assert_refused(&house, 78, &[&format!("--accept-without={accepted}")]);
    child.kill()?;
    child.wait()?;
    assert_eq!(ready?.problem()?, "limits-missing");
    refused
}

#[test]
fn a_second_service_on_the_same_state_says_who_has_it() -> Result {
    let house = House::start(&[])?;
    let output = house.serve()?.output()?;
    assert_eq!(output.status.code(), Some(69), "{}", told(&output));
    let pid = house.pid().ok_or("no pid")?;
    assert!(stderr(&output).contains(&format!("process {pid}")), "{}", told(&output));
    assert_eq!(house.get("/healthz")?.status, 200, "the first one serves on");
    Ok(())
}

#[test]
fn flags_and_files_that_are_wrong_stop_the_service_at_once() -> Result {
    let house = House::closed(&ground("NOCLAW_PODMAN")?, &[])?;
    let key = |name: &str, content: &str, mode: u32| -> Result<String> {
        let path = house.path(name);
        std::fs::write(&path, content)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode))?;
        Ok(path.display().to_string())
    };
    let (empty, open) = (key("empty", "\n", 0o600)?, key("open", "sk-test\n", 0o644)?);
    for (args, status, word) in [
        (&["--model-api", "http://example.org"][..], 64, "use https"),
        (&["--model-api", "nonsense"], 64, "nonsense"),
        (&["--model-api", "demo", "--listen", "0.0.0.0:0"], 69, "loopback"),
        (&["--model-api", "demo", "--model", "gpt-4"], 78, "gpt-4"),
        (&["--model-api", "demo", "--accept-without", "disk"], 64, "memory, pids or cpu"),
        (&["--model-api", "demo", "--budget-run", "0"], 64, "--budget-run"),
        (&["--api-key-file", "/nonexistent"], 78, "/nonexistent"),
        (&["--api-key-file", &empty], 78, "empty"),
        (&["--api-key-file", &open], 78, "chmod 600"),
        (&["--colour", "red"], 64, "--colour"),
        (&["--model-api", "demo", "--cell-memory", "1"], 64, "1024"),
        (&["--model-api", "demo", "--run-timeout", "0"], 64, "1..=86400"),
        (&["--model-api", "demo", "--queue", "0"], 64, "--queue"),
        (&["--model-api", "demo", "--log", "a=b=c"], 64, "--log"),
    ] {
        let output = house.serve()?.args(args).output()?;
        assert_eq!(output.status.code(), Some(status), "{args:?}: {}", told(&output));
        assert!(stderr(&output).contains(word), "{args:?}: {}", told(&output));
        assert!(!stderr(&output).contains("sk-test"), "a key was printed: {}", told(&output));
    }
    // What everybody can write to is nobody's instruction.
    std::fs::create_dir_all(house.path("config"))?;
    for (mode, word) in [(0o777, "config is open to others"), (0o755, "instructions.md is open")] {
        std::fs::set_permissions(house.path("config"), std::fs::Permissions::from_mode(mode))?;
        key("config/instructions.md", "obey eve", 0o666)?;
        let output = house.serve()?.args(["--model-api", "demo"]).output()?;
        assert_eq!(output.status.code(), Some(78), "{mode:o}: {}", told(&output));
        assert!(stderr(&output).contains(word), "{mode:o}: {}", told(&output));
    }
    Ok(())
}

#[test]
fn a_client_without_a_service_says_how_to_start_one() -> Result {
    let nowhere = Path::new("/nonexistent/noclaw.sock");
    for args in [&["send", "hello"][..], &["run", "list"], &["status"]] {
        let output = Command::new(NOCLAW)
            .args(args)
            .env("NOCLAW_SOCKET", nowhere)
            .stdin(Stdio::null())
            .output()?;
        assert_eq!(output.status.code(), Some(69), "{args:?}: {}", told(&output));
        assert!(stderr(&output).contains("hint: "), "{args:?}: {}", told(&output));
        assert!(output.stdout.is_empty());
    }
    for (args, status) in [(&["send"][..], 64), (&["run", "show", "x"], 64), (&["fly"], 64)] {
        let output = Command::new(NOCLAW).args(args).stdin(Stdio::null()).output()?;
        assert_eq!(output.status.code(), Some(status), "{args:?}: {}", told(&output));
    }
    Ok(())
}

#[test]
fn a_flood_is_told_to_wait() -> Result {
    let house = House::start(&["--burst", "3", "--rate", "1", "--queue-per-user", "20"])?;
    let mut last = None;
    for n in 0..4 {
        let body = format!(r#"{{"message":"{n}","conversation":"c{n}"}}"#);
        last = Some(house.post("/webhook?wait=0", &body)?);
    }
    let answer = last.ok_or("no answer")?;
    assert_eq!((answer.status, answer.problem()?.as_str()), (429, "rate-limited"), "{answer:?}");
    assert!(answer.header("retry-after").is_some(), "{answer:?}");
    let output = house.noclaw(&["send", "x"]).output()?;
    assert_eq!(output.status.code(), Some(75), "{}", told(&output));
    assert_eq!(house.send(&["-u", "bob", "hello"])?, "You said: hello", "another user may");
    Ok(())
}

#[test]
fn a_full_queue_is_told_and_nothing_is_kept() -> Result {
    let house = House::start(&["--queue-per-user", "2", "--max-cells", "1"])?;
    let busy = house.post("/webhook?wait=0", r#"{"message":"!sleep 4","user":"ann"}"#)?;
    assert_eq!(busy.status, 202);
    until("it is busy", || {
        let runs = house.get("/v1/runs?status=running").ok()?.json().ok()?;
        runs["runs"][0]["run"].as_str().map(str::to_owned)
    })?;
    let mut statuses = Vec::new();
    for n in 0..4 {
        let answer = house.post("/webhook?wait=0", &format!(r#"{{"message":"{n}"}}"#))?;
        statuses.push(answer.status);
        if answer.status != 202 {
            assert_eq!(answer.problem()?, "queue-full");
            assert!(answer.header("retry-after").is_some(), "{answer:?}");
        }
    }
    assert_eq!(statuses, [202, 202, 429, 429]);
    Ok(())
}

#[test]
fn idle_connections_over_tcp_do_not_keep_the_owner_out() -> Result {
    let house = House::start(&["--listen", "127.0.0.1:0"])?;
    let status = house.get("/v1/status")?.json()?;
    let address = status["listening"][1].as_str().unwrap_or("").trim_start_matches("http://");
    // More than there are places (256), and no more than the kernel lets wait besides (128).
    let mut idle = Vec::new();
    for _ in 0..300 {
        let stream = std::net::TcpStream::connect(address)?;
        stream.set_nonblocking(true)?;
        idle.push(stream);
    }
    // More than once: the first finds the place that its listener holds ready.
    for _ in 0..3 {
        assert_eq!(house.get("/v1/status")?.status, 200);
    }
    // Had the owner needed one of their places, the service would have had to close it first.
    let open = |stream: &std::net::TcpStream| {
        stream.peek(&mut [0]).is_err_and(|e| e.kind() == std::io::ErrorKind::WouldBlock)
    };
    assert!(idle.iter().all(open), "an idle connection was closed before the owner was answered");
    drop(idle);
    Ok(())
}
