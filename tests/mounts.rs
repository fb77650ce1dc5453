//! The owner's own folders in cells: granted, refused, taken back, exchanged.

#![expect(clippy::indexing_slicing, reason = "a JSON value has null at what is not there")]
#![expect(clippy::disallowed_methods, reason = "a test makes files of its own")]

#[path = "mounts/cells.rs"]
mod cells;
#[path = "mounts/commands.rs"]
mod commands;
#[path = "mounts/disk.rs"]
mod disk;
#[path = "mounts/home.rs"]
mod home;
#[path = "mounts/policy.rs"]
mod policy;
mod support;
