//! Directories and files to and from a model: the Hugging Face layout as the original Otter writes it.
//!
//! ```text
//! config.json ───────► CheckpointConfig ─► OtterConfig
//! *.safetensors ─┐
//! *.bin ─────────┴───► Weights ─► TensorEntry ─► mapped, or converted to f32   } LoadReport
//! tokenizer.* ───────► otter_data::TextTokenizer
//! ```
//!
//! Every reader treats its file as hostile: nothing is executed, nothing is allocated from a claimed size,
//! no name leads out of the folder.
//!
//! ```no_run
//! use otter_checkpoint::{Checkpoint, load_tokenizer};
//! use std::path::Path;
//!
//! # fn main() -> otter_checkpoint::Result<()> {
//! let directory = Path::new("OTTER-Video-LLaMA7B-DenseCaption");
//! let checkpoint = Checkpoint::open(directory)?;
//! let latents = checkpoint.weights.read_f32("perceiver.latents")?;
//! let tokenizer = load_tokenizer(directory)?;
//! println!("{} latents, <image> is {}", latents.len(), tokenizer.special().image);
//! # Ok(())
//! # }
//! ```

pub mod atomic;
mod config;
pub mod convert;
mod directory;
mod error;
mod export;
mod facts;
mod gguf;
mod inspect;
mod published;
mod tokenizer;

pub use config::checkpoint_config::{CheckpointConfig, ModelFamily};
pub use config::generation::GenerationDefaults;
pub use config::input_rules::InputRules;
pub use config::preprocessor::preprocessor_json;
pub use directory::account::{LoadReport, ShapeMismatch, reason_to_ignore};
pub use directory::initialize::{Initialized, initialize_checkpoint};
pub use directory::load::{
    LoadOptions, LoadedModel, PlannedWeight, load_model, load_model_with, planned_weight, quantized_format,
    save_model,
};
pub use directory::open::{Checkpoint, TiePolicy};
pub use directory::save::{DEFAULT_SHARD_BYTES, NamedTensor, SaveOptions, save_checkpoint, write_torch};
pub use directory::text_file::read_text_file;
pub use directory::trained_part::{TRAINED_FILE, TrainedPart};
pub use directory::weights::{WeightForm, Weights};
pub use error::{CheckpointError, Result};
pub use export::model_card::{ModelCard, TrainingFacts, today};
pub use export::transformers_module::write_transformers_module;
pub use gguf::{
    GgufElements, GgufFile, GgufOptions, GgufTensor, PutElements, StoredTensor, save_gguf, write_gguf,
};
pub use inspect::{
    Counts, Facts, FileSummary, Inspection, Kind, Language, NonFinite, OtherTower, Part, PartSummary,
    TensorSummary, TiedTables, TokenCheck, TrainingSigns, beginning, inspect, scan, warnings_before_chat,
};
pub use otter_formats::tokenizer::json::parse as parse_tokenizer_json;
pub use otter_formats::{FormatError, Location, NewTensor, RowOrder, StoredDType, TensorEntry};
pub use otter_nn::DType;
pub use published::{NAMED_MODELS, NamedModel, Release, ReleaseMatch};
pub use tokenizer::load::{
    LoadedTokenizer, TokenizerForm, load_sentencepiece_tokenizer, load_tokenizer, read_tokenizer,
};
pub use tokenizer::write::{AddedSpecialTokens, TokenOrder, add_special_tokens, write_tokenizer};
