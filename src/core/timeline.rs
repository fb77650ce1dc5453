//! Where the time of a run went: what its last attempt had come to, and when.

use serde::{Deserialize, Serialize};

/// What a run comes to between its claim and its outcome, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Podman has made its container.
    Created,
    /// Its container has started, and its streams are ours.
    Attached,
    /// It has measured itself, and that was as planned.
    Preflight,
    /// The agent waits for its message.
    AgentReady,
    /// The model's first answer begins.
    FirstModelByte,
    /// The agent's first words are there.
    FirstDelta,
    /// Its outcome is known.
    Result,
}

impl Step {
    /// All, in their order.
    pub const ALL: [Self; 7] = [
        Self::Created,
        Self::Attached,
        Self::Preflight,
        Self::AgentReady,
        Self::FirstModelByte,
        Self::FirstDelta,
        Self::Result,
    ];

    /// The words for people.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Attached => "attached",
            Self::Preflight => "preflight",
            Self::AgentReady => "agent ready",
            Self::FirstModelByte => "first model byte",
            Self::FirstDelta => "first delta",
            Self::Result => "result",
        }
    }
}

/// Microseconds from the claim to each step; `None` for one that was not come to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Timeline {
    created: Option<u64>,
    attached: Option<u64>,
    preflight: Option<u64>,
    agent_ready: Option<u64>,
    first_model_byte: Option<u64>,
    first_delta: Option<u64>,
    result: Option<u64>,
}

impl Timeline {
    /// When a step was come to.
    pub const fn at(&self, step: Step) -> Option<u64> {
        match step {
            Step::Created => self.created,
            Step::Attached => self.attached,
            Step::Preflight => self.preflight,
            Step::AgentReady => self.agent_ready,
            Step::FirstModelByte => self.first_model_byte,
            Step::FirstDelta => self.first_delta,
            Step::Result => self.result,
        }
    }

    /// Notes a step; only its first time counts.
    pub fn mark(&mut self, step: Step, micros: u64) {
        let field = match step {
            Step::Created => &mut self.created,
            Step::Attached => &mut self.attached,
            Step::Preflight => &mut self.preflight,
            Step::AgentReady => &mut self.agent_ready,
            Step::FirstModelByte => &mut self.first_model_byte,
            Step::FirstDelta => &mut self.first_delta,
            Step::Result => &mut self.result,
        };
        field.get_or_insert(micros);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_step_is_noted_once_under_its_name() -> Result<(), serde_json::Error> {
        let mut timeline = Timeline::default();
        for (at, step) in (1..).zip(Step::ALL) {
            timeline.mark(step, at);
            timeline.mark(step, 99);
            assert_eq!(timeline.at(step), Some(at));
        }
        let json = serde_json::to_string(&timeline)?;
        assert_eq!(serde_json::from_str::<Timeline>(&json)?, timeline);
        assert!(json.starts_with(r#"{"created":1,"attached":2,"#), "{json}");
        Ok(())
    }
}
