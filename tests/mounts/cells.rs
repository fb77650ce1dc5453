//! What cells see of the owner's folders, from one run to the next, and at the worst moment.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use serde_json::json;

use crate::home::Home;
use crate::support::recorder::{Recorder, Say};
use crate::support::{Result, exits, until};

#[test]
fn a_cell_sees_what_is_granted_as_it_is_granted_and_nothing_else() -> Result {
    let home = Home::new("demo")?.open()?;
    for user in ["ann", "bob"] {
        exits(&home.house.noclaw(&["user", "add", user]).output()?, 0);
    }
    let before = home.shell("ann", "ls -d /mounts 2>/dev/null; echo end")?;
    assert_eq!(before, "end", "nothing was granted");
    home.granted("ann", "ro", false)?;
    home.granted("ann", "rw", true)?;
    let said = home.shell(
        "ann",
        "cat /mounts/*/file; ls /mounts; \
         for f in /mounts/ro/file /mounts/ro/new /mounts/new /mounts/rw/../new; do \
         (echo x >$f) 2>/dev/null && echo $f written; done; \
         rm /mounts/ro/file 2>/dev/null && echo removed; chmod 777 /mounts/ro 2>/dev/null && echo m; \
         (echo x >/mounts/rw/file) && (echo y >/mounts/rw/inner/new) && mkdir /mounts/rw/d && \
         mv /mounts/rw/inner/new /mounts/rw/d && echo 'rw written'; \
         cat /mounts/ro/../other/file 2>/dev/null; ls /mounts/..| grep -c folders; echo end",
    )?;
    assert_eq!(said, "of ro\nof rw\nro\nrw\nrw written\n0\nend");
    assert_eq!(fs::read_to_string(home.folders.join("rw/file"))?, "x\n");
    assert_eq!(fs::read_to_string(home.folders.join("rw/d/new"))?, "y\n");
    assert_eq!(fs::read_to_string(home.folders.join("ro/file"))?, "of ro\n");
    assert!(!home.folders.join("ro/new").exists());
    let others = home.shell("bob", "ls -d /mounts 2>/dev/null; echo end")?;
    assert_eq!(others, "end", "what ann is granted bob is not");

    let system = home.house.send(&["-u", "ann", "!system"])?;
    assert!(system.contains("- `/mounts/ro`: read only"), "{system}");
    assert!(system.contains("- `/mounts/rw`: read and write"), "{system}");
    assert!(!home.house.send(&["-u", "bob", "!system"])?.contains("/mounts/"));

    let run = home.house.run(&["-u", "ann", "hello"])?;
    let shown = home.house.show(&run)?;
    for process in ["launcher", "agent"] {
        let mounts = shown["preflight"][process]["mounts"].as_array().ok_or("no mounts")?.clone();
        let mode = |place: &str| {
            let mount = mounts.iter().find(|mount| mount["destination"] == place);
            mount.and_then(|m| m["options"].as_str()).map(|o| o.split(',').next() == Some("ro"))
        };
        assert_eq!(mode("/mounts/ro"), Some(true));
        assert_eq!(mode("/mounts/rw"), Some(false));
    }
    Ok(())
}

#[test]
fn links_in_a_granted_folder_lead_nowhere() -> Result {
    let home = Home::new("demo")?.open()?;
    exits(&home.house.noclaw(&["user", "add", "ann"]).output()?, 0);
    symlink(home.folders.join("other"), home.folders.join("ro/way-out"))?;
    symlink("../other", home.folders.join("ro/sideways"))?;
    home.granted("ann", "ro", false)?;
    let said = home.shell(
        "ann",
        "cat /mounts/ro/file; cat /mounts/ro/way-out/file /mounts/ro/sideways/file 2>/dev/null; echo end",
    )?;
    assert_eq!(said, "of ro\nend");
    Ok(())
}

#[test]
fn a_grant_ends_with_its_root_and_its_folder_and_the_run_goes_on_without() -> Result {
    let home = Home::new("demo")?.open()?;
    exits(&home.house.noclaw(&["user", "add", "ann"]).output()?, 0);
    home.granted("ann", "ro", false)?;
    home.granted("ann", "rw", true)?;
    let look = || home.shell("ann", "ls /mounts 2>/dev/null; echo end");
    let whole = json!([{"path": home.folders, "allowReadWrite": true}]);
    assert_eq!(look()?, "ro\nrw\nend");
    home.allow(&json!([{"path": home.folders.join("ro")}]))?;
    assert_eq!(look()?, "ro\nend", "its root is no longer in the list");
    let system = home.house.send(&["-u", "ann", "!system"])?;
    assert!(system.contains("- `/mounts/rw`: not there now"), "{system}");
    assert!(!system.contains(&home.path("")), "the host's paths are not told: {system}");
    assert!(home.house.logged().contains("a run is without a folder"), "the log says so");
    home.allow(&json!([{"path": home.folders}]))?;
    assert_eq!(look()?, "ro\nend", "its root allows reading only");
    home.allow(&whole)?;
    assert_eq!(look()?, "ro\nrw\nend");

    fs::rename(home.folders.join("rw"), home.folders.join("aside"))?;
    assert_eq!(look()?, "ro\nend", "the folder is gone");
    symlink("aside", home.folders.join("rw"))?;
    assert_eq!(look()?, "ro\nend", "a link has taken its place");
    let [_, rw] = home.mounts("ann")?.try_into().map_err(|_| "not two")?;
    assert!(rw["refused"].as_str().is_some_and(|why| why.contains("is a link to aside")), "{rw}");
    fs::remove_file(home.folders.join("rw"))?;
    fs::rename(home.folders.join("aside"), home.folders.join("rw"))?;
    assert_eq!(look()?, "ro\nrw\nend");
    fs::remove_file(home.list())?;
    assert_eq!(look()?, "end", "there is no list");
    Ok(())
}

/// Between the moment at which a folder is opened and judged, and Podman's mount of its path.
#[test]
fn a_folder_that_is_exchanged_before_it_is_mounted_starts_no_agent() -> Result {
    let recorder = Recorder::start(|_, _| Say::Text("answered".to_owned()))?;
    let mut home = Home::new(&recorder.url)?;
    let pause = home.house.point("pause")?;
    home.house.key("canary")?;
    home.house.env("NOCLAW_TEST_PAUSE", &format!("prepared:{}", pause.display()));
    let home = home.open()?;
    exits(&home.house.noclaw(&["user", "add", "ann"]).output()?, 0);
    home.granted("ann", "ro", false)?;
    home.granted("ann", "rw", true)?;
    let (other, aside) = (home.folders.join("other"), home.folders.join("aside"));
    let link = |at: &Path| symlink(&other, at);
    let folder = |at: &Path| fs::rename(&other, at);
    let another = |at: &Path| fs::create_dir(at);
    // Its inode would be the next folder's, were it not still open.
    let anew = |at: &Path| fs::remove_dir_all(&aside).and_then(|()| fs::create_dir(at));
    let nothing = |at: &Path| fs::rename(&aside, at);
    type Exchange<'a> = &'a dyn Fn(&Path) -> std::io::Result<()>;
    let cases: [(&str, Exchange<'_>, bool); 9] = [
        ("ro", &link, false),
        ("rw", &link, false),
        ("ro", &folder, false),
        ("rw", &folder, false),
        ("ro", &another, false),
        ("rw", &anew, false),
        ("ro", &anew, false),
        ("ro", &nothing, true),
        ("rw", &nothing, true),
    ];
    for (name, exchange, is_twin) in cases {
        let requests = recorder.requests().len();
        let body = json!({"user": "ann", "message": "hello"}).to_string();
        let run = home.house.post("/webhook?wait=0", &body)?.json()?;
        until("the run is prepared", || pause.exists().then_some(()))?;
        let place = home.folders.join(name);
        fs::rename(&place, &aside)?;
        exchange(&place)?;
        fs::remove_file(&pause)?;
        let run = until("the run is over", || {
            let run = home.house.show(&run).ok()?;
            (run["status"] != "queued" && run["status"] != "starting" && run["status"] != "running")
                .then_some(run)
        })?;
        let asked = recorder.requests().len() - requests;
        if is_twin {
            assert_eq!(run["status"], "answered", "{run}");
            assert!(asked > 0);
            continue;
        }
        assert_eq!(run["status"], "failed", "{run}");
        let error = run["error"].as_str().unwrap_or_default();
        let words = format!("what is mounted at /mounts/{name}");
        assert!(error.starts_with("preflight: ") && error.contains(&words), "{error}");
        assert_eq!(asked, 0, "the agent never started");
        // Everything back in its place.
        match place.is_symlink() {
            true => fs::remove_file(&place)?,
            false => fs::remove_dir_all(&place)?,
        }
        fs::create_dir_all(&other)?;
        if !aside.exists() {
            fs::create_dir(&aside)?;
        }
        fs::rename(&aside, &place)?;
    }
    Ok(())
}

/// Where a granted folder stands and a link to another are exchanged as fast as can be, until it is
/// dropped.
struct Swaps {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Swaps {
    fn begin(place: PathBuf, link: PathBuf) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&stop);
        let swap = move || {
            let exchange = RenameFlags::RENAME_EXCHANGE;
            while !until.load(Ordering::Relaxed) {
                renameat2(AT_FDCWD, &place, AT_FDCWD, &link, exchange).ok();
            }
        };
        Self { stop, thread: Some(thread::spawn(swap)) }
    }
}

impl Drop for Swaps {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().map(JoinHandle::join);
    }
}

/// `NOCLAW_RACE_ROUNDS` are how many runs race (30; `make chaos`: 1000).
#[test]
fn a_folder_that_is_swapped_all_the_time_is_that_folder_or_in_no_cell() -> Result {
    let rounds = std::env::var("NOCLAW_RACE_ROUNDS").ok().map_or(Ok(30), |text| text.parse())?;
    // What the cell has is read and written there, too.
    let command = "cat /mounts/*/file; echo written >/mounts/rw/written";
    let recorder = Recorder::start(move |_, request| match request.results().is_empty() {
        true => Say::Tool("Bash", json!({ "command": command })),
        false => Say::Text("answered".to_owned()),
    })?;
    let mut home = Home::new(&recorder.url)?;
    home.house.key("canary")?;
    home.house.env("NOCLAW_BURST", "100000");
    home.house.env("NOCLAW_RATE", "100000");
    for budget in ["NOCLAW_BUDGET_RUN", "NOCLAW_BUDGET_USER", "NOCLAW_BUDGET"] {
        home.house.env(budget, "1000000");
    }
    let home = home.open()?;
    exits(&home.house.noclaw(&["user", "add", "ann"]).output()?, 0);
    let (mut folders, mut swaps) = (Vec::new(), Vec::new());
    for (name, read_write) in [("ro", false), ("rw", true)] {
        home.granted("ann", name, read_write)?;
        let (place, link) = (home.folders.join(name), home.folders.join(format!("aside-{name}")));
        symlink(home.folders.join("other"), &link)?;
        folders.push((format!("/mounts/{name}"), json!(fs::metadata(&place)?.ino())));
        swaps.push((place, link));
    }
    let (mut seen, mut without, mut refused, mut read) = (0, 0, 0, 0);
    let places = swaps.clone();
    let swaps: Vec<_> = swaps.into_iter().map(|(place, link)| Swaps::begin(place, link)).collect();
    for round in 0..rounds {
        let before = recorder.requests().len();
        let run = home.house.run(&["-u", "ann", "--new", "hello"])?;
        let mounts = run["preflight"]["agent"]["mounts"].as_array().ok_or("no mounts")?;
        if run["status"] != "answered" {
            let error = run["error"].as_str().unwrap_or_default();
            let named = error.contains("what is mounted at /mounts/r");
            assert!(named, "round {round}: {error}");
            assert_eq!(recorder.requests().len(), before, "round {round}: the agent started");
            refused += 1;
            continue;
        }
        let said = recorder.requests().last().map(|request| request.results().concat());
        let said = said.ok_or("no request")?;
        assert!(!said.contains("of other"), "round {round}: {said}");
        read += said.matches("of r").count();
        for (place, honest) in &folders {
            match mounts.iter().find(|mount| mount["destination"] == *place) {
                Some(mount) => {
                    assert_eq!(mount["inode"], *honest, "round {round}: {mount}");
                    seen += 1;
                }
                None => without += 1,
            }
        }
    }
    drop(swaps);
    let other = fs::read_dir(home.folders.join("other"))?.count();
    assert_eq!(other, 1, "what the link leads to was written to");
    println!(
        "{rounds} races: {seen} folders were there, {without} were not, {refused} runs refused"
    );
    assert_eq!(read, seen, "each that was there was read");
    let written = |place: &PathBuf| !place.is_symlink() && place.join("written").exists();
    assert!(places.iter().any(|(place, link)| written(place) || written(link)), "none was written");
    assert!(seen > 0 && refused > 0, "there was no race: {seen}, {without}, {refused}");
    Ok(())
}
