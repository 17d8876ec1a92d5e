//! What to convert, and how.

use crate::convert::dtype::KeepF32;
use crate::convert::output::OutputFormat;
use crate::convert::parts::assemble::NewRows;
use crate::directory::save::DEFAULT_SHARD_BYTES;
use crate::error::CheckpointError;
use crate::tokenizer::write::TokenOrder;
use otter_nn::DType;
use std::path::{Path, PathBuf};

/// What the result is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ConvertTarget {
    /// An Otter in the Hugging Face layout, or the source in another form.
    #[default]
    Otter,
    /// The trained part under OpenFlamingo's names.
    OpenFlamingo,
}

/// What to convert, and how.
#[derive(Debug, Clone)]
pub struct ConvertOptions {
    /// The checkpoint: a directory or a file.
    pub source: PathBuf,
    /// A directory to write, or a file ending in `.safetensors`, `.bin`, `.pt` or `.gguf`.
    pub out: PathBuf,
    /// What to make.
    pub target: ConvertTarget,
    /// Treat the source as a language model to put into an Otter, with fresh parts between unless `overlay` gives them.
    pub inject: bool,
    /// The whole Otter that a partial source completes.
    pub base: Option<PathBuf>,
    /// Base language model.
    pub base_lm: Option<PathBuf>,
    /// Base vision tower.
    pub base_vision: Option<PathBuf>,
    /// A partial checkpoint to put over the source.
    pub overlay: Option<PathBuf>,
    /// A difference to add to the source.
    pub delta: Option<PathBuf>,
    /// Merge LoRA adapters into their matrices.
    pub merge_lora: bool,
    /// Directory of the tokenizer (default: that of the language model).
    pub tokenizer: Option<PathBuf>,
    /// Order of the added tokens; `None`: as the source was trained.
    pub token_order: Option<TokenOrder>,
    /// Blocks before every n-th layer, where the source does not tell.
    pub cross_attn_every: Option<usize>,
    /// Frame embeddings of a fresh resampler.
    pub max_num_frames: Option<usize>,
    /// How rows begin that no source holds.
    pub new_rows: NewRows,
    /// Seed of everything drawn.
    pub seed: u64,
    /// Element type of floats; `None`: each as it is.
    pub dtype: Option<DType>,
    /// Kinds of tensors that stay 32-bit floats under `dtype`.
    pub keep_f32: Vec<KeepF32>,
    /// How weights are stored in a directory; a file's name says it itself.
    pub format: OutputFormat,
    /// Type of the large matrices of a GGUF file; `None`: blocks stay as they are, others become 16-bit floats.
    pub quantization: Option<DType>,
    /// Largest shard.
    pub max_shard_bytes: u64,
    /// Add the Python module with which Transformers opens the directory.
    pub transformers: bool,
    /// OpenFlamingo: put `module.` in front of every name.
    pub module_prefix: bool,
    /// OpenFlamingo: keep so many rows of the tables.
    pub embedding_rows: Option<usize>,
}

impl ConvertOptions {
    /// The source to `out`, everything else as it is.
    pub fn new(source: impl Into<PathBuf>, out: impl Into<PathBuf>) -> Self {
        Self {
            source: source.into(),
            out: out.into(),
            target: ConvertTarget::default(),
            inject: false,
            base: None,
            base_lm: None,
            base_vision: None,
            overlay: None,
            delta: None,
            merge_lora: false,
            tokenizer: None,
            token_order: None,
            cross_attn_every: None,
            max_num_frames: None,
            new_rows: NewRows::default(),
            seed: 0,
            dtype: None,
            keep_f32: Vec::new(),
            format: OutputFormat::default(),
            quantization: None,
            max_shard_bytes: DEFAULT_SHARD_BYTES,
            transformers: false,
            module_prefix: false,
            embedding_rows: None,
        }
    }
}

/// An error about options that do not go together.
pub(super) fn option_error(path: &Path, problem: impl Into<String>) -> CheckpointError {
    CheckpointError::format(path, problem)
}
