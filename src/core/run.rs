//! The states of a run and how one follows from another. Pure: `store` writes what is decided here,
//! `assistant` carries it out.
//!
//! ```text
//!           claim             go              outcome               gone
//! queued ────────> starting ──────> running ──────────> finishing ───────> answered
//!  │  ^               │                │                    ^              failed
//!  │  └── again ──────┴────────────────┤                    │              timed_out
//!  │                                   └── outcome ─────────┘              cancelled
//!  └── cancel ───────────────────────────────────────────────────────────> cancelled
//! ```
//!
//! `finishing`: the outcome is known and written, the container not yet seen gone. To people a run
//! that is finishing already has its outcome's state, because that can no longer change. `again`
//! always comes after its container was seen gone.
//!
//! | what happens | what follows |
//! |---|---|
//! | Podman or the image cannot be had after acceptance | failed: podman |
//! | the cell does not open its door, or it ends without `/exit` | failed: door lost |
//! | the preflight falls short of the plan | failed: preflight |
//! | the agent ends without a `result`, or does not take its part in the protocol | failed: agent |
//! | the agent breaks the protocol, or a limit of the door | failed: breach |
//! | the agent reports an error (the model refused, a limit of its own) | failed: agent error |
//! | the kernel killed the agent for memory | failed: out of memory |
//! | the workspace or the transcripts take more than they may, or the disk is nearly full | failed: quota |
//! | the run, or the agent's silence, took too long | `timed_out` |
//! | somebody cancels it; see [`cancel`] | cancelled, unless its outcome is known already |
//! | the agent refuses the conversation's transcript | queued again, once, to begin anew |
//! | the owner halts the service | failed: halted |
//! | the service died or could not wait; see [`after_crash`] | queued again, or an end |
//! | the owner retries one that ended without an answer; see [`RunState::may_be_retried`] | a new run, once |

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::halt::Halt;
use super::ids::InvalidId;
use super::limits::ATTEMPTS;

/// Where a run stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunState {
    /// Accepted; waits for its turn.
    Queued,
    /// Claimed; its cell is being made.
    Starting,
    /// The preflight held; the agent works.
    Running,
    /// The outcome is written; the container is not yet seen gone.
    Finishing,
    /// Ended with a reply.
    Answered,
    /// Ended with an error.
    Failed,
    /// Ended by a limit of time.
    TimedOut,
    /// Ended by the sender or the owner.
    Cancelled,
}

impl RunState {
    /// All states, in the order of a life.
    pub const ALL: [Self; 8] = [
        Self::Queued,
        Self::Starting,
        Self::Running,
        Self::Finishing,
        Self::Answered,
        Self::Failed,
        Self::TimedOut,
        Self::Cancelled,
    ];

    /// Whether nothing follows.
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Answered | Self::Failed | Self::TimedOut | Self::Cancelled)
    }

    /// Whether a cell may exist for it.
    pub const fn is_active(self) -> bool {
        matches!(self, Self::Starting | Self::Running | Self::Finishing)
    }

    /// Whether its messages may be tried again by hand: it has ended, and not with an answer.
    pub const fn may_be_retried(self) -> bool {
        matches!(self, Self::Failed | Self::TimedOut | Self::Cancelled)
    }

    /// The word that is stored and shown.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Finishing => "finishing",
            Self::Answered => "answered",
            Self::Failed => "failed",
            Self::TimedOut => "timed_out",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether `next` may follow.
    pub const fn may_become(self, next: Self) -> bool {
        match self {
            Self::Queued => matches!(next, Self::Starting | Self::Cancelled),
            Self::Starting => matches!(
                next,
                Self::Running | Self::Finishing | Self::Queued | Self::Failed | Self::Cancelled
            ),
            // The last two after a crash: the container is gone already.
            Self::Running => {
                matches!(next, Self::Finishing | Self::Queued | Self::Failed | Self::Cancelled)
            }
            Self::Finishing => next.is_final(),
            _ => false,
        }
    }
}

impl fmt::Display for RunState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for RunState {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        Self::ALL.into_iter().find(|state| state.as_str() == text).ok_or(InvalidId {
            what: "a run's state",
            form: "queued, starting, running, finishing, answered, failed, timed_out or cancelled",
        })
    }
}

/// Why a run failed. The words are what people and scripts see before the detail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// Podman refused, or could not be reached.
    Podman,
    /// The door ended before the cell said how the agent ended.
    DoorLost,
    /// The cell is not what was planned.
    Preflight,
    /// The agent ended, or spoke, against its protocol.
    Agent,
    /// The agent ended its turn with an error of its own.
    AgentError,
    /// The kernel killed the agent.
    OutOfMemory,
    /// Something hostile, or far too much, came through the door.
    Breach,
    /// The workspace, the transcripts or the disk are full.
    Quota,
    /// The owner halted the service.
    Halted,
    /// The service died after the agent began to act.
    Interrupted,
    /// A fault of the service itself.
    Internal,
}

impl FailureKind {
    /// The words.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Podman => "podman",
            Self::DoorLost => "door lost",
            Self::Preflight => "preflight",
            Self::Agent => "agent",
            Self::AgentError => "agent error",
            Self::OutOfMemory => "out of memory",
            Self::Breach => "breach",
            Self::Quota => "quota",
            Self::Halted => "halted",
            Self::Interrupted => "interrupted",
            Self::Internal => "internal",
        }
    }
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// With a reply; the conversation's head moves to this run's session.
    Answered {
        /// What the agent said.
        reply: String,
    },
    /// With an error.
    Failed {
        /// Which.
        kind: FailureKind,
        /// What exactly, for a person.
        detail: String,
    },
    /// By a limit of time.
    TimedOut {
        /// Which limit, for a person.
        detail: String,
    },
    /// By the sender or the owner.
    Cancelled,
}

impl Outcome {
    /// A failure.
    pub fn failed(kind: FailureKind, detail: impl fmt::Display) -> Self {
        Self::Failed { kind, detail: detail.to_string() }
    }

    /// The final state that this outcome leads to.
    pub const fn state(&self) -> RunState {
        match self {
            Self::Answered { .. } => RunState::Answered,
            Self::Failed { .. } => RunState::Failed,
            Self::TimedOut { .. } => RunState::TimedOut,
            Self::Cancelled => RunState::Cancelled,
        }
    }

    /// Which kind of failure it is, if it is one.
    pub const fn failure(&self) -> Option<&'static str> {
        match self {
            Self::Failed { kind, .. } => Some(kind.as_str()),
            _ => None,
        }
    }

    /// Whether something outside of the run may have ended its cell, its agent or Podman.
    pub const fn may_come_from_outside(&self) -> bool {
        use FailureKind::{Agent, DoorLost, Podman};
        matches!(self, Self::Failed { kind: Podman | DoorLost | Agent, .. })
    }

    /// The same of a run that used tools while the service was stopped: it is not tried again.
    #[must_use]
    pub fn interrupted(&self) -> Self {
        let detail = match self.error() {
            Some(error) => format!("{TOUCHED}: {error}"),
            None => TOUCHED.to_owned(),
        };
        Self::failed(FailureKind::Interrupted, detail)
    }

    /// The reply, of an answer.
    pub fn reply(&self) -> Option<&str> {
        match self {
            Self::Answered { reply } => Some(reply),
            _ => None,
        }
    }

    /// The error's text: `door lost: …`. `None` for an answer.
    pub fn error(&self) -> Option<String> {
        match self {
            Self::Answered { .. } => None,
            Self::Failed { kind, detail } => Some(format!("{}: {detail}", kind.as_str())),
            Self::TimedOut { detail } => Some(format!("timed out: {detail}")),
            Self::Cancelled => Some("cancelled".to_owned()),
        }
    }
}

/// What follows when somebody wants a run cancelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cancel {
    /// It had not begun: it is cancelled now.
    Now,
    /// It has a cell: that is to be ended, and its outcome is `cancelled`.
    Stop,
    /// Its outcome is known, and stays.
    TooLate,
}

/// What follows when somebody wants a run cancelled that stands here.
pub const fn cancel(state: RunState) -> Cancel {
    match state {
        RunState::Queued => Cancel::Now,
        RunState::Starting | RunState::Running => Cancel::Stop,
        _ => Cancel::TooLate,
    }
}

/// From what a run goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Memory {
    /// From its conversation's head, if there is one.
    Conversation,
    /// From nothing, because its sender said so.
    AsAsked,
    /// From nothing, because the agent refused the conversation's transcript.
    Refused,
}

/// How far a run had come when the service died.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// How often it was begun.
    pub attempts: u32,
    /// Its message may have gone to the agent: this is written before it does.
    pub delivered: bool,
    /// A tool call may have been passed on: this is written before it is. Untouched means that
    /// nothing outside the conversation can have changed.
    pub touched: bool,
    /// Somebody has asked to cancel it.
    pub cancel: bool,
}

/// What is to be done with a run that a crash left without an outcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settle {
    /// It has shown the agent nothing, or nothing was done yet: it waits again.
    Requeue,
    /// It ends.
    End(Outcome),
}

/// Why a run that a stop has cut off is not tried again.
const TOUCHED: &str = "the service stopped after the agent had begun to use tools";

/// Settles a run after a crash, once its container has been seen absent. A `halt` that holds was
/// about to end it: nothing is claimed under one.
pub fn after_crash(run: Progress, halt: Option<&Halt>) -> Settle {
    let Progress { attempts, delivered, touched, cancel } = run;
    if cancel {
        return Settle::End(Outcome::Cancelled);
    }
    if let Some(halt) = halt {
        return Settle::End(Outcome::failed(FailureKind::Halted, halt));
    }
    // Once delivered, a model has seen it and been paid: one more try, not two.
    let most = if delivered { 2 } else { ATTEMPTS };
    let detail = match (touched, attempts < most) {
        (false, true) => return Settle::Requeue,
        (true, _) => TOUCHED.to_owned(),
        (false, false) => format!("the service stopped during each of {attempts} attempts"),
    };
    Settle::End(Outcome::failed(FailureKind::Interrupted, detail))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRESH: Progress =
        Progress { attempts: 1, delivered: false, touched: false, cancel: false };

    #[test]
    fn final_states_stay() {
        for state in RunState::ALL {
            assert_eq!(state.as_str().parse(), Ok(state));
            for next in RunState::ALL {
                assert!(!(state.is_final() && state.may_become(next)), "{state} -> {next}");
            }
        }
    }

    #[test]
    fn every_state_is_reached_from_queued() {
        let mut reached = vec![RunState::Queued];
        let mut at = 0;
        while let Some(state) = reached.get(at).copied() {
            for next in RunState::ALL.into_iter().filter(|next| state.may_become(*next)) {
                if !reached.contains(&next) {
                    reached.push(next);
                }
            }
            at += 1;
        }
        assert_eq!(reached.len(), RunState::ALL.len());
    }

    /// Whatever is still open has a way to its end, however often the service dies, and what a
    /// crash or a cancel asks for is a step that the states allow.
    #[test]
    fn every_open_run_can_be_cancelled_and_settled() {
        for state in RunState::ALL {
            let allowed = match cancel(state) {
                Cancel::Now => state.may_become(RunState::Cancelled),
                Cancel::Stop => state.may_become(RunState::Finishing),
                Cancel::TooLate => state.is_final() || state == RunState::Finishing,
            };
            assert!(allowed, "{state}");
            assert!(!state.may_be_retried() || state.is_final(), "{state}");
        }
        for state in [RunState::Starting, RunState::Running] {
            for number in 0..24 {
                let run = Progress {
                    attempts: 1 + number / 8,
                    delivered: number & 1 != 0,
                    touched: number & 2 != 0,
                    cancel: number & 4 != 0,
                };
                let next = match after_crash(run, None) {
                    Settle::Requeue => RunState::Queued,
                    Settle::End(outcome) => outcome.state(),
                };
                assert!(state.may_become(next), "{state} -> {next}: {run:?}");
                assert!(run.attempts < ATTEMPTS || next != RunState::Queued, "{run:?}");
            }
        }
    }

    #[test]
    fn a_crash_repeats_only_what_did_nothing() {
        assert_eq!(after_crash(FRESH, None), Settle::Requeue);
        assert_eq!(after_crash(Progress { attempts: 2, ..FRESH }, None), Settle::Requeue);
        assert!(matches!(after_crash(Progress { attempts: 3, ..FRESH }, None), Settle::End(_)));
        let delivered = Progress { delivered: true, ..FRESH };
        assert_eq!(after_crash(delivered, None), Settle::Requeue);
        assert!(matches!(after_crash(Progress { attempts: 2, ..delivered }, None), Settle::End(_)));
        assert!(matches!(
            after_crash(Progress { touched: true, ..delivered }, None),
            Settle::End(_)
        ));
        let cancelled = after_crash(Progress { cancel: true, ..FRESH }, None);
        assert_eq!(cancelled, Settle::End(Outcome::Cancelled));
    }

    #[test]
    fn under_a_halt_a_crash_repeats_nothing() {
        let halt = Halt { since_ms: 1, reason: "key leaked".parse().ok() };
        let ended = Outcome::failed(FailureKind::Halted, "the owner has halted NoClaw: key leaked");
        assert_eq!(after_crash(FRESH, Some(&halt)), Settle::End(ended));
        let cancelled = after_crash(Progress { cancel: true, ..FRESH }, Some(&halt));
        assert_eq!(cancelled, Settle::End(Outcome::Cancelled));
    }
}
