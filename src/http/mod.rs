//! Floor 1: HTTP plumbing that knows nothing of NoClaw's routes: bodies within limits, problem
//! documents, a connection served until it is told to end.

pub mod body;
pub mod reply;
pub mod server;
