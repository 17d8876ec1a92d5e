//! Arguments of the commands that compare a model with what is known: eval, parity.

use std::path::PathBuf;

use clap::Args;

use super::{DeviceArguments, ImageRuleArguments, ModelArguments};

/// Arguments of `eval`.
#[derive(Debug, Args)]
pub struct Eval {
    /// The model.
    #[command(flatten)]
    pub model: ModelArguments,
    /// How its images are shown.
    #[command(flatten)]
    pub rules: ImageRuleArguments,
    /// Toybox data directory.
    #[arg(long, value_name = "DIR")]
    pub data: PathBuf,
    /// Most queries in all, spread evenly over tasks and numbers of shots (default: all).
    #[arg(long)]
    pub limit: Option<usize>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `parity`.
#[derive(Debug, Args)]
pub struct Parity {
    /// Checkpoint directory, or org/name of a pulled model.
    #[arg(long, value_name = "DIR")]
    pub model: PathBuf,
    /// Golden forward results.
    #[arg(long, value_name = "FILE")]
    pub golden: PathBuf,
    /// Golden gradients.
    #[arg(long, value_name = "FILE")]
    pub gradients: Option<PathBuf>,
    /// One scenario only.
    #[arg(long, value_name = "NAME")]
    pub scenario: Option<String>,
    /// Which parameters are trained: head, v0.1, or patterns separated by commas.
    #[arg(long, default_value = "head")]
    pub trainable: String,
    /// Recompute decoder layers in the backward pass.
    #[arg(long)]
    pub recompute: bool,
    /// Where it computes, and how.
    #[command(flatten)]
    pub device: DeviceArguments,
    /// Largest absolute difference of vision features, Perceiver output, hidden states and loss (default: 1e-4; with --dtype
    /// bf16 0.1).
    #[arg(long)]
    pub tolerance: Option<f64>,
    /// Largest absolute difference of logits (default: 2e-4; with --dtype bf16 0.3).
    #[arg(long)]
    pub logits_tolerance: Option<f64>,
    /// Largest difference of a gradient, relative to the tensor's largest entry (default: 1e-3; with --dtype bf16 0.1).
    #[arg(long)]
    pub gradient_tolerance: Option<f64>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}
