//! Floor 1: the machine NoClaw runs on: its state directory, its files, its log, the owner's
//! folders. Files are opened by path here and nowhere else (`clippy.toml`).

pub mod failures;
pub mod log;
pub mod machine;
pub mod mounts;
pub mod owned;
pub mod parent;
pub mod paths;
pub mod points;
pub mod process;
pub mod programs;
pub mod sandbox;
pub mod state;
pub mod systemd;
pub mod terminal;
pub mod tree;
