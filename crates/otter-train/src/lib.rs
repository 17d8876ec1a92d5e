//! Tuning: optimizer, schedule, trainer, resume, metrics, memory plan.
//!
//! ```text
//! TrainConfig (TOML, overrides) ─► train() ─► trainer::run: Loader ─► forward and backward pass ─► guards ─► clip ─► AdamW
//!                                     │                              └► metrics.jsonl, TensorBoard, progress
//!                                     └► RunDirectory: config.toml, checkpoints/step-…, exact resume
//! ```
//!
//! ```no_run
//! use otter_train::{Resume, TrainConfig, metrics::Progress, train};
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

pub mod config;
mod error;
pub mod feature_cache;
pub mod memory;
pub mod metrics;
pub mod model;
pub mod optim;
pub mod otter;
pub mod run;

pub use config::TrainConfig;
pub use error::{Result, TrainError};
pub use metrics::{Observer, Outcome, StepReport, TokenCounts, TrainSummary};
pub use run::{Resume, plan, train};
