//! An image as an archive: written to a file of the owner's, and loaded from one.
//!
//! Both stream. podman-api's `load` wants the whole archive in memory (700 MB), and its `export`
//! does not look at the status, so that an error's words would become the archive.

use std::io::{Read, Write};

use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::Method;
use hyper::body::Frame;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use serde::Deserialize;

use super::podman::{Podman, PodmanError, read_json, refused, request};

/// What is read from an archive at a time.
const CHUNK: usize = 256 * 1024;

/// What can go wrong with an archive.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// Podman's.
    #[error(transparent)]
    Podman(#[from] PodmanError),
    /// It cannot be written.
    #[error("the archive cannot be written")]
    Write(#[source] std::io::Error),
}

impl Podman {
    /// Writes an image, named by its id, as a tar archive in Docker's form, whose layers are not
    /// compressed. It bears no name: whoever loads it decides about that. Blocks its thread.
    ///
    /// # Errors
    /// See [`ArchiveError`]; what was written is then to be thrown away.
    pub async fn save(&self, id: &str, archive: &mut impl Write) -> Result<(), ArchiveError> {
        let name = format!("save {id}");
        let unanswered = |source: hyper::Error| PodmanError::unanswered(&name, source);
        let path = format!("/images/{id}/get?format=docker-archive&compress=false");
        let mut sender = self.connect(&name).await?;
        let request = request(Method::GET, &path, Full::<Bytes>::default(), &name)?;
        let response = sender.send_request(request).await.map_err(unanswered)?;
        if !response.status().is_success() {
            return Err(refused(&name, response).await.into());
        }
        let mut body = response.into_body();
        while let Some(frame) = body.frame().await {
            if let Ok(chunk) = frame.map_err(unanswered)?.into_data() {
                archive.write_all(&chunk).map_err(ArchiveError::Write)?;
            }
        }
        archive.flush().map_err(ArchiveError::Write)
    }

    /// Loads the image of an archive and returns the names that Podman gives: `sha256:…` of one
    /// that bears none. Blocks its thread.
    ///
    /// # Errors
    /// Podman's, also when this is no archive; `Unanswered` when it cannot be read.
    pub async fn load(
        &self,
        archive: impl Read + Send + 'static,
    ) -> Result<Vec<String>, PodmanError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Loaded {
            names: Vec<String>,
        }
        let name = "load an image";
        let chunks = stream::try_unfold(archive, |mut archive| async {
            let mut chunk = Vec::new();
            let read = archive.by_ref().take(CHUNK as u64).read_to_end(&mut chunk)?;
            let frame = Frame::data(Bytes::from(chunk));
            Ok::<_, std::io::Error>((read > 0).then_some((frame, archive)))
        });
        let mut sender = self.connect(name).await?;
        let body = BodyExt::boxed_unsync(StreamBody::new(chunks));
        let mut request = request(Method::POST, "/images/load", body, name)?;
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/x-tar"));
        let response = sender.send_request(request).await;
        let response = response.map_err(|source| PodmanError::unanswered(name, source))?;
        Ok(read_json::<Loaded>(name, response).await?.names)
    }
}
