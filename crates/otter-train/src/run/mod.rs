//! A training run: the session that opens everything, the loop, its guards, and the run directory with checkpoints.

pub(crate) mod device;
pub mod directory;
pub mod guard;
pub(crate) mod image_rules;
pub(crate) mod model_card;
pub(crate) mod schedule_change;
mod session;
pub(crate) mod tensors_file;
pub mod trainer;
pub mod trainer_state;

pub use session::{Resume, plan, train};
