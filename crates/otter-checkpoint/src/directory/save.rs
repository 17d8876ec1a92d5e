//! Writing a checkpoint directory: safetensors, sharded when large, with the original's `config.json`.
//! The directory appears under its name only when all of it is on the disk.

use crate::atomic;
use crate::config::checkpoint_config::CheckpointConfig;
use crate::config::generation::{GENERATION_CONFIG, is_derived};
use crate::config::keys::TRAINING;
use crate::config::preprocessor::{PREPROCESSOR_CONFIG, preprocessor_json};
use crate::directory::shards;
use crate::directory::text_file::read_for_copy;
use crate::error::{CheckpointError, Result};
use crate::export::model_card::{self, Described, ModelCard};
use crate::tokenizer::files::TOKENIZER_FILES;
use otter_formats::StoredDType;
use otter_formats::encode;
use otter_formats::{FormatError, NewTensor, safetensors, torch};
use otter_nn::{DType, WeightView};
use serde_json::{Value, json};
use std::collections::HashSet;
use std::fs;
use std::io::Write;
use std::path::Path;

/// Elements converted at a time.
const CHUNK: usize = 1 << 16;

/// The largest shard written unless another size is asked for.
pub const DEFAULT_SHARD_BYTES: u64 = 5_000_000_000;

/// The name that PyTorch gives a plain type.
pub(crate) fn torch_name(dtype: StoredDType) -> &'static str {
    match dtype {
        StoredDType::F64 => "float64",
        StoredDType::F16 => "float16",
        StoredDType::Bf16 => "bfloat16",
        _ => "float32",
    }
}

/// Safetensors and PyTorch files hold plain types.
pub(crate) fn check_plain(path: &Path, dtype: DType) -> Result<()> {
    if dtype.is_block() {
        let problem = format!("{dtype} are blocks, which only a GGUF file holds; expected f32, f16 or bf16");
        return Err(CheckpointError::format(path, problem));
    }
    Ok(())
}

/// One parameter to save.
#[derive(Debug, Clone)]
pub struct NamedTensor<'a> {
    /// Name in the checkpoint.
    pub name: String,
    /// Length of each axis.
    pub shape: Vec<usize>,
    /// Elements in row-major order, widened while writing when they are half precision.
    pub data: WeightView<'a, f32>,
}

/// How to save.
#[derive(Debug, Clone)]
pub struct SaveOptions<'a> {
    /// Directory whose tokenizer files are copied along, and its `generation_config.json` if somebody wrote it.
    pub tokenizer_from: Option<&'a Path>,
    /// A shard holds at most so many bytes, or one tensor if that is larger.
    pub max_shard_bytes: u64,
    /// Element type.
    pub dtype: DType,
    /// Becomes `README.md`, unless the directory has one already.
    pub card: Option<ModelCard>,
}

impl Default for SaveOptions<'_> {
    fn default() -> Self {
        Self { tokenizer_from: None, max_shard_bytes: DEFAULT_SHARD_BYTES, dtype: DType::F32, card: None }
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
    let dtype: StoredDType = options.dtype.into();
    let entries: Vec<NewTensor<'_>> =
        tensors.iter().map(|tensor| NewTensor { name: &tensor.name, dtype, shape: &tensor.shape }).collect();
    let mut buffer = Vec::with_capacity(CHUNK * dtype.size());
    let mut elements = |at: usize, out: &mut dyn Write| {
        for chunk in tensors[at].data.chunks(CHUNK) {
            buffer.clear();
            encode(&chunk, dtype, &mut buffer)
                .map_err(|error| CheckpointError::tensor(directory, &tensors[at].name, error.problem()))?;
            out.write_all(&buffer).map_err(CheckpointError::write(directory, directory))?;
        }
        Ok(())
    };
    write_checkpoint(directory, config, &entries, options, &mut elements, |_| Ok(()))
}

/// As [`save_checkpoint`], for tensors that are made while they are written: `elements(i, out)` writes the little-endian
/// elements of entry `i`. `check` looks at the finished directory before it replaces what stands there.
pub(crate) fn write_checkpoint<T>(
    directory: &Path,
    config: &CheckpointConfig,
    entries: &[NewTensor<'_>],
    options: &SaveOptions<'_>,
    elements: Elements<'_>,
    check: impl FnOnce(&Path) -> Result<T>,
) -> Result<T> {
    check_plain(directory, options.dtype)?;
    check_target(directory)?;
    let temporary = atomic::temporary_dir(directory)?;
    let written = write_all(&temporary, directory, config, entries, options, elements)
        .and_then(|()| check(&temporary))
        .and_then(|checked| atomic::replace_dir(&temporary, directory).map(|()| checked));
    if written.is_err() {
        let _ = fs::remove_dir_all(&temporary);
    }
    written
}

/// Writes the elements of the tensor with this number.
pub type Elements<'a> = &'a mut dyn FnMut(usize, &mut dyn Write) -> Result<()>;

/// Replacing removes what stands there, so that must be a checkpoint, or nothing.
pub(crate) fn check_target(directory: &Path) -> Result<()> {
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
        } else if otter_formats::checked_elements(&tensor.shape) != Some(tensor.data.len()) {
            format!("shape {:?} does not take {} elements", tensor.shape, tensor.data.len())
        } else {
            continue;
        };
        return Err(CheckpointError::tensor(directory, &tensor.name, problem));
    }
    Ok(())
}

/// Not `fs::copy`, which would carry read-only permissions along.
fn copy_file(from: &Path, to: &Path, target: &Path) -> Result<()> {
    fs::write(to, read_for_copy(from)?).map_err(CheckpointError::write(to, target))
}

/// Writes a safetensors file under a temporary name and renames it; `target` is what it will become.
pub(crate) fn write_safetensors(
    path: &Path,
    target: &Path,
    tensors: &[NewTensor<'_>],
    elements: Elements<'_>,
) -> Result<()> {
    atomic::write_file_with(path, |file| safetensors::write(file, path, target, tensors, elements))
}

/// Writes a PyTorch file, replacing what stands at `path` only when it is complete, see [`torch::write`].
///
/// # Errors
/// Those of [`torch::write`]; what stood at `path` is then unchanged.
pub fn write_torch(
    path: &Path,
    tensors: &[NewTensor<'_>],
    prefix: Option<&str>,
    bytes: Elements<'_>,
) -> Result<()> {
    atomic::write_file_with(path, |file| torch::write(file, path, tensors, prefix, bytes))
}

fn write_all(
    temporary: &Path,
    target: &Path,
    config: &CheckpointConfig,
    entries: &[NewTensor<'_>],
    options: &SaveOptions<'_>,
    elements: Elements<'_>,
) -> Result<()> {
    let write_json = |name: &str, value: &Value| {
        let mut text = serde_json::to_vec_pretty(value)
            .map_err(|source| CheckpointError::Json { path: temporary.join(name), source })?;
        text.push(b'\n');
        let path = temporary.join(name);
        fs::write(&path, text).map_err(CheckpointError::write(&path, target))
    };
    let mut top = config.to_json();
    top["torch_dtype"] = json!(torch_name(options.dtype.into()));
    if let Some(training) = options.card.as_ref().and_then(|card| card.training.as_ref()) {
        top[TRAINING] = json!({ "steps": training.steps, "samples": training.samples });
    }
    write_json("config.json", &top)?;
    let own = options.tokenizer_from.map(|source| source.join(GENERATION_CONFIG));
    match own.filter(|own| own.is_file() && !is_derived(own)) {
        Some(own) => copy_file(&own, &temporary.join(GENERATION_CONFIG), target)?,
        None => write_json(GENERATION_CONFIG, &config.generation_json())?,
    }
    write_json(PREPROCESSOR_CONFIG, &preprocessor_json(config.model.vision.image_size))?;
    if let Some(source) = options.tokenizer_from {
        for name in TOKENIZER_FILES {
            let from = source.join(name);
            if from.is_file() {
                copy_file(&from, &temporary.join(name), target)?;
            }
        }
    }
    let counts = entries.iter().map(|entry| (entry.name, entry.shape.iter().product())).collect();
    let described = Described { config: &top, tensors: counts, dtype: torch_name(options.dtype.into()) };
    model_card::write(temporary, target, options.card.as_ref(), &described)?;
    let sizes: Vec<u64> = entries.iter().map(NewTensor::bytes).collect();
    let plan = shards::plan(&sizes, options.max_shard_bytes);
    let names = shards::file_names("model", "safetensors", plan.len());
    let mut places = Vec::with_capacity(entries.len());
    for (range, name) in plan.iter().zip(&names) {
        let (shard, first) = (&entries[range.clone()], range.start);
        let path = temporary.join(name);
        write_safetensors(&path, target, shard, &mut |at, out| {
            elements(first + at, out).map_err(|error| match error {
                CheckpointError::File(FormatError::Write { target, source, .. }) => {
                    CheckpointError::write(&path, &target)(source)
                }
                other => other,
            })
        })?;
        places.extend(shard.iter().map(|entry| (entry.name, name.as_str())));
    }
    if plan.len() == 1 {
        return Ok(());
    }
    let index = shards::index(places.into_iter(), sizes.iter().sum());
    write_json("model.safetensors.index.json", &index)
}
