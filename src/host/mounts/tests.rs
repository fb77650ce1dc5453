//! The policy on real folders, in a home of a test's own; and races against it.

#![expect(clippy::disallowed_methods, reason = "a test makes the files that it looks at")]

use super::*;
use crate::core::problem::chain;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// An owner's home of a test's own: folders, an allowlist, and a service's places in it.
struct Ground {
    dir: tempfile::TempDir,
    guard: Guard,
}

impl Ground {
    fn new(allowlist: &str) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let home = dir.path().canonicalize()?;
        for folder in ["projects/site/src", "projects/.env", "photos", ".local/state/noclaw/users"]
        {
            fs::create_dir_all(home.join(folder))?;
        }
        let config = home.join(".config/noclaw");
        fs::create_dir_all(&config)?;
        let file = config.join(file::NAME);
        fs::write(&file, allowlist)?;
        fs::set_permissions(&file, Permissions::from_mode(0o600))?;
        let mut places: Vec<_> =
            MACHINE.map(|(path, what, closed)| (PathBuf::from(path), what, closed)).into();
        places.extend([
            (home.clone(), "your whole home", false),
            (home.join(".local/state/noclaw"), "NoClaw's state", true),
            (config.clone(), "NoClaw's configuration", true),
            (home.join("run/noclaw.sock"), "the service's socket", true),
        ]);
        let home = home.to_string_lossy().into_owned().try_into()?;
        let (blocked, kinds) = (Blocked::built_in()?, Kinds::shipped()?);
        let guard = Guard { config, home, blocked, kinds, places };
        Ok(Self { dir, guard })
    }

    fn home(&self) -> &Path {
        Path::new(self.guard.home.as_str())
    }

    /// What is said about a folder, `~` being this home.
    fn said(&self, folder: &str, read_write: bool) -> Result<String> {
        Self::told(&self.guard.rules(&[self.home().join("storage")])?, folder, read_write)
    }

    fn told(rules: &Rules, folder: &str, read_write: bool) -> Result<String> {
        let judged = rules.judge(&folder.to_owned().try_into()?, read_write);
        Ok(match judged.result {
            Ok(opened) => format!("granted {}", opened.path()),
            Err(denied) => {
                assert!(!rules.hint(&denied).is_empty(), "{denied}");
                format!("{}: {}", denied.step(), chain(&denied))
            }
        })
    }
}

const LIST: &str = r#"{"allowedRoots":[{"path":"~/projects"},
    {"path":"~/projects/site","allowReadWrite":true},{"path":"~"},{"path":"/"}],
    "blockedPatterns":["photos"]}"#;

#[test]
fn what_no_list_can_allow_is_refused() -> Result<()> {
    let ground = Ground::new(LIST)?;
    fs::create_dir_all(ground.home().join("storage/overlay"))?;
    fs::create_dir_all(ground.home().join(".ssh/keys"))?;
    fs::create_dir(ground.home().join("run"))?;
    symlink("projects", ground.home().join("link"))?;
    for (folder, read_write, words) in [
        ("~/projects/site/src", true, "granted "),
        ("~/projects", false, "granted "),
        ("~/projects", true, "access: ~/projects allows reading only"),
        ("~/photos", false, "names: photos is blocked (photos): your allowlist says so"),
        ("~/projects/.env", false, "names: .env is blocked"),
        ("/", false, "places: it is /, the whole machine"),
        ("~", false, "places: it is "),
        ("~/.local/state/noclaw", false, "NoClaw's state"),
        ("~/.local/state/noclaw/users", false, "places: it lies in "),
        ("~/.local", false, "places: it contains "),
        ("~/.config", false, "places: it contains "),
        ("~/.config/noclaw", false, "NoClaw's configuration"),
        ("~/storage", false, "Podman's storage"),
        ("~/storage/overlay", false, "places: it lies in "),
        ("~/run", false, "the service's socket"),
        ("~/.ssh", false, "places: it is "),
        ("~/.ssh/keys", false, "SSH keys"),
        ("/proc", false, "places: it is /proc"),
        ("/proc/sys/kernel", false, "places: it lies in /proc"),
        ("/sys", false, "places: it is /sys"),
        ("/dev", false, "places: it is /dev"),
        // It may also contain `/` once more, where somebody mounted that.
        ("/run", false, "places: it "),
        ("/etc", false, "places: it is /etc"),
        ("/tmp", false, "/tmp, where programs keep sockets"),
        ("~/link", false, "is a link to projects"),
        ("~/link/site", false, "is a link to projects"),
        ("~/missing", false, "path: there is no "),
    ] {
        let said = ground.said(folder, read_write)?;
        assert!(said.contains(words), "{folder}: {said}, not {words}");
    }
    Ok(())
}

#[test]
fn where_the_machine_does_not_say_what_is_refused_nothing_is_granted() -> Result<()> {
    let ground = Ground::new(LIST)?;
    let broken = || std::io::Error::from_raw_os_error(5);
    let none = BTreeSet::new;
    for (mounts, sockets, words) in [
        (Mounts::read(), Ok(none()), "granted "),
        (
            Mounts::read(),
            Err(broken()),
            "places: what is refused on this machine is not known: \
            /proc/net/unix cannot be read: Input/output error",
        ),
        (Err(broken()), Ok(none()), "/proc/self/mountinfo cannot be read: Input/output error"),
    ] {
        let rules = ground.guard.ruled(&[], mounts, sockets)?;
        let said = Ground::told(&rules, "~/projects/site", true)?;
        assert!(said.contains(words), "{said}, not {words}");
    }
    Ok(())
}

#[test]
fn the_list_is_read_anew_and_what_is_wrong_with_it_grants_nothing() -> Result<()> {
    let ground = Ground::new(LIST)?;
    assert!(ground.said("~/projects", false)?.starts_with("granted"));
    let file = ground.guard.config.join(file::NAME);
    fs::write(&file, r#"{"allowedRoots":[{"path":"~/gone"},{"path":"~/link"}]}"#)?;
    symlink("projects", ground.home().join("link"))?;
    assert_eq!(ground.said("~/projects", false)?, "root: no folder of the allowlist contains it");
    let rules = ground.guard.rules(&[])?;
    let problems: Vec<_> =
        rules.roots.iter().filter_map(|root| root.opened.as_ref().err()).collect();
    assert!(matches!(problems.as_slice(), [OpenError::Missing { .. }, OpenError::Link { .. }]));
    fs::remove_file(&file)?;
    let rules = ground.guard.rules(&[])?;
    assert!(!rules.exists && rules.roots.is_empty());
    let denied = rules.judge(&"~/projects".to_owned().try_into()?, false).result.err();
    assert!(rules.hint(&denied.ok_or("granted")?).starts_with("there is no allowlist; write "));
    fs::write(&file, LIST)?;
    fs::set_permissions(&file, Permissions::from_mode(0o660))?;
    assert!(ground.guard.rules(&[]).is_err());
    Ok(())
}

#[test]
fn a_place_that_is_reached_by_links_is_guarded_with_all_that_lead_there() -> Result<()> {
    let ground = Ground::new(LIST)?;
    let home = ground.home();
    for folder in ["disk/state/users", "dotfiles/inner"] {
        fs::create_dir_all(home.join(folder))?;
    }
    fs::remove_dir_all(home.join(".local/state/noclaw"))?;
    symlink(home.join("dotfiles/state"), home.join(".local/state/noclaw"))?;
    symlink("../disk/state", home.join("dotfiles/state"))?;
    for (folder, granted) in [
        ("~/disk/state", false),
        ("~/disk/state/users", false),
        ("~/disk", false),
        ("~/dotfiles", false),
        ("~/dotfiles/inner", true),
        ("~/.local/state", false),
    ] {
        let said = ground.said(folder, false)?;
        assert_eq!(said.starts_with("granted"), granted, "{folder}: {said}");
    }
    fs::remove_dir_all(ground.dir.path().join("disk"))?;
    let said = ground.said("~/dotfiles", false)?;
    assert!(said.contains("NoClaw's state"), "what is not there now may be made: {said}");
    Ok(())
}

/// Rounds of a race.
const ROUNDS: u32 = 1000;
/// After this a race is not one.
const LONG: Duration = Duration::from_secs(60);

/// Exchanges two names as fast as it can while `race` runs.
fn swapping<T>(one: &Path, other: &Path, race: impl FnOnce() -> T) -> Result<T> {
    let over = AtomicBool::new(false);
    std::thread::scope(|threads| {
        let swapper = threads.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                renameat2(AT_FDCWD, one, AT_FDCWD, other, RenameFlags::RENAME_EXCHANGE)?;
            }
            Ok::<_, nix::errno::Errno>(())
        });
        let result = race();
        over.store(true, Ordering::Relaxed);
        swapper.join().map_err(|_| "the swapper panicked")??;
        Ok(result)
    })
}

/// A folder on the way is exchanged for a link to an outside one that looks the same, which the
/// list does not allow.
#[test]
fn no_folder_that_is_swapped_for_a_link_leads_outside() -> Result<()> {
    let ground = Ground::new(r#"{"allowedRoots":[{"path":"~/projects"}]}"#)?;
    let home = ground.home();
    let (folder, link) = (home.join("projects/site"), home.join("projects/way-out"));
    fs::create_dir_all(home.join("outside/src"))?;
    symlink(home.join("outside"), &link)?;
    let honest = Opened::folder(&folder.join("src"))?.own();
    let outside = Opened::folder(&home.join("outside/src"))?.own();
    let rules = ground.guard.rules(&[])?;
    let asked: FolderPath = "~/projects/site/src".to_owned().try_into()?;

    let (mut rounds, mut granted, mut refused, mut strange, mut naive) = (0, 0, 0, 0, 0);
    swapping(&folder, &link, || {
        let began = Instant::now();
        // Until each has happened: a scheduler owes nobody an exchange within so many rounds.
        while rounds < ROUNDS || [naive, granted, refused].contains(&0) && began.elapsed() < LONG {
            rounds += 1;
            match rules.judge(&asked, false).result {
                Ok(opened) if opened.own() == honest => granted += 1,
                Ok(_) => strange += 1,
                Err(_) => refused += 1,
            }
            // What a path alone leads to: the race is real.
            naive += u32::from(trace(&folder.join("src")).own == Some(outside));
        }
    })?;
    assert_eq!(strange, 0, "{granted} granted, {refused} refused, {naive} led astray by name");
    assert!(![naive, granted, refused].contains(&0), "{granted}, {refused}, {naive} of {rounds}");
    if fs::symlink_metadata(&folder)?.is_symlink() {
        fs::rename(&link, home.join("projects/site-again"))?;
        fs::remove_file(&folder)?;
        fs::rename(home.join("projects/site-again"), &folder)?;
    }
    for _ in 0..ROUNDS {
        assert_eq!(rules.judge(&asked, false).result?.own(), honest, "with nobody who swaps");
    }
    Ok(())
}
