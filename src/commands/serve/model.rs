//! Which model a service asks, and with which key.

use std::path::PathBuf;

use crate::commands::{Failure, read_key};
use crate::core::problem::ExitStatus;
use crate::gateway::key::ApiKey;
use crate::gateway::upstream::Upstream;
use crate::host::owned;

/// The model API that is the stand-in.
pub(in crate::commands) const DEMO: &str = "demo";
/// The name of systemd's credential with the key.
pub(in crate::commands) const CREDENTIAL: &str = "api-key";

/// The model API, if nobody names another one.
pub(in crate::commands) const MODEL_API: &str = "https://api.anthropic.com";
/// The model of a message that names none, if nobody names another one.
pub(in crate::commands) const MODEL: &str = "claude-sonnet-5-5";

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Model")]
pub(super) struct ModelArgs {
    /// The Messages API: a URL, or `demo` for the built-in stand-in
    #[arg(
        long,
        value_name = "URL",
        env = "NOCLAW_MODEL_API",
        default_value = MODEL_API
    )]
    pub(super) model_api: String,
    /// The file that holds the key; else systemd's credential `api-key`
    #[arg(long, value_name = "FILE", env = "NOCLAW_API_KEY_FILE")]
    pub(super) api_key_file: Option<PathBuf>,
    /// The model of a message that names none
    #[arg(long, value_name = "MODEL", env = "NOCLAW_MODEL", default_value = MODEL)]
    pub(super) model: String,
}

/// Where the model is.
pub(super) struct Model {
    pub(super) upstream: Upstream,
    /// Of the demo model, if that is it.
    pub(super) demo: Option<std::net::TcpListener>,
    pub(super) key: Option<ApiKey>,
}

/// Finds it and reads its key, if there is one; the demo model begins to listen.
pub(super) fn open(args: &ModelArgs) -> Result<Model, Failure> {
    if args.model_api == DEMO {
        let listen = || {
            let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
            listener.set_nonblocking(true)?;
            Ok((format!("http://{}", listener.local_addr()?), listener))
        };
        let failed = |error: std::io::Error| Failure::of(ExitStatus::Unavailable, &error);
        let (url, listener) = listen().map_err(failed)?;
        let upstream = Upstream::parse(&url);
        let upstream = upstream.map_err(|error| Failure::of(ExitStatus::Config, &error))?;
        return Ok(Model { upstream, demo: Some(listener), key: Some(ApiKey::for_demo()) });
    }
    Ok(Model { upstream: upstream(&args.model_api)?, demo: None, key: key(args)? })
}

/// Reads where the Messages API is, if that is not the stand-in.
pub(in crate::commands) fn upstream(url: &str) -> Result<Upstream, Failure> {
    Upstream::parse(url).map_err(|error| {
        let hint = "--model-api https://HOST, or `demo` for the built-in stand-in";
        Failure::of(ExitStatus::Usage, &error).hint(hint)
    })
}

fn key(args: &ModelArgs) -> Result<Option<ApiKey>, Failure> {
    let credentials = std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from);
    let credential =
        credentials.as_ref().map(|dir| dir.join(CREDENTIAL)).filter(|path| owned::exists(path));
    let Some(file) = args.api_key_file.clone().or(credential) else {
        return Ok(None);
    };
    let hint = "--api-key-file FILE: one line, mode 0600";
    read_key(&file, credentials.as_deref()).map(Some).map_err(|failure| failure.hint(hint))
}
