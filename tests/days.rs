//! Bad days: what the service stands on dies, lies, floods or fills up in the middle of a run. Each
//! time the run must end with the right words, nothing may be left, and the next message must be
//! answered.

#![expect(clippy::disallowed_methods, reason = "a test makes files of its own")]
#![expect(clippy::indexing_slicing, reason = "a JSON value has null at what is not there")]

#[path = "days/agents.rs"]
mod agents;
#[path = "days/disk.rs"]
mod disk;
#[path = "days/ends.rs"]
mod ends;
#[path = "days/launchers.rs"]
mod launchers;
#[path = "days/models.rs"]
mod models;
#[path = "days/podman.rs"]
mod podman;
#[path = "days/stall.rs"]
mod stall;
mod support;
