//! State: sea-orm on SQLite, behind verbs. Nothing outside this folder may assume a database.
//!
//! | where | what |
//! |---|---|
//! | `accept.rs`, `claim.rs`, `change.rs`, `recover.rs`, `retry.rs` | a run's life, as verbs of [`Store`] |
//! | `read.rs`, `record.rs` | what people and other parts may read, in types of `core` |
//! | `users.rs`, `removal.rs`, `tokens.rs` | who there is |
//! | `mounts.rs` | which of the owner's folders a user is granted |
//! | `news.rs` | what happened since the owner last looked |
//! | `halt.rs` | the halt that holds |
//! | `writer.rs` | one connection writes, and commits in groups |
//! | `open.rs`, `migrations.rs`, `entities.rs` | the file, its tables, their rows |
//!
//! The clock and new ids come in as arguments; times are milliseconds since the epoch (UTC).
//! Whoever opens the store holds the lock on the state directory; nobody is looked for here.

pub mod accept;
pub mod change;
pub mod claim;
mod entities;
pub mod error;
mod forget;
pub mod halt;
mod migrations;
pub mod mounts;
pub mod news;
mod open;
pub mod read;
pub mod record;
pub mod recover;
pub mod removal;
pub mod retry;
mod standing;
pub mod tokens;
pub mod users;
mod writer;

#[cfg(test)]
mod tests;

use std::path::PathBuf;

use sea_orm::DatabaseConnection;

use error::Error;
use writer::{Operation, Tx, Writer};

/// Where the database is.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// The file; its directory exists.
    pub path: PathBuf,
    /// The most pages (4 KiB) that it may have, asked for each transaction that writes. Only for
    /// tests of a full disk.
    pub max_pages: fn() -> Option<u32>,
}

/// The handle to the state; cheap to clone. The file is closed when the last one is dropped.
#[derive(Clone)]
pub struct Store {
    writer: Writer,
    readers: DatabaseConnection,
}

/// What the writer has done since it was started; their ratio is the size of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counters {
    /// Operations that wrote something.
    pub operations: u64,
    /// Commits that did, each one fsync.
    pub commits: u64,
}

impl Store {
    /// Opens the database and brings its tables up to date; makes it if there is none.
    ///
    /// # Errors
    /// [`Error::NotOurs`], [`Error::Damaged`] and [`Error::Newer`] leave the file as it was.
    pub async fn open(options: StoreOptions) -> Result<Self, Error> {
        let connection = open::open(&options).await?;
        // The writer is connected first: readers cannot make the files that the WAL needs.
        let readers = open::connect_readers(&options.path).await?;
        let writer = Writer::start(options, connection, readers.clone());
        Ok(Self { writer, readers })
    }

    /// Answers when the writer can begin a transaction: it is alive and nothing blocks it.
    ///
    /// # Errors
    /// [`Error::Begin`] or [`Error::Closed`].
    pub async fn ping(&self) -> Result<(), Error> {
        self.writer.carry_out(Ping).await
    }

    /// What the writer has done so far.
    pub fn counters(&self) -> Counters {
        self.writer.counters()
    }

    /// Carries out what waits and closes the file. Later verbs fail.
    pub async fn close(&self) {
        self.writer.close().await;
    }
}

struct Ping;

impl Operation for Ping {
    type Output = ();
    type Error = Error;

    async fn apply(&self, _tx: &Tx) -> Result<(), Error> {
        Ok(())
    }

    fn wrote((): &()) -> bool {
        false
    }
}

impl Error {
    /// For `named`: rows that cannot be read.
    fn reading(what: &'static str) -> impl FnOnce(error::Cause) -> Self + Copy {
        move |source| Self::Read { what, source }
    }
}
