//! Everything NoClaw says no with: one row each for HTTP's status, the command line's exit status
//! and a title. The same table serves the service and its client.
//!
//! Exit statuses follow sysexits(3), with 124 and 130 as timeout(1) and shells have them.

use std::fmt;
use std::str::FromStr;

use super::ids::InvalidId;
use super::run::RunState;

/// The prefix of a problem document's `type`.
pub const TYPE_PREFIX: &str = "urn:noclaw:problem:";

/// An exit status of the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitStatus {
    /// 0: done, answered.
    Ok = 0,
    /// 64: wrong usage.
    Usage = 64,
    /// 65: bad input.
    Data = 65,
    /// 69: the service or Podman is not available.
    Unavailable = 69,
    /// 70: failed.
    Failed = 70,
    /// 75: refused for now; try again.
    Later = 75,
    /// 77: not allowed.
    NotAllowed = 77,
    /// 78: not configured.
    Config = 78,
    /// 124: timed out.
    TimedOut = 124,
    /// 130: cancelled.
    Cancelled = 130,
}

impl From<RunState> for ExitStatus {
    fn from(state: RunState) -> Self {
        match state {
            RunState::Answered => Self::Ok,
            RunState::TimedOut => Self::TimedOut,
            RunState::Cancelled => Self::Cancelled,
            RunState::Failed => Self::Failed,
            // Not ended: the caller gave up waiting.
            RunState::Queued | RunState::Starting | RunState::Running | RunState::Finishing => {
                Self::Later
            }
        }
    }
}

/// The HTTP status of a run, as `/webhook` and `/v1/runs/{id}` answer it to a waiting sender.
pub const fn http_status(state: RunState) -> u16 {
    match state {
        RunState::Answered => 200,
        RunState::Failed => 502,
        RunState::TimedOut => 504,
        RunState::Cancelled => 409,
        RunState::Queued | RunState::Starting | RunState::Running | RunState::Finishing => 202,
    }
}

macro_rules! kinds {
    ($(
        $(#[$doc:meta])*
        $name:ident = $slug:literal, $status:literal, $exit:ident, $title:literal;
    )*) => {
        /// What kind of no it is.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum ProblemKind { $($(#[$doc])* $name,)* }

        impl ProblemKind {
            /// All kinds.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// Its name in a problem document's `type`.
            pub const fn slug(self) -> &'static str {
                match self { $(Self::$name => $slug,)* }
            }

            /// Its HTTP status.
            pub const fn status(self) -> u16 {
                match self { $(Self::$name => $status,)* }
            }

            /// Its exit status on the command line.
            pub const fn exit(self) -> ExitStatus {
                match self { $(Self::$name => ExitStatus::$exit,)* }
            }

            /// Its title, the same each time.
            pub const fn title(self) -> &'static str {
                match self { $(Self::$name => $title,)* }
            }
        }
    };
}

kinds! {
    /// The body is no JSON.
    MalformedJson = "malformed-json", 400, Data, "The body is not JSON";
    /// A parameter of the URL or a header is wrong.
    BadRequest = "bad-request", 400, Data, "The request is not of its form";
    /// Nobody has said who they are.
    Unauthenticated = "unauthenticated", 401, NotAllowed, "A token is needed";
    /// They may not do this.
    Forbidden = "forbidden", 403, NotAllowed, "This is not allowed";
    /// There is no such thing.
    NotFound = "not-found", 404, Data, "There is no such thing";
    /// There is such a thing, but not with this method.
    MethodNotAllowed = "method-not-allowed", 405, Data, "The method is not allowed here";
    /// What it is now does not allow that.
    Conflict = "conflict", 409, Data, "It cannot be done to what it is now";
    /// The mount policy says no.
    MountRefused = "mount-refused", 409, NotAllowed, "The mount policy refuses this folder";
    /// The key was sent with another message.
    KeyReused = "idempotency-key-reused", 409, Data, "The Idempotency-Key is taken";
    /// The body took too long.
    RequestTimeout = "request-timeout", 408, Later, "The request took too long";
    /// The body is too large.
    BodyTooLarge = "body-too-large", 413, Data, "The body is too large";
    /// The body is not declared to be JSON.
    UnsupportedMediaType = "unsupported-media-type", 415, Data, "The body must be application/json";
    /// A field is wrong.
    InvalidField = "invalid-field", 422, Data, "A field is wrong";
    /// Too many requests.
    RateLimited = "rate-limited", 429, Later, "Too many requests";
    /// Too many messages wait.
    QueueFull = "queue-full", 429, Later, "Too many messages are waiting";
    /// A fault of the service.
    Internal = "internal", 500, Failed, "The service has a fault";
    /// Podman cannot be had.
    PodmanUnavailable = "podman-unavailable", 503, Unavailable, "Podman is not available";
    /// The owner has halted the service.
    Halted = "halted", 503, Later, "NoClaw is halted";
    /// The service stops.
    Stopping = "stopping", 503, Later, "The service is stopping";
    /// There is no image to make cells of.
    ImageMissing = "image-missing", 503, Config, "The cell's image is missing";
    /// There is no key and no demo.
    KeyMissing = "key-missing", 503, Config, "No model is configured";
    /// The machine cannot enforce a limit.
    LimitsMissing = "limits-missing", 503, Config, "This machine cannot enforce every limit";
    /// Podman's storage would copy the image for every cell.
    StorageDriver = "storage-driver", 503, Config, "Podman's storage driver is not usable";
    /// The disk is full.
    StorageFull = "storage-full", 507, Later, "The disk is full";
}

impl fmt::Display for ProblemKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{TYPE_PREFIX}{}", self.slug())
    }
}

impl FromStr for ProblemKind {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let slug = text.strip_prefix(TYPE_PREFIX).unwrap_or(text);
        let found = Self::ALL.iter().find(|kind| kind.slug() == slug).copied();
        found.ok_or(InvalidId { what: "a problem's type", form: "one that ARCHITECTURE.md lists" })
    }
}

/// A no, with what a person needs to change it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct Problem {
    /// Its kind.
    pub kind: ProblemKind,
    /// What is wrong in this case.
    pub detail: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// Seconds until it is worth trying again.
    pub retry_after: Option<u64>,
}

impl Problem {
    /// A problem without a hint.
    pub fn new(kind: ProblemKind, detail: impl fmt::Display) -> Self {
        Self { kind, detail: detail.to_string(), hint: None, retry_after: None }
    }

    /// The same with a hint.
    #[must_use]
    pub fn hint(mut self, hint: impl fmt::Display) -> Self {
        self.hint = Some(hint.to_string());
        self
    }

    /// The same with a time to wait, rounded up to seconds.
    #[must_use]
    pub const fn retry_after(mut self, wait: std::time::Duration) -> Self {
        self.retry_after = Some(wait.as_secs() + 1);
        self
    }
}

/// An error and its causes, each once, in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Some libraries repeat their source in their own text.
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_have_names_of_their_own() {
        for kind in ProblemKind::ALL {
            assert_eq!(kind.to_string().parse(), Ok(*kind));
            assert!((400..600).contains(&kind.status()));
            assert_ne!(kind.exit(), ExitStatus::Ok);
        }
    }

    #[test]
    fn no_end_but_an_answer_looks_like_success() {
        for state in RunState::ALL {
            let success = state == RunState::Answered;
            assert_eq!(http_status(state) == 200, success, "{state}");
            assert_eq!(ExitStatus::from(state) == ExitStatus::Ok, success, "{state}");
        }
    }
}
