//! What the agent remembers of a conversation: its transcripts, in a folder that its tools can
//! write to. Between two runs of the conversation nobody does.
//!
//! Only the head's transcript is kept. What it holds besides what was said is trusted only as far
//! as it was there before any tool of the run could write to it: [`Attachments`] looks at it just
//! before the first tool call is passed on, or at the end of a run that used none.

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};

use tokio::time::{Instant, sleep};

use super::Assistant;
use crate::cell::transcript::{self, AttachmentId};
use crate::core::limits::{TRANSCRIPT_BYTES, TRANSCRIPT_WAIT};
use crate::core::problem::chain;
use crate::host::tree::{Tree, TreeError};
use crate::store::claim::Claimed;

/// The agent names a project's folder after its working directory.
const PROJECT: &str = "-workspace";

/// The attachments that a run's own transcript held before any tool ran. Clones share it.
#[derive(Clone)]
pub(super) struct Attachments {
    folder: std::path::PathBuf,
    session: String,
    found: Arc<OnceLock<BTreeSet<AttachmentId>>>,
}

impl Attachments {
    /// The same, when the first tool call is about to be passed on: the agent writes its request
    /// down a moment after it, and what is not there yet would be lost to the next run.
    pub(super) async fn wait_and_look(&self) {
        let late = Instant::now() + TRANSCRIPT_WAIT;
        while self.found.get().is_none() && Instant::now() < late {
            if self.read().is_ok_and(|text| transcript::has_request(&text)) {
                break;
            }
            sleep(TRANSCRIPT_WAIT / 20).await;
        }
        self.look();
    }

    /// Takes those that are there, the first time that it is called.
    pub(super) fn look(&self) -> BTreeSet<AttachmentId> {
        let find = || match self.read() {
            Ok(text) => transcript::attachments(&text),
            Err(error) => {
                tracing::warn!(error = chain(&error), "a transcript's attachments are not trusted");
                BTreeSet::new()
            }
        };
        self.found.get_or_init(find).clone()
    }

    fn read(&self) -> Result<String, TreeError> {
        let tree = Tree::open(&self.folder)?;
        let text = tree.read(&path(&self.session), TRANSCRIPT_BYTES)?;
        Ok(text.unwrap_or_default())
    }
}

impl Assistant {
    /// Of a run that is about to begin.
    pub(super) fn attachments(&self, run: &Claimed) -> Attachments {
        let folder = self.state.transcripts_path(&run.user, run.conversation_id);
        Attachments { folder, session: run.run.to_string(), found: Arc::default() }
    }

    /// Removes from a conversation's transcripts all but one session's, and says whether that is
    /// there. What is not a transcript could act in the next run.
    pub(super) fn tidy(&self, run: &Claimed, session: Option<&str>) -> Result<bool, TreeError> {
        let tree = Tree::open(&self.state.transcripts_path(&run.user, run.conversation_id))?;
        match session {
            Some(session) => tree.keep_only(&[PROJECT, &format!("{session}.jsonl")]),
            None => tree.keep_only(&[]),
        }
    }

    /// Frees the head's transcript from what a tool may have forged in it. Says whether it can be
    /// resumed.
    pub(super) fn clean(&self, run: &Claimed, head: &str) -> Result<bool, TreeError> {
        let tree = Tree::open(&self.state.transcripts_path(&run.user, run.conversation_id))?;
        let text = match tree.read(&path(head), TRANSCRIPT_BYTES) {
            Ok(text) => text.unwrap_or_default(),
            Err(error) => {
                tracing::warn!(error = chain(&error), "a transcript is not read");
                return Ok(false);
            }
        };
        let clean = transcript::cleaned(&text, &run.head_attachments);
        if clean != text {
            tree.replace(PROJECT, &format!("{head}.jsonl"), &clean)?;
        }
        Ok(!clean.is_empty())
    }
}

fn path(session: &str) -> String {
    format!("{PROJECT}/{session}.jsonl")
}
