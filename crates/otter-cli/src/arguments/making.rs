//! Arguments of the commands that make models: quickstart, toybox, train, init.

use std::path::PathBuf;

use clap::Args;

use otter_nn::DType;

use super::{DeviceArguments, element_types};

/// Arguments of `quickstart`.
#[derive(Debug, Args)]
pub struct Quickstart {
    /// Run directory.
    #[arg(long, default_value = "runs/quickstart", value_name = "DIR")]
    pub out: PathBuf,
    /// Seed of data and tuning.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Base model to start from, a directory or org/name (default: the one that ships with this project).
    #[arg(long, value_name = "DIR")]
    pub base: Option<PathBuf>,
    /// Where it computes, and how.
    #[command(flatten)]
    pub device: DeviceArguments,
    /// Fraction of the usual data and steps, for a fast look (results then mean little).
    #[arg(long, default_value_t = 1.0, allow_negative_numbers = true)]
    pub scale: f64,
    /// Print the summary as JSON.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `toybox`.
#[derive(Debug, Args)]
pub struct Toybox {
    /// Directory to write.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Seed of the world.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Side of the images in pixels (32 to 64).
    #[arg(long, default_value_t = 32)]
    pub image_size: usize,
    /// Factor on the number of records.
    #[arg(long, default_value_t = 1.0, allow_negative_numbers = true)]
    pub scale: f64,
    /// Print the manifest as JSON.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `train`.
#[derive(Debug, Args)]
pub struct Train {
    /// The run's description.
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Go on from the newest complete checkpoint of the run directory.
    #[arg(long)]
    pub resume: bool,
    /// With --resume: go on although train.steps or train.epochs is another, which gives the steps to come other learning rates; they
    /// are told before the first step. Without this the change is refused.
    #[arg(long, requires = "resume")]
    pub extend_schedule: bool,
    /// Memory that the run may take, for example 22GiB: what does not fit is made smaller (train.memory).
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<String>,
    /// Where the run computes: cpu, cuda, or cuda:N (train.device).
    #[arg(long, value_name = "DEVICE")]
    pub device: Option<String>,
    /// On a GPU: f32, or products of factors rounded to bf16 (train.dtype).
    #[arg(long, value_parser = element_types::products())]
    pub dtype: Option<DType>,
    /// Print the memory plan, from the headers of the files alone, and stop.
    #[arg(long)]
    pub plan: bool,
    /// Print the result as JSON.
    #[arg(long)]
    pub json: bool,
    /// Overrides such as `train.steps=200`.
    #[arg(value_name = "KEY=VALUE")]
    pub overrides: Vec<String>,
}

/// Arguments of `init`.
#[derive(Debug, Args)]
pub struct Init {
    /// Name of a published model (see --list), or a checkpoint directory whose config.json is taken.
    #[arg(long, value_name = "NAME|DIR", required_unless_present = "list")]
    pub like: Option<String>,
    /// Directory to write.
    #[arg(long, value_name = "DIR", required_unless_present = "list")]
    pub out: Option<PathBuf>,
    /// Element type.
    #[arg(long, default_value_t = DType::F32, value_parser = element_types::floats())]
    pub dtype: DType,
    /// Seed of the values.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Directory whose tokenizer files are copied; without them the checkpoint cannot read prompts.
    #[arg(long, value_name = "DIR")]
    pub tokenizer: Option<PathBuf>,
    /// Rows of the token tables (default: those of the model it is like).
    #[arg(long, value_name = "N")]
    pub vocab_size: Option<usize>,
    /// Most bytes of a weight file, for example 5GB or 512MiB.
    #[arg(long, value_name = "SIZE", default_value = "5GB", value_parser = otter_io::text::parse_bytes)]
    pub shard_size: u64,
    /// Print the published models with their numbers of parameters.
    #[arg(long, conflicts_with_all = ["like", "out"])]
    pub list: bool,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}
