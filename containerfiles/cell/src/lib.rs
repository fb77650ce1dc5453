//! What both ends of the door say to each other.
//!
//! The cell is the HTTP/2 client, the service serves, in this order: `POST /hello` ([`job::Hello`]
//! → [`job::Job`]), `POST /preflight` ([`preflight::Preflight`] → 204 go), `POST /agent` (both
//! bodies stream), any number of `/model/…`, `POST /exit` ([`job::Exit`]). A peer with another
//! [`PROTOCOL`] is refused at `/hello`; unknown fields are refused on both sides, because both come
//! from one build.

pub mod job;
pub mod preflight;
#[cfg(feature = "restrict")]
pub mod restrict;

/// Counts changes to these types that the other side must know.
pub const PROTOCOL: u32 = 4;

/// Where the launcher is mounted in a cell.
pub const LAUNCHER: &str = "/noclaw/noclaw-cell";
