//! What can go wrong with a run, and which outcome it has (the failure table is `core/run.rs`'s).

use std::time::Duration;

use noclaw_cell::job::Exit;

use super::prepare::Prepared;
use crate::cell::CellError;
use crate::cell::agent::AgentError;
use crate::cell::door::{Door, DoorError};
use crate::cell::stream_json::TurnResult;
use crate::core::limits::PREFLIGHT_TIME;
use crate::core::money::Usage;
use crate::core::preflight::Shortfall;
use crate::core::problem::{Problem, ProblemKind, chain};
use crate::core::quota::Exceeded;
use crate::core::run::{FailureKind, Outcome};
use crate::gateway::RunGateway;
use crate::gateway::error::ModelError;
use crate::host::mounts::open::OpenError;
use crate::host::state::StateError;
use crate::host::tree::TreeError;
use crate::store::error::Error as StoreError;

/// How long a launcher may take to say how the agent ended, once its stream has.
const LAST_WORD: Duration = Duration::from_secs(2);
/// The kernel's kill.
const SIGKILL: i32 = 9;
/// With this status and above a program says that a signal has ended it, as the agent does.
const SIGNALLED: i32 = 128;

/// Why a run cannot go on.
#[derive(Debug, thiserror::Error)]
pub(super) enum Trouble {
    #[error(transparent)]
    NotReady(Problem),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Tree(#[from] TreeError),
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Cell(#[from] CellError),
    #[error(transparent)]
    Door(#[from] DoorError),
    #[error(transparent)]
    Shortfall(#[from] Shortfall),
    #[error(transparent)]
    Agent(#[from] AgentError),
    #[error("the agent ended before its result, {}", how(.0))]
    Ended(Exit),
    #[error("the cell opened no door within {} s", PREFLIGHT_TIME.as_secs())]
    NoDoor,
    #[error("the cell did not {0} in time")]
    Slow(&'static str),
    #[error("the agent was silent for {} s", .0.as_secs())]
    Silence(Duration),
    #[error("the run took longer than {} s", .0.as_secs())]
    RunTime(Duration),
    #[error(transparent)]
    Quota(#[from] Exceeded),
    #[error("somebody cancelled the run")]
    Cancelled,
    #[error(transparent)]
    Cut(ModelError),
}

/// How an attempt ends.
pub(super) enum End {
    /// With this, and for good.
    Outcome(Outcome),
    /// The agent did not take the conversation's transcript: the run is to begin anew.
    NotResumed,
}

impl End {
    /// Whether something outside of the run may have ended it so.
    pub(super) const fn may_come_from_outside(&self) -> bool {
        match self {
            Self::Outcome(outcome) => outcome.may_come_from_outside(),
            Self::NotResumed => true,
        }
    }

    /// Which kind of failure it is, if it is one.
    pub(super) const fn failure(&self) -> Option<&'static str> {
        match self {
            Self::Outcome(outcome) => outcome.failure(),
            Self::NotResumed => None,
        }
    }
}

/// How the attempt ends that came to this.
pub(super) fn end(
    result: Result<TurnResult, Trouble>,
    prepared: &Prepared,
    model: &RunGateway,
) -> End {
    let result = match (result, model.is_cut()) {
        // A whole answer, or the sender's own word, stands.
        (Ok(turn), _) if !turn.failed => Ok(turn),
        (Err(Trouble::Cancelled), _) => Err(Trouble::Cancelled),
        // However an agent fails that is cut off: that is why.
        (_, Some(why)) => Err(Trouble::Cut(why)),
        (result, None) => result,
    };
    let last_error = model.last_error();
    // An agent that cannot read a transcript exits before it has asked the model anything.
    let asked = model.meter().usage() != Usage::default() || last_error.is_some();
    End::Outcome(match result {
        Ok(turn) if turn.failed => failed_turn(&turn, last_error),
        Ok(turn) => Outcome::Answered { reply: prepared.reply(turn.text) },
        Err(Trouble::Ended(exit)) if prepared.resumes && !asked && by_itself(&exit) => {
            return End::NotResumed;
        }
        Err(trouble) => trouble.outcome(last_error),
    })
}

impl From<Trouble> for Outcome {
    fn from(trouble: Trouble) -> Self {
        trouble.outcome(None)
    }
}

impl Trouble {
    /// Its outcome. What the model said last may be why nothing came.
    fn outcome(self, model: Option<ModelError>) -> Outcome {
        let detail = chain(&self);
        let kind = match self {
            Self::Cancelled => return Outcome::Cancelled,
            Self::Silence(_) | Self::RunTime(_) => {
                let why = model.map(|error| format!("; {error}")).unwrap_or_default();
                return Outcome::TimedOut { detail: detail + &why };
            }
            Self::Cut(ModelError::Halted(_)) => FailureKind::Halted,
            Self::NotReady(problem) if problem.kind == ProblemKind::Halted => FailureKind::Halted,
            Self::Quota(_) => FailureKind::Quota,
            Self::NotReady(problem) if problem.kind == ProblemKind::StorageFull => {
                FailureKind::Quota
            }
            Self::NotReady(_) | Self::Cell(_) => FailureKind::Podman,
            Self::Store(_) | Self::State(_) | Self::Tree(_) | Self::Open(_) => {
                FailureKind::Internal
            }
            Self::Door(DoorError::Lost { .. }) | Self::NoDoor => FailureKind::DoorLost,
            Self::Cut(_)
            | Self::Door(DoorError::Breach(_))
            | Self::Agent(AgentError::TooMuch { .. } | AgentError::Garbage(..)) => {
                FailureKind::Breach
            }
            Self::Shortfall(_) => FailureKind::Preflight,
            Self::Ended(exit) if ran_out_of_memory(&exit) => FailureKind::OutOfMemory,
            Self::Agent(_) | Self::Ended(_) | Self::Slow(_) => FailureKind::Agent,
        };
        Outcome::failed(kind, detail)
    }
}

/// The outcome of a turn that the agent itself calls failed. The model's last error says more.
fn failed_turn(turn: &TurnResult, model: Option<ModelError>) -> Outcome {
    let detail = match model {
        Some(error) => error.to_string(),
        None if turn.text.is_empty() => turn.subtype.clone(),
        None => turn.text.clone(),
    };
    Outcome::failed(FailureKind::AgentError, detail)
}

/// When the agent's stream has ended, the launcher may still say how, and the door why.
pub(super) async fn explained<T>(
    door: &mut Door,
    result: Result<T, Trouble>,
) -> Result<T, Trouble> {
    let ended = AgentError::is_end;
    match result {
        Err(Trouble::Agent(error)) if ended(&error) => {
            match tokio::time::timeout(LAST_WORD, door.exit()).await {
                Ok(Ok(exit)) => Err(Trouble::Ended(exit)),
                Ok(Err(lost)) => Err(lost.into()),
                Err(_) => Err(error.into()),
            }
        }
        result => result,
    }
}

/// Tells the log what the kernel did to an agent's children: the agent has seen to it, its owner
/// may want to give cells more memory.
pub(super) fn remark(exit: &Exit) {
    if let Some(oom_kills @ 1..) = exit.oom_kills {
        let peak = exit.memory_peak;
        tracing::warn!(oom_kills, peak, "children of the agent were killed for memory");
    }
}

fn by_itself(exit: &Exit) -> bool {
    exit.status.is_some_and(|status| status < SIGNALLED)
}

/// A killed child only counts as an event; the agent itself must have been killed.
fn ran_out_of_memory(exit: &Exit) -> bool {
    exit.signal == Some(SIGKILL) && exit.oom_kills.is_some_and(|kills| kills > 0)
}

fn how(exit: &Exit) -> String {
    let end = match (exit.status, exit.signal) {
        (_, Some(SIGKILL)) if ran_out_of_memory(exit) => "killed for memory".to_owned(),
        (_, Some(signal)) => format!("killed by signal {signal}"),
        (Some(status), _) => format!("with status {status}"),
        (None, None) => "nobody knows how".to_owned(),
    };
    match exit.stderr.trim() {
        "" => end,
        stderr => format!("{end}; its last words: {stderr}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(signal: Option<i32>, oom_kills: Option<u64>) -> Outcome {
        let status = signal.is_none().then_some(0);
        Trouble::Ended(Exit { status, signal, oom_kills, ..Exit::default() }).into()
    }

    #[test]
    fn only_a_kill_that_the_kernel_counted_is_out_of_memory() {
        for kills in [1, 7] {
            let error = ended(Some(SIGKILL), Some(kills)).error();
            assert!(error.is_some_and(|e| e.starts_with("out of memory: ")), "{kills} kills");
        }
        for (signal, kills) in [(9, None), (9, Some(0)), (15, Some(1)), (11, Some(1))] {
            let error = ended(Some(signal), kills).error().unwrap_or_default();
            let words = format!("killed by signal {signal}");
            assert!(error.starts_with("agent: ") && error.ends_with(&words), "{error}");
        }
    }

    #[test]
    fn an_agent_whose_child_was_killed_for_memory_did_not_run_out_of_it() {
        let error = ended(None, Some(1)).error().unwrap_or_default();
        assert_eq!(error, "agent: the agent ended before its result, with status 0");
    }
}
