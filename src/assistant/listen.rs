//! Listening to the agent: its words go to whoever follows the run, until its turn has a result or
//! must end.

use tokio::time::timeout;

use super::Assistant;
use super::current::Current;
use super::events::Event;
use super::trouble::Trouble;
use crate::cell::agent::{Agent, AgentError};
use crate::cell::stream_json::{Line, TurnResult};
use crate::core::limits::INTERRUPT_TIME;
use crate::core::timeline::Step;

impl Assistant {
    /// Listens until the turn's result. The agent may not be silent for long, unless a tool works.
    pub(super) async fn listen(
        &self,
        current: &Current,
        agent: &mut Agent,
    ) -> Result<TurnResult, Trouble> {
        let most = self.settings.limits.silence;
        let mut working = 0_usize;
        current.leash.is_heard();
        loop {
            let line = tokio::select! {
                line = timeout(most, agent.next()) => line,
                trouble = current.leash.pulled() => {
                    stop(agent).await;
                    return Err(trouble);
                }
            };
            match line {
                Ok(line) => match line? {
                    Line::Result(turn) => return Ok(turn),
                    Line::Delta(text) => {
                        current.watch.mark(Step::FirstDelta);
                        current.log.tell(Event::Delta(text));
                    }
                    Line::Tool { name, summary } => {
                        working += 1;
                        current.log.tell(Event::Tool { name, summary });
                    }
                    Line::ToolDone => working = working.saturating_sub(1),
                    _ => {}
                },
                Err(_) if working > 0 => {}
                Err(_) => return Err(Trouble::Silence(most)),
            }
        }
    }
}

/// Asks the agent to stop, so that its tools are ended by itself; not for long.
async fn stop(agent: &mut Agent) {
    let stopped = async {
        agent.interrupt().await?;
        while !matches!(agent.next().await?, Line::Result(_)) {}
        Ok::<_, AgentError>(())
    };
    if !matches!(timeout(INTERRUPT_TIME, stopped).await, Ok(Ok(()))) {
        tracing::debug!("the agent does not heed an interrupt");
    }
}
