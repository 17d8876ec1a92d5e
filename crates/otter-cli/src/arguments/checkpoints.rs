//! Arguments of the commands about checkpoints: pull, inspect, convert.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use otter_nn::DType;

use super::element_types;

/// Arguments of `pull`.
#[derive(Debug, Args)]
pub struct Pull {
    /// The model: org/name, or org/name@revision.
    #[arg(value_name = "ORG/NAME")]
    pub model: String,
    /// Branch, tag or commit (default: main).
    #[arg(long, value_name = "REVISION")]
    pub revision: Option<String>,
    /// Put the files into this directory instead of the cache.
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Take only files that match; may be given several times. `*` also matches `/`.
    #[arg(long, value_name = "GLOB")]
    pub include: Vec<String>,
    /// Leave files that match; may be given several times.
    #[arg(long, value_name = "GLOB")]
    pub exclude: Vec<String>,
    /// Take the files from DIR/org/name instead of the hub.
    #[arg(long, value_name = "DIR")]
    pub mirror: Option<PathBuf>,
    /// Use no network: succeed if the cache has the model.
    #[arg(long)]
    pub offline: bool,
    /// Read files that are there already and compare them with their checksums.
    #[arg(long)]
    pub verify: bool,
    /// List the files and sizes and stop.
    #[arg(long)]
    pub dry_run: bool,
    /// Files at a time.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=4))]
    pub jobs: u8,
    /// Print the record as JSON.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `inspect`.
#[derive(Debug, Args)]
pub struct Inspect {
    /// Checkpoint directory, org/name of a pulled model, or a single weight file (.safetensors, .bin, .pt, .gguf).
    pub dir: PathBuf,
    /// List every tensor.
    #[arg(long)]
    pub tensors: bool,
    /// Which parameters count as trainable: head, v0.1, or patterns separated by commas.
    #[arg(long, default_value = "head")]
    pub trainable: String,
    /// Read every element and report NaN and infinity.
    #[arg(long)]
    pub scan: bool,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// What `convert` makes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ConvertTo {
    /// An Otter directory, or the source in another form.
    #[default]
    Otter,
    /// The trained part under OpenFlamingo's names (v2).
    Openflamingo,
}

/// How weights are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum FormatChoice {
    /// model.safetensors and shards.
    #[default]
    Safetensors,
    /// pytorch_model.bin and shards.
    Bin,
    /// model.gguf, for quantized storage (this program's own keys).
    Gguf,
}

/// Order of the tokens that are added to a tokenizer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TokenOrderChoice {
    /// <|endofchunk|>, <image>, <answer>, <PAD>: the Otter class.
    Otter,
    /// <|endofchunk|>, <image>, <PAD>, <answer>: OpenFlamingo and the Flamingo class.
    Flamingo,
}

/// How new rows of the tables begin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum NewRowsChoice {
    /// The mean of the rows of the base and a little of their covariance, as Transformers does: the first loss is that of
    /// the base.
    #[default]
    Mean,
    /// Normal, with the configuration's initializer_range (0.02 where it says nothing), as the original did.
    Normal,
}

/// Tensors that stay 32-bit floats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum KeepChoice {
    /// Layer norms and RMS norms.
    Norms,
    /// The gates of the cross-attention.
    Gates,
}

/// Arguments of `convert`.
#[derive(Debug, Args)]
pub struct Convert {
    /// Checkpoint directory or weight file.
    #[arg(required_unless_present = "inject", conflicts_with = "inject")]
    pub source: Option<PathBuf>,
    /// Directory to write, or one file ending in .safetensors, .bin, .pt or .gguf.
    #[arg(long, value_name = "PATH")]
    pub out: PathBuf,
    /// What to make.
    #[arg(long, value_enum, default_value_t)]
    pub to: ConvertTo,
    /// Put this plain language model into an Otter, with fresh parts between unless --overlay gives them.
    #[arg(long, value_name = "LM_DIR")]
    pub inject: Option<PathBuf>,
    /// The whole Otter that a partial SOURCE completes.
    #[arg(long, value_name = "DIR")]
    pub base: Option<PathBuf>,
    /// Language model that an OpenFlamingo checkpoint was trained on (a plain one, or an Otter).
    #[arg(long, value_name = "DIR")]
    pub base_lm: Option<PathBuf>,
    /// CLIP model: a Hugging Face directory, an open_clip file or directory, or an Otter.
    #[arg(long, value_name = "PATH")]
    pub base_vision: Option<PathBuf>,
    /// Partial checkpoint to put over SOURCE.
    #[arg(long, value_name = "FILE")]
    pub overlay: Option<PathBuf>,
    /// Difference to add to SOURCE, as Vicuna was published.
    #[arg(long, value_name = "DIR")]
    pub delta: Option<PathBuf>,
    /// Merge LoRA adapters into their matrices.
    #[arg(long)]
    pub merge_lora: bool,
    /// Directory of the tokenizer (default: that of the language model).
    #[arg(long, value_name = "DIR")]
    pub tokenizer: Option<PathBuf>,
    /// Order of the added tokens; a model must be used with the order it was trained with (default: flamingo for an
    /// OpenFlamingo checkpoint, otter otherwise).
    #[arg(long, value_enum)]
    pub token_order: Option<TokenOrderChoice>,
    /// Gated cross-attention before every N-th layer (default: as the source has it, else 4).
    #[arg(long, value_name = "N")]
    pub cross_attn_every: Option<usize>,
    /// Frame embeddings of a fresh resampler, for video.
    #[arg(long, value_name = "N")]
    pub max_num_frames: Option<usize>,
    /// How rows of the tables begin that no source holds.
    #[arg(long, value_enum, default_value_t)]
    pub new_rows: NewRowsChoice,
    /// Seed of everything that is drawn.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Element type of all floats (default: each as it is).
    #[arg(long, value_parser = element_types::floats())]
    pub dtype: Option<DType>,
    /// With --dtype: kinds that stay 32-bit floats.
    #[arg(long, value_enum, value_delimiter = ',', value_name = "KINDS")]
    pub keep_f32: Vec<KeepChoice>,
    /// How the weights of a directory are stored.
    #[arg(long, value_enum, default_value_t)]
    pub format: FormatChoice,
    /// Type of the large matrices of a GGUF file; norms, gates and small tensors stay 32-bit floats. Blocks of the source that
    /// take no more bits are copied bit by bit (default: all blocks are, and other matrices become f16).
    #[arg(long, alias = "quantise", value_parser = element_types::stored())]
    pub quantize: Option<DType>,
    /// Add the Python module with which Transformers opens the directory (trust_remote_code=True).
    #[arg(long)]
    pub transformers: bool,
    /// Largest weight file, e.g. 5GB, 500MB, 2GiB.
    #[arg(long, value_name = "SIZE", default_value = "5GB", value_parser = otter_io::text::parse_bytes)]
    pub shard_size: u64,
    /// OpenFlamingo: put `module.` in front of every name.
    #[arg(long)]
    pub module_prefix: bool,
    /// OpenFlamingo: keep this many rows of the embedding tables (it wants as many as its tokenizer has entries).
    #[arg(long, value_name = "N")]
    pub embedding_rows: Option<usize>,
    /// Print the report as JSON.
    #[arg(long)]
    pub json: bool,
}
