//! Which image cells are made of. Building it is `commands/image.rs`'s.

use super::podman::{Podman, PodmanError};

/// The image that serves. A new one takes the name only after its self-test.
pub const CURRENT: &str = "localhost/noclaw-agent:latest";
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
    let label = |name| {
        labels
            .get(name)
            .cloned()
            .unwrap_or_else(|| "unknown".to_owned())
    };
    Ok(Some(AgentImage {
        id: image.id,
        agent: label(LABEL_AGENT),
        recipe: label(LABEL_RECIPE),
        created: image.created,
        size: image.size,
    }))
}
