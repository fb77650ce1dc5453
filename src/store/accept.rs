//! Accepting a message: it is written, with the run that will answer it, or it is refused. There is
//! nothing in between; whoever gets [`Accepted`] may tell the sender so.
//!
//! Messages that wait in one conversation are answered together. A message joins the conversation's
//! newest waiting run, never an older one, so that messages are answered in the order they came.
//!
//! A sender's key is written with its message: whoever sends both again is told the same run, also
//! after a crash in between.

use sea_orm::{ConnectionTrait, EntityTrait, FromQueryResult, Set, raw_sql};

use super::entities::{conversations, idempotency_keys};
use super::error::{Cause, Error, Named, QueueScope, Refused};
use super::record::{memory_number, parse_run};
use super::tokens::TokenHash;
use super::writer::{Operation, Tx};
use super::{Store, users};
use crate::core::ids::RunId;
use crate::core::message::Message;
use crate::core::run::Memory;

/// A message that came in.
#[derive(Debug, Clone)]
pub struct NewMessage {
    /// The message.
    pub message: Message,
    /// The id of its run, if it needs a new one. The channel that it came by knows it by this.
    pub run_if_new: RunId,
    /// Which way it came: `webhook`, `cli`.
    pub channel: String,
    /// When.
    pub now_ms: i64,
    /// The token it was sent with. It may have been removed since.
    pub token: Option<TokenHash>,
    /// By what its sender knows it again.
    pub key: Option<SentKey>,
}

/// An idempotency key, as its sender uses it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SentKey {
    /// Whose key it is: others may use the same.
    pub speaker: String,
    /// The key.
    pub key: String,
    /// The SHA-256 of all that was sent.
    pub message: [u8; 32],
}

/// How much may wait.
#[derive(Debug, Clone, Copy)]
pub struct QueueLimits {
    /// Messages of one user.
    pub per_user: usize,
    /// Messages in all.
    pub all: usize,
    /// Messages that one run may answer.
    pub messages_per_run: usize,
}

/// A message that is on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accepted {
    /// The run that will answer it.
    pub run: RunId,
    /// Whether that run already waited, with other messages.
    pub joined: bool,
    /// Whether it was accepted before, under the same key.
    pub repeated: bool,
}

impl Store {
    /// Writes a message and its run; once this returns, both survive a power cut.
    ///
    /// # Errors
    /// [`Refused::TokenGone`] when its token was removed; [`Refused::KeyReused`] for another
    /// message under a known key; [`Refused::QueueFull`] when too much waits already;
    /// [`Refused::Store`] when it cannot be written, in particular [`Error::Full`]. In all cases
    /// nothing was written.
    pub async fn accept(&self, new: NewMessage, limits: QueueLimits) -> Result<Accepted, Refused> {
        self.writer.carry_out(Accept { new, limits }).await
    }

    /// The run of a message that was accepted under this key.
    ///
    /// # Errors
    /// [`Refused::KeyReused`] if it was another message.
    pub async fn find_key(&self, key: &SentKey) -> Result<Option<RunId>, Refused> {
        find_key(&self.readers, key).await
    }
}

struct Accept {
    new: NewMessage,
    limits: QueueLimits,
}

/// All that accepting has to know, in one round trip.
#[derive(FromQueryResult)]
struct Look {
    // Tokens of the sender's hash: one, or none any more.
    tokens: i64,
    waiting: i64,
    waiting_of_user: i64,
    conversation: Option<i64>,
    // The newest run of the conversation that waits.
    run: Option<String>,
    model: Option<String>,
    messages: Option<i64>,
    attempts: Option<i64>,
}

impl Operation for Accept {
    type Output = Accepted;
    type Error = Refused;

    async fn apply(&self, tx: &Tx) -> Result<Accepted, Refused> {
        let look = self.look(tx).await?;
        refuse_if_gone(self.new.token, look.tokens)?;
        if let Some(key) = &self.new.key
            && let Some(run) = find_key(tx, key).await?
        {
            return Ok(Accepted { run, joined: false, repeated: true });
        }
        refuse_if_full(look.waiting_of_user, look.waiting, self.limits)?;
        let conversation = match look.conversation {
            Some(id) => id,
            None => self.new_conversation(tx).await?,
        };
        let accepted = match self.joinable(&look)? {
            Some(run) => self.join(tx, conversation, run).await?,
            None => self.new_run(tx, conversation).await?,
        };
        if let Some(key) = &self.new.key {
            self.keep(tx, key, accepted.run).await?;
        }
        Ok(accepted)
    }

    fn wrote(accepted: &Accepted) -> bool {
        !accepted.repeated
    }
}

impl Accept {
    fn failed(&self) -> impl FnOnce(Cause) -> Error {
        let user = self.new.message.user.clone();
        move |source| Error::Accept { user, source }
    }

    async fn look(&self, tx: &Tx) -> Result<Look, Error> {
        let user = self.new.message.user.as_str();
        let name = self.new.message.conversation.as_str();
        let token = self.new.token.map(Vec::from);
        let found = Look::find_by_statement(raw_sql!(
            Sqlite,
            r#"SELECT (SELECT count(*) FROM tokens WHERE hash = {token}) AS tokens,
                      w.waiting, w.waiting_of_user, c.id AS conversation,
                      r.id AS run, r.model, r.messages, r.attempts
               FROM (SELECT coalesce(sum(messages), 0) AS waiting,
                            coalesce(sum(messages) FILTER (WHERE user = {user}), 0)
                              AS waiting_of_user
                     FROM runs WHERE state = 'queued' AND gone_at IS NULL) AS w
               LEFT JOIN conversations AS c ON c.user = {user} AND c.name = {name}
               LEFT JOIN runs AS r ON r.seq = (
                   SELECT max(q.seq) FROM runs AS q
                   WHERE q.conversation_id = c.id AND q.state = 'queued' AND q.gone_at IS NULL)"#
        ));
        let look = found.one(tx).await.named(self.failed())?;
        // A query over an aggregate has exactly one row.
        look.ok_or(Error::Row { table: "runs", column: "messages", source: None })
    }

    /// The waiting run that this message may join: it has not begun, wants the same model, and has
    /// room.
    fn joinable(&self, look: &Look) -> Result<Option<RunId>, Error> {
        let (Some(run), Some(messages)) = (&look.run, look.messages) else {
            return Ok(None);
        };
        let joins = look.attempts == Some(0)
            && !self.new.message.anew
            && look.model == self.new.message.model
            && !is_least(messages, self.limits.messages_per_run);
        joins.then(|| parse_run(run)).transpose()
    }

    async fn new_conversation(&self, tx: &Tx) -> Result<i64, Error> {
        let message = &self.new.message;
        users::ensure(tx, &message.user, self.new.now_ms).await.named(self.failed())?;
        let conversation = conversations::ActiveModel {
            user: Set(message.user.to_string()),
            name: Set(message.conversation.to_string()),
            created_at: Set(self.new.now_ms),
            ..Default::default()
        };
        let inserted = conversations::Entity::insert(conversation).exec(tx).await;
        Ok(inserted.named(self.failed())?.last_insert_id)
    }

    /// Writes the message into a run that waits.
    async fn join(&self, tx: &Tx, conversation: i64, run: RunId) -> Result<Accepted, Error> {
        let Row { text, context, channel, now, .. } = self.row();
        let id = run.to_string();
        // Two statements in one round trip: with many senders the writer's time is the trips'.
        let join = raw_sql!(
            Sqlite,
            r#"UPDATE runs SET messages = messages + 1 WHERE id = {id};
               INSERT INTO message_history
                   (conversation_id, run_id, text, context, channel, created_at)
               VALUES ({conversation}, {id}, {text}, {context}, {channel}, {now})"#
        );
        tx.execute_raw(join).await.named(self.failed())?;
        Ok(Accepted { run, joined: true, repeated: false })
    }

    /// Writes a run and its first message.
    async fn new_run(&self, tx: &Tx, conversation: i64) -> Result<Accepted, Error> {
        let Row { user, model, text, context, channel, now } = self.row();
        let run = self.new.run_if_new;
        let id = run.to_string();
        let anew = memory_number(if self.new.message.anew {
            Memory::AsAsked
        } else {
            Memory::Conversation
        });
        let new = raw_sql!(
            Sqlite,
            r#"INSERT INTO runs
                   (id, user, conversation_id, state, model, messages, created_at, anew)
               VALUES ({id}, {user}, {conversation}, 'queued', {model}, 1, {now}, {anew});
               INSERT INTO message_history
                   (conversation_id, run_id, text, context, channel, created_at)
               VALUES ({conversation}, {id}, {text}, {context}, {channel}, {now})"#
        );
        tx.execute_raw(new).await.named(self.failed())?;
        Ok(Accepted { run, joined: false, repeated: false })
    }

    async fn keep(&self, tx: &Tx, key: &SentKey, run: RunId) -> Result<(), Error> {
        let row = idempotency_keys::ActiveModel {
            speaker: Set(key.speaker.clone()),
            key: Set(key.key.clone()),
            message: Set(key.message.to_vec()),
            run_id: Set(run.to_string()),
            created_at: Set(self.new.now_ms),
        };
        let insert = idempotency_keys::Entity::insert(row).exec_without_returning(tx).await;
        insert.named(self.failed()).map(drop)
    }

    fn row(&self) -> Row<'_> {
        let message = &self.new.message;
        Row {
            user: message.user.as_str(),
            model: message.model.as_deref(),
            text: message.text.as_str(),
            context: message.context.as_deref(),
            channel: &self.new.channel,
            now: self.new.now_ms,
        }
    }
}

/// What is written of a message.
struct Row<'a> {
    user: &'a str,
    model: Option<&'a str>,
    text: &'a str,
    context: Option<&'a str>,
    channel: &'a str,
    now: i64,
}

/// The run that was accepted under a key, for the same message.
async fn find_key(
    connection: &impl ConnectionTrait,
    key: &SentKey,
) -> Result<Option<RunId>, Refused> {
    let id = (key.speaker.clone(), key.key.clone());
    let row = idempotency_keys::Entity::find_by_id(id).one(connection).await;
    let Some(row) = row.named(Error::reading("the idempotency key"))? else {
        return Ok(None);
    };
    let run = parse_run(&row.run_id)?;
    match row.message == key.message {
        true => Ok(Some(run)),
        false => Err(Refused::KeyReused { run }),
    }
}

/// Refuses when the sender's token is not among the tokens any more. It was there when the request
/// began; what comes with a token that was removed since must not bring its user back.
pub(super) fn refuse_if_gone(token: Option<TokenHash>, found: i64) -> Result<(), Refused> {
    if token.is_some() && found == 0 { Err(Refused::TokenGone) } else { Ok(()) }
}

/// Refuses when this many messages wait already, of the user or of all.
pub(super) fn refuse_if_full(
    of_user: i64,
    of_all: i64,
    limits: QueueLimits,
) -> Result<(), Refused> {
    let queues =
        [(QueueScope::User, of_user, limits.per_user), (QueueScope::All, of_all, limits.all)];
    let full = |(_, waiting, most): &(QueueScope, i64, usize)| is_least(*waiting, *most);
    match queues.into_iter().find(full) {
        Some((scope, _, most)) => Err(Refused::QueueFull { scope, most }),
        None => Ok(()),
    }
}

/// Whether `count` has come to `most`.
fn is_least(count: i64, most: usize) -> bool {
    usize::try_from(count).is_ok_and(|count| count >= most)
}
