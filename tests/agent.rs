//! The pinned agent as it really is, in real cells made of the library's own parts: what it says
//! line by line, what it offers, reads and leaves behind, and how it takes an interrupt.
//!
//! `tests/golden/` holds what was seen of it and looked at once. A new pin that differs fails here
//! and says in what; who has looked at that writes it down with `NOCLAW_BLESS=1`.

#![expect(clippy::disallowed_methods, reason = "a test makes files of its own")]
#![expect(clippy::indexing_slicing, reason = "a JSON value has null at what is not there")]

#[path = "agent/detour.rs"]
mod detour;
#[path = "agent/golden.rs"]
mod golden;
#[path = "agent/inventory.rs"]
mod inventory;
#[path = "agent/protocol.rs"]
mod protocol;
mod support;
#[path = "agent/talk.rs"]
mod talk;
#[path = "agent/transcripts.rs"]
mod transcripts;
