//! `otter data …`, and `otter toybox`, which makes data.

pub mod convert;
pub(super) mod import;
pub(super) mod retrieve;
pub(super) mod shards;
pub(super) mod show;
mod source;
pub(super) mod stats;
pub(super) mod toybox;
pub(super) mod verify;
