//! Floor 0: pure. No tokio, no database, no clock, no randomness, no file system: time and ids come
//! in as arguments, so every rule here can be tested by calling it.

#[cfg(test)]
pub mod arbitrary;
pub mod halt;
pub mod ids;
pub mod journal;
pub mod limits;
pub mod message;
pub mod money;
pub mod mounts;
pub mod notice;
pub mod plan;
pub mod preflight;
pub mod problem;
pub mod quota;
pub mod rate;
pub mod run;
pub mod timeline;
