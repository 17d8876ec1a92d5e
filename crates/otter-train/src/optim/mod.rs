//! The optimizer: AdamW (moments in 32 or in 8 bits, wherever the parameters are), clipping by the norm, the learning-rate schedule.

pub mod adamw;
pub mod clip;
pub(crate) mod embedding_rows;
pub mod schedule;

pub use adamw::{AdamW, AdamWOptions, DecayRule, MomentPrecision};
pub use clip::{clip_factor, gradient_norm};
pub use schedule::{Schedule, ScheduleName};
