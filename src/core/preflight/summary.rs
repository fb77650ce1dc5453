//! What a comparison came to, in a line that is kept as long as its run.

use noclaw_cell::preflight::Preflight;

use super::Shortfall;
use crate::core::limits::MIB;
use crate::core::plan::{CellPlan, Controller};

impl CellPlan {
    /// Says what held, or what did not: `held: 31 mounts, Landlock ABI 7, memory 2048 MiB, 256
    /// processes, 2 cores`.
    pub fn isolation(&self, preflight: &Preflight, judged: &Result<(), Shortfall>) -> String {
        if let Err(shortfall) = judged {
            return format!("refused: {shortfall}");
        }
        let agent = &preflight.agent;
        let mut parts = vec![format!("{} mounts", agent.mounts.len())];
        parts.extend(agent.landlock.as_ref().map(|rules| format!("Landlock ABI {}", rules.abi)));
        let cores = format!("{}.{:03}", self.cpu_millis / 1000, self.cpu_millis % 1000);
        let cores = cores.trim_end_matches('0').trim_end_matches('.');
        let limits = &agent.limits;
        for (controller, found, held) in [
            (
                Controller::Memory,
                &limits.memory_max,
                format!("memory {} MiB", self.memory / MIB as u64),
            ),
            (Controller::Pids, &limits.pids_max, format!("{} processes", self.pids)),
            (Controller::Cpu, &limits.cpu_max, format!("{cores} cores")),
        ] {
            parts.push(match found {
                Some(_) => held,
                None => format!("{} NOT limited (--accept-without)", controller.as_str()),
            });
        }
        format!("held: {}", parts.join(", "))
    }
}
