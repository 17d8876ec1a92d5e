//! Arguments of the commands about data.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use otter_data::{Group, OutputForm};

use super::data_import::{DataImport, IMPORT_EXAMPLES, parse_form};
use super::{ImageRuleArguments, Moved};

/// Commands about data.
#[derive(Debug, Subcommand)]
pub enum Data {
    /// One sample as the model sees it.
    #[command(after_help = "Example:
  otter data show --config recipes/toybox.toml --index 3")]
    Show(DataShow),
    /// Make a data set from an original source, or from a table of your own.
    #[command(after_help = IMPORT_EXAMPLES)]
    Import(Box<DataImport>),
    /// Pick in-context examples for the instructions of a set and write them as a train file.
    #[command(after_help = RETRIEVE_EXAMPLES)]
    Retrieve(Box<DataRetrieve>),
    /// Write data sets in another form; order, records, contexts and image bytes stay the same.
    #[command(after_help = "Examples:
  otter data convert LADD_instructions.json --images LA.parquet --train LADD_train.json --group IMAGE_TEXT \\
    --to otter-dataset --out data/LADD
  otter data convert data/LADD --to parquet --out published
  otter data convert train.yaml --to otter-dataset --out data --only-referenced
  otter data convert recipes/toybox.toml --set TOYATTR --to tar --out tars
Then:
  otter data show --config data/data.yaml --model DIR --index 0")]
    Convert(DataConvert),
    /// Moved to `otter-dev synthesize`.
    #[command(name = "synthesize", alias = "synthesise", hide = true, disable_help_flag = true)]
    Synthesize(Moved),
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
    /// How its images are shown.
    #[command(flatten)]
    pub rules: ImageRuleArguments,
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
    /// Merge images that look the same (equal pixels and transparency) and records of equal content in the repaired copy.
    #[arg(long, requires = "fix", conflicts_with = "ids_only")]
    pub dedupe: bool,
    /// Form of the repaired copy: otter-dataset, json, parquet, folder or tar.
    #[arg(long, value_name = "FORM", requires = "fix", default_value = "otter-dataset", value_parser = parse_form)]
    pub form: OutputForm,
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

/// Arguments of `data convert`.
#[derive(Debug, Args)]
pub struct DataConvert {
    /// An instruction JSON, a directory of the format otter-dataset, an original YAML data list, or a training configuration.
    #[arg(value_name = "SRC")]
    pub source: PathBuf,
    /// Form to write: otter-dataset, json, parquet, folder or tar.
    #[arg(long, value_name = "FORM", value_parser = parse_form)]
    pub to: OutputForm,
    /// Directory to write to; several sets in the form otter-dataset get one each inside it.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Name of the data set (default: that of the source).
    #[arg(long)]
    pub name: Option<String>,
    /// Images of an instruction JSON: JSON, parquet, tar, folder or otter-dataset.
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
    #[arg(long, value_name = "SIZE", value_parser = otter_io::text::parse_bytes)]
    pub shard_size: Option<u64>,
    /// Replace a data set of the same name.
    #[arg(long)]
    pub overwrite: bool,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

fn parse_group(text: &str) -> Result<Group, String> {
    let known = Group::ALL.map(Group::name).join(", ");
    Group::ALL.into_iter().find(|group| group.name() == text).ok_or(format!("use one of {known}"))
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
    /// The same scene: rel_ins_ids, then the same images, then neighboring frames.
    Scene,
    /// At random.
    Random,
}

/// How neighbors are searched.
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
    #[arg(long, value_name = "SIZE", default_value = "1GB", value_parser = otter_io::text::parse_bytes)]
    pub shard_size: u64,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}
