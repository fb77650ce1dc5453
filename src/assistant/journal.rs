//! What the journal keeps of a run's life: its moments, each with an id and the same fields. All
//! that is logged while a run is answered has those fields, too, by the run's span.

use std::sync::Arc;

use tracing::field::Empty;
use tracing::{Instrument, Span};

use super::Assistant;
use super::current::Current;
use crate::core::ids::{ConversationName, RunId, UserName};
use crate::core::journal::{ACCEPTED, CLAIMED, ENDED, SETTLED};
use crate::core::message::Message;
use crate::core::run::RunState;
use crate::store::accept::Accepted;
use crate::store::claim::Claimed;
use crate::store::recover::Settled;

/// A message that comes in, without what it says.
pub(super) struct Arrival {
    user: UserName,
    conversation: ConversationName,
    channel: String,
}

impl Arrival {
    pub(super) fn of(message: &Message, channel: &str) -> Self {
        Self {
            user: message.user.clone(),
            conversation: message.conversation.clone(),
            channel: channel.to_owned(),
        }
    }

    pub(super) fn accepted(&self, accepted: &Accepted) {
        tracing::info!(
            message_id = ACCEPTED,
            run_id = %accepted.run,
            user_id = %self.user,
            conversation = %self.conversation,
            channel = self.channel,
            joined = accepted.joined,
            "accepted"
        );
    }
}

/// The answer of a run, within its span.
pub(super) fn of(current: Current, assistant: Arc<Assistant>) -> impl Future<Output = ()> {
    let span = span(&current.run);
    assistant.answer(current).instrument(span)
}

/// The span of all that is done for a run. `TASK_ID` is there for runs of tasks only.
fn span(run: &Claimed) -> Span {
    span_of(run.run, &run.user, &run.conversation)
}

fn span_of(id: RunId, user: &UserName, conversation: &ConversationName) -> Span {
    tracing::info_span!("run", run_id = %id, user_id = %user, %conversation, task_id = Empty)
}

/// Its turn has come.
pub(super) fn claimed(run: &Claimed) {
    span(run).in_scope(|| {
        tracing::info!(message_id = CLAIMED, attempt = run.attempts, "claimed");
    });
}

/// A service that lives no more had begun it.
pub(super) fn settled(run: &Settled) {
    span_of(run.run, &run.user, &run.conversation).in_scope(|| {
        let words = "settled after an interruption";
        tracing::info!(message_id = SETTLED, state = %run.state, "{words}");
    });
}

/// It has its outcome; within its span.
pub(super) fn ended(state: RunState, failure: Option<&str>) {
    tracing::info!(message_id = ENDED, %state, failure, "ended");
}
