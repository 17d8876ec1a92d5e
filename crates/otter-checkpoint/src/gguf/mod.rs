//! GGUF files: the language models of llama.cpp, and whole Otters of our own.
//!
//! A file of llama.cpp gives a language model under the names of Hugging Face, its `text_config` and its tokenizer.
//! A file of ours (`general.architecture` = `otter`) holds a whole checkpoint: tensors under their state-dict names,
//! and in the metadata:
//!
//! | key | type | content |
//! |---|---|---|
//! | `general.architecture` | text | `otter` |
//! | `general.name` | text | a name for people |
//! | `general.alignment` | u32 | 32 |
//! | `general.file_type` | u32 | GGML's number of the type of most matrices |
//! | `general.quantization_version` | u32 | 2 |
//! | `otter.format_version` | u32 | 1 |
//! | `otter.config_json` | text | `config.json` |
//! | `otter.tokenizer_json` | text | `tokenizer.json` with all added tokens; absent in a file without tokenizer |
//! | `otter.image_token_id` | u32 | id of `<image>` |
//! | `otter.endofchunk_token_id` | u32 | id of `<\|endofchunk\|>` |
//! | `otter.answer_token_id` | u32 | id of `<answer>` |
//! | `otter.pad_token_id` | u32 | id of the padding token |
//! | `otter.bos_token_id`, `otter.eos_token_id` | u32 | begin and end of text; absent where the tokenizer has none |
//!
//! Matrices whose rows are whole blocks are stored in the chosen type; norms, biases, gates, latents, position tables and
//! whatever is small stay 32-bit. The format: `docs/gguf.md` here, and the specification in the GGML project.

mod text_config;
mod write;

pub use otter_formats::gguf::{Elements as GgufElements, StoredTensor};
pub(crate) use write::DEFAULT_QUANTIZATION;
pub use write::{GgufOptions, GgufTensor, PutElements, save_gguf, write_gguf};
pub(crate) use write::{kept_blocks, stored_type};

pub(crate) use otter_formats::gguf::MAGIC;

use crate::error::{CheckpointError, Result};
use memmap2::Mmap;
use otter_data::{SpecialTokens, TextTokenizer};
use otter_formats::Content;
use otter_formats::gguf::{Claim, Header, Meta, tokenizer_json};
use otter_formats::tokenizer::json;
use otter_formats::torch::printable;
use otter_formats::{Location, RowOrder, TensorEntry, map_file, row_major_strides};
use otter_model::text::Family;
use otter_model::text::gguf::{Fate, GgufArchitecture, GgufMetadata, Moved};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use text_config::Sizes;

/// `general.architecture` of our own files.
const OTTER: &str = "otter";
const FORMAT_VERSION: i128 = 1;
/// Name of the file in a directory.
pub(crate) const FILE_NAME: &str = "model.gguf";

/// Keys of our own metadata.
mod key {
    pub const ARCHITECTURE: &str = "general.architecture";
    pub const VERSION: &str = "otter.format_version";
    pub const CONFIG: &str = "otter.config_json";
    pub const TOKENIZER: &str = "otter.tokenizer_json";
    pub const IMAGE: &str = "otter.image_token_id";
    pub const END_OF_CHUNK: &str = "otter.endofchunk_token_id";
    pub const ANSWER: &str = "otter.answer_token_id";
    pub const PAD: &str = "otter.pad_token_id";
    pub const BEGIN: &str = "otter.bos_token_id";
    pub const END: &str = "otter.eos_token_id";
}

/// The GGUF file that stands for a whole checkpoint: `path` itself, or `model.gguf` in a directory without `config.json`.
pub(crate) fn file_of(path: &Path) -> Option<PathBuf> {
    if path.is_dir() {
        let file = path.join(FILE_NAME);
        return (file.is_file() && !path.join("config.json").exists()).then_some(file);
    }
    if !path.is_file() {
        return None;
    }
    let mut magic = [0; 4];
    let mut file = std::fs::File::open(path).ok()?;
    std::io::Read::read_exact(&mut file, &mut magic).ok()?;
    (magic == MAGIC).then(|| path.to_path_buf())
}

/// An opened GGUF file.
#[derive(Debug)]
pub struct GgufFile {
    path: PathBuf,
    map: Arc<Mmap>,
}

impl GgufFile {
    /// Opens a file and checks its metadata and the places of its tensors.
    ///
    /// # Errors
    /// When it is truncated, damaged, hostile or of an unsupported version.
    pub fn open(path: &Path) -> Result<Self> {
        let file = Self { path: path.to_path_buf(), map: map_file(path)? };
        file.header()?;
        Ok(file)
    }

    /// Whether it holds a whole Otter of ours rather than a language model of llama.cpp.
    ///
    /// # Errors
    /// When the architecture is not said.
    pub fn is_otter(&self) -> Result<bool> {
        Ok(self.architecture(&self.header()?)? == OTTER)
    }

    /// `config.json` of a whole Otter.
    ///
    /// # Errors
    /// When the file holds only a language model, is of a later version, or the text is no object.
    pub fn config(&self) -> Result<Map<String, Value>> {
        let header = self.otter_header()?;
        let text = self.text(&header, key::CONFIG)?;
        let text = text.ok_or_else(|| self.bad(format!("`{}` is missing from the metadata", key::CONFIG)))?;
        serde_json::from_str(text)
            .map_err(|error| self.bad(format!("`{}` is not a configuration: {error}", key::CONFIG)))
    }

    /// `tokenizer.json` of a whole Otter, if it has one.
    ///
    /// # Errors
    /// When the file holds only a language model or is of a later version.
    pub fn otter_tokenizer_json(&self) -> Result<Option<String>> {
        let header = self.otter_header()?;
        Ok(self.text(&header, key::TOKENIZER)?.map(str::to_owned))
    }

    /// The tokenizer of a whole Otter.
    ///
    /// # Errors
    /// When there is none, or it is damaged, or the ids of the special tokens are missing or outside of it.
    pub fn tokenizer(&self) -> Result<TextTokenizer> {
        let header = self.otter_header()?;
        let bad = |problem: String| CheckpointError::format(&self.path, problem);
        let Some(text) = self.text(&header, key::TOKENIZER)? else {
            return Err(bad(format!("the file holds no tokenizer (`{}`)", key::TOKENIZER)));
        };
        let tokenizer = json::parse(text.as_bytes())
            .map_err(|error| bad(format!("`{}` is not a tokenizer: {error}", key::TOKENIZER)))?;
        let optional = |key: &str| match header.get(key) {
            None => Ok(None),
            Some(Meta::Int(id)) => match u32::try_from(id) {
                Ok(id) if tokenizer.id_to_token(id).is_some() => Ok(Some(id)),
                _ => Err(bad(format!("`{key}` is {id}, which is no token"))),
            },
            Some(_) => Err(bad(format!("`{key}` is not a number"))),
        };
        let required = |key: &str| optional(key)?.ok_or_else(|| bad(format!("`{key}` is missing")));
        let special = SpecialTokens {
            bos: optional(key::BEGIN)?,
            eos: optional(key::END)?,
            pad: required(key::PAD)?,
            endofchunk: required(key::END_OF_CHUNK)?,
            image: required(key::IMAGE)?,
            answer: required(key::ANSWER)?,
        };
        Ok(TextTokenizer::new(tokenizer, special))
    }

    /// `text_config` of a language model of llama.cpp, in the words of Hugging Face.
    ///
    /// # Errors
    /// When the architecture is not supported or a size is missing.
    pub fn text_config(&self) -> Result<Value> {
        let header = self.header()?;
        let (family, architecture) = self.language_model(&header)?;
        Sizes { header: &header, family, architecture }.text_config().map_err(|problem| self.bad(problem))
    }

    /// The tokenizer of a language model of llama.cpp as the content of a `tokenizer.json`; it has no tokens of Otter.
    ///
    /// # Errors
    /// When there is none or its kind is not supported.
    pub fn language_tokenizer_json(&self) -> Result<Value> {
        let json = tokenizer_json(&self.path, &self.header()?)
            .map_err(|problem| CheckpointError::format(&self.path, problem))?;
        json::parse(json.to_string().as_bytes()).map_err(|error| {
            CheckpointError::format(&self.path, format!("the tokenizer in the metadata is damaged: {error}"))
        })?;
        Ok(json)
    }

    fn header(&self) -> Result<Header<'_>> {
        Header::parse(&self.map).map_err(|problem| self.bad(problem))
    }

    fn otter_header(&self) -> Result<Header<'_>> {
        let header = self.header()?;
        let architecture = self.architecture(&header)?;
        if architecture != OTTER {
            return Err(self.bad(format!(
                "holds the language model `{}` alone, not a whole Otter; convert it together with a vision tower first",
                printable(architecture)
            )));
        }
        match header.get(key::VERSION) {
            Some(Meta::Int(FORMAT_VERSION)) => Ok(header),
            other => {
                let found = other.map_or("missing".to_owned(), |value| format!("{value:?}"));
                Err(self.bad(format!("`{}` is {found}; expected {FORMAT_VERSION}", key::VERSION)))
            }
        }
    }

    fn architecture<'h>(&self, header: &Header<'h>) -> Result<&'h str> {
        let found = self.text(header, key::ARCHITECTURE)?;
        found.ok_or_else(|| self.bad(format!("`{}` is missing from the metadata", key::ARCHITECTURE)))
    }

    fn language_model(&self, header: &Header<'_>) -> Result<(&'static Family, &'static GgufArchitecture)> {
        let name = self.architecture(header)?;
        let second_norm = header.tensors.iter().any(|claim| claim.name.contains(".attn_norm_2."));
        GgufArchitecture::find(name, second_norm).ok_or_else(|| {
            let known = GgufArchitecture::names();
            self.bad(format!("architecture `{}`; supported are {OTTER}, {known}", printable(name)))
        })
    }

    fn text<'h>(&self, header: &Header<'h>, key: &str) -> Result<Option<&'h str>> {
        match header.get(key) {
            None => Ok(None),
            Some(Meta::Text(text)) => Ok(Some(text)),
            Some(_) => Err(self.bad(format!("`{key}` is not a text"))),
        }
    }

    fn bad(&self, problem: String) -> CheckpointError {
        CheckpointError::format(&self.path, problem)
    }

    fn entry(&self, path: &Arc<Path>, claim: &Claim<'_>, rows: RowOrder) -> TensorEntry {
        let location =
            Location { path: Arc::clone(path), map: Arc::clone(&self.map), bytes: claim.bytes.clone() };
        let strides = row_major_strides(&claim.shape);
        TensorEntry { dtype: claim.dtype, shape: claim.shape.clone(), strides, rows, location }
    }

    /// How the rows of a tensor were moved, with the numbers of this model.
    fn row_order(&self, sizes: &Sizes<'_, '_>, claim: &Claim<'_>, moved: Moved) -> Result<RowOrder> {
        let rows = claim.shape.first().copied().unwrap_or(0);
        let fit = |problem: String| CheckpointError::tensor(&self.path, claim.name, problem);
        let heads = sizes.size("attention.head_count").map_err(fit)?;
        let key_heads = sizes.key_heads().map_err(fit)?;
        match moved {
            Moved::No => Ok(RowOrder::Stored),
            Moved::QueryHeads | Moved::KeyHeads => {
                let heads = if moved == Moved::QueryHeads { heads } else { key_heads };
                if rows == 0 || !rows.is_multiple_of(heads.saturating_mul(2)) {
                    return Err(fit(format!("{rows} rows cannot be the halves of {heads} heads")));
                }
                Ok(RowOrder::Interleaved { head: rows / heads })
            }
            Moved::Fused => {
                let parts = key_heads.saturating_mul(2).saturating_add(heads);
                if rows == 0 || !heads.is_multiple_of(key_heads) || !rows.is_multiple_of(parts) {
                    return Err(fit(format!(
                        "{rows} rows cannot be {heads} queries, {key_heads} keys and {key_heads} values"
                    )));
                }
                Ok(RowOrder::Apart { groups: key_heads, queries: heads / key_heads, head: rows / parts })
            }
        }
    }
}

/// The tensors of a mapped GGUF file under their Hugging Face names (without `lang_encoder.`), or of an Otter under its
/// own, and remarks about the rest.
///
/// # Errors
/// When the file is damaged, of an unsupported architecture, or holds a tensor that the architecture does not know.
pub(crate) fn read(path: &Path, map: &Arc<Mmap>) -> Result<Content> {
    let file = GgufFile { path: path.to_path_buf(), map: Arc::clone(map) };
    let header = file.header()?;
    let shared: Arc<Path> = Arc::from(path);
    let mut entries = Vec::with_capacity(header.tensors.len());
    let mut notes = Vec::new();
    if file.architecture(&header)? == OTTER {
        file.otter_header()?;
        let own = |claim: &Claim<'_>| (claim.name.to_owned(), file.entry(&shared, claim, RowOrder::Stored));
        entries.extend(header.tensors.iter().map(own));
        return Ok((entries, notes));
    }
    let (family, architecture) = file.language_model(&header)?;
    let sizes = Sizes { header: &header, family, architecture };
    notes.extend(sizes.unknown_keys());
    for claim in &header.tensors {
        match architecture.fate(claim.name) {
            Some(Fate::Parameter(name, moved)) => {
                let rows = file.row_order(&sizes, claim, moved)?;
                entries.push((name, file.entry(&shared, claim, rows)));
            }
            Some(Fate::Dropped(reason)) => notes.push(format!("`{}`: {reason}", claim.name)),
            None => {
                return Err(file.bad(format!(
                    "tensor `{}` is no part of the architecture {} that is known here",
                    printable(claim.name),
                    architecture.name
                )));
            }
        }
    }
    Ok((entries, notes))
}
