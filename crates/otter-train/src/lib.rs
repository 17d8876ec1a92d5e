//! Tuning: optimizer, schedule, trainer, resume, metrics, memory plan.
//!
//! ```text
//! TrainConfig (TOML, overrides) ─► train() ─► trainer::run: Loader ─► forward and reverse pass ─► guards ─► clip ─► AdamW
//!                                     │                              └► metrics.jsonl, TensorBoard, progress
//!                                     └► RunDirectory: config.toml, checkpoints/step-…, exact resume
//! ```

pub mod activation_plan;
pub mod clip;
pub mod config;
mod config_differences;
pub mod embedding_rows;
mod error;
pub mod guard;
pub mod memory_plan;
pub mod metrics;
pub mod model;
pub mod optimizer;
pub mod otter_step;
mod overrides;
pub mod progress;
pub mod report;
pub mod run_directory;
pub mod schedule;
mod session;
pub mod tensorboard;
mod tensors_file;
pub mod trainer;

pub use config::TrainConfig;
pub use error::{Result, TrainError};
pub use report::{Observer, Outcome, StepReport, TrainSummary};
pub use session::train;
