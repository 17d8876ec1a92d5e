//! Tuning and evaluation: `otter train`, `otter quickstart`, `otter eval`.

pub(super) mod command;
pub(super) mod eval;
pub(super) mod quickstart;
