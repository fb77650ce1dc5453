//! Which image cells are made of, its recipe's hash, and its self-test. Building it is
//! `commands/image.rs`'s.

use sha2::{Digest, Sha256};

use super::podman::{Podman, PodmanError};
use super::{CellError, Cells, Trial};
use crate::core::preflight::rules::CellRules;

/// The image that serves. A new one takes the name only after its self-test.
pub const CURRENT: &str = "localhost/noclaw-agent:latest";
/// The image that was built and has not yet passed its self-test.
pub const CANDIDATE: &str = "localhost/noclaw-agent:candidate";
/// What goes into the recipe's hash; another byte in one of them is another image.
const RECIPE: [&str; 5] =
    ["Containerfile", "agent-requirements.txt", "packages.txt", "base.sh", "build.sh"];
/// What an agent expects to find.
const SELF_TEST: &str = "set -e; claude --version
    for tool in git rg jq python3 pdftotext file unzip; do command -v $tool; done
    test -e /usr/share/zoneinfo/Europe/Berlin; test -e /etc/ssl/certs/ca-certificates.crt
    test ! -e /etc/claude-code";
/// Label: the agent's version.
pub const LABEL_AGENT: &str = "io.noclaw.agent";
/// Label: the hash of the recipe it was built by.
pub const LABEL_RECIPE: &str = "io.noclaw.recipe";

/// The image that serves.
#[derive(Debug, Clone)]
pub struct AgentImage {
    /// Its id: what a plan names.
    pub id: String,
    /// The agent's version.
    pub agent: String,
    /// The hash of its recipe.
    pub recipe: String,
    /// When it was made, as RFC 3339.
    pub created: String,
    /// Its size in bytes.
    pub size: u64,
}

/// Looks for the image that serves.
///
/// # Errors
/// Podman's.
pub async fn current(podman: &Podman) -> Result<Option<AgentImage>, PodmanError> {
    let Some(image) = podman.image(CURRENT).await? else {
        return Ok(None);
    };
    let labels = image.labels.unwrap_or_default();
    let label = |name| labels.get(name).cloned().unwrap_or_else(|| "unknown".to_owned());
    Ok(Some(AgentImage {
        id: image.id,
        agent: label(LABEL_AGENT),
        recipe: label(LABEL_RECIPE),
        created: image.created,
        size: image.size,
    }))
}

/// The hash of a recipe, whose files `read` gives by their names.
///
/// # Errors
/// When one of its files cannot be read.
pub fn recipe<E>(read: impl Fn(&str) -> Result<Vec<u8>, E>) -> Result<String, E> {
    let mut hash = Sha256::new();
    for file in RECIPE {
        hash.update(read(file)?);
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Why a candidate does not serve.
#[derive(Debug, thiserror::Error)]
pub enum SelfTestError {
    /// Its container cannot be made.
    #[error(transparent)]
    Cell(#[from] CellError),
    /// Something is missing in it.
    #[error("the new image fails its self-test with status {0}; the old one serves on")]
    Failed(i64),
}

/// Tests the candidate in a container as confined as a cell; if it passes, it serves from now on.
/// Podman copies the image once for a cell's users: that has happened then, too.
///
/// # Errors
/// See [`SelfTestError`].
pub async fn self_test(
    cells: &Cells,
    rules: &CellRules,
    seccomp_profile: &str,
) -> Result<(), SelfTestError> {
    let program = &["/bin/bash", "-c", SELF_TEST];
    let trial = Trial { image: CANDIDATE, program, seccomp_profile, rules };
    match cells.try_out(&trial).await? {
        0 => {
            cells.engine().tag(CANDIDATE, CURRENT).await.map_err(CellError::from)?;
            Ok(cells.engine().untag(CANDIDATE).await.map_err(CellError::from)?)
        }
        status => Err(SelfTestError::Failed(status)),
    }
}
