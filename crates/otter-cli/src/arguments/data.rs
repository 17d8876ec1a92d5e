//! Arguments of the commands about data.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use otter_data::{Group, OutputForm};

/// Commands about data.
#[derive(Debug, Subcommand)]
pub enum Data {
    /// One sample as the model sees it.
    #[command(after_help = "Example:
  otter data show --config recipes/toybox.toml --index 3")]
    Show(DataShow),
    /// Write data sets in another form; order, records, contexts and image bytes stay the same.
    #[command(after_help = "Examples:
  otter data convert LADD_instructions.json --images LA.parquet --train LADD_train.json --group IMAGE_TEXT \\
    --to layout --out data/LADD
  otter data convert data/LADD --to parquet --out published
  otter data convert train.yaml --to layout --out data --only-referenced
  otter data convert recipes/toybox.toml --set TOYATTR --to tar --out tars
Then:
  otter data show --config data/data.yaml --model DIR --index 0")]
    Convert(DataConvert),
    /// Make a large data set of random text and small images, for measuring.
    #[command(after_help = "Examples:
  otter data synthesise --pairs 3000000 --out data/synthetic
  otter data synthesise --pairs 20000 --images 5000 --to json --out data/small --seed 7")]
    Synthesise(DataSynthesise),
}

/// Arguments of `data convert`.
#[derive(Debug, Args)]
pub struct DataConvert {
    /// An instruction JSON, a directory of our own layout, an original YAML data list, or a training configuration.
    #[arg(value_name = "SRC")]
    pub source: PathBuf,
    /// Form to write: layout, json, parquet, folder or tar.
    #[arg(long, value_name = "FORM", value_parser = parse_form)]
    pub to: OutputForm,
    /// Directory to write to; several sets in the form layout get one each inside it.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Name of the data set (default: that of the source).
    #[arg(long)]
    pub name: Option<String>,
    /// Images of an instruction JSON: JSON, parquet, tar, folder or layout.
    #[arg(long, value_name = "PATH")]
    pub images: Option<PathBuf>,
    /// Train JSON of an instruction JSON: which ids are samples, with which context.
    #[arg(long, value_name = "FILE")]
    pub train: Option<PathBuf>,
    /// Task group: IMAGE_TEXT, TEXT_ONLY, VIDEO_TEXT or IMAGE_TEXT_IN_CONTEXT (default: that of the source).
    #[arg(long, value_name = "GROUP", value_parser = parse_group)]
    pub group: Option<Group>,
    /// Of a list, only this set.
    #[arg(long, value_name = "NAME")]
    pub set: Option<String>,
    /// Leave out images that no record names.
    #[arg(long)]
    pub only_referenced: bool,
    /// Count what cannot be read and go on; otherwise the first such entry stops the command.
    #[arg(long)]
    pub skip_bad: bool,
    /// Largest parquet file, e.g. 256MB (default: 512MB, for the form parquet 1.5GB).
    #[arg(long, value_name = "SIZE", value_parser = crate::commands::convert::parse_size)]
    pub shard_size: Option<u64>,
    /// Replace a data set of the same name.
    #[arg(long)]
    pub overwrite: bool,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `data synthesise`.
#[derive(Debug, Args)]
pub struct DataSynthesise {
    /// Number of instruction–response pairs.
    #[arg(long, value_name = "N")]
    pub pairs: u64,
    /// Directory to write to.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Number of images, shared by the records; 0 makes records without images (default: a tenth of the pairs).
    #[arg(long, value_name = "N")]
    pub images: Option<u64>,
    /// Form to write: layout, json, parquet, folder or tar.
    #[arg(long, value_name = "FORM", default_value = "layout", value_parser = parse_form)]
    pub to: OutputForm,
    /// Name of the data set, and beginning of its ids.
    #[arg(long, default_value = "SYN")]
    pub name: String,
    /// Seed: equal seeds and counts give equal data.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Largest parquet file, e.g. 256MB (default: 512MB, for the form parquet 1.5GB).
    #[arg(long, value_name = "SIZE", value_parser = crate::commands::convert::parse_size)]
    pub shard_size: Option<u64>,
    /// Replace a data set of the same name.
    #[arg(long)]
    pub overwrite: bool,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

fn parse_form(text: &str) -> Result<OutputForm, String> {
    let known = OutputForm::ALL.map(OutputForm::name).join(", ");
    OutputForm::ALL.into_iter().find(|form| form.name() == text).ok_or(format!("use one of {known}"))
}

fn parse_group(text: &str) -> Result<Group, String> {
    let known = Group::ALL.map(Group::name).join(", ");
    Group::ALL.into_iter().find(|group| group.name() == text).ok_or(format!("use one of {known}"))
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
