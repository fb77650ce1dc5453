//! What is refused: folders, and allowlists.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::process::Command;

use serde_json::{Value, json};

use crate::home::Home;
use crate::support::{Result, exits, told};

#[test]
fn what_the_policy_refuses_is_not_stored_and_the_reason_is_told() -> Result {
    let mut home = Home::new("demo")?;
    let key = home.folders.join("x/its-key");
    fs::write(&key, "sk-x\n")?;
    home.house.args(&["--api-key-file", &key.display().to_string()]);
    // Where an installed one has its state, which this one has elsewhere.
    let installed = home.path("other");
    home.house.env("XDG_STATE_HOME", &installed);
    let home = home.open()?;
    exits(&home.house.noclaw(&["user", "add", "ann"]).output()?, 0);
    let state = home.house.path("state").canonicalize()?.display().to_string();
    let house = home.house.path("").canonicalize()?.display().to_string();
    home.allow(&json!([{"path": "/"}, {"path": "~"}, {"path": home.folders}, {"path": state}]))?;
    for (path, read_write, word) in [
        ("/".to_owned(), false, "it is /, the whole machine"),
        ("~".to_owned(), false, "your whole home"),
        ("/proc".to_owned(), false, "it is /proc"),
        ("/etc/ssl".to_owned(), false, "it lies in /etc"),
        (state.clone(), false, "NoClaw's state"),
        (format!("{state}/users"), false, "it lies in"),
        (house, false, "it contains"),
        (home.path("x"), false, "the model's key"),
        (home.path("other"), false, "NoClaw's state"),
        (home.path("keys/.ssh"), false, ".ssh is blocked"),
        (home.path("link"), false, "is a link to ro"),
        (home.path("missing"), false, "there is no "),
        (home.path("ro/file"), false, "is not a folder"),
        (home.path("ro"), true, "allows reading only"),
    ] {
        let body = json!({"path": path, "read_write": read_write});
        let answer = home.house.call("POST", "/v1/users/ann/mounts", &body)?;
        assert_eq!((answer.status, answer.problem()?.as_str()), (409, "mount-refused"), "{path}");
        let problem = answer.json()?;
        assert!(problem["detail"].to_string().contains(word), "{path}: {problem}, not {word}");
        assert!(problem["hint"].as_str().is_some_and(|hint| !hint.is_empty()), "{problem}");
    }
    for (body, status, word) in [
        (json!({"path": "relative"}), 422, "path: "),
        (json!({"path": "/x/../y"}), 422, "`..`"),
        (json!({"path": "/x\u{1}"}), 422, "control"),
        (json!({"path": "/x", "mode": "rw"}), 422, "mode"),
        (json!({}), 422, "path"),
    ] {
        let answer = home.house.call("POST", "/v1/users/ann/mounts", &body)?;
        assert_eq!(answer.status, status, "{body}: {answer:?}");
        assert!(answer.json()?["detail"].to_string().contains(word), "{answer:?}");
    }
    for (method, path, status) in [
        ("POST", "/v1/users/eve/mounts", 404),
        ("GET", "/v1/users/eve/mounts", 404),
        ("DELETE", "/v1/users/ann/mounts/ro", 404),
        ("DELETE", "/v1/users/ann/mounts/..", 404),
        ("PUT", "/v1/users/ann/mounts", 405),
        ("GET", "/v1/users/ann/mounts/ro", 405),
    ] {
        let answer = home.house.call(method, path, &json!({"path": home.path("ro")}))?;
        assert_eq!(answer.status, status, "{method} {path}: {answer:?}");
    }
    assert_eq!(home.mounts("ann")?, Vec::<Value>::new(), "nothing was stored");
    let twin = home.grant("ann", "ro", false)?;
    assert_eq!(twin.header("location"), Some("/v1/users/ann/mounts/ro"), "{twin:?}");
    let again = home.grant("ann", "ro", false)?;
    assert_eq!((again.status, again.problem()?.as_str()), (409, "conflict"), "{again:?}");
    assert_eq!(home.house.call("DELETE", "/v1/users/ann/mounts/ro", &json!({}))?.status, 200);
    assert_eq!(home.mounts("ann")?, Vec::<Value>::new());
    Ok(())
}

#[test]
fn an_allowlist_that_is_not_the_owners_alone_grants_nothing() -> Result {
    let home = Home::new("demo")?.open()?;
    exits(&home.house.noclaw(&["user", "add", "ann"]).output()?, 0);
    home.granted("ann", "ro", false)?;
    let (list, aside) = (home.list(), home.house.path("config/aside"));
    let others = || {
        // To another user of this machine: one of those that only our containers have.
        let mut chown = Command::new("podman");
        let output = chown.args(["unshare", "chown", "7:7"]).arg(home.list()).output()?;
        if output.status.success() { Ok(()) } else { Err(told(&output).into()) }
    };
    let mode = |mode| Ok(fs::set_permissions(home.list(), Permissions::from_mode(mode))?);
    let link = || Ok(fs::rename(home.list(), &aside).and_then(|()| symlink("aside", home.list()))?);
    let garbled = || Ok(fs::write(home.list(), "{\"allowedRoots\":[],\n\"more\":1}")?);
    let spoils: [(&dyn Fn() -> Result, &str); 6] = [
        (&link, "it is a link"),
        (&|| mode(0o660), "it has the mode 0660"),
        (&|| mode(0o604), "it has the mode 0604"),
        (&others, "it belongs to the user"),
        (&|| mode(0o644).and_then(|()| others()), "it belongs to the user"),
        (&garbled, "unknown field `more`"),
    ];
    for (spoil, words) in spoils {
        spoil()?;
        assert_eq!(home.shell("ann", "ls /mounts 2>/dev/null; echo end")?, "end", "{words}");
        let mounts = home.mounts("ann")?;
        let why = mounts[0]["refused"].as_str().unwrap_or_default();
        assert!(why.contains(words), "{why}, not {words}");
        let more = home.grant("ann", "other", false)?;
        assert_eq!((more.status, more.problem()?.as_str()), (409, "mount-refused"), "{more:?}");
        let said = exits(&home.noclaw(&["mount", "list"])?.output()?, 78);
        assert!(said.contains(words) && said.contains("hint: "), "{said}");
        fs::remove_file(&list)?;
        fs::remove_file(&aside).ok();
        home.allow(&json!([{"path": home.folders}]))?;
        let twin = home.shell("ann", "ls /mounts 2>/dev/null; echo end")?;
        assert_eq!(twin, "ro\nend", "after {words}");
    }
    Ok(())
}

#[test]
fn an_exchanged_configuration_is_out_of_reach_until_a_restart_and_that_is_said() -> Result {
    let mut home = Home::new("demo")?.open()?;
    exits(&home.house.noclaw(&["user", "add", "ann"]).output()?, 0);
    home.granted("ann", "ro", false)?;
    let (config, aside) = (home.house.path("config"), home.house.path("aside"));
    let copied = Command::new("cp").arg("-a").args([&config, &aside]).status()?;
    assert!(copied.success());
    let status =
        |home: &Home| -> Result<String> { Ok(exits(&home.house.noclaw(&["status"]).output()?, 0)) };
    assert!(!status(&home)?.contains("folders"), "{}", status(&home)?);
    fs::rename(&config, home.house.path("old"))?;
    fs::rename(&aside, &config)?;
    for said in [home.mounts("ann")?[0]["refused"].to_string(), status(&home)?] {
        assert!(said.contains("exchanged after the service had started"), "{said}");
    }
    assert!(status(&home)?.contains("restart the service"), "{}", status(&home)?);
    assert_eq!(home.shell("ann", "ls /mounts 2>/dev/null; echo end")?, "end");
    home.house.close()?;
    home.house.open()?;
    assert_eq!(home.shell("ann", "ls /mounts 2>/dev/null; echo end")?, "ro\nend");
    Ok(())
}

/// What `mount check` says once a shell has mounted something, in a mount namespace of its own.
fn after(home: &Home, mounts: &str, state: &str, folder: &str, status: i32) -> Result<String> {
    let script = format!("{mounts} && exec \"$@\"");
    let mut command = Command::new("unshare");
    command.args(["--map-root-user", "--mount", "--pid", "--fork", "sh", "-euc", &script, "sh"]);
    command.args([crate::support::NOCLAW, "mount", "check", folder, "--state", state]);
    let asked = home.noclaw(&[])?;
    command.envs(asked.get_envs().filter_map(|(name, value)| Some((name, value?))));
    Ok(exits(&command.output()?, status))
}

/// A folder by another path.
#[test]
fn another_mount_of_a_place_is_the_place() -> Result {
    let home = Home::new("demo")?;
    let check = |mount: &str, state: &str, folder: &str, status| {
        after(&home, &format!("mount --bind {mount}"), state, folder, status)
    };
    for folder in ["disk/around/state/users", "x/there", "keys/.ssh/inner"] {
        fs::create_dir_all(home.folders.join(folder))?;
    }
    let (disk, there) = (home.path("disk"), home.path("x/there"));
    let (around, state) = (home.path("disk/around"), home.path("disk/around/state"));
    let own = "NoClaw's state";
    for (mount, state, folder, words) in [
        // The state by another path, what contains it, and what lies in it.
        (format!("{state} {there}"), &state, there.clone(), ["it is ", own]),
        (format!("{around} {there}"), &state, there.clone(), ["it contains ", own]),
        (format!("{state} {there}"), &state, format!("{there}/users"), ["it lies in ", own]),
        // A part of it, of the machine's, and of what has a blocked name.
        (format!("{state}/users {there}"), &state, there.clone(), ["it lies in ", own]),
        (format!("/etc/ssl {there}"), &state, there.clone(), ["it lies in /etc", ""]),
        (
            format!("{} {there}", home.path("keys/.ssh/inner")),
            &state,
            there.clone(),
            [".ssh is blocked", "SSH"],
        ),
        // The service has its state by the other path; its disk shows it here.
        (format!("{state} {there}"), &there, state.clone(), ["it is ", own]),
        (format!("{state} {there}"), &there, around.clone(), ["it contains ", own]),
        (format!("{state} {there}"), &there, disk, ["it contains ", own]),
    ] {
        let said = check(&mount, state, &folder, 77)?;
        assert!(words.iter().all(|word| said.contains(word)), "{folder}: {said}");
    }
    // What lies below it hides nothing.
    fs::create_dir_all(home.folders.join("x/there/bob"))?;
    fs::create_dir_all(home.folders.join("disk/around/state/users/bob"))?;
    let hidden = format!("mount -t tmpfs x {there}/bob && mount --bind {state}/users {there}");
    let said = after(&home, &hidden, &state, &format!("{there}/bob"), 77)?;
    assert!(said.contains("it lies in ") && said.contains(own), "{said}");
    let twin = check(&format!("{} {there}", home.path("ro")), &state, &there, 0)?;
    assert!(twin.contains("granted "), "{twin}");
    Ok(())
}

#[test]
fn what_the_kernel_shows_of_itself_is_not_granted_wherever_it_is_mounted() -> Result {
    let home = Home::new("demo")?;
    let (there, state) = (home.path("x"), home.path("state"));
    for (kind, folder) in [("proc", there.clone()), ("proc", format!("{there}/1"))] {
        let said = after(&home, &format!("mount -t {kind} {kind} {there}"), &state, &folder, 77)?;
        let words = format!("REFUSED kind    it is of a file system of type {kind}");
        assert!(said.contains(&words), "{said}");
    }
    let twin = after(&home, &format!("mount -t tmpfs x {there}"), &state, &there, 0)?;
    assert!(twin.contains("ok      kind    of a file system of type tmpfs"), "{twin}");
    Ok(())
}

#[test]
fn a_folder_with_a_socket_in_it_is_not_granted_and_a_run_is_without_it() -> Result {
    let home = Home::new("demo")?.open()?;
    exits(&home.house.noclaw(&["user", "add", "ann"]).output()?, 0);
    home.granted("ann", "ro", false)?;
    let look = || home.shell("ann", "ls /mounts 2>/dev/null; echo end");
    assert_eq!(look()?, "ro\nend");
    fs::create_dir(home.folders.join("ro/deep"))?;
    let socket = home.folders.join("ro/deep/a program.sock");
    let listener = UnixListener::bind(&socket)?;
    assert_eq!(look()?, "end", "a cell of ann's could connect");
    let mounts = home.mounts("ann")?;
    let why = mounts[0]["refused"].as_str().unwrap_or_default();
    assert!(why.contains("a program.sock, a socket that a program has"), "{why}");
    for folder in ["ro", "ro/deep"] {
        let answer = home.grant("ann", folder, false)?;
        assert_eq!((answer.status, answer.problem()?.as_str()), (409, "mount-refused"), "{folder}");
        let said = exits(&home.noclaw(&["mount", "check", &home.path(folder)])?.output()?, 77);
        assert!(said.contains("REFUSED places") && said.contains("a program.sock"), "{said}");
    }
    let renamed = home.folders.join("ro/deep/renamed.sock");
    fs::rename(&socket, &renamed)?;
    assert_eq!(look()?, "end", "it has another name, and is there");
    fs::rename(&renamed, &socket)?;
    // Nobody has it, or somebody whom this network does not list: only looking finds it.
    drop(listener);
    let add = ["user", "mount", "add", "ann", &home.path("ro/deep")];
    let commands = [home.noclaw(&["mount", "check", &home.path("ro")])?, home.house.noclaw(&add)];
    for mut command in commands {
        let said = exits(&command.output()?, 77);
        assert!(said.contains("it holds the socket ") && said.contains("hint: "), "{said}");
    }
    fs::remove_file(&socket)?;
    assert_eq!(look()?, "ro\nend");
    exits(&home.house.noclaw(&add).output()?, 0);
    Ok(())
}
