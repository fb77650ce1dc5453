//! The tables, as the migrations that make them. Append only: one that has been released is never
//! edited, or two machines with the same list would have different tables.
//!
//! Written as SQL, so that the schema can be read where it is made. Times are milliseconds since
//! the epoch (UTC), money is millionths of a US dollar.

use sea_orm_migration::prelude::*;

/// All migrations, oldest first.
pub(super) struct Migrator;

impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![
            Box::new(Sql { name: "m0001_messages_and_runs", up: M0001 }),
            Box::new(Sql { name: "m0002_cancel_retry_keys", up: M0002 }),
            Box::new(Sql { name: "m0003_mounts", up: M0003 }),
            Box::new(Sql { name: "m0004_halt", up: M0004 }),
            Box::new(Sql { name: "m0005_workspace_space", up: M0005 }),
            Box::new(Sql { name: "m0006_isolation", up: M0006 }),
            Box::new(Sql { name: "m0007_isolation_stays", up: M0007 }),
        ]
    }
}

/// The names of all migrations, oldest first.
pub(super) fn names() -> Vec<String> {
    let all = Migrator::migrations();
    all.iter().map(|one| one.name().to_owned()).collect()
}

struct Sql {
    name: &'static str,
    up: &'static str,
}

impl MigrationName for Sql {
    fn name(&self) -> &str {
        self.name
    }
}

#[expect(elided_lifetimes_in_paths, reason = "async_trait wants the trait's own form")]
#[async_trait::async_trait]
impl MigrationTrait for Sql {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.get_connection().execute_unprepared(self.up).await?;
        Ok(())
    }

    // One transaction holds all migrations of a start (open.rs); not one each.
    fn use_transaction(&self) -> Option<bool> {
        Some(false)
    }
}

/// `runs.seq` is the order of acceptance: a clock may go back, a rowid does not. `gone_at` is set
/// with every final state, so the partial indices over open runs stay as small as the queue; it is
/// a column of theirs because SQLite would fetch each row to look at it.
const M0001: &str = "
CREATE TABLE contexts (
    name         TEXT PRIMARY KEY NOT NULL,
    instructions TEXT NOT NULL DEFAULT '',
    time_zone    TEXT, -- NULL: the machine's
    created_at   INTEGER NOT NULL
) STRICT;

CREATE TABLE conversations (
    id         INTEGER PRIMARY KEY NOT NULL,
    user       TEXT NOT NULL REFERENCES contexts(name),
    name       TEXT NOT NULL,
    head       TEXT, -- the agent's session that the next run forks from
    created_at INTEGER NOT NULL,
    UNIQUE (user, name)
) STRICT;

CREATE TABLE runs (
    seq             INTEGER PRIMARY KEY NOT NULL,
    id              TEXT NOT NULL UNIQUE,
    user            TEXT NOT NULL REFERENCES contexts(name),
    conversation_id INTEGER NOT NULL REFERENCES conversations(id),
    state           TEXT NOT NULL,
    outcome         TEXT, -- the final state, known from `finishing` on
    model           TEXT,
    messages        INTEGER NOT NULL, -- how many it answers
    attempts        INTEGER NOT NULL DEFAULT 0,
    created_at      INTEGER NOT NULL,
    claimed_at      INTEGER,
    delivered_at    INTEGER,
    touched_at      INTEGER,
    ended_at        INTEGER, -- the outcome is known
    gone_at         INTEGER, -- the container was seen gone
    container_id    TEXT,
    forked_from     TEXT, -- the conversation's head when it was claimed
    reply           TEXT,
    error           TEXT,
    input_tokens          INTEGER NOT NULL DEFAULT 0,
    output_tokens         INTEGER NOT NULL DEFAULT 0,
    cache_write_tokens    INTEGER NOT NULL DEFAULT 0,
    cache_write_1h_tokens INTEGER NOT NULL DEFAULT 0,
    cache_read_tokens     INTEGER NOT NULL DEFAULT 0,
    requests              INTEGER NOT NULL DEFAULT 0,
    cost_microusd         INTEGER NOT NULL DEFAULT 0,
    preflight       TEXT
) STRICT;
CREATE INDEX runs_open ON runs(state, user, messages, gone_at) WHERE gone_at IS NULL;
CREATE INDEX runs_open_conversation ON runs(conversation_id, state, gone_at) WHERE gone_at IS NULL;
CREATE INDEX runs_user ON runs(user);
CREATE INDEX runs_outcome ON runs(outcome) WHERE outcome IS NOT NULL;
CREATE INDEX runs_ended ON runs(ended_at, user, cost_microusd) WHERE ended_at IS NOT NULL;

CREATE TABLE message_history (
    id              INTEGER PRIMARY KEY NOT NULL,
    conversation_id INTEGER NOT NULL REFERENCES conversations(id),
    run_id          TEXT NOT NULL REFERENCES runs(id),
    text            TEXT NOT NULL,
    context         TEXT,
    channel         TEXT NOT NULL,
    created_at      INTEGER NOT NULL
) STRICT;
CREATE INDEX message_history_run ON message_history(run_id);
CREATE INDEX message_history_conversation ON message_history(conversation_id);

CREATE TABLE tokens (
    id         INTEGER PRIMARY KEY NOT NULL,
    scope      TEXT NOT NULL,
    user       TEXT REFERENCES contexts(name),
    hash       BLOB NOT NULL UNIQUE, -- SHA-256 of the token
    label      TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER
) STRICT;
";

/// A key's row is written with its message, so that whoever sends it again gets the same run.
const M0002: &str = "
-- 1: its sender wants the conversation to begin anew; 2: the agent refused the transcript
ALTER TABLE runs ADD COLUMN anew INTEGER NOT NULL DEFAULT 0;
ALTER TABLE conversations ADD COLUMN head_attachments TEXT; -- JSON: ids of those in its transcript
ALTER TABLE runs ADD COLUMN retry_of TEXT REFERENCES runs(id); -- the run whose messages it answers
ALTER TABLE runs ADD COLUMN cancel_at INTEGER; -- somebody asked to cancel it
ALTER TABLE runs ADD COLUMN timeline TEXT; -- JSON: microseconds since it was claimed
CREATE UNIQUE INDEX runs_retry ON runs(retry_of) WHERE retry_of IS NOT NULL;

CREATE TABLE idempotency_keys (
    speaker    TEXT NOT NULL, -- `owner`, or the token's hash, in hexadecimal
    key        TEXT NOT NULL,
    message    BLOB NOT NULL, -- SHA-256 of what was sent
    run_id     TEXT NOT NULL REFERENCES runs(id),
    created_at INTEGER NOT NULL,
    PRIMARY KEY (speaker, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX idempotency_keys_run ON idempotency_keys(run_id);

CREATE TABLE marks (
    name TEXT PRIMARY KEY NOT NULL, -- `looked`: when the owner last looked at the news
    at   INTEGER NOT NULL
) STRICT;
";

/// The owner's folders that a user is granted. Whether a cell gets one is decided for each run.
const M0003: &str = "
CREATE TABLE mounts (
    user       TEXT NOT NULL REFERENCES contexts(name),
    name       TEXT NOT NULL, -- in the user's cells: /mounts/NAME; it stays what it is
    path       TEXT NOT NULL, -- the folder, from /
    read_write INTEGER NOT NULL, -- 1: a cell may write there
    created_at INTEGER NOT NULL,
    PRIMARY KEY (user, name),
    UNIQUE (user, path)
) STRICT, WITHOUT ROWID;
";

/// One row, or none: whether the service is halted is one fact.
const M0004: &str = "
CREATE TABLE halt (
    only   INTEGER PRIMARY KEY NOT NULL CHECK (only = 1),
    since  INTEGER NOT NULL,
    reason TEXT -- in the owner's words
) STRICT;
";

/// What a workspace took of the disk when a run of its user was over; the last one's holds.
const M0005: &str = "
ALTER TABLE runs ADD COLUMN workspace_bytes INTEGER; -- allocated
ALTER TABLE runs ADD COLUMN workspace_files INTEGER; -- files and directories
CREATE INDEX runs_workspace ON runs(user, seq) WHERE workspace_bytes IS NOT NULL;
";

/// What a run's cell was measured to be: kept as long as the run, and no agent begins without.
const M0006: &str = "
ALTER TABLE runs ADD COLUMN isolation TEXT; -- a line for people
CREATE TRIGGER runs_are_measured BEFORE UPDATE OF state, outcome ON runs
WHEN NEW.isolation IS NULL AND (NEW.state = 'running' OR NEW.outcome = 'answered')
BEGIN
    SELECT RAISE(ABORT, 'no agent runs without its measured isolation');
END;
";

/// The same of a row that is written as it is, and of one that was measured. A run that waits again
/// keeps its line until the next cell's; nobody takes one away.
const M0007: &str = "
CREATE TRIGGER runs_begin_measured BEFORE INSERT ON runs
WHEN NEW.isolation IS NULL AND (NEW.state = 'running' OR NEW.outcome = 'answered')
BEGIN
    SELECT RAISE(ABORT, 'no agent runs without its measured isolation');
END;
CREATE TRIGGER runs_stay_measured BEFORE UPDATE OF isolation ON runs
WHEN NEW.isolation IS NULL AND (NEW.state = 'running' OR NEW.outcome = 'answered')
BEGIN
    SELECT RAISE(ABORT, 'no agent runs without its measured isolation');
END;
";
