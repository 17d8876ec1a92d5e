//! The vision tower.

pub mod clip;

pub use clip::{ClipSaved, ClipVision};
