//! What was sent, and what the senders were told about it.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::Value;

use super::support::Result;

/// A message, as it is sent and sent again.
#[derive(Debug, Clone)]
pub struct Sent {
    pub user: String,
    pub conversation: String,
    /// Its first line, which no other message has; it is the message's key, too.
    pub name: String,
    /// The whole text: more lines steer the model.
    pub text: String,
    /// A tool writes its name into the workspace.
    pub tool: bool,
    /// A connection was closed before its answer: when it was accepted is not known.
    pub hung_up: bool,
    /// The run that a 2xx (or a run's own status) named.
    pub run: Option<String>,
}

impl Sent {
    pub fn body(&self) -> String {
        let (user, conversation, message) = (&self.user, &self.conversation, &self.text);
        serde_json::json!({"user": user, "conversation": conversation, "message": message})
            .to_string()
    }
}

/// A run that has ended, as it was first seen.
#[derive(Debug, Clone)]
pub struct Ended {
    pub view: Value,
    pub messages: Vec<String>,
}

/// All that was sent to one house.
#[derive(Debug, Default)]
pub struct Book {
    pub sent: Vec<Sent>,
    /// How many of them have been checked.
    pub checked: usize,
    /// Final states that somebody was told: run, state, by what.
    pub told: Vec<(String, String, &'static str)>,
    /// Retried runs and those that try them again.
    pub retries: HashMap<String, String>,
    pub refused: BTreeMap<String, u64>,
    pub ended: HashMap<String, Ended>,
    pub containers: Vec<String>,
}

/// The book, shared with those who write into it.
#[derive(Debug, Default, Clone)]
pub struct Ledger(Arc<Mutex<Book>>);

impl Ledger {
    pub fn lock(&self) -> MutexGuard<'_, Book> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a message that is about to be sent, and returns its number.
    pub fn add(&self, sent: Sent) -> usize {
        let mut book = self.lock();
        book.sent.push(sent);
        book.sent.len() - 1
    }

    /// A message's run was named. Each time it must be the same one.
    pub fn named(&self, number: usize, run: &str) -> Result {
        let mut book = self.lock();
        let sent = book.sent.get_mut(number).ok_or("not in the book")?;
        match &sent.run {
            Some(before) if before != run => {
                Err(format!("{} is run {before}, and then run {run}", sent.name).into())
            }
            _ => {
                sent.run = Some(run.to_owned());
                Ok(())
            }
        }
    }

    /// A run's retry was named. Each time it must be the same one.
    pub fn retried(&self, run: &str, new: &str) -> Result {
        let mut book = self.lock();
        let first = book.retries.entry(run.to_owned()).or_insert_with(|| new.to_owned());
        if first == new {
            Ok(())
        } else {
            Err(format!("{run} is retried by {first}, {new}").into())
        }
    }

    /// Somebody was told where a run stands. Only an end is for good.
    pub fn told(&self, run: &str, status: &str, by: &'static str) {
        if matches!(status, "answered" | "failed" | "timed_out" | "cancelled") {
            self.lock().told.push((run.to_owned(), status.to_owned(), by));
        }
    }

    pub fn refused(&self, why: String) {
        *self.lock().refused.entry(why).or_default() += 1;
    }
}
