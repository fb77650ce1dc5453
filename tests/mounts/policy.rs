//! What is refused: folders, and allowlists.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Command;

use serde_json::{Value, json};

use crate::home::Home;
use crate::support::{Result, exits, told};

#[test]
fn what_the_policy_refuses_is_not_stored_and_the_reason_is_told() -> Result {
    let home = Home::new("demo")?.open()?;
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

/// A folder by another path: in a mount namespace of the test's own, where it may mount.
#[test]
fn another_mount_of_a_place_is_the_place() -> Result {
    let home = Home::new("demo")?;
    let check = |mount: &str, state: &str, folder: &str, status| -> Result<String> {
        let script = format!("mount --bind {mount} && exec \"$@\"");
        let mut command = Command::new("unshare");
        command.args(["--map-root-user", "--mount", "sh", "-euc", &script, "sh"]);
        command.args([crate::support::NOCLAW, "mount", "check", folder, "--state", state]);
        let asked = home.noclaw(&[])?;
        command.envs(asked.get_envs().filter_map(|(name, value)| Some((name, value?))));
        Ok(exits(&command.output()?, status))
    };
    for folder in ["disk/around/state/users", "x/there"] {
        fs::create_dir_all(home.folders.join(folder))?;
    }
    let (disk, there) = (home.path("disk"), home.path("x/there"));
    let (around, state) = (home.path("disk/around"), home.path("disk/around/state"));
    for (mount, state, folder, words) in [
        // The state by another path, what contains it, and what lies in it.
        (format!("{state} {there}"), &state, there.clone(), "it is "),
        (format!("{around} {there}"), &state, there.clone(), "it contains "),
        (format!("{state} {there}"), &state, format!("{there}/users"), "it lies in "),
        // The service has its state by the other path; its disk shows it here.
        (format!("{state} {there}"), &there, state.clone(), "it is "),
        (format!("{state} {there}"), &there, around.clone(), "it contains "),
        (format!("{state} {there}"), &there, disk, "it contains "),
    ] {
        let said = check(&mount, state, &folder, 77)?;
        assert!(said.contains(words) && said.contains("NoClaw's state"), "{folder}: {said}");
    }
    let twin = check(&format!("{} {there}", home.path("ro")), &state, &there, 0)?;
    assert!(twin.contains("granted "), "{twin}");
    Ok(())
}
