//! What can go wrong in the store, and what is refused.
//!
//! One variant an operation, with the object inside. The driver's error is kept as [`Cause`], so
//! that no type of the driver leaves this folder. A full disk is its own variant wherever it
//! happens: it is the one failure that the owner mends and after which the same call succeeds.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use sea_orm::{DbErr, RuntimeErr};

use crate::core::ids::{InvalidId, RunId, UserName};
use crate::core::limits::MOUNTS_PER_USER;
use crate::core::mounts::access;
use crate::core::mounts::folder::FolderPath;
use crate::core::run::RunState;

/// Why an operation of the store failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The file cannot be made, read or kept private.
    #[error("the database {path} cannot be prepared")]
    File {
        /// The database.
        path: PathBuf,
        /// What the system said.
        source: Arc<std::io::Error>,
    },
    /// SQLite cannot open or read the file.
    #[error("the database {path} cannot be opened")]
    Open {
        /// The database.
        path: PathBuf,
        /// What SQLite said.
        source: Cause,
    },
    /// The file is something else. It was not changed.
    #[error("{path} is not a database of NoClaw")]
    NotOurs {
        /// The file.
        path: PathBuf,
    },
    /// The file was a database and is damaged. It was not changed.
    #[error("the database {path} is damaged")]
    Damaged {
        /// The database.
        path: PathBuf,
        /// What SQLite said.
        source: Cause,
    },
    /// A newer NoClaw has changed the tables. The file was not changed.
    #[error("the database {path} belongs to a newer NoClaw (it knows {migration:?})")]
    Newer {
        /// The database.
        path: PathBuf,
        /// The first migration that this version does not know.
        migration: String,
    },
    /// The tables could not be brought to this version's form; they are as they were.
    #[error("the tables of {path} cannot be brought up to date")]
    Migrate {
        /// The database.
        path: PathBuf,
        /// What SQLite said.
        source: Cause,
    },
    /// There is no room. Nothing of the operation was written.
    #[error("there is no room left for the database; nothing was written")]
    Full,
    /// The writer has ended: the service is stopping.
    #[error("the store is closed")]
    Closed,
    /// The writer could not begin its transaction. Nothing was written.
    #[error("the store cannot begin to write")]
    Begin {
        /// What SQLite said.
        source: Cause,
    },
    /// The commit failed, so that nothing counts as written.
    #[error("the store cannot commit")]
    Commit {
        /// What SQLite said.
        source: Cause,
    },
    /// A message could not be written.
    #[error("a message of {user} cannot be written")]
    Accept {
        /// Whose.
        user: UserName,
        /// What SQLite said.
        source: Cause,
    },
    /// A user could not be written.
    #[error("the user {user} cannot be written")]
    User {
        /// Which.
        user: UserName,
        /// What SQLite said.
        source: Cause,
    },
    /// The next run could not be claimed.
    #[error("the next run cannot be claimed")]
    Claim {
        /// What SQLite said.
        source: Cause,
    },
    /// A run's change could not be written.
    #[error("the run {run} cannot be changed")]
    Change {
        /// Which.
        run: RunId,
        /// What SQLite said.
        source: Cause,
    },
    /// There is no such run.
    #[error("there is no run {run}")]
    NoSuchRun {
        /// Its id.
        run: RunId,
    },
    /// The run's state does not allow what was asked for.
    #[error("the run {run} is {state} and cannot be made {asked}")]
    Impossible {
        /// Which.
        run: RunId,
        /// Where it stands.
        state: RunState,
        /// What it should have become.
        asked: &'static str,
    },
    /// The runs of a dead service could not be settled; none was.
    #[error("the runs that were open cannot be settled")]
    Recover {
        /// What SQLite said.
        source: Cause,
    },
    /// What is not kept for ever could not be forgotten.
    #[error("old preflights and keys cannot be forgotten")]
    Forget {
        /// What SQLite said.
        source: Cause,
    },
    /// Rows could not be read.
    #[error("{what} cannot be read")]
    Read {
        /// Which rows: "the run", "the users".
        what: &'static str,
        /// What SQLite said.
        source: Cause,
    },
    /// A row holds something that this program never wrote.
    #[error("the table {table} holds an invalid {column}")]
    Row {
        /// Which table.
        table: &'static str,
        /// Which column.
        column: &'static str,
        /// Why it is invalid, where a form was broken.
        source: Option<InvalidId>,
    },
    /// A halt, or its end, could not be written.
    #[error("whether NoClaw is halted cannot be written")]
    Halt {
        /// What SQLite said.
        source: Cause,
    },
    /// What the owner has looked at could not be written.
    #[error("that the news were seen cannot be written")]
    Seen {
        /// What SQLite said.
        source: Cause,
    },
    /// A grant of a folder could not be written or removed.
    #[error("the granted folders of {user} cannot be changed")]
    Mount {
        /// Whose.
        user: UserName,
        /// What SQLite said.
        source: Cause,
    },
    /// A token could not be written or removed.
    #[error("the token cannot be changed")]
    Token {
        /// What SQLite said.
        source: Cause,
    },
}

/// Why a message was not accepted.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Refused {
    /// The token was removed while the request came in.
    #[error("the token was removed")]
    TokenGone,
    /// Too many messages wait already.
    #[error("{most} messages {scope} wait already")]
    QueueFull {
        /// Whose queue is full.
        scope: QueueScope,
        /// How many may wait in it.
        most: usize,
    },
    /// The key stands for another message.
    #[error("this Idempotency-Key was sent with another message, which became run {run}")]
    KeyReused {
        /// That message's run.
        run: RunId,
    },
    /// Only a run that ended without an answer may be retried.
    #[error("run {run} is {state}: only one that ended without an answer may be retried")]
    NotRetried {
        /// Which.
        run: RunId,
        /// Where it stands.
        state: RunState,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] Error),
}

/// Why a user was not removed. Nothing was written then.
#[derive(Debug, Clone, thiserror::Error)]
pub enum NotRemoved {
    /// There is none.
    #[error("there is no user {user}")]
    NoSuchUser {
        /// Of this name.
        user: UserName,
    },
    /// A run of the user's is not over.
    #[error("{user} has {runs} run(s) that are not over")]
    Busy {
        /// Whose.
        user: UserName,
        /// How many.
        runs: u64,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] Error),
}

/// Why a folder was not added to those that a user is granted. Nothing was written then.
#[derive(Debug, Clone, thiserror::Error)]
pub enum NotAdded {
    /// There is no such user.
    #[error("there is no user {user}")]
    NoSuchUser {
        /// Of this name.
        user: UserName,
    },
    /// The user has it already.
    #[error("{user} has {path} already, {}", access(*.read_write))]
    Exists {
        /// Whose.
        user: UserName,
        /// The folder.
        path: FolderPath,
        /// Whether its cells may write there.
        read_write: bool,
    },
    /// The user has too many.
    #[error("{user} has {MOUNTS_PER_USER} folders, which is the most")]
    TooMany {
        /// Whose.
        user: UserName,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] Error),
}

/// Which queue is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueueScope {
    /// The sender's own.
    User,
    /// Everybody's together.
    All,
}

impl fmt::Display for QueueScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::User => "of this user",
            Self::All => "of all users",
        })
    }
}

/// What the database driver said, in one line.
#[derive(Debug, Clone)]
pub struct Cause(DbErr);

/// SQLite's primary result codes; the extended ones carry more in their upper bits.
const SQLITE_CORRUPT: i32 = 11;
const SQLITE_FULL: i32 = 13;
const SQLITE_NOTADB: i32 = 26;

impl Cause {
    fn code(&self) -> Option<i32> {
        let (DbErr::Conn(error) | DbErr::Exec(error) | DbErr::Query(error)) = &self.0 else {
            return None;
        };
        let RuntimeErr::SqlxError(error) = error else {
            return None;
        };
        let code: i32 = error.as_database_error()?.code()?.parse().ok()?;
        Some(code & 0xff)
    }

    /// Whether the file is not, or no longer, a database.
    pub(super) fn is_damage(&self) -> bool {
        matches!(self.code(), Some(SQLITE_CORRUPT | SQLITE_NOTADB))
    }
}

// The driver's own text holds its sources already; so there is none to hand on.
impl std::error::Error for Cause {}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Gives a driver's error the name of the operation that it ended: `make` builds that operation's
/// variant, but a full disk is always [`Error::Full`].
pub(super) fn name(error: DbErr, make: impl FnOnce(Cause) -> Error) -> Error {
    match Cause(error) {
        full if full.code() == Some(SQLITE_FULL) => Error::Full,
        cause => make(cause),
    }
}

/// [`name`], for results.
pub(super) trait Named<T> {
    /// The same value, or the error under its operation's name.
    fn named(self, make: impl FnOnce(Cause) -> Error) -> Result<T, Error>;
}

impl<T> Named<T> for Result<T, DbErr> {
    fn named(self, make: impl FnOnce(Cause) -> Error) -> Result<T, Error> {
        self.map_err(|error| name(error, make))
    }
}
