//! Arguments of `bench`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use otter_cli::arguments::{DeviceArguments, element_types};
use otter_nn::QuantizedFormat;

/// Sizes of a benchmark model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum BenchPreset {
    /// ViT-B/32-size tower, 12 layers of width 768.
    #[default]
    Mid,
    /// The quickstart model.
    Toybox,
}

/// Rows of the table of `bench`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BenchRow {
    /// A prompt with an image, from the tower's features to the first token.
    Prefill,
    /// The tokens after it.
    Decode,
    /// The vision tower on one image.
    Vision,
    /// A training step.
    Train,
    /// The data loader; `otter-dev bench loader` has more about it.
    Loader,
}

/// What `bench` times beside a model.
#[derive(Debug, Subcommand)]
pub enum BenchWhat {
    /// Time the data loader: encoded images to batches of normalized pixels, and each stage alone.
    #[command(after_help = "Examples:
  otter-dev bench loader
  otter-dev bench loader --images DIR --workers 4 --json")]
    Loader(BenchLoader),
}

/// Arguments of `bench loader`.
#[derive(Debug, Args)]
pub struct BenchLoader {
    /// Folder of image files (default: photo-like JPEG files made for the occasion).
    #[arg(long, value_name = "DIR")]
    pub images: Option<PathBuf>,
    /// How many images are made where no folder is given.
    #[arg(long, default_value_t = 256)]
    pub count: usize,
    /// Worker threads.
    #[arg(long, default_value_t = 2)]
    pub workers: usize,
    /// Images a batch.
    #[arg(long, default_value_t = 32)]
    pub batch: usize,
    /// Side length of the pixels.
    #[arg(long, default_value_t = 224)]
    pub size: usize,
    /// Epochs that are timed after one warm-up.
    #[arg(long, default_value_t = 5)]
    pub repeats: usize,
    /// Squash to a square as in training, or crop the center as CLIP does.
    #[arg(long, value_enum, default_value_t)]
    pub transform: BenchTransform,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// Image transforms by their name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum BenchTransform {
    /// Squashed to a square.
    #[default]
    Train,
    /// Short side to size, center crop.
    Clip,
}

/// Arguments of `bench`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Bench {
    /// Something else than a model.
    #[command(subcommand)]
    pub what: Option<BenchWhat>,
    /// Sizes of the model.
    #[arg(long, value_enum, default_value_t)]
    pub preset: BenchPreset,
    /// Sizes of a published model instead (`otter init` lists them), its weights drawn at random in memory.
    #[arg(long, value_name = "NAME", conflicts_with = "preset")]
    pub like: Option<String>,
    /// A model instead: checkpoint directory, GGUF file, or org/name of a pulled one.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["preset", "like"])]
    pub model: Option<PathBuf>,
    /// Keep the large matrices in blocks of 8 or 4 bits.
    #[arg(long = "quantize", alias = "quantise", value_name = "FORMAT", value_parser = element_types::blocks())]
    pub quantize: Option<QuantizedFormat>,
    #[command(flatten)]
    pub device: DeviceArguments,
    /// Most memory of the GPU, for example 24GiB: what does not fit is an error, as on a GPU of that size.
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<String>,
    /// Keep AdamW's moments in 8 bits.
    #[arg(long)]
    pub eight_bit_moments: bool,
    /// What to time (default: everything that fits in memory).
    #[arg(long, value_enum, value_name = "WHAT,…", value_delimiter = ',')]
    pub only: Vec<BenchRow>,
    /// Tokens of the prompt that prefill and decode are timed with.
    #[arg(long, default_value_t = 256)]
    pub tokens: usize,
    /// Timed repetitions after one warm-up.
    #[arg(long, default_value_t = 3)]
    pub repeats: usize,
    /// Sequences of a training batch.
    #[arg(long, default_value_t = 4)]
    pub batch: usize,
    /// Tokens of a training sequence.
    #[arg(long, default_value_t = 128)]
    pub length: usize,
    /// Tokens of each sequence of a training batch, instead of --batch and --length: times forward and backward pass with
    /// padded and with packed rows in turn.
    #[arg(long, value_name = "N,N,…", value_delimiter = ',', conflicts_with_all = ["batch", "length", "only"])]
    pub lengths: Vec<usize>,
    /// New tokens of a decode.
    #[arg(long, default_value_t = 64)]
    pub new_tokens: usize,
    /// Recompute decoder layers in the backward pass.
    #[arg(long)]
    pub recompute: bool,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}
