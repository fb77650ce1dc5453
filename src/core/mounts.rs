//! The mount policy: which of the owner's own folders a user's cells may see. Pure: what is on the
//! machine comes in as the numbers of devices and inodes that somebody has opened.
//!
//! Asked is a folder, with every directory on its way from `/`, opened one by one and without any
//! link. The steps answer in this order; the first no decides.
//!
//! | step | refused is a folder that |
//! |---|---|
//! | places | is, contains or lies in a place of the machine's or of NoClaw's own |
//! | places | contains a socket that a program has |
//! | places | any, while the machine does not say where its sockets and mounts are |
//! | kind | is of a file system that holds no files, as the kernel makes them up |
//! | names | has a blocked name on its way: a built-in one, or one of the owner's |
//! | root | has no allowed root on its way; the nearest one decides |
//! | access | is to be written, while that root allows reading only |
//!
//! Places and roots are compared by device and inode, so that another spelling or a bind mount of
//! the same folder is the same folder. Where its file system is mounted elsewhere, too, the folder
//! has other ways, and places and names are looked for on each. A folder that is granted is granted
//! whole: names are looked for on its way, not in what it holds.

pub mod allowlist;
pub mod blocked;
pub mod folder;
pub mod kinds;

use std::fmt;

use serde::Serialize;

use self::blocked::Blocked;
use self::kinds::Kinds;

/// Which file or directory it is, whatever it is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Identity {
    /// Device number.
    pub device: u64,
    /// Inode number.
    pub inode: u64,
}

/// The way to a folder from `/`, which is its first step and has no name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Way(pub Vec<(String, Identity)>);

/// A folder that is asked for, as it was opened.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// The way to it.
    pub way: &'a Way,
    /// Its other ways, each from the top of what is mounted there.
    pub others: &'a [Way],
    /// The type of its file system.
    pub kind: &'a str,
}

/// A place that no cell sees, whatever the owner's list says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Where it is.
    pub path: String,
    /// What it is: "NoClaw's state".
    pub what: String,
    /// The place itself, if it is there.
    pub own: Option<Identity>,
    /// What lies on its way: whoever has one of these has the place.
    pub above: Vec<Identity>,
    /// Whether what lies in it is refused as well.
    pub closed: bool,
}

/// A folder of the owner's list, opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root {
    /// As the list names it.
    pub path: String,
    /// Which folder it is.
    pub own: Identity,
    /// Whether writing may be granted.
    pub read_write: bool,
}

/// What the machine should have told, and did not: what is refused for it cannot be known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unseen {
    /// Where it would be told.
    pub file: &'static str,
    /// Why it was not.
    pub why: String,
}

/// Everything that decides.
#[derive(Debug, Clone)]
pub struct Policy {
    /// What no cell sees.
    pub places: Vec<Place>,
    /// Sockets of programs that run: what contains one is refused.
    pub sockets: Vec<Place>,
    /// Then nothing is granted.
    pub unseen: Option<Unseen>,
    /// File systems that hold files.
    pub kinds: Kinds,
    /// Names that no cell sees.
    pub blocked: Vec<Blocked>,
    /// What may be granted.
    pub roots: Vec<Root>,
}

/// A step of the decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Step {
    /// It is opened, without any link (`host/mounts/open.rs`).
    Path,
    /// It is no place that no cell sees.
    Places,
    /// Its file system holds files.
    Kind,
    /// No name is blocked.
    Names,
    /// A root of the owner's list is on its way.
    Root,
    /// What is asked is what that root allows.
    Access,
    /// What it holds (`host/mounts/inside.rs`); whoever asks for it looks.
    Inside,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Path => "path",
            Self::Places => "places",
            Self::Kind => "kind",
            Self::Names => "names",
            Self::Root => "root",
            Self::Access => "access",
            Self::Inside => "inside",
        })
    }
}

/// How a folder stands to a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relation {
    /// It is the place.
    Is,
    /// It lies in the place.
    LiesIn,
    /// It contains the place.
    Contains,
}

impl fmt::Display for Relation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Is => "is",
            Self::LiesIn => "lies in",
            Self::Contains => "contains",
        })
    }
}

/// Why a folder is not granted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A place that no cell sees.
    #[error("it {relation} {path}, {what}")]
    Place {
        /// How it stands to it.
        relation: Relation,
        /// Where that is.
        path: String,
        /// What that is.
        what: String,
    },
    /// Nobody knows what it holds.
    #[error("what is refused on this machine is not known: {} cannot be read: {}", .0.file, .0.why)]
    Unseen(Unseen),
    /// Its file system holds no files.
    #[error("it is of a file system of type {kind}")]
    Kind {
        /// Which.
        kind: String,
    },
    /// A name on its way is blocked.
    #[error("{name} is blocked ({pattern}): {reason}")]
    Blocked {
        /// The name.
        name: String,
        /// What it matches.
        pattern: String,
        /// Why that is blocked.
        reason: String,
        /// Whether it is built in.
        built_in: bool,
    },
    /// The owner allows nothing there.
    #[error("no folder of the allowlist contains it")]
    NoRoot,
    /// The owner allows reading only.
    #[error("{root} allows reading only")]
    ReadOnly {
        /// The root that decided.
        root: String,
    },
    /// There is a socket in it.
    #[error("it holds the socket {socket}")]
    Socket {
        /// Its path in the folder.
        socket: String,
    },
}

impl Refusal {
    /// The step that said no.
    pub const fn step(&self) -> Step {
        match self {
            Self::Place { .. } | Self::Unseen(_) => Step::Places,
            Self::Kind { .. } => Step::Kind,
            Self::Blocked { .. } => Step::Names,
            Self::NoRoot => Step::Root,
            Self::ReadOnly { .. } => Step::Access,
            Self::Socket { .. } => Step::Inside,
        }
    }

    /// What the owner can do about it.
    pub fn hint(&self) -> String {
        match self {
            Self::Place { relation: Relation::Contains, .. } => {
                "name a folder in it that does not".to_owned()
            }
            Self::Place { .. } => "this cannot be granted; name another folder".to_owned(),
            Self::Unseen(Unseen { file, .. }) => {
                format!("nothing is granted until {file} can be read whole; see what keeps it")
            }
            Self::Kind { .. } => "name a folder of a disk, or of a server".to_owned(),
            Self::Blocked { built_in: true, .. } => {
                "this cannot be granted; copy what the agent needs to another folder".to_owned()
            }
            Self::Blocked { pattern, .. } => {
                format!("take {pattern} out of blockedPatterns in the allowlist")
            }
            Self::NoRoot => {
                "name it, or a folder around it, in allowedRoots of the allowlist".to_owned()
            }
            Self::ReadOnly { root } => {
                format!("ask without --rw, or set allowReadWrite for {root} in the allowlist")
            }
            Self::Socket { .. } => {
                "a cell could connect to it; remove it, or name a folder without one".to_owned()
            }
        }
    }
}

/// A step that said yes, and what it found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Passed {
    /// The step.
    pub step: Step,
    /// What it found.
    pub found: String,
}

/// In words, what a cell may do in a folder.
pub const fn access(read_write: bool) -> &'static str {
    if read_write { "read and write" } else { "read only" }
}

/// What the policy says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// The steps that said yes, in their order.
    pub passed: Vec<Passed>,
    /// The last word: all of them did, or the next one said no.
    pub verdict: Result<(), Refusal>,
}

impl Policy {
    /// Whether a cell may see a folder, and write there.
    pub fn decide(&self, asked: Asked<'_>, read_write: bool) -> Decision {
        let mut passed = Vec::new();
        let verdict = self.steps(asked, read_write, &mut passed);
        Decision { passed, verdict }
    }

    fn steps(
        &self,
        asked: Asked<'_>,
        write: bool,
        passed: &mut Vec<Passed>,
    ) -> Result<(), Refusal> {
        let mut pass = |step, found: String| passed.push(Passed { step, found });
        if let Some(unseen) = &self.unseen {
            return Err(Refusal::Unseen(unseen.clone()));
        }
        self.places.iter().chain(&self.sockets).try_for_each(|place| place.admits(asked))?;
        pass(Step::Places, "no place that is refused always, and it contains none".to_owned());
        if !self.kinds.hold_files(asked.kind) {
            return Err(Refusal::Kind { kind: asked.kind.to_owned() });
        }
        pass(Step::Kind, format!("of a file system of type {}", asked.kind));
        asked.ways().try_for_each(|way| self.names(way))?;
        pass(Step::Names, "no name on its way is blocked".to_owned());
        let root = self.nearest_root(asked.way).ok_or(Refusal::NoRoot)?;
        pass(Step::Root, format!("{} is in the allowlist", root.path));
        if write && !root.read_write {
            return Err(Refusal::ReadOnly { root: root.path.clone() });
        }
        pass(Step::Access, format!("{}, as asked", access(write)));
        Ok(())
    }

    fn names(&self, way: &Way) -> Result<(), Refusal> {
        let names: Vec<&str> = way.0.iter().map(|(name, _)| name.as_str()).collect();
        let hit = |blocked: &Blocked| Some((blocked.clone(), blocked.pattern.find(&names)?));
        match self.blocked.iter().find_map(hit) {
            None => Ok(()),
            Some((Blocked { pattern, reason, built_in }, name)) => {
                Err(Refusal::Blocked { name, pattern: pattern.to_string(), reason, built_in })
            }
        }
    }

    /// The root that lies deepest on the way. Should two be one folder, both must allow writing.
    fn nearest_root(&self, way: &Way) -> Option<Root> {
        way.0.iter().rev().find_map(|(_, step)| {
            let mut here = self.roots.iter().filter(|root| root.own == *step);
            let first = here.next()?.clone();
            Some(here.fold(first, |strictest, root| match root.read_write {
                true => strictest,
                false => root.clone(),
            }))
        })
    }
}

impl<'a> Asked<'a> {
    fn ways(self) -> impl Iterator<Item = &'a Way> {
        std::iter::once(self.way).chain(self.others)
    }
}

impl Place {
    fn admits(&self, asked: Asked<'_>) -> Result<(), Refusal> {
        let Some((_, folder)) = asked.way.0.last() else { return Ok(()) };
        let passes =
            |place: Identity| asked.ways().flat_map(|way| &way.0).any(|(_, step)| *step == place);
        let relation = match self.own {
            Some(own) if own == *folder => Relation::Is,
            _ if self.above.contains(folder) => Relation::Contains,
            Some(own) if self.closed && passes(own) => Relation::LiesIn,
            _ => return Ok(()),
        };
        Err(Refusal::Place { relation, path: self.path.clone(), what: self.what.clone() })
    }
}

#[cfg(test)]
mod tests;
