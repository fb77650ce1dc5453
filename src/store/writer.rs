//! The one writer: a task that owns the only connection that writes, and commits in groups.
//!
//! A verb is an [`Operation`]: data that can be applied to a transaction. The writer takes all that
//! wait, applies each inside a savepoint of one transaction, commits (one fsync) and only then
//! answers. What was handed over is carried out even if its caller stops waiting.
//!
//! | what fails | what follows |
//! |---|---|
//! | an operation | its savepoint is rolled back, its caller told |
//! | and the transaction with it (a full disk does that) | the others are done again, one by one |
//! | begin or commit | nothing of the group was written, all callers are told |

use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use sea_orm::{ConnectionTrait, DatabaseConnection, DatabaseTransaction};
use tokio::sync::{mpsc, oneshot};

use super::error::{Error, Named};
use super::{Counters, StoreOptions, open};

/// The transaction, or savepoint, that an operation works in.
pub(super) type Tx = DatabaseTransaction;

/// Operations in one transaction, and letters that wait beside it. More would make the first of
/// them wait long for the last.
const GROUP: usize = 64;

/// One verb. It may be applied twice, the first time without effect.
pub(super) trait Operation: Send + Sync + 'static {
    /// What its caller gets.
    type Output: Send + Sync + 'static;
    /// Why its caller does not.
    type Error: From<Error> + Send + Sync + 'static;

    /// Does it. An error undoes whatever it did.
    fn apply(&self, tx: &Tx) -> impl Future<Output = Result<Self::Output, Self::Error>> + Send;

    /// Whether this answer means that something was written; for the counters only.
    fn wrote(_output: &Self::Output) -> bool {
        true
    }
}

/// The handle to the writer's task, which ends when the last handle is dropped.
#[derive(Clone)]
pub(super) struct Writer {
    letters: mpsc::Sender<Letter>,
    tally: Arc<Tally>,
}

#[derive(Default)]
struct Tally {
    operations: AtomicU64,
    commits: AtomicU64,
}

enum Letter {
    Job(Box<dyn Job>),
    Close(oneshot::Sender<()>),
}

impl Writer {
    /// Starts the task on the current runtime. At its end it closes the readers too: only if the
    /// writer's connection is closed after theirs, it can fold the WAL back into the database.
    pub(super) fn start(
        options: StoreOptions,
        connection: DatabaseConnection,
        readers: DatabaseConnection,
    ) -> Self {
        let (letters, inbox) = mpsc::channel(GROUP);
        let tally = Arc::new(Tally::default());
        let pages = (options.max_pages)();
        let connection = Some(connection);
        let task = Task { options, connection, pages, readers, tally: Arc::clone(&tally) };
        tokio::spawn(task.run(inbox));
        Self { letters, tally }
    }

    /// Has `operation` carried out and returns once it is on disk.
    pub(super) async fn carry_out<O: Operation>(
        &self,
        operation: O,
    ) -> Result<O::Output, O::Error> {
        let (reply, answer) = oneshot::channel();
        let job = Box::new(Envelope { operation, result: None, reply });
        let sent = self.letters.send(Letter::Job(job)).await;
        sent.map_err(|_| Error::Closed)?;
        answer.await.unwrap_or_else(|_| Err(Error::Closed.into()))
    }

    /// Carries out what waits, closes all connections and returns when that is done.
    pub(super) async fn close(&self) {
        let (reply, done) = oneshot::channel();
        if self.letters.send(Letter::Close(reply)).await.is_ok() {
            // An error means that the task has ended already.
            let _ = done.await;
        }
    }

    pub(super) fn counters(&self) -> Counters {
        Counters {
            operations: self.tally.operations.load(Ordering::Relaxed),
            commits: self.tally.commits.load(Ordering::Relaxed),
        }
    }
}

/// How a group's transaction was lost.
#[derive(Clone)]
enum Lost {
    /// At its begin or its commit.
    Whole(Error),
    /// With one operation.
    Midway(Error),
}

/// An operation whose type the task need not know.
trait Job: Send {
    /// Applies it and keeps the result. `Some(wrote)` if its savepoint is to be kept.
    fn apply<'a>(
        &'a mut self,
        tx: &'a Tx,
    ) -> Pin<Box<dyn Future<Output = Option<bool>> + Send + 'a>>;

    /// Answers its caller.
    fn answer(self: Box<Self>, ended: Result<(), Lost>);
}

struct Envelope<O: Operation> {
    operation: O,
    result: Option<Result<O::Output, O::Error>>,
    reply: oneshot::Sender<Result<O::Output, O::Error>>,
}

impl<O: Operation> Job for Envelope<O> {
    fn apply<'a>(
        &'a mut self,
        tx: &'a Tx,
    ) -> Pin<Box<dyn Future<Output = Option<bool>> + Send + 'a>> {
        Box::pin(async move {
            let result = self.operation.apply(tx).await;
            let kept = result.as_ref().ok().map(O::wrote);
            self.result = Some(result);
            kept
        })
    }

    fn answer(self: Box<Self>, ended: Result<(), Lost>) {
        let answer = match (ended, self.result) {
            (Ok(()), Some(result)) => result,
            // The operation's own error is the better explanation.
            (Err(Lost::Midway(_)), Some(Err(error))) => Err(error),
            (Err(Lost::Whole(error) | Lost::Midway(error)), _) => Err(error.into()),
            (Ok(()), None) => Err(Error::Closed.into()),
        };
        // A caller that stopped waiting needs no answer.
        let _ = self.reply.send(answer);
    }
}

struct Task {
    options: StoreOptions,
    connection: Option<DatabaseConnection>,
    // What a test let it have when it was made.
    pages: Option<u32>,
    readers: DatabaseConnection,
    tally: Arc<Tally>,
}

impl Task {
    async fn run(mut self, mut inbox: mpsc::Receiver<Letter>) {
        let mut letters = Vec::with_capacity(GROUP);
        let mut closing = Vec::new();
        while inbox.recv_many(&mut letters, GROUP).await > 0 {
            let mut group = Vec::with_capacity(letters.len());
            for letter in letters.drain(..) {
                match letter {
                    Letter::Job(job) => group.push(job),
                    Letter::Close(done) => {
                        inbox.close();
                        closing.push(done);
                    }
                }
            }
            self.carry_out(group).await;
            // Those who were just answered may write again at once; in one group, if they are let.
            tokio::task::yield_now().await;
        }
        close(self.readers.clone()).await;
        self.drop_connection().await;
        for done in closing {
            let _ = done.send(());
        }
    }

    async fn carry_out(&mut self, mut group: Vec<Box<dyn Job>>) {
        let ended = self.transaction(&mut group).await;
        let again = group.len() > 1 && matches!(ended, Err(Lost::Midway(_)));
        for mut job in group {
            let ended = if again {
                self.transaction(std::slice::from_mut(&mut job)).await
            } else {
                ended.clone()
            };
            job.answer(ended);
        }
    }

    /// One transaction for the whole group.
    async fn transaction(&mut self, group: &mut [Box<dyn Job>]) -> Result<(), Lost> {
        if group.is_empty() {
            return Ok(());
        }
        let connection = self.connection().await.map_err(Lost::Whole)?;
        let ended = Self::apply(&connection, group).await;
        match &ended {
            Ok(kept) => {
                let wrote = kept.iter().filter(|wrote| **wrote).count() as u64;
                self.tally.operations.fetch_add(wrote, Ordering::Relaxed);
                self.tally.commits.fetch_add(u64::from(wrote > 0), Ordering::Relaxed);
            }
            // The driver counts transactions by itself, and would take the next group's for a
            // savepoint of the one that was lost.
            Err(_) => self.drop_connection().await,
        }
        ended.map(mem::drop)
    }

    async fn apply(
        connection: &DatabaseConnection,
        group: &mut [Box<dyn Job>],
    ) -> Result<Vec<bool>, Lost> {
        let begin = |source| Error::Begin { source };
        let commit = |source| Error::Commit { source };
        let tx = open::begin(connection).await;
        let tx = tx.named(begin).map_err(Lost::Whole)?;
        let mut kept = Vec::with_capacity(group.len());
        let savepoint = tx.execute_unprepared("SAVEPOINT operation").await;
        savepoint.named(begin).map_err(Lost::Midway)?;
        for job in group {
            let wrote = job.apply(&tx).await;
            // Both leave a savepoint behind for the next one; the commit takes the last along. Both
            // fail if SQLite has already given up the whole transaction.
            let next = match wrote {
                Some(_) => "RELEASE operation; SAVEPOINT operation",
                None => "ROLLBACK TO operation",
            };
            let next = tx.execute_unprepared(next).await;
            next.named(commit).map_err(Lost::Midway)?;
            kept.extend(wrote);
        }
        tx.commit().await.named(commit).map_err(Lost::Whole)?;
        Ok(kept)
    }

    async fn connection(&mut self) -> Result<DatabaseConnection, Error> {
        let pages = (self.options.max_pages)();
        if pages != self.pages {
            self.pages = pages;
            self.drop_connection().await;
        }
        if let Some(connection) = &self.connection {
            return Ok(connection.clone());
        }
        let connection = open::connect_writer(&self.options).await?;
        self.connection = Some(connection.clone());
        Ok(connection)
    }

    async fn drop_connection(&mut self) {
        if let Some(connection) = self.connection.take() {
            close(connection).await;
        }
    }
}

async fn close(connection: DatabaseConnection) {
    if let Err(error) = connection.close().await {
        tracing::warn!(%error, "a connection of the store did not close cleanly");
    }
}
