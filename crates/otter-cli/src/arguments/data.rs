//! Arguments of the commands about data.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// Commands about data.
#[derive(Debug, Subcommand)]
pub enum Data {
    /// One sample as the model sees it.
    #[command(after_help = "Example:
  otter data show --config recipes/toybox.toml --index 3")]
    Show(DataShow),
    /// Write interleaved documents or image–caption pairs as WebDataset tar shards for pre-training.
    #[command(after_help = "Examples:
  otter data shards --documents 'mmc4/docs_shard_{0..9}_v2.jsonl' --images mmc4/images --out data/mmc4
  otter data shards --caption-images laion_images.tsv --caption-texts laion_texts.tsv --out data/laion
Then, in a training configuration (see recipes/pretrain.toml):
  [[data.streams]]
  group = \"INTERLEAVED\"
  files = \"data/mmc4\"")]
    Shards(DataShards),
}

/// Arguments of `data show`.
#[derive(Debug, Args)]
pub struct DataShow {
    /// A training configuration, or an original YAML data list together with --model.
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Which sample, from 0.
    #[arg(long)]
    pub index: usize,
    /// Checkpoint directory whose tokenizer is used (default: the configuration's model).
    #[arg(long, value_name = "DIR")]
    pub model: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
    /// Overrides such as `data.max_seq_len=512`.
    #[arg(value_name = "KEY=VALUE")]
    pub overrides: Vec<String>,
}

/// Arguments of `data shards`.
#[derive(Debug, Args)]
pub struct DataShards {
    /// Documents in the form of MMC4, one JSON a line; patterns such as `{0..9}` and folders are read, too.
    #[arg(long, value_name = "FILE", num_args = 1.., required_unless_present = "caption_images")]
    pub documents: Vec<PathBuf>,
    /// Where the images lie that documents name: a folder, tar, parquet or JSON of base64.
    #[arg(long, value_name = "PATH", requires = "documents")]
    pub images: Option<PathBuf>,
    /// Lines `key<TAB>base64 of an image`.
    #[arg(long, value_name = "TSV", requires = "caption_texts", conflicts_with = "documents")]
    pub caption_images: Option<PathBuf>,
    /// Lines `key<TAB>{"captions": [text]}`, the same keys in the same order.
    #[arg(long, value_name = "TSV", requires = "caption_images")]
    pub caption_texts: Option<PathBuf>,
    /// Folder to write to; it must not hold .tar files.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Most samples of a shard.
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub shard_samples: u64,
    /// Size at which a shard is full.
    #[arg(long, value_name = "SIZE", default_value = "1GB", value_parser = crate::commands::convert::parse_size)]
    pub shard_size: u64,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}
