//! Ids and names as types: what a string has proved about itself is not asked again.
//!
//! Names become parts of paths and labels, so their alphabet is small. Ids come in as arguments:
//! `core` draws no random numbers.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A name or id that does not have its form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} must be {form}")]
pub struct InvalidId {
    /// What was to be named: "a user's name", "a run's id".
    pub what: &'static str,
    /// The form it must have, in words for people.
    pub form: &'static str,
}

/// One execution of the agent. A UUID of version 7, so ids sort by time; also the agent's session
/// id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RunId(Uuid);

impl RunId {
    /// Makes an id of a UUID drawn by the caller.
    pub const fn new(uuid: Uuid) -> Self {
        Self(uuid)
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

impl FromStr for RunId {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let invalid =
            InvalidId { what: "a run's id", form: "a UUID, as `noclaw run list` shows it" };
        Uuid::try_parse(text).map(Self).map_err(|_| invalid)
    }
}

/// Which NoClaw a container belongs to: drawn once for a state directory and kept in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceId(String);

impl InstanceId {
    /// The label's value.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for InstanceId {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let invalid = InvalidId { what: "an instance's id", form: "a UUID" };
        Uuid::try_parse(text.trim()).map(|uuid| Self(uuid.to_string())).map_err(|_| invalid)
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal, $form:literal, $max:literal, $extra:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The name itself.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                let begins = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
                let first = text.bytes().next().is_some_and(begins);
                let rest = text.bytes().all(|b| b.is_ascii_alphanumeric() || $extra.contains(&b));
                if first && rest && text.len() <= $max {
                    Ok(Self(text.to_owned()))
                } else {
                    Err(InvalidId { what: $what, form: $form })
                }
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidId;
            fn try_from(text: String) -> Result<Self, InvalidId> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

name!(
    /// An identity: a workspace, instructions, limits. Login names fit.
    UserName,
    "a user's name",
    "1 to 32 of A-Z a-z 0-9 . _ - and begin with a letter, a digit or _",
    32,
    b"._-"
);

name!(
    /// A thread of a user's messages that one session of the agent continues.
    ConversationName,
    "a conversation's name",
    "1 to 64 of A-Z a-z 0-9 . _ : @ + - and begin with a letter, a digit or _",
    64,
    b"._:@+-"
);

name!(
    /// What a granted folder is called in a user's cells: `/mounts/NAME`.
    MountName,
    "a mount's name",
    "1 to 64 of A-Z a-z 0-9 . _ - and begin with a letter, a digit or _",
    64,
    b"._-"
);

name!(
    /// A task: what its owner has done again and again, or later.
    TaskId,
    "a task's id",
    "1 to 64 of A-Z a-z 0-9 . _ - and begin with a letter, a digit or _",
    64,
    b"._-"
);

name!(
    /// A unit of systemd's. It is a file's name, too.
    UnitName,
    "a unit's name",
    "1 to 96 of A-Z a-z 0-9 . _ : @ - and begin with a letter, a digit or _",
    96,
    b"._:@-"
);

impl Default for ConversationName {
    fn default() -> Self {
        Self("main".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_leave_their_directory_are_refused() {
        for bad in ["", ".", "..", "../x", "a/b", "-rf", ".ssh", "a b", "ä", "a\0", &"x".repeat(33)]
        {
            assert!(bad.parse::<UserName>().is_err(), "{bad:?}");
        }
        for good in ["alice", "bob.b", "_svc", "A-1"] {
            assert_eq!(good.parse::<UserName>().map(String::from).as_deref(), Ok(good));
        }
    }

    #[test]
    fn a_run_id_reads_back() {
        let id = RunId::new(Uuid::from_u128(7));
        assert_eq!(id.to_string().parse(), Ok(id));
        assert!("7".parse::<RunId>().is_err());
    }
}
