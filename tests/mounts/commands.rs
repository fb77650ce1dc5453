//! `noclaw mount` without a service, `noclaw user mount` with one.

use std::fs;

use serde_json::{Value, json};

use crate::home::Home;
use crate::support::{Result, exits};

#[test]
fn the_command_line_says_step_by_step_what_would_be_granted() -> Result {
    // No service runs.
    let home = Home::new("demo")?;
    let check = |args: &[&str], status| -> Result<String> {
        Ok(exits(&home.noclaw(&[&["mount", "check"], args].concat())?.output()?, status))
    };
    let said = check(&[&home.path("rw/inner"), "--rw"], 0)?;
    for words in ["ok      path ", "ok      places ", "ok      names ", "ok      root ", "granted "]
    {
        assert!(said.contains(words), "{words} is missing: {said}");
    }
    assert!(!said.contains("note "), "{said}");
    let said = check(&[&home.path("keys")], 0)?;
    assert!(said.contains("note    inside  it holds what is blocked elsewhere: .ssh"), "{said}");
    let said = check(&[&home.path("ro"), "--rw"], 77)?;
    assert!(said.contains("REFUSED access") && said.contains("hint: ask without --rw"), "{said}");
    let said = check(&[&home.path("link")], 77)?;
    assert!(said.contains("REFUSED path") && said.contains("name the folder itself"), "{said}");
    let said = check(&[&home.path("keys/.ssh")], 77)?;
    assert!(said.contains("REFUSED names") && said.contains("SSH keys"), "{said}");
    let said = check(&["/var"], 77)?;
    assert!(said.contains("REFUSED root") && said.contains("allowedRoots"), "{said}");
    let here = home.noclaw(&["mount", "check", "inner"])?.current_dir(home.path("rw")).output()?;
    exits(&here, 0);
    exits(&home.noclaw(&["mount", "check", "../x"])?.current_dir(home.path("rw")).output()?, 65);

    let json = |args: &[&str]| -> Result<Value> {
        Ok(serde_json::from_slice(&home.noclaw(args)?.output()?.stdout)?)
    };
    let checked = json(&["mount", "check", "--json", &home.path("ro"), "--rw"])?;
    assert_eq!(
        (&checked["granted"], &checked["refused"]["step"]),
        (&json!(false), &json!("access"))
    );
    assert_eq!(checked["passed"].as_array().map(Vec::len), Some(5), "{checked}");
    let listed = json(&["mount", "list", "--json"])?;
    assert_eq!(listed["roots"][1]["read_write"], true, "{listed}");
    for list in ["blocked", "refused"] {
        assert!(listed[list].as_array().is_some_and(|list| list.len() > 10), "{listed}");
    }
    home.allow(&json!([{"path": home.folders.join("gone")}]))?;
    let said = exits(&home.noclaw(&["mount", "list"])?.output()?, 0);
    for words in ["gone: not now, there is no ", ".ssh ", "NoClaw's state", "Podman's storage"] {
        assert!(said.contains(words), "{words} is missing: {said}");
    }
    fs::remove_file(home.list())?;
    let said = exits(&home.noclaw(&["mount", "list"])?.output()?, 0);
    assert!(said.contains("  none") && said.contains("hint: there is no allowlist"), "{said}");
    Ok(())
}

#[test]
fn the_command_line_grants_lists_and_takes_back_and_a_removed_user_leaves_nothing() -> Result {
    let home = Home::new("demo")?.open()?;
    let noclaw = |args: &[&str], status| -> Result<String> {
        Ok(exits(&home.house.noclaw(args).output()?, status))
    };
    noclaw(&["user", "add", "ann"], 0)?;
    let add = ["user", "mount", "add", "ann"];
    let grant = |args: &[&str], status| noclaw(&[add.as_slice(), args].concat(), status);
    fs::write(home.folders.join("rw/inner/id_rsa"), "x")?;
    let said = grant(&[&home.path("rw"), "--rw"], 0)?;
    assert!(said.contains(": /mounts/rw\n"), "{said}");
    assert!(said.contains("noclaw: it holds what is blocked elsewhere: inner/id_rsa"), "{said}");
    fs::create_dir_all(home.folders.join("x/rw"))?;
    assert!(grant(&[&home.path("x/rw")], 0)?.contains("/mounts/rw-2"), "a name of its own");
    let said = grant(&[&home.path("ro"), "--rw"], 77)?;
    assert!(said.contains("hint: ask without --rw"), "{said}");
    assert!(grant(&[&home.path("rw")], 65)?.contains("already, read and write"));
    let listed = noclaw(&["user", "mount", "list", "ann"], 0)?;
    assert!(listed.contains("/mounts/rw ") && listed.contains("read only"), "{listed}");
    fs::remove_dir(home.folders.join("x/rw"))?;
    let listed = noclaw(&["user", "mount", "list", "ann"], 0)?;
    assert!(listed.contains("a run would be without it: there is no "), "{listed}");
    noclaw(&["user", "mount", "remove", "ann", &home.path("x/rw")], 0)?;
    let listed = noclaw(&["user", "mount", "list", "ann", "--json"], 0)?;
    assert!(listed.contains("/mounts/rw\"") && !listed.contains("rw-2"), "{listed}");
    let said = noclaw(&["user", "mount", "remove", "ann", "rw-2"], 65)?;
    assert!(said.contains("ann has no folder rw-2"), "{said}");

    noclaw(&["user", "remove", "ann", "--yes"], 0)?;
    noclaw(&["user", "add", "ann"], 0)?;
    assert_eq!(home.mounts("ann")?, Vec::<Value>::new());
    assert_eq!(home.shell("ann", "ls /mounts 2>/dev/null; echo end")?, "end");
    Ok(())
}
