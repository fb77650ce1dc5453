//! NoClaw: a personal assistant that answers every message in a fresh, measured rootless container.
//!
//! The map, floor by floor; an import only points down and no folder of floor 1 imports another
//! (`tests/tidy.rs` checks it).
//!
//! | floor | where | what |
//! |---|---|---|
//! | 4 | `main.rs` | clean the process, parse, dispatch, exit code |
//! | 3 | [`commands`], [`channels`] | one file a subcommand; every way in |
//! | 2 | [`assistant`] | the story: from an accepted message to its reply |
//! | 1 | [`store`], [`cell`], [`gateway`], [`host`], [`http`] | state; the container and its door; the model; the machine; HTTP plumbing |
//! | 0 | [`core`] | pure rules |

pub mod assistant;
pub mod cell;
pub mod channels;
pub mod commands;
pub mod core;
pub mod gateway;
pub mod host;
pub mod http;
pub mod store;
