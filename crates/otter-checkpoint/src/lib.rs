//! Directories and files to and from a model: the Hugging Face layout as the original Otter writes it.
//!
//! ```text
//! config.json ───────► CheckpointConfig ─► OtterConfig
//! *.safetensors ─┐
//! *.bin ─────────┴───► Weights ─► TensorEntry ─► mapped or widened f32   } LoadReport
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
mod checkpoint;
mod config_file;
mod config_foreign;
mod config_keys;
mod config_section;
mod config_write;
pub mod convert;
mod error;
mod generation_config;
mod gguf;
mod initialise;
mod input_rules;
mod inspect;
mod load_report;
mod model;
mod model_card;
mod named_models;
mod narrow;
mod pickle;
mod preprocessor;
mod releases;
mod safetensors_file;
mod save;
mod sentencepiece;
mod shards;
pub mod spelling;
mod tensor;
mod text_config;
mod text_file;
mod tokenizer;
mod tokenizer_bpe;
mod tokenizer_files;
mod tokenizer_json;
mod tokenizer_write;
mod torch_file;
mod torch_names;
mod torch_write;
mod trained_part;
mod transformers_module;
mod weights;
mod wrappers;
mod zip_archive;
mod zip_write;

pub use checkpoint::{Checkpoint, TiePolicy};
pub use config_file::{CheckpointConfig, ModelFamily};
pub use error::{CheckpointError, Result};
pub use generation_config::GenerationDefaults;
pub use gguf::{
    BlockFormat, GgufElements, GgufFile, GgufOptions, GgufQuantization, GgufTensor, PutElements,
    StoredTensor, save_gguf, write_gguf,
};
pub use initialise::{Initialised, initialise_checkpoint};
pub use input_rules::InputRules;
pub use inspect::{
    Counts, Facts, FileSummary, Inspection, Kind, Language, NonFinite, OtherTower, Part, PartSummary,
    TensorSummary, TiedTables, TokenCheck, TrainingSigns, beginning, inspect, scan, warnings_before_chat,
};
pub use load_report::{LoadReport, ShapeMismatch, reason_to_ignore};
pub use model::{
    LoadOptions, LoadedModel, PlannedWeight, load_model, load_model_with, planned_weight, quantised_format,
    save_model,
};
pub use model_card::{ModelCard, TrainingFacts, today};
pub use named_models::{NAMED_MODELS, NamedModel};
pub use preprocessor::preprocessor_json;
pub use releases::{RELEASES, Release, ReleaseMatch};
pub use save::{DEFAULT_SHARD_BYTES, NamedTensor, SaveDtype, SaveOptions, save_checkpoint};
pub use tensor::{Dtype, Location, RowOrder, TensorEntry};
pub use text_file::read_text_file;
pub use tokenizer::{
    LoadedTokenizer, TokenizerForm, load_sentencepiece_tokenizer, load_tokenizer, read_tokenizer,
};
pub use tokenizer_json::parse as parse_tokenizer_json;
pub use tokenizer_write::{AddedSpecialTokens, TokenOrder, add_special_tokens, write_tokenizer};
pub use torch_write::{TorchTensor, write_torch};
pub use trained_part::{TRAINED_FILE, TrainedPart};
pub use transformers_module::write_transformers_module;
pub use weights::{WeightForm, Weights};
