//! The optimizer: AdamW and its moments (in 32 bits, in 8 bits, on a GPU), clipping by the norm, the learning-rate schedule.

pub mod adamw;
pub(crate) mod card_moments;
pub mod clip;
pub mod eight_bit_moments;
pub(crate) mod embedding_rows;
pub mod schedule;

pub use adamw::{AdamW, AdamWOptions, DecayRule, MomentPrecision};
pub use clip::{clip_factor, gradient_norm};
pub use schedule::{Schedule, ScheduleName};
