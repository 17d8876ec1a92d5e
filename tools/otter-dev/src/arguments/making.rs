//! Arguments of the commands that make something: synthesize, pretrain-base.

use std::path::PathBuf;

use clap::Args;
use otter_cli::arguments::parse_form;
use otter_data::OutputForm;
use otter_io::text::parse_bytes;

/// Arguments of `synthesize`.
#[derive(Debug, Args)]
pub struct Synthesize {
    /// Number of instruction–response pairs.
    #[arg(long, value_name = "N")]
    pub pairs: u64,
    /// Directory to write to.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Number of images, shared by the records; 0 makes records without images (default: a tenth of the pairs).
    #[arg(long, value_name = "N")]
    pub images: Option<u64>,
    /// Form to write: otter-dataset, json, parquet, folder or tar.
    #[arg(long, value_name = "FORM", default_value = "otter-dataset", value_parser = parse_form)]
    pub to: OutputForm,
    /// Name of the data set, and beginning of its ids.
    #[arg(long, default_value = "SYN")]
    pub name: String,
    /// Seed: equal seeds and counts give equal data.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Largest parquet file, e.g. 256MB (default: 512MB, for the form parquet 1.5GB).
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    pub shard_size: Option<u64>,
    /// Replace a data set of the same name.
    #[arg(long)]
    pub overwrite: bool,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `pretrain-base`.
#[derive(Debug, Args)]
pub struct PretrainBase {
    /// Directory to write.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Seed of weights and data.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Factor on the number of steps.
    #[arg(long, default_value_t = 1.0, allow_negative_numbers = true)]
    pub scale: f64,
}
