//! Writing a whole Otter as one GGUF file, while the elements stream past.

use super::{FORMAT_VERSION, OTTER, key};
use crate::atomic;
use crate::config::checkpoint_config::CheckpointConfig;
use crate::directory::account::reason_to_ignore;
use crate::directory::open::Checkpoint;
use crate::error::{CheckpointError, Result};
use crate::tokenizer::load::load_tokenizer;
use otter_data::SpecialTokens;
use otter_formats::StoredDType;
use otter_formats::gguf::{
    self, DEFAULT_ALIGNMENT, Elements as GgufElements, Metadata, PlannedTensor, StoredTensor, file_type,
};
use otter_nn::DType;
use std::path::Path;

/// Tensors with fewer elements stay 32-bit.
const SMALL: usize = 1024;
/// Parts of names of matrices that are not factors of a product: tables of positions, latents, frame embeddings.
const KEPT: [&str; 5] = ["position", "latents", "frame_embs", "media_time_embs", ".wpe."];

/// Parts of names of matrices that get at least eight bits.
const SENSITIVE: [&str; 5] = ["embed", "wte", "lm_head", "vision_encoder.", "perceiver."];

/// Type of the large matrices unless another is asked for.
pub(crate) const DEFAULT_QUANTIZATION: DType = DType::F16;

/// How to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GgufOptions<'a> {
    /// Type of the large matrices.
    pub quantization: DType,
    /// Ids of the special tokens, where a tokenizer is written.
    pub special: Option<SpecialTokens>,
    /// A name for people.
    pub name: Option<&'a str>,
}

impl Default for GgufOptions<'_> {
    fn default() -> Self {
        Self { quantization: DEFAULT_QUANTIZATION, special: None, name: None }
    }
}

/// One tensor to write.
#[derive(Debug, Clone, Copy)]
pub struct GgufTensor<'a> {
    /// Name in the state dict.
    pub name: &'a str,
    /// Length of each axis, rows last.
    pub shape: &'a [usize],
    /// The format that its elements have already: their blocks are copied bit by bit. `None`: floats are given.
    pub blocks: Option<StoredDType>,
}

/// Receives some of a tensor's elements.
pub type PutElements<'p> = gguf::PutElements<'p, CheckpointError>;

/// Writes a whole Otter to `path`, replacing what stands there only when it is complete. Memory does not grow with the
/// model.
///
/// `elements(i, put)` passes the elements of tensor `i` in row-major order to `put`, in pieces of any length.
/// `tokenizer` is the text of a `tokenizer.json` with all added tokens; it needs `options.special`. Returns the tensors as
/// they were stored.
///
/// # Errors
/// When a tensor does not have the elements its shape says, a value does not fit the type, a name occurs twice, or the
/// disk refuses.
pub fn write_gguf(
    path: &Path,
    config: &CheckpointConfig,
    tokenizer: Option<&str>,
    tensors: &[GgufTensor<'_>],
    options: &GgufOptions<'_>,
    elements: &mut dyn FnMut(usize, &mut PutElements<'_>) -> Result<()>,
) -> Result<Vec<StoredTensor>> {
    let planned: Vec<PlannedTensor<'_>> = tensors
        .iter()
        .map(|&GgufTensor { name, shape, blocks }| PlannedTensor {
            name,
            shape,
            dtype: blocks.unwrap_or_else(|| stored_type(name, shape, options.quantization)),
            copied: blocks.is_some(),
        })
        .collect();
    let metadata = metadata(path, config, tokenizer, options, file_type(&planned))?;
    atomic::write_file_with(path, |file| gguf::write(file, path, &metadata, &planned, elements))
}

/// Writes an opened checkpoint directory (or GGUF file) as a GGUF file.
///
/// # Errors
/// As [`write_gguf`]; when the checkpoint's tokenizer is missing or damaged.
pub fn save_gguf(
    path: &Path,
    checkpoint: &Checkpoint,
    options: &GgufOptions<'_>,
) -> Result<Vec<StoredTensor>> {
    let tokenizer = load_tokenizer(&checkpoint.path)?;
    let json =
        tokenizer.to_json().map_err(|error| CheckpointError::format(&checkpoint.path, error.to_string()))?;
    let model = &checkpoint.config.model;
    let tied = model.tie_word_embeddings.then(|| model.output_table());
    let names: Vec<&str> = checkpoint
        .weights
        .names()
        .filter(|name| reason_to_ignore(name).is_none() && tied.as_deref() != Some(*name))
        .collect();
    let entries: Vec<_> = names.iter().filter_map(|name| checkpoint.weights.get(name)).collect();
    let tensors: Vec<GgufTensor<'_>> = names
        .iter()
        .zip(&entries)
        .map(|(&name, entry)| {
            let blocks = kept_blocks(name, &entry.shape, entry.dtype, Some(options.quantization));
            GgufTensor { name, shape: &entry.shape, blocks }
        })
        .collect();
    let options = GgufOptions { special: Some(*tokenizer.special()), ..*options };
    // The class of a tokenizer, which may add a token, is not in the file.
    let mut config = checkpoint.config.clone();
    config.input.begin_token = tokenizer.begins();
    write_gguf(
        path,
        &config,
        Some(&json),
        &tensors,
        &options,
        &mut |index, put| match tensors[index].blocks {
            Some(_) => {
                entries[index].for_each_blocks(names[index], &mut |bytes| put(GgufElements::Blocks(bytes)))
            }
            None => {
                entries[index].for_each_f32(names[index], &mut |values| put(GgufElements::Floats(values)))
            }
        },
    )
}

/// The format whose blocks are kept as they are. Making fewer bits of them loses what was asked for, making more or as many
/// loses for nothing; floats are what somebody asks for who wants no blocks. `None` asks for nothing.
pub(crate) fn kept_blocks(
    name: &str,
    shape: &[usize],
    stored: StoredDType,
    wanted: Option<DType>,
) -> Option<StoredDType> {
    let bits = |format: StoredDType| {
        let (elements, bytes) = format.block();
        8.0 * bytes as f64 / elements as f64
    };
    let keeps = match wanted.map(|wanted| stored_type(name, shape, wanted)) {
        None => true,
        Some(wanted) => wanted.is_block() && bits(stored) <= bits(wanted),
    };
    (stored.is_block() && keeps && shape.len() == 2).then_some(stored)
}

/// How a tensor is stored when large matrices are to be of a type. Tables of tokens, the vision tower and the resampler
/// lose most by few bits and are small beside the rest, so that they get at least eight.
pub(crate) fn stored_type(name: &str, shape: &[usize], quantization: DType) -> StoredDType {
    let &[rows, length] = shape else { return StoredDType::F32 };
    if rows.saturating_mul(length) < SMALL || KEPT.iter().any(|part| name.contains(part)) {
        return StoredDType::F32;
    }
    let sensitive = SENSITIVE.iter().any(|part| name.contains(part));
    match quantization {
        DType::Q4_0 | DType::Q4K if sensitive => for_rows(DType::Q8_0, length),
        other => for_rows(other, length),
    }
}

/// The type of a matrix whose rows have this length: the one asked for, or the nearest whose blocks fit.
fn for_rows(dtype: DType, row_length: usize) -> StoredDType {
    let fits =
        |dtype: &DType| row_length > 0 && row_length.is_multiple_of(StoredDType::from(*dtype).block().0);
    let candidates: &[DType] = match dtype {
        DType::F32 | DType::F16 | DType::Bf16 => return dtype.into(),
        DType::Q8_0 => &[DType::Q8_0],
        DType::Q4_0 => &[DType::Q4_0],
        DType::Q4K => &[DType::Q4K, DType::Q8_0],
    };
    candidates.iter().find(|dtype| fits(dtype)).map_or(StoredDType::F16, |&dtype| dtype.into())
}

fn metadata(
    path: &Path,
    config: &CheckpointConfig,
    tokenizer: Option<&str>,
    options: &GgufOptions<'_>,
    file_type: u32,
) -> Result<Metadata> {
    let mut metadata = Metadata::default();
    metadata.text(key::ARCHITECTURE, OTTER);
    if let Some(name) = options.name {
        metadata.text("general.name", name);
    }
    metadata.number("general.alignment", DEFAULT_ALIGNMENT as u32);
    metadata.number("general.file_type", file_type);
    metadata.number("general.quantization_version", 2);
    metadata.number(key::VERSION, FORMAT_VERSION as u32);
    metadata.text(key::CONFIG, &config.to_json().to_string());
    let Some(tokenizer) = tokenizer else { return Ok(metadata) };
    let Some(special) = options.special else {
        return Err(CheckpointError::format(
            path,
            "a tokenizer was given without the ids of its special tokens (`GgufOptions::special`)",
        ));
    };
    metadata.text(key::TOKENIZER, tokenizer);
    for (key, id) in [
        (key::IMAGE, Some(special.image)),
        (key::END_OF_CHUNK, Some(special.endofchunk)),
        (key::ANSWER, Some(special.answer)),
        (key::PAD, Some(special.pad)),
        (key::BEGIN, special.bos),
        (key::END, special.eos),
    ] {
        if let Some(id) = id {
            metadata.number(key, id);
        }
    }
    Ok(metadata)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_get_the_nearest_type_that_fits() {
        assert_eq!(for_rows(DType::Q4K, 512), StoredDType::Q4K);
        assert_eq!(for_rows(DType::Q4K, 96), StoredDType::Q8_0);
        assert_eq!(for_rows(DType::Q8_0, 40), StoredDType::F16);
        assert_eq!(for_rows(DType::Bf16, 7), StoredDType::Bf16);
    }
}
