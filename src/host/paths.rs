//! Where things are when no flag says otherwise. The paths are ours and explicit: systemd 252 and
//! 257 disagree about the state directory of a user's unit.

use std::env;
use std::path::{Path, PathBuf};

use super::owned;

fn base(variable: &str, below_home: &str) -> PathBuf {
    match env::var_os(variable).map(PathBuf::from) {
        // The XDG base directory specification: a relative path is to be ignored.
        Some(path) if path.is_absolute() => path,
        _ => PathBuf::from(env::var_os("HOME").unwrap_or_default()).join(below_home),
    }
}

/// Where the programs of the owner's session have their sockets.
pub fn runtime() -> PathBuf {
    match env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from) {
        Some(path) if path.is_absolute() => path,
        _ => PathBuf::from(format!("/run/user/{}", nix::unistd::geteuid())),
    }
}

/// The owner's home: `~` in an allowlist. On some systems its path has a link on its way.
pub fn home() -> PathBuf {
    let home = env::var_os("HOME").map(PathBuf::from).filter(|home| home.is_absolute());
    let user = || nix::unistd::User::from_uid(nix::unistd::geteuid()).ok().flatten();
    let home = home.or_else(|| user().map(|user| user.dir)).unwrap_or_default();
    owned::resolved(&home).unwrap_or(home)
}

/// This program.
pub fn program() -> Option<PathBuf> {
    env::current_exe().ok()
}

/// State.
pub fn state() -> PathBuf {
    base("XDG_STATE_HOME", ".local/state").join("noclaw")
}

/// Configuration.
pub fn config() -> PathBuf {
    base("XDG_CONFIG_HOME", ".config").join("noclaw")
}

/// What the image was made of, to be made again sooner.
pub fn cache() -> PathBuf {
    base("XDG_CACHE_HOME", ".cache").join("noclaw")
}

/// The owner's own units, and what they add to others.
pub fn user_units() -> PathBuf {
    base("XDG_CONFIG_HOME", ".config").join("systemd/user")
}

/// The service's socket.
pub fn socket() -> PathBuf {
    runtime().join("noclaw/noclaw.sock")
}

/// Podman's socket.
pub fn podman() -> PathBuf {
    runtime().join("podman/podman.sock")
}

/// The launcher: beside this program's prefix, else where packages put it.
pub fn launcher() -> PathBuf {
    beside(&["lib/noclaw/noclaw-cell", "libexec/noclaw/noclaw-cell"])
}

/// The image's recipe.
pub fn containerfiles() -> PathBuf {
    beside(&["share/noclaw/containerfiles"])
}

/// Where this program is installed.
fn prefix() -> Option<PathBuf> {
    Some(program()?.parent()?.parent()?.to_owned())
}

/// The first of these that is there, else where the first would be.
fn beside(places: &[&str]) -> PathBuf {
    let prefixes = prefix().into_iter().chain([PathBuf::from("/usr")]);
    let mut all = prefixes.flat_map(|prefix| places.iter().map(move |place| prefix.join(place)));
    let usual = Path::new("/usr").join(places.first().unwrap_or(&""));
    all.find(|path| owned::exists(path)).unwrap_or(usual)
}

/// One of these places as a document has it, for anybody who has the program below `prefix`.
pub fn told(path: &Path, prefix: &Path) -> PathBuf {
    let home = PathBuf::from(env::var_os("HOME").unwrap_or_default());
    let places = [
        (self::prefix(), prefix),
        (Some(runtime()), Path::new("$XDG_RUNTIME_DIR")),
        (Some(base("XDG_STATE_HOME", ".local/state")), Path::new("~/.local/state")),
        (Some(base("XDG_CONFIG_HOME", ".config")), Path::new("~/.config")),
        (Some(home), Path::new("~")),
    ];
    let below = |(place, told): (Option<PathBuf>, &Path)| {
        let rest = path.strip_prefix(place.filter(|place| place.is_absolute())?).ok()?;
        (!rest.as_os_str().is_empty()).then(|| told.join(rest))
    };
    places.into_iter().find_map(below).unwrap_or_else(|| path.to_owned())
}
