//! The agent's start line and what confines it (Landlock, its own system call filter): all data,
//! with a reason for each entry.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use noclaw_cell::job::{Confinement, Job, Link};
use serde::Deserialize;

use super::seccomp::Profile;
use crate::core::ids::RunId;
use crate::core::limits::STDERR_BYTES;
use crate::core::preflight::rules::CellRules;

const LINE: &str = include_str!("../../data/agent.json");
const RULES: &str = include_str!("../../data/landlock.json");
const FILTER: &str = include_str!("../../data/seccomp-agent.json");

/// Data that is not of its form. A test reads what is shipped.
#[derive(Debug, thiserror::Error)]
#[error("{file} is not of its form")]
pub struct InvalidData {
    file: &'static str,
    #[source]
    source: serde_json::Error,
}

/// How the agent is started.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StartLine {
    program: String,
    args: Vec<Args>,
    /// The tools it is offered, and no others.
    pub tools: Vec<String>,
    env: Vec<Variable>,
    #[serde(skip)]
    confinement: Confinement,
    /// The cell's system call filter.
    #[serde(skip)]
    pub profile: Profile,
    /// What may be in any cell.
    #[serde(skip)]
    pub cell: Arc<CellRules>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Args {
    value: Vec<String>,
    #[expect(dead_code, reason = "for readers of the data; its presence is required")]
    reason: String,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Variable {
    name: String,
    value: String,
    #[expect(dead_code, reason = "for readers of the data; its presence is required")]
    reason: String,
}

/// What differs from run to run.
#[derive(Debug)]
pub struct Session<'a> {
    /// This run; its id is the new session's.
    pub run: RunId,
    /// The session that it forks.
    pub head: Option<&'a str>,
    /// The model.
    pub model: &'a str,
    /// The user's time zone.
    pub zone: &'a str,
    /// How long the cell may exist, whatever becomes of the service.
    pub most: Duration,
}

impl StartLine {
    /// What is shipped.
    ///
    /// # Errors
    /// When the shipped data is broken.
    pub fn shipped() -> Result<Self, InvalidData> {
        let line = |source| InvalidData { file: "data/agent.json", source };
        let rules = |source| InvalidData { file: "data/landlock.json", source };
        let filter = |source| InvalidData { file: "data/seccomp.json", source };
        let cell = |source| InvalidData { file: "data/cell.json", source };
        let profile = Profile::shipped().map_err(filter)?;
        let mut start: Self = serde_json::from_str(LINE).map_err(line)?;
        let rules_of_all = CellRules::shipped().map_err(cell)?;
        start.confinement = Confinement {
            landlock: serde_json::from_str(RULES).map_err(rules)?,
            seccomp: FILTER.to_owned(),
            fingerprint: profile.fingerprint(),
            places: rules_of_all.places().map(ToOwned::to_owned).collect(),
        };
        start.profile = profile;
        start.cell = Arc::new(rules_of_all);
        Ok(start)
    }

    /// What the launcher of a session is told.
    pub fn job(&self, session: &Session<'_>) -> Job {
        let run = session.run.to_string();
        let mut argv = vec![self.program.clone()];
        argv.extend(self.args.iter().flat_map(|args| args.value.iter().cloned()));
        let mut add = |args: &[&str]| argv.extend(args.iter().map(ToString::to_string));
        add(&["--tools", &self.tools.join(","), "--model", session.model, "--session-id", &run]);
        if let Some(head) = session.head {
            // A fork leaves the head as it was: a run that fails has changed nothing.
            add(&["--resume", head, "--fork-session"]);
        }
        let mut env: BTreeMap<String, String> =
            self.env.iter().map(|v| (v.name.clone(), v.value.clone())).collect();
        env.insert("TZ".to_owned(), session.zone.to_owned());
        let get = |name: &str| env.get(name).cloned().unwrap_or_default();
        let projects = format!("{}/projects", get("CLAUDE_CONFIG_DIR"));
        Job {
            argv,
            cwd: "/workspace".to_owned(),
            files: vec![],
            links: vec![Link { path: projects, target: super::TRANSCRIPTS.to_owned() }],
            confinement: self.confinement.clone(),
            model_socket: get("ANTHROPIC_UNIX_SOCKET"),
            most_seconds: session.most.as_secs(),
            stderr_bytes: STDERR_BYTES,
            env,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    #[test]
    fn a_session_forks_the_head_and_names_itself() -> Result<(), InvalidData> {
        let start = StartLine::shipped()?;
        let run = RunId::new(Uuid::from_u128(5));
        let session = Session {
            run,
            head: Some("HEAD"),
            model: "m",
            zone: "Europe/Berlin",
            most: Duration::from_secs(60),
        };
        let job = start.job(&session);
        let line = job.argv.join(" ");
        assert!(line.contains(&format!("--session-id {run} --resume HEAD --fork-session")));
        assert!(line.contains("--tools Bash,Read,Write,Edit --model m"), "{line}");
        assert_eq!(job.env.get("TZ").map(String::as_str), Some("Europe/Berlin"));
        let fresh = start.job(&Session { head: None, ..session });
        assert!(!fresh.argv.contains(&"--resume".to_owned()));
        Ok(())
    }
}
