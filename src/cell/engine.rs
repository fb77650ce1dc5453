//! What podman-api does for us: ping, info, list, init, start, delete.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use podman_api::Error as ApiError;
use podman_api::models::ListContainer;
use podman_api::opts::{ContainerDeleteOpts, ContainerListFilter, ContainerListOpts, ImageTagOpts};
use podman_api::{ApiVersion, Podman as Api};

use crate::core::plan::Runtime;

/// An error of Podman's, and what was asked.
#[derive(Debug, thiserror::Error)]
#[error("Podman failed to {action}")]
pub struct EngineError {
    /// What was asked.
    action: String,
    /// What podman-api said.
    #[source]
    source: ApiError,
}

/// What matters here of `podman info`.
#[derive(Debug, Clone)]
pub struct Info {
    /// Podman's version.
    pub version: String,
    /// The storage driver.
    pub storage_driver: String,
    /// Whether it runs without root.
    pub rootless: bool,
    /// The cgroup controllers that it can hand to a container.
    pub controllers: Vec<String>,
    /// Where it keeps images, containers and volumes.
    pub storage: Vec<PathBuf>,
    /// What makes its containers.
    pub runtime: Runtime,
}

/// Podman's service, spoken to by podman-api.
#[derive(Debug, Clone)]
pub struct Engine {
    api: Api,
}

/// A container, as it is listed.
#[derive(Debug)]
pub struct Listed {
    /// Its id.
    pub id: String,
    /// Its labels.
    pub labels: HashMap<String, String>,
}

impl Engine {
    /// Podman at this socket.
    pub fn at(socket: &Path) -> Self {
        // 4.0 is served by 4.3 and by 5.x; `adjust_api_version` would pick a wrong one.
        Self { api: Api::unix_versioned(socket, ApiVersion::new(4, Some(0), Some(0))) }
    }

    /// Whether it answers.
    ///
    /// # Errors
    /// When it does not.
    pub async fn ping(&self) -> Result<(), EngineError> {
        self.api.ping().await.map(drop).map_err(during("answer a ping"))
    }

    /// What it is.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn info(&self) -> Result<Info, EngineError> {
        let info = self.api.info().await.map_err(during("tell about itself"))?;
        let (rootless, controllers, runtime) = match info.host {
            Some(host) => (
                host.security.and_then(|s| s.rootless),
                host.cgroup_controllers,
                host.oci_runtime.map(|runtime| {
                    let said = runtime.version.unwrap_or_default();
                    Runtime::new(&runtime.name.unwrap_or_default(), &said)
                }),
            ),
            None => (None, None, None),
        };
        let (driver, storage) = match info.store {
            Some(store) => {
                (store.graph_driver_name, vec![store.graph_root, store.run_root, store.volume_path])
            }
            None => (None, Vec::new()),
        };
        Ok(Info {
            version: info.version.and_then(|v| v.version).unwrap_or_default(),
            storage_driver: driver.unwrap_or_default(),
            rootless: rootless.unwrap_or_default(),
            controllers: controllers.unwrap_or_default(),
            storage: storage.into_iter().flatten().map(PathBuf::from).collect(),
            runtime: runtime.unwrap_or_default(),
        })
    }

    /// Prepares a created container: its namespaces and mounts exist, nothing of it runs.
    ///
    /// # Errors
    /// Podman's.
    pub async fn init(&self, id: &str) -> Result<(), EngineError> {
        self.api.containers().get(id).init().await.map_err(during("init the container"))
    }

    /// Has Podman find out what there is of a container: whatever it answers, it has.
    async fn find_out(&self, id: &str) -> Result<(), EngineError> {
        match self.api.containers().get(id).init().await {
            Ok(()) | Err(ApiError::Fault { .. }) => Ok(()),
            Err(error) => Err(during("init the container")(error)),
        }
    }

    /// Starts an initialised container.
    ///
    /// # Errors
    /// Podman's.
    pub async fn start(&self, id: &str) -> Result<(), EngineError> {
        self.api.containers().get(id).start(None).await.map_err(during("start the container"))
    }

    /// Kills and removes a container. One that is gone already is no error.
    ///
    /// # Errors
    /// Podman's.
    pub async fn delete(&self, id: &str) -> Result<(), EngineError> {
        let opts = ContainerDeleteOpts::builder().force(true).volumes(true).timeout(0).build();
        match self.api.containers().get(id).delete(&opts).await {
            Err(error) if is_missing(&error) => Ok(()),
            result => result.map_err(during("delete the container")),
        }
    }

    /// Gives an image another name, `REPOSITORY:TAG`.
    ///
    /// # Errors
    /// Podman's.
    pub async fn tag(&self, image: &str, name: &str) -> Result<(), EngineError> {
        let (repository, tag) = name.rsplit_once(':').unwrap_or((name, "latest"));
        let opts = ImageTagOpts::builder().repo(repository).tag(tag).build();
        self.api.images().get(image).tag(&opts).await.map_err(during("name the image"))
    }

    /// Takes a name from an image.
    ///
    /// # Errors
    /// Podman's.
    pub async fn untag(&self, name: &str) -> Result<(), EngineError> {
        let (repository, tag) = name.rsplit_once(':').unwrap_or((name, "latest"));
        let opts = ImageTagOpts::builder().repo(repository).tag(tag).build();
        self.api.images().get(name).untag(&opts).await.map_err(during("take a name away"))
    }

    /// All containers with a label, running or not.
    ///
    /// # Errors
    /// Podman's.
    pub async fn list(&self, label: &str, value: &str) -> Result<Vec<Listed>, EngineError> {
        let label = ContainerListFilter::LabelKeyVal(label.to_owned(), value.to_owned());
        let opts = ContainerListOpts::builder().all(true).filter([label]).build();
        let found = self.api.containers().list(&opts).await.map_err(during("list containers"))?;
        let listed = |container: ListContainer| {
            Some(Listed { id: container.id?, labels: container.labels.unwrap_or_default() })
        };
        Ok(found.into_iter().filter_map(listed).collect())
    }

    /// Whether a container exists.
    ///
    /// # Errors
    /// Podman's.
    pub async fn exists(&self, id: &str) -> Result<bool, EngineError> {
        self.api.containers().get(id).exists().await.map_err(during("look for the container"))
    }

    /// Removes a container and sees it absent; tries until `within` has passed.
    ///
    /// # Errors
    /// The last attempt's.
    pub async fn remove(&self, id: &str, within: Duration) -> Result<(), EngineError> {
        self.insist(id, within, false).await
    }

    /// Removes a container that may have been started halfway, and sees it absent.
    ///
    /// A Podman that dies between the runtime's work and its own record of it takes the container
    /// for one that never began, and would leave its processes behind. Asked to init it once more,
    /// it is told by the runtime what is there, and has that deleted.
    ///
    /// # Errors
    /// The last attempt's.
    pub async fn remove_unknown(&self, id: &str, within: Duration) -> Result<(), EngineError> {
        self.insist(id, within, true).await
    }

    async fn insist(&self, id: &str, within: Duration, unknown: bool) -> Result<(), EngineError> {
        let deadline = tokio::time::Instant::now() + within;
        loop {
            let attempt = async {
                if unknown {
                    self.find_out(id).await?;
                }
                self.delete(id).await?;
                self.exists(id).await
            };
            let error = match attempt.await {
                Ok(false) => return Ok(()),
                Ok(true) => None,
                Err(error) => Some(error),
            };
            if tokio::time::Instant::now() >= deadline {
                let still = || {
                    during("see the container gone")(ApiError::OptsSerialization(
                        "it is still listed".to_owned(),
                    ))
                };
                return Err(error.unwrap_or_else(still));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

fn during(action: &str) -> impl FnOnce(ApiError) -> EngineError {
    let action = action.to_owned();
    move |source| EngineError { action, source }
}

fn is_missing(error: &ApiError) -> bool {
    matches!(error, ApiError::Fault { code, .. } if code.as_u16() == 404)
}
