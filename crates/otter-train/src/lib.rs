//! Tuning: optimizer, schedule, trainer, resume, metrics, memory plan.
//!
//! ```text
//! TrainConfig (TOML, overrides) ─► train() ─► trainer::run: Loader ─► forward and reverse pass ─► guards ─► clip ─► AdamW
//!                                     │                              └► metrics.jsonl, TensorBoard, progress
//!                                     └► RunDirectory: config.toml, checkpoints/step-…, exact resume
//! ```
//!
//! ```no_run
//! use otter_train::{Resume, TrainConfig, progress::Progress, train};
//! use std::{path::Path, sync::atomic::AtomicBool};
//!
//! # fn main() -> otter_train::Result<()> {
//! let config = TrainConfig::load(Path::new("run.toml"), &["train.steps=200".to_owned()])?;
//! let interrupt = AtomicBool::new(false); // set it on a signal: the run stops with a checkpoint
//! let mut progress = Progress::new(config.train.log_every);
//! let summary = train(&config, Resume::No, &interrupt, &mut progress)?;
//! println!("{:?} after step {}", summary.outcome, summary.step);
//! # Ok(())
//! # }
//! ```

pub mod activation_plan;
pub mod card_moments;
pub mod clip;
pub mod config;
mod config_differences;
pub mod device;
pub mod eight_bit_moments;
mod embedding_rows;
mod error;
pub mod feature_cache;
pub mod guard;
mod image_rules;
pub mod memory_choice;
mod memory_forecast;
pub mod memory_plan;
pub mod metrics;
pub mod model;
pub mod optimizer;
pub mod otter_step;
mod overrides;
pub mod progress;
pub mod report;
mod run_card;
pub mod run_directory;
pub mod run_log;
pub mod schedule;
mod schedule_change;
mod session;
pub mod tensorboard;
mod tensors_file;
pub mod trainer;

pub use config::TrainConfig;
pub use error::{Result, TrainError};
pub use report::{Observer, Outcome, StepReport, TokenCounts, TrainSummary};
pub use session::{Resume, plan, train};
