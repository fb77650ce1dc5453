//! The mount policy on this machine: reads the owner's allowlist, finds the places that no cell
//! sees, opens a folder, and has `core/mounts.rs` decide about it. Nothing is kept: it is done anew
//! for each run.
//!
//! | what is wrong | what becomes of it |
//! |---|---|
//! | there is no allowlist | nothing is granted |
//! | the allowlist is not the owner's alone, or not of its form | nothing is granted |
//! | where sockets or mounts are cannot be read to the end | nothing is granted |
//! | a root is missing, or has a link on its way | that root allows nothing |
//! | a folder is missing, or has a link on its way | it is refused |
//! | a program makes a socket in a granted folder | the next run is without the folder; this one's cell can connect |
//! | a folder is another one by the time it is mounted | the preflight finds another inode |
//!
//! A place is refused with whatever contains it, so that nobody can exchange it either: also on the
//! ways of the links that lead to it, and in other mounts of its disk. A bind mount of the place,
//! or of a folder around it, is known by its inode.

mod elsewhere;
pub mod file;
pub mod inside;
pub mod open;
mod sockets;

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use self::elsewhere::Mounts;
use self::file::AllowlistError;
use self::open::{OpenError, Opened, Trace, trace};
use super::paths;
use crate::core::mounts::allowlist::Allowlist;
use crate::core::mounts::blocked::Blocked;
use crate::core::mounts::folder::{FolderPath, InvalidFolder};
use crate::core::mounts::kinds::Kinds;
use crate::core::mounts::{Asked, Passed, Place, Policy, Refusal, Root, Step, Unseen};

/// What nobody grants: where, what it is, whether what lies in it is refused, too.
const MACHINE: [(&str, &str, bool); 7] = [
    ("/", "the whole machine", false),
    ("/proc", "the kernel's view of every process", true),
    ("/sys", "the kernel's own settings", true),
    ("/dev", "the machine's devices", true),
    ("/run", "the sockets of what runs here", true),
    ("/etc", "the machine's configuration", true),
    ("/tmp", "where programs keep sockets", false),
];

/// Where a service has what is its own.
#[derive(Debug, Clone)]
pub struct Own {
    /// Its state.
    pub state: PathBuf,
    /// Its configuration.
    pub config: PathBuf,
    /// Its socket.
    pub socket: PathBuf,
    /// Podman's socket.
    pub podman: PathBuf,
    /// The launcher.
    pub launcher: PathBuf,
    /// The file of the model's key, if it is known.
    pub key: Option<PathBuf>,
}

/// The places that no cell sees, and where the allowlist is.
#[derive(Debug, Clone)]
pub struct Guard {
    config: PathBuf,
    home: FolderPath,
    blocked: Vec<Blocked>,
    kinds: Kinds,
    places: Vec<(PathBuf, &'static str, bool)>,
}

/// Why a service cannot guard its places.
#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    /// The shipped list of names is broken; a test keeps that from happening.
    #[error("data/blocked.json is not of its form")]
    Blocked(#[source] serde_json::Error),
    /// The shipped list of file systems is broken; a test keeps that from happening.
    #[error("data/file-systems.json is not of its form")]
    Kinds(#[source] serde_json::Error),
    /// The owner's home cannot be written in an allowlist.
    #[error("your home is no folder that could be granted from")]
    Home(#[source] InvalidFolder),
}

/// The policy as it is at one moment.
#[derive(Debug)]
pub struct Rules {
    /// What decides.
    pub policy: Policy,
    /// The allowlist's file.
    pub file: PathBuf,
    /// Whether there is one.
    pub exists: bool,
    /// What it allows.
    pub roots: Vec<ListedRoot>,
    home: FolderPath,
    mounts: Mounts,
}

/// A root of the allowlist.
#[derive(Debug)]
pub struct ListedRoot {
    /// As the file names it.
    pub path: FolderPath,
    /// Whether writing may be granted.
    pub read_write: bool,
    /// The folder; it allows nothing when it cannot be opened.
    pub opened: Result<Opened, OpenError>,
}

/// Why a folder is not granted.
#[derive(Debug, thiserror::Error)]
pub enum Denied {
    /// It is not opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The policy says no.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

/// What became of a folder that was asked for.
#[derive(Debug)]
pub struct Judged {
    /// The steps that said yes, in their order.
    pub passed: Vec<Passed>,
    /// The folder, or the step that said no.
    pub result: Result<Opened, Denied>,
}

impl Guard {
    /// Guards what is this service's own, and what is the machine's.
    ///
    /// # Errors
    /// When there is nothing to guard by.
    pub fn of(own: Own) -> Result<Self, GuardError> {
        let Own { state, config, socket, podman, launcher, key } = own;
        let home = paths::home();
        let mut places: Vec<_> =
            MACHINE.map(|(path, what, closed)| (PathBuf::from(path), what, closed)).into();
        places.extend([
            (home.clone(), "your whole home", false),
            (paths::runtime(), "the sockets of your session", true),
            (state, "NoClaw's state", true),
            (config.clone(), "NoClaw's configuration", true),
            (socket, "the service's socket", true),
            (podman, "Podman's socket", true),
            (launcher, "the program that starts the agent", true),
            (paths::containerfiles(), "the recipe of the cells' image", true),
            // A service with other places, as that of `make run`, may not be the only one.
            (paths::state(), "NoClaw's state", true),
            (paths::config(), "NoClaw's configuration", true),
        ]);
        places.extend(key.map(|path| (path, "the model's key", true)));
        places.extend(paths::program().map(|path| (path, "NoClaw's own program", true)));
        let home = home.to_string_lossy().into_owned().try_into().map_err(GuardError::Home)?;
        let blocked = Blocked::built_in().map_err(GuardError::Blocked)?;
        let kinds = Kinds::shipped().map_err(GuardError::Kinds)?;
        Ok(Self { config, home, blocked, kinds, places })
    }

    /// The path from `/` of a folder.
    pub fn whole(&self, folder: &FolderPath) -> FolderPath {
        folder.expand(&self.home)
    }

    /// The owner's list; `None` when there is none.
    ///
    /// # Errors
    /// When it is not what it must be.
    pub fn allowlist(&self) -> Result<Option<Allowlist>, AllowlistError> {
        file::read(&self.config)
    }

    /// The policy as it is now. `storage` is where Podman says that it keeps images and containers.
    ///
    /// # Errors
    /// When the allowlist is not what it must be: nothing is granted then.
    pub fn rules(&self, storage: &[PathBuf]) -> Result<Rules, AllowlistError> {
        self.ruled(storage, Mounts::read(), sockets::bound())
    }

    /// By what the machine tells.
    fn ruled(
        &self,
        storage: &[PathBuf],
        mounts: io::Result<Mounts>,
        sockets: io::Result<BTreeSet<PathBuf>>,
    ) -> Result<Rules, AllowlistError> {
        let mut unseen = None;
        let mounts = seen(mounts, elsewhere::FILE, &mut unseen);
        let sockets = seen(sockets, sockets::FILE, &mut unseen);
        let allowlist = self.allowlist()?;
        let exists = allowlist.is_some();
        let allowlist = allowlist.unwrap_or_default();
        let mut blocked = self.blocked.clone();
        let home = Path::new(self.home.as_str());
        let storage = storage.iter().map(|path| place(&mounts, path, "Podman's storage", true));
        let own =
            self.places.iter().map(|(path, what, closed)| place(&mounts, path, what, *closed));
        let private = blocked.iter().filter_map(|blocked| {
            Some(place(&mounts, &home.join(blocked.pattern.path()?), &blocked.reason, true))
        });
        let places = own.chain(storage).chain(private).collect();
        let sockets =
            sockets.iter().map(|path| place(&mounts, path, sockets::WHAT, true)).collect();
        blocked.extend(allowlist.blocked.into_iter().map(Blocked::by_owner));
        let listed = allowlist.roots.into_iter().map(|root| ListedRoot {
            opened: Opened::folder(Path::new(self.whole(&root.path).as_str())),
            path: root.path,
            read_write: root.allow_read_write,
        });
        let listed: Vec<_> = listed.collect();
        let roots = listed.iter().filter_map(|root| {
            let own = root.opened.as_ref().ok()?.own();
            Some(Root { path: root.path.to_string(), own, read_write: root.read_write })
        });
        Ok(Rules {
            policy: Policy {
                places,
                sockets,
                unseen,
                kinds: self.kinds.clone(),
                blocked,
                roots: roots.collect(),
            },
            file: self.config.join(file::NAME),
            exists,
            roots: listed,
            home: self.home.clone(),
            mounts,
        })
    }
}

impl Rules {
    /// Opens a folder and says whether a cell may see it, and write there.
    pub fn judge(&self, folder: &FolderPath, read_write: bool) -> Judged {
        let opened = match Opened::folder(Path::new(folder.expand(&self.home).as_str())) {
            Ok(opened) => opened,
            Err(error) => return Judged { passed: Vec::new(), result: Err(error.into()) },
        };
        let found = format!("{}, with no link on its way", opened.path());
        let mut passed = vec![Passed { step: Step::Path, found }];
        let others = self.mounts.ways(Path::new(opened.path()), opened.mount_id());
        let asked = Asked { way: opened.way(), others: &others, kind: opened.kind() };
        let decision = self.policy.decide(asked, read_write);
        passed.extend(decision.passed);
        Judged { passed, result: decision.verdict.map(|()| opened).map_err(Denied::from) }
    }

    /// What the owner can do about it.
    pub fn hint(&self, denied: &Denied) -> String {
        match denied {
            Denied::Open(error) => error.hint().to_owned(),
            Denied::Refused(Refusal::NoRoot) if !self.exists => self.how_to_begin(),
            Denied::Refused(refusal) => refusal.hint(),
        }
    }

    /// How an allowlist is made.
    pub fn how_to_begin(&self) -> String {
        let file = self.file.display();
        format!("there is no allowlist; write {file}, mode 600: {}", file::EXAMPLE)
    }
}

impl Denied {
    /// The step that said no.
    pub const fn step(&self) -> Step {
        match self {
            Self::Open(_) => Step::Path,
            Self::Refused(refusal) => refusal.step(),
        }
    }
}

/// What was read; what was not, nobody sees.
fn seen<T: Default>(read: io::Result<T>, file: &'static str, unseen: &mut Option<Unseen>) -> T {
    read.unwrap_or_else(|error| {
        *unseen = Some(Unseen { file, why: error.to_string() });
        T::default()
    })
}

fn place(mounts: &Mounts, path: &Path, what: &str, closed: bool) -> Place {
    let Trace { own, mut above, path: real } = trace(path);
    above.extend(mounts.others(&real).iter().flat_map(|other| trace(other).above));
    let path = path.display().to_string();
    Place { path, what: what.to_owned(), own, above, closed }
}

#[cfg(test)]
mod tests;
