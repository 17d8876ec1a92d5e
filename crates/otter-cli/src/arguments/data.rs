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
    /// Look at every id, record and image of a data set, and say what is wrong with it.
    #[command(
        after_help = "Exit status: 0 without errors (warnings do not count) or when --fix has written its copy, 1 with errors or when it cannot be looked at.

Examples:
  otter data verify recipes/toybox.toml
  otter data verify data/train.yaml --model models/otter --report report.html
  otter data verify DC_instructions.json --images DC.parquet --group VIDEO_TEXT
  otter data verify data/train.yaml --ids-only --strict
  otter data verify data/train.yaml --fix --dedupe --out data/repaired"
    )]
    Verify(DataVerify),
    /// How much there is of what: pairs, unique instructions, images and clips, by sub-dataset and language.
    #[command(after_help = "Examples:
  otter data stats data/train.yaml
  otter data stats data/DC
  otter data stats SD_instructions.json --train SD_train.json --json")]
    Stats(DataStats),
}

/// The data that a command looks at.
#[derive(Debug, Args)]
pub struct DataSource {
    /// A training configuration (.toml), a YAML data list, a data set directory, or one instruction file.
    #[arg(value_name = "SRC")]
    pub source: PathBuf,
    /// Images of the instruction file: JSON, parquet, tar, or a folder.
    #[arg(long, value_name = "PATH")]
    pub images: Option<PathBuf>,
    /// Train file of the instruction file: which ids are samples, with which context.
    #[arg(long, value_name = "FILE")]
    pub train: Option<PathBuf>,
    /// Group of the instruction file or directory (default: IMAGE_TEXT_IN_CONTEXT with --images and --train, IMAGE_TEXT with
    /// --images, otherwise TEXT_ONLY).
    #[arg(long, value_name = "GROUP")]
    pub group: Option<String>,
}

/// Arguments of `data verify`.
#[derive(Debug, Args)]
pub struct DataVerify {
    /// What is looked at.
    #[command(flatten)]
    pub source: DataSource,
    /// Checkpoint directory whose tokenizer is used (default: the configuration's model). Without one, nothing is said
    /// about lengths in tokens and about labels.
    #[arg(long, value_name = "DIR")]
    pub model: Option<PathBuf>,
    /// Longest sample in tokens (default: the configuration's, or 2048).
    #[arg(long, value_name = "TOKENS")]
    pub max_seq_len: Option<usize>,
    /// Only the ids: no text and no image is looked at.
    #[arg(long)]
    pub ids_only: bool,
    /// Stop at the first error.
    #[arg(long)]
    pub strict: bool,
    /// Write a repaired copy to --out: what cannot be used is left out, and nothing refers to it any more.
    #[arg(long, requires = "out", conflicts_with = "strict")]
    pub fix: bool,
    /// New folder of the repaired copy; its list is data.yaml.
    #[arg(long, value_name = "DIR", requires = "fix")]
    pub out: Option<PathBuf>,
    /// Merge images of equal pixels and records of equal content in the repaired copy.
    #[arg(long, requires = "fix", conflicts_with = "ids_only")]
    pub dedupe: bool,
    /// Form of the repaired copy: layout, json, parquet, folder or tar.
    #[arg(long, value_name = "FORM", requires = "fix", default_value = "layout")]
    pub form: String,
    /// Write the report as one HTML page with histograms and pictures.
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
    /// Examples listed for each reason.
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub max_examples: usize,
    /// Threads (default: one a core).
    #[arg(long, value_name = "N")]
    pub jobs: Option<usize>,
}

/// Arguments of `data stats`.
#[derive(Debug, Args)]
pub struct DataStats {
    /// What is looked at.
    #[command(flatten)]
    pub source: DataSource,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
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
