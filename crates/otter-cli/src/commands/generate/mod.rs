//! Answers of a model: `otter generate`, `otter chat`, `otter score`, and what they share.

pub(super) mod chat;
pub(super) mod command;
pub mod model;
pub(super) mod pictures;
pub(super) mod score;
mod settings;
