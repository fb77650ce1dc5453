//! Which image cells are made of, its recipe's hash, how one is loaded, and its self-test. Building
//! it is `commands/image.rs`'s.

use std::collections::BTreeMap;
use std::io::Read;

use bytes::Bytes;
use hyper::Method;
use serde::Deserialize;
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

/// What stands for a label that an image has not.
const UNKNOWN: &str = "unknown";

/// An image, as a rule the one that serves.
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
    find(podman, CURRENT).await
}

/// Looks for an image by name or id; `None` when there is none (500 on Podman 4.3, 404 on 5).
///
/// # Errors
/// Podman's.
pub async fn find(podman: &Podman, name: &str) -> Result<Option<AgentImage>, PodmanError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Inspected {
        id: String,
        #[serde(default)]
        labels: Option<BTreeMap<String, String>>,
        created: String,
        #[serde(default)]
        size: u64,
    }
    let path = format!("/images/{name}/json");
    let asked = podman.json(&format!("image {name}"), Method::GET, &path, Bytes::new()).await;
    let image: Inspected = match asked {
        Ok(image) => image,
        Err(PodmanError::Refused { status: 404, .. }) => return Ok(None),
        Err(PodmanError::Refused { status: 500, cause, .. })
            if cause.contains("image not known") || cause.contains("no such image") =>
        {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    let labels = image.labels.unwrap_or_default();
    let label = |name| labels.get(name).cloned().unwrap_or_else(|| UNKNOWN.to_owned());
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

/// Why an archive's image is no candidate.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Podman cannot load it, or name it.
    #[error(transparent)]
    Cell(#[from] CellError),
    /// It holds another number of images than one.
    #[error("the archive holds {0} images, not one")]
    Count(usize),
    /// It is something else's.
    #[error("the image {id} has no label {LABEL_RECIPE}: no recipe of NoClaw's made it")]
    Foreign {
        /// Its id.
        id: String,
    },
}

/// Loads an archive's image as the candidate. What serves is not touched, whatever name the image
/// bears in its archive.
///
/// # Errors
/// See [`LoadError`]. A foreign image stays in Podman's storage.
pub async fn load(
    cells: &Cells,
    archive: impl Read + Send + 'static,
) -> Result<AgentImage, LoadError> {
    let (podman, engine) = (cells.podman(), cells.engine());
    let before = current(podman).await.map_err(CellError::from)?;
    let names = podman.load(archive).await.map_err(CellError::from)?;
    // Found before names are put right: it may bear the name of the one that serves.
    let image = match names.as_slice() {
        [name] => {
            find(podman, name.trim_start_matches("sha256:")).await.map_err(CellError::from)?
        }
        _ => None,
    };
    match (before, current(podman).await.map_err(CellError::from)?) {
        (Some(before), Some(after)) if before.id != after.id => {
            engine.tag(&before.id, CURRENT).await.map_err(CellError::from)?;
        }
        (None, Some(_)) => engine.untag(CURRENT).await.map_err(CellError::from)?,
        _ => {}
    }
    let image = image.ok_or(LoadError::Count(names.len()))?;
    if image.recipe == UNKNOWN {
        return Err(LoadError::Foreign { id: image.id });
    }
    engine.tag(&image.id, CANDIDATE).await.map_err(CellError::from)?;
    Ok(image)
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
