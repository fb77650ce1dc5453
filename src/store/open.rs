//! Opening the database: looked at before it is touched, private, and with the pragmas that the
//! promises of the store rest on.
//!
//! | found | done |
//! |---|---|
//! | nothing, or an empty file | made, mode 0600 |
//! | a database with migrations that this version knows | brought up to date in one transaction |
//! | a migration that this version does not know | refused, unchanged |
//! | pages that do not fit together (`PRAGMA quick_check`) | refused, unchanged |
//! | another program's database, or no database | refused, unchanged |

#![expect(
    clippy::disallowed_methods,
    reason = "SQLite opens the file by its path, too; nobody but the owner can write to where it is"
)]

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sea_orm::sqlx::sqlite::SqliteConnectOptions;
use sea_orm::{
    ConnectOptions, ConnectionTrait, Database, DatabaseConnection, DatabaseTransaction, DbBackend,
    DbErr, SqliteTransactionMode, Statement, TransactionOptions, TransactionTrait,
};
use sea_orm_migration::MigratorTrait;

use super::StoreOptions;
use super::error::{Error, Named, name};
use super::migrations::{self, Migrator};

/// What every SQLite database begins with.
const MAGIC: &[u8; 16] = b"SQLite format 3\0";
/// Another program may hold the lock (a backup); it is waited for this long.
const BUSY: Duration = Duration::from_secs(5);
/// A reader waits this long for one of the pool's connections.
const ACQUIRE: Duration = Duration::from_secs(10);
/// Connections that read. Two, so that one long list does not hold up everybody.
const READERS: u32 = 2;

/// Makes or checks the file and brings its tables up to date. Returns the writer's connection.
pub(super) async fn open(options: &StoreOptions) -> Result<DatabaseConnection, Error> {
    let path = &options.path;
    let applied = match look(path)? {
        Found::Fresh => Vec::new(),
        Found::Database => applied_migrations(path).await?,
    };
    let known = migrations::names();
    if let Some(migration) = applied.iter().find(|name| !known.contains(name)) {
        return Err(Error::Newer { path: path.clone(), migration: migration.clone() });
    }
    make_private(path).map_err(|source| file_error(path, source))?;
    let connection = connect_writer(options).await?;
    if applied.len() < known.len() {
        let failed = |source| Error::Migrate { path: path.clone(), source };
        migrate(&connection).await.named(failed)?;
    }
    Ok(connection)
}

/// The one connection that writes.
pub(super) async fn connect_writer(options: &StoreOptions) -> Result<DatabaseConnection, Error> {
    let max_pages = options.max_pages;
    connect(&options.path, 1, move |sqlite| {
        let sqlite = sqlite
            .pragma("journal_mode", "WAL")
            // An accepted message survives a power cut: FULL syncs the WAL at each commit.
            .pragma("synchronous", "FULL")
            // After a burst the WAL shrinks again.
            .pragma("journal_size_limit", "16777216");
        match max_pages() {
            Some(pages) => sqlite.pragma("max_page_count", pages.to_string()),
            None => sqlite,
        }
    })
    .await
}

/// The connections that read; SQLite refuses them every write.
pub(super) async fn connect_readers(path: &Path) -> Result<DatabaseConnection, Error> {
    let small_cache = |sqlite: SqliteConnectOptions| {
        let sqlite = sqlite.read_only(true);
        sqlite.pragma("cache_size", "-512")
    };
    connect(path, READERS, small_cache).await
}

/// Begins a transaction that holds the write lock from its start, so that it cannot fail halfway.
pub(super) async fn begin(connection: &DatabaseConnection) -> Result<DatabaseTransaction, DbErr> {
    let options = TransactionOptions {
        sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
        ..TransactionOptions::default()
    };
    connection.begin_with_options(options).await
}

enum Found {
    Fresh,
    Database,
}

/// Looks at the first bytes, before SQLite is let near the file.
fn look(path: &Path) -> Result<Found, Error> {
    let not_ours = || Error::NotOurs { path: path.to_owned() };
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            create(path).map_err(|source| file_error(path, source))?;
            return Ok(Found::Fresh);
        }
        Err(source) => return Err(file_error(path, source)),
    };
    let about = file.metadata().map_err(|source| file_error(path, source))?;
    if !about.is_file() {
        return Err(not_ours());
    }
    if about.len() == 0 {
        return Ok(Found::Fresh);
    }
    let mut start = [0; MAGIC.len()];
    match file.read_exact(&mut start) {
        Ok(()) if start == *MAGIC => Ok(Found::Database),
        _ => Err(not_ours()),
    }
}

fn create(path: &Path) -> io::Result<()> {
    let mut new = OpenOptions::new();
    new.write(true).create_new(true).mode(0o600).open(path)?;
    // The new name must survive a power cut as surely as what will stand in the file.
    let parent = path.parent().filter(|parent| *parent != Path::new(""));
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}

/// The database and its companions are the owner's alone. SQLite gives new companions the mode of
/// the database.
fn make_private(path: &Path) -> io::Result<()> {
    for suffix in ["", "-wal", "-shm"] {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        let name = PathBuf::from(name);
        match fs::metadata(&name) {
            Ok(about) if about.permissions().mode() & 0o077 != 0 => {
                fs::set_permissions(&name, Permissions::from_mode(0o600))?;
            }
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Reads which migrations the database has, without writing to it.
async fn applied_migrations(path: &Path) -> Result<Vec<String>, Error> {
    let connection = connect(path, 1, |sqlite| sqlite.read_only(true)).await?;
    let tables = "SELECT name FROM sqlite_schema WHERE type = 'table'";
    let read = async {
        // Damage would else be met in the middle of a run. It takes about 1 ms for each MiB.
        let found = names(&connection, "PRAGMA quick_check(1)").await?;
        if let Some(damage) = found.into_iter().find(|line| line != "ok") {
            return Ok(Looked::Damaged(damage));
        }
        let tables = names(&connection, tables).await?;
        if tables.iter().any(|table| table == "seaql_migrations") {
            let all = "SELECT version FROM seaql_migrations ORDER BY version";
            return Ok(Looked::Ours(names(&connection, all).await?));
        }
        // A service that was killed before its first migration leaves a database without tables.
        Ok(if tables.is_empty() { Looked::Ours(Vec::new()) } else { Looked::NotOurs })
    };
    let looked = read.await.map_err(|error| open_error(path, error))?;
    connection.close().await.map_err(|error| open_error(path, error))?;
    match looked {
        Looked::Ours(applied) => Ok(applied),
        Looked::NotOurs => Err(Error::NotOurs { path: path.to_owned() }),
        Looked::Damaged(what) => {
            let path = path.to_owned();
            Err(name(DbErr::Custom(what), |source| Error::Damaged { path, source }))
        }
    }
}

enum Looked {
    Ours(Vec<String>),
    NotOurs,
    Damaged(String),
}

async fn names(connection: &DatabaseConnection, sql: &str) -> Result<Vec<String>, DbErr> {
    let statement = Statement::from_string(DbBackend::Sqlite, sql);
    let rows = connection.query_all_raw(statement).await?;
    rows.iter().map(|row| row.try_get_by_index(0)).collect()
}

/// All that is missing, in one transaction: the tables are the old ones or the new ones.
async fn migrate(connection: &DatabaseConnection) -> Result<(), DbErr> {
    let transaction = begin(connection).await?;
    Migrator::up(&transaction, None).await?;
    transaction.commit().await
}

async fn connect(
    path: &Path,
    most: u32,
    configure: impl Fn(SqliteConnectOptions) -> SqliteConnectOptions + Send + Sync + 'static,
) -> Result<DatabaseConnection, Error> {
    // The URL only names the driver; the path is handed over as it is, whatever characters it has.
    let mut options = ConnectOptions::new("sqlite:by-path");
    let file = path.to_owned();
    options
        .max_connections(most)
        .acquire_timeout(ACQUIRE)
        // With both the pool has no reaper, which would wake an idle service.
        .idle_timeout(None::<Duration>)
        .max_lifetime(None::<Duration>)
        .test_before_acquire(false)
        // Statements carry what people wrote; logs do not.
        .sqlx_logging(false)
        .record_stmt_in_spans(false)
        .map_sqlx_sqlite_opts(move |sqlite| {
            let sqlite = sqlite.filename(&file).busy_timeout(BUSY);
            // The service may write nowhere but in its state directory.
            configure(sqlite.foreign_keys(true).pragma("temp_store", "MEMORY"))
        });
    let connected = Database::connect(options).await;
    connected.map_err(|error| open_error(path, error))
}

fn open_error(path: &Path, error: DbErr) -> Error {
    let path = path.to_owned();
    name(error, |source| match source.is_damage() {
        true => Error::Damaged { path, source },
        false => Error::Open { path, source },
    })
}

fn file_error(path: &Path, source: io::Error) -> Error {
    Error::File { path: path.to_owned(), source: Arc::new(source) }
}
