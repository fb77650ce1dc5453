//! The store as its callers see it, on real files in directories of their own.

mod ask;
mod file;
mod group;
mod halt;
mod life;
mod order;
mod people;

use std::error::Error as StdError;

use tempfile::TempDir;
use uuid::Uuid;

use super::accept::{Accepted, NewMessage, QueueLimits};
use super::change::{Ending, Head, Spending};
use super::claim::{ActiveLimits, Claimed};
use super::error::{Error, Refused};
use super::writer::{Operation, Tx};
use super::{Store, StoreOptions};
use crate::core::ids::RunId;
use crate::core::message::{Message, MessageBody};
use crate::core::run::{FailureKind, Outcome, RunState};
use crate::core::timeline::Timeline;

type Checked = Result<(), Box<dyn StdError>>;

const LIMITS: QueueLimits = QueueLimits { per_user: 1000, all: 10_000, messages_per_run: 20 };

const CELLS: ActiveLimits = ActiveLimits { cells: 4, per_user: 2 };

/// A store in a directory that goes away with it.
struct Home {
    store: Store,
    options: StoreOptions,
    dir: TempDir,
}

impl Home {
    async fn new() -> Result<Self, Box<dyn StdError>> {
        Self::with_pages(|| None).await
    }

    async fn with_pages(max_pages: fn() -> Option<u32>) -> Result<Self, Box<dyn StdError>> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("noclaw.db");
        let options = StoreOptions { path, max_pages };
        let store = Store::open(options.clone()).await?;
        Ok(Self { store, options, dir })
    }

    /// Says `text`; its run would be number `run`.
    async fn say(&self, run: u128, user: &str, conversation: &str, text: &str) -> Said {
        self.say_with(new(run, user, conversation, text), LIMITS).await
    }

    async fn say_with(&self, new: Result<NewMessage, Box<dyn StdError>>, l: QueueLimits) -> Said {
        Ok(self.store.accept(new?, l).await?)
    }

    async fn claim(&self) -> Result<Option<Claimed>, Error> {
        self.store.claim(CELLS, NOW).await
    }

    /// Claims the next run, which must be number `run`.
    async fn claim_number(&self, run: u128) -> Result<Claimed, Box<dyn StdError>> {
        let claimed = self.claim().await?.ok_or("nothing to claim")?;
        assert_eq!(claimed.run, id(run));
        Ok(claimed)
    }

    /// Ends a claimed run with a reply.
    async fn answer(&self, run: RunId, head: &str) -> Result<(), Error> {
        self.store.measured(run, "{}", "held", true).await?;
        self.store.finish(run, answered("done", head), NOW).await?;
        self.store.gone(run, NOW).await
    }

    /// Closes the store and opens the same file again.
    async fn reopen(mut self, max_pages: fn() -> Option<u32>) -> Result<Self, Box<dyn StdError>> {
        self.store.close().await;
        self.options.max_pages = max_pages;
        self.store = Store::open(self.options.clone()).await?;
        Ok(self)
    }
}

type Said = Result<Accepted, Box<dyn StdError>>;

/// 2026-11-22 10:00 UTC.
const NOW: i64 = 1_795_341_600_000;

fn id(number: u128) -> RunId {
    RunId::new(Uuid::from_u128(number))
}

fn new(
    run: u128,
    user: &str,
    conversation: &str,
    text: &str,
) -> Result<NewMessage, Box<dyn StdError>> {
    let body = MessageBody {
        message: text.to_owned(),
        conversation: Some(conversation.to_owned()),
        ..MessageBody::default()
    };
    Ok(NewMessage {
        message: Message::check(body, &user.parse()?, |_| true)?,
        run_if_new: id(run),
        channel: "test".to_owned(),
        now_ms: NOW,
        token: None,
        key: None,
    })
}

fn answered(reply: &str, head: &str) -> Ending {
    Ending {
        outcome: Outcome::Answered { reply: reply.to_owned() },
        spending: Spending::default(),
        new_head: Some(at(head)),
        timeline: Timeline::default(),
    }
}

fn at(session: &str) -> Head {
    Head { session: session.to_owned(), attachments: [format!("attached to {session}")].into() }
}

fn failed() -> Ending {
    Ending {
        outcome: Outcome::failed(FailureKind::DoorLost, "the stream ended"),
        spending: Spending::default(),
        new_head: Some(at("never")),
        timeline: Timeline::default(),
    }
}

/// What a crash leaves is settled: which runs, and to what.
async fn settled(store: &Store, now_ms: i64) -> Result<Vec<(RunId, RunState)>, Error> {
    let settled = store.recover(now_ms).await?;
    Ok(settled.into_iter().map(|settled| (settled.run, settled.state)).collect())
}

fn texts(claimed: &Claimed) -> Vec<&str> {
    claimed.messages.iter().map(|shown| shown.text.as_str()).collect()
}

fn is_full<T>(result: Result<T, Box<dyn StdError>>) -> bool {
    let error = result.err();
    let error = error.as_ref().and_then(|error| error.downcast_ref::<Refused>());
    matches!(error, Some(Refused::Store(Error::Full)))
}

/// One number that SQLite answers on the writer's connection.
struct Ask(&'static str);

impl Operation for Ask {
    type Output = String;
    type Error = Error;

    async fn apply(&self, tx: &Tx) -> Result<String, Error> {
        use super::error::Named;
        use sea_orm::{ConnectionTrait, DbBackend, Statement};
        let statement = Statement::from_string(DbBackend::Sqlite, self.0);
        let row = tx.query_one_raw(statement).await;
        let row = row.named(Error::reading("the answer"))?.ok_or(Error::Closed)?;
        let text = row.try_get_by_index::<String>(0);
        match text {
            Ok(text) => Ok(text),
            Err(_) => {
                let number = row.try_get_by_index::<i64>(0);
                Ok(number.named(Error::reading("the answer"))?.to_string())
            }
        }
    }

    fn wrote(_: &String) -> bool {
        false
    }
}

/// Whether another process could begin to write while the writer is in its transaction.
struct Rival(std::path::PathBuf);

impl Operation for Rival {
    type Output = bool;
    type Error = Error;

    async fn apply(&self, _tx: &Tx) -> Result<bool, Error> {
        use super::error::Named;
        use sea_orm::{ConnectOptions, ConnectionTrait, Database};
        let failed = Error::reading("the rival");
        let mut options = ConnectOptions::new(format!("sqlite:{}", self.0.display()));
        options.map_sqlx_sqlite_opts(|sqlite| sqlite.busy_timeout(std::time::Duration::ZERO));
        let rival = Database::connect(options).await.named(failed)?;
        let began = rival.execute_unprepared("BEGIN IMMEDIATE").await.is_ok();
        rival.close().await.named(failed)?;
        Ok(began)
    }

    fn wrote(_: &bool) -> bool {
        false
    }
}
