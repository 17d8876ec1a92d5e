//! Writing a checkpoint directory: safetensors, sharded when large, with the original's `config.json`.
//! The directory appears under its name only when all of it is on the disk.

use crate::atomic;
use crate::config_file::CheckpointConfig;
use crate::error::{CheckpointError, Result};
use crate::model_card::{self, Described, ModelCard};
use crate::preprocessor::{PREPROCESSOR_CONFIG, preprocessor_json};
use crate::safetensors_file::{HeaderEntry, header_bytes};
use crate::tensor::Dtype;
use half::{bf16, f16};
use serde_json::{Map, Value, json};
use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

/// Files that make up a tokenizer and are copied as they are.
pub(crate) const TOKENIZER_FILES: &[&str] = &[
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
];

/// Elements converted at a time.
const CHUNK: usize = 1 << 16;

/// The largest shard written unless another size is asked for.
pub const DEFAULT_SHARD_BYTES: u64 = 5_000_000_000;

/// Element type of a saved checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SaveDtype {
    /// 32-bit floats: exact.
    #[default]
    F32,
    /// IEEE half precision; values beyond ±65504 are an error.
    F16,
    /// Brain floats.
    Bf16,
}

impl SaveDtype {
    fn stored(self) -> Dtype {
        match self {
            Self::F32 => Dtype::F32,
            Self::F16 => Dtype::F16,
            Self::Bf16 => Dtype::Bf16,
        }
    }

    fn torch_name(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::F16 => "float16",
            Self::Bf16 => "bfloat16",
        }
    }
}

/// One parameter to save.
#[derive(Debug, Clone)]
pub struct NamedTensor<'a> {
    /// Name in the checkpoint.
    pub name: String,
    /// Length of each axis.
    pub shape: Vec<usize>,
    /// Elements in row-major order.
    pub data: &'a [f32],
}

/// How to save.
#[derive(Debug, Clone)]
pub struct SaveOptions<'a> {
    /// Directory whose tokenizer files are copied along.
    pub tokenizer_from: Option<&'a Path>,
    /// A shard holds at most so many bytes, or one tensor if that is larger.
    pub max_shard_bytes: u64,
    /// Element type.
    pub dtype: SaveDtype,
    /// Becomes `README.md`, unless the directory has one already.
    pub card: Option<ModelCard>,
}

impl Default for SaveOptions<'_> {
    fn default() -> Self {
        Self { tokenizer_from: None, max_shard_bytes: DEFAULT_SHARD_BYTES, dtype: SaveDtype::F32, card: None }
    }
}

/// Writes a checkpoint directory, replacing what stands there only when the new one is complete.
///
/// # Errors
/// When the disk is full or a tensor is not consistent; the previous directory is then unchanged.
pub fn save_checkpoint<'a>(
    directory: &Path,
    config: &CheckpointConfig,
    tensors: impl IntoIterator<Item = NamedTensor<'a>>,
    options: &SaveOptions<'_>,
) -> Result<()> {
    let tensors: Vec<NamedTensor<'a>> = tensors.into_iter().collect();
    check(directory, &tensors)?;
    check_target(directory)?;
    let temporary = atomic::temporary_dir(directory)?;
    let written = write_all(&temporary, directory, config, &tensors, options)
        .and_then(|()| atomic::replace_dir(&temporary, directory));
    if written.is_err() {
        let _ = fs::remove_dir_all(&temporary);
    }
    written
}

/// Replacing removes what stands there, so that must be a checkpoint, or nothing.
fn check_target(directory: &Path) -> Result<()> {
    if !directory.exists() {
        return Ok(());
    }
    let listing = fs::read_dir(directory).map_err(CheckpointError::io(directory, "list"))?;
    let mut empty = true;
    for item in listing {
        let item = item.map_err(CheckpointError::io(directory, "list"))?;
        empty = false;
        if item.path().is_dir() {
            let name = item.file_name().to_string_lossy().into_owned();
            return Err(CheckpointError::format(
                directory,
                format!("holds the folder `{name}`, which saving would delete; choose another directory"),
            ));
        }
    }
    if empty || directory.join("config.json").is_file() {
        return Ok(());
    }
    Err(CheckpointError::format(
        directory,
        "holds files but no config.json, so it is not a checkpoint and will not be replaced; \
         choose another directory",
    ))
}

fn check(directory: &Path, tensors: &[NamedTensor<'_>]) -> Result<()> {
    let mut seen = HashSet::new();
    for tensor in tensors {
        let problem = if !seen.insert(&tensor.name) || tensor.name == "__metadata__" {
            "this name was already used".to_owned()
        } else if crate::tensor::checked_elements(&tensor.shape) != Some(tensor.data.len()) {
            format!("shape {:?} does not take {} elements", tensor.shape, tensor.data.len())
        } else {
            continue;
        };
        let (path, name) = (directory.to_path_buf(), tensor.name.clone());
        return Err(CheckpointError::Tensor { path, name, problem });
    }
    Ok(())
}

fn write_all(
    temporary: &Path,
    target: &Path,
    config: &CheckpointConfig,
    tensors: &[NamedTensor<'_>],
    options: &SaveOptions<'_>,
) -> Result<()> {
    let write_json = |name: &str, value: &Value| {
        let mut text = serde_json::to_vec_pretty(value)
            .map_err(|source| CheckpointError::Json { path: temporary.join(name), source })?;
        text.push(b'\n');
        let path = temporary.join(name);
        fs::write(&path, text).map_err(failed(&path, target))
    };
    let mut top = config.to_json();
    top["torch_dtype"] = json!(options.dtype.torch_name());
    write_json("config.json", &top)?;
    write_json("generation_config.json", &config.generation_json())?;
    write_json(PREPROCESSOR_CONFIG, &preprocessor_json(config.model.vision.image_size))?;
    if let Some(source) = options.tokenizer_from {
        for name in TOKENIZER_FILES {
            let from = source.join(name);
            if from.is_file() {
                let to = temporary.join(name);
                // Not `fs::copy`, which would carry read-only permissions along.
                let bytes = fs::read(&from).map_err(CheckpointError::io(&from, "read"))?;
                fs::write(&to, bytes).map_err(failed(&to, target))?;
            }
        }
    }
    let elements = tensors.iter().map(|tensor| (tensor.name.as_str(), tensor.data.len())).collect();
    let described = Described { config: &top, tensors: elements, dtype: options.dtype.torch_name() };
    model_card::write(temporary, target, options.card.as_ref(), &described)?;
    let width = options.dtype.stored().size();
    let shards = plan_shards(tensors, width, options.max_shard_bytes);
    if let [only] = &shards[..] {
        return write_shard(&temporary.join("model.safetensors"), target, only, options.dtype);
    }
    let mut weight_map = Map::new();
    for (number, shard) in shards.iter().enumerate() {
        let name = format!("model-{:05}-of-{:05}.safetensors", number + 1, shards.len());
        write_shard(&temporary.join(&name), target, shard, options.dtype)?;
        for tensor in *shard {
            weight_map.insert(tensor.name.clone(), json!(name));
        }
    }
    let total: usize = tensors.iter().map(|tensor| tensor.data.len() * width).sum();
    let index = json!({ "metadata": { "total_size": total }, "weight_map": weight_map });
    write_json("model.safetensors.index.json", &index)
}

/// Consecutive tensors that fit a shard together. There is always at least one shard.
fn plan_shards<'t, 'a>(
    tensors: &'t [NamedTensor<'a>],
    width: usize,
    max_shard_bytes: u64,
) -> Vec<&'t [NamedTensor<'a>]> {
    let mut shards = Vec::new();
    let (mut start, mut size) = (0, 0u64);
    for (at, tensor) in tensors.iter().enumerate() {
        let bytes = (tensor.data.len() * width) as u64;
        if at > start && size + bytes > max_shard_bytes {
            shards.push(&tensors[start..at]);
            (start, size) = (at, 0);
        }
        size += bytes;
    }
    shards.push(&tensors[start..]);
    shards
}

fn write_shard(path: &Path, target: &Path, tensors: &[NamedTensor<'_>], dtype: SaveDtype) -> Result<()> {
    let width = dtype.stored().size();
    let entries: Vec<HeaderEntry<'_>> = tensors
        .iter()
        .map(|tensor| HeaderEntry {
            name: &tensor.name,
            shape: &tensor.shape,
            bytes: tensor.data.len() * width,
        })
        .collect();
    let header = header_bytes(dtype.stored(), &entries);
    let mut file = File::create_new(path).map_err(failed(path, target))?;
    file.write_all(&header).map_err(failed(path, target))?;
    let mut buffer = Vec::with_capacity(CHUNK * width);
    for tensor in tensors {
        for chunk in tensor.data.chunks(CHUNK) {
            buffer.clear();
            match dtype {
                SaveDtype::F32 => {
                    chunk.iter().for_each(|value| buffer.extend_from_slice(&value.to_le_bytes()))
                }
                SaveDtype::Bf16 => {
                    chunk
                        .iter()
                        .for_each(|&value| buffer.extend_from_slice(&bf16::from_f32(value).to_le_bytes()));
                }
                SaveDtype::F16 => {
                    narrow_to_f16(chunk, &mut buffer).map_err(|value| CheckpointError::Tensor {
                        path: target.to_path_buf(),
                        name: tensor.name.clone(),
                        problem: format!("the value {value} does not fit 16-bit floats; save as bf16 or f32"),
                    })?
                }
            }
            file.write_all(&buffer).map_err(failed(path, target))?;
        }
    }
    file.sync_all().map_err(failed(path, target))
}

fn narrow_to_f16(values: &[f32], buffer: &mut Vec<u8>) -> std::result::Result<(), f32> {
    for &value in values {
        let narrow = f16::from_f32(value);
        if narrow.is_infinite() && value.is_finite() {
            return Err(value);
        }
        buffer.extend_from_slice(&narrow.to_le_bytes());
    }
    Ok(())
}

fn failed(path: &Path, target: &Path) -> impl FnOnce(io::Error) -> CheckpointError {
    let (path, target) = (path.to_path_buf(), target.to_path_buf());
    move |source| CheckpointError::Write { path, target, source }
}
