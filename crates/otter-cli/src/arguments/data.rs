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
    /// Pick in-context examples for the instructions of a set and write them as a train file.
    #[command(after_help = RETRIEVE_EXAMPLES)]
    Retrieve(Box<DataRetrieve>),
}

const RETRIEVE_EXAMPLES: &str = "Examples:
  otter data retrieve LACR_instructions.json --by text --k 10 --out LACR_T2T_train.json
  otter data retrieve LACR_instructions.json --by text --text-encoder all-MiniLM-L6-v2 --out LACR_T2T_train.json
  otter data retrieve LACR_instructions.json --by image --images LA.parquet --model OTTER --out LACR_I2I_train.json
  otter data retrieve SET --by image --embeddings vectors.npy --embedding-ids ids.txt --out train.json
  otter data retrieve DC_instructions.json --by scene --k 8 --out DC_train.json
  otter data retrieve SET --by random --seed 3 --train-json few.json --out few_train.json
An example is never the query, never repeats an instruction with its answer, and shows no image that the query or another
example shows (unless --allow-same-image, or --by scene). An interrupted run goes on when the same command is given again.";

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

/// How examples are picked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum RetrieveBy {
    /// Similar instructions (T2T).
    Text,
    /// Similar first pictures (I2I).
    Image,
    /// The same scene: rel_ins_ids, then the same images, then neighbouring frames.
    Scene,
    /// At random.
    Random,
}

/// How neighbours are searched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum RetrieveIndex {
    /// Every query against every item.
    Exact,
    /// Lists around centroids, of which a query looks into a few.
    Approximate,
}

/// Where the most similar example stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum RetrieveOrder {
    /// Last, right before the query.
    NearestLast,
    /// First.
    NearestFirst,
}

/// How a picture becomes one vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum RetrievePooling {
    /// The class token after the last norm, as CLIP.
    Class,
    /// The mean over the patches.
    Mean,
}

/// Arguments of `data retrieve`.
#[derive(Debug, Args)]
pub struct DataRetrieve {
    /// An instruction file, or a data set directory.
    #[arg(value_name = "SET")]
    pub set: PathBuf,
    /// How examples are picked.
    #[arg(long, value_enum)]
    pub by: RetrieveBy,
    /// Examples for each query.
    #[arg(long, default_value_t = 10)]
    pub k: usize,
    /// The train file to write.
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// A train file whose ids are the queries (default: all records); any record may be an example.
    #[arg(long, value_name = "FILE")]
    pub train_json: Option<PathBuf>,
    /// For texts: `tfidf` (words and letters, needs no checkpoint) or a sentence-transformers directory.
    #[arg(long, value_name = "tfidf|DIR", default_value = "tfidf")]
    pub text_encoder: String,
    /// Length of a tfidf vector.
    #[arg(long, value_name = "N", default_value_t = 384, value_parser = clap::value_parser!(u32).range(16..=8192))]
    pub tfidf_width: u32,
    /// For pictures: the Otter checkpoint whose vision tower encodes them.
    #[arg(long, value_name = "DIR")]
    pub model: Option<PathBuf>,
    /// How a picture becomes one vector.
    #[arg(long, value_enum, default_value_t = RetrievePooling::Class)]
    pub pooling: RetrievePooling,
    /// The pictures: JSON, parquet or a folder; may be given several times (default: SET, if it is a directory).
    #[arg(long, value_name = "PATH")]
    pub images: Vec<PathBuf>,
    /// Embeddings made elsewhere: one matrix (rows, width), .npy or .safetensors.
    #[arg(long, value_name = "FILE", requires = "embedding_ids", conflicts_with = "model")]
    pub embeddings: Option<PathBuf>,
    /// Ids of its rows, a JSON array or one a line: instruction ids with --by text, image ids with --by image.
    #[arg(long, value_name = "FILE", requires = "embeddings")]
    pub embedding_ids: Option<PathBuf>,
    /// The index (default: exact up to about 200,000 items of width 384).
    #[arg(long, value_enum)]
    pub index: Option<RetrieveIndex>,
    /// Lists of the approximate index (default: four times the square root of the items).
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=16384))]
    pub lists: Option<u32>,
    /// Lists that a query looks into (default: 64): more are slower and find more.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=16384))]
    pub probes: Option<u32>,
    /// Allow examples that show an image of the query or of another example.
    #[arg(long)]
    pub allow_same_image: bool,
    /// Most examples with the same instruction text (default: any number).
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub per_instruction: Option<u32>,
    /// Where the most similar example stands.
    #[arg(long, value_enum, default_value_t = RetrieveOrder::NearestLast)]
    pub order: RetrieveOrder,
    /// Seed of the index and of all choices among equals.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Folder for what an interrupted run leaves (default: FILE.work).
    #[arg(long, value_name = "DIR")]
    pub work: Option<PathBuf>,
    /// Keep that folder: another run with other rules then need not embed and search again.
    #[arg(long)]
    pub keep_work: bool,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}
