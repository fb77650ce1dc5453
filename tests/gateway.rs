//! What a cell may ask of the model: attacks from inside a real cell through its model socket, each
//! beside what is permitted. The model is a recorder: what reached it is what got through.

#![expect(clippy::disallowed_methods, reason = "a test makes files of its own")]
#![expect(clippy::indexing_slicing, reason = "a JSON value has null at what is not there")]

#[path = "gateway/bodies.rs"]
mod bodies;
#[path = "gateway/budgets.rs"]
mod budgets;
#[path = "gateway/cell.rs"]
mod cell;
#[path = "gateway/floods.rs"]
mod floods;
#[path = "gateway/heads.rs"]
mod heads;
#[path = "gateway/models.rs"]
mod models;
mod support;
