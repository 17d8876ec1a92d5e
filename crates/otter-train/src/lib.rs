//! Tuning: optimizer, schedule, trainer, resume, metrics, memory plan.

pub mod clip;
mod error;
pub mod optimizer;
pub mod schedule;
pub mod tensorboard;

pub use error::{Result, TrainError};
