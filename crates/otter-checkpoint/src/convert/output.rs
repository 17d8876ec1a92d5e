//! Writing a plan: weight files of a directory, or one file.

use crate::config::checkpoint_config::CheckpointConfig;
use crate::config::generation::GENERATION_CONFIG;
use crate::convert::plan::PlannedTensor;
use crate::directory::save::{write_safetensors, write_torch};
use crate::directory::shards;
use crate::directory::text_file::read_for_copy;
use crate::error::{CheckpointError, Result};
use crate::gguf::{self, GgufElements, GgufOptions, GgufTensor, StoredTensor, write_gguf};
use crate::tokenizer::files::TOKENIZER_FILES;
use crate::tokenizer::load::load_tokenizer;
use otter_data::TextTokenizer;
use otter_formats::NewTensor;
use otter_io::Progress;
use otter_nn::DType;
use serde_json::Value;
use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

/// How weights are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OutputFormat {
    /// `model.safetensors` and shards.
    #[default]
    Safetensors,
    /// `pytorch_model.bin` and shards.
    Torch,
    /// `model.gguf`, one file with configuration and tokenizer.
    Gguf,
}

impl OutputFormat {
    /// The format a file name asks for.
    pub fn of_file(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()? {
            "safetensors" => Some(Self::Safetensors),
            "bin" | "pt" | "pth" => Some(Self::Torch),
            "gguf" => Some(Self::Gguf),
            _ => None,
        }
    }

    fn stem_and_extension(self) -> (&'static str, &'static str) {
        match self {
            Self::Safetensors => ("model", "safetensors"),
            Self::Torch => ("pytorch_model", "bin"),
            Self::Gguf => ("model", "gguf"),
        }
    }
}

/// Passes on how much was written.
struct Meter<'m> {
    done: u64,
    total: u64,
    report: &'m mut dyn FnMut(Progress<'_>),
}

impl Meter<'_> {
    fn finished(&mut self, tensor: &PlannedTensor) {
        self.done += tensor.bytes();
        (self.report)(Progress { stage: &tensor.name, done: self.done, total: self.total });
    }
}

/// Writes all tensors into `directory`, which will become `target`, and returns the names of the files.
///
/// # Errors
/// When two tensors share a name; when reading, converting or writing fails.
pub(super) fn write_shards(
    directory: &Path,
    target: &Path,
    tensors: &[PlannedTensor],
    format: OutputFormat,
    max_shard_bytes: u64,
    report: &mut dyn FnMut(Progress<'_>),
) -> Result<Vec<String>> {
    check_names(target, tensors)?;
    let sizes: Vec<u64> = tensors.iter().map(PlannedTensor::bytes).collect();
    let total = sizes.iter().sum();
    let plan = shards::plan(&sizes, max_shard_bytes);
    let (stem, extension) = format.stem_and_extension();
    let mut files = shards::file_names(stem, extension, plan.len());
    let mut meter = Meter { done: 0, total, report };
    for (range, file) in plan.iter().zip(&files) {
        write_one(&directory.join(file), target, &tensors[range.clone()], format, &mut meter)?;
    }
    if plan.len() > 1 {
        let places = plan.iter().zip(&files).flat_map(|(range, file)| {
            tensors[range.clone()].iter().map(move |tensor| (tensor.name.as_str(), file.as_str()))
        });
        let index = shards::index(places, total);
        let name = format!("{stem}.{extension}.index.json");
        write_json(&directory.join(&name), target, &index)?;
        files.push(name);
    }
    Ok(files)
}

/// Writes a whole Otter as `model.gguf`; without `quantization` what is in blocks stays so, and other large matrices become
/// 16-bit floats. The file goes into `directory`, which holds its `config.json` and, if any, its tokenizer.
///
/// # Errors
/// When the configuration describes no model that this program knows; as [`write_shards`].
pub(super) fn write_gguf_file(
    directory: &Path,
    target: &Path,
    tensors: &[PlannedTensor],
    quantization: Option<DType>,
    report: &mut dyn FnMut(Progress<'_>),
) -> Result<Vec<StoredTensor>> {
    check_names(target, tensors)?;
    let mut config = CheckpointConfig::read(&directory.join("config.json"))?;
    // One table in the file: the model reads it as both.
    let stored = |name: &str| tensors.iter().any(|tensor| tensor.name == name);
    if stored(&config.model.input_table()) && !stored(&config.model.output_table()) {
        config.model.tie_word_embeddings = true;
    }
    let has_tokenizer = TOKENIZER_FILES.iter().any(|name| directory.join(name).is_file());
    let tokenizer = has_tokenizer.then(|| load_tokenizer(directory)).transpose()?;
    let json = tokenizer.as_ref().map(TextTokenizer::to_json).transpose();
    let json = json.map_err(|error| CheckpointError::format(target, error.to_string()))?;
    let special = tokenizer.as_ref().map(|tokenizer| *tokenizer.special());
    config.input.begin_token = tokenizer.as_ref().and_then(TextTokenizer::begins);
    let entries: Vec<GgufTensor<'_>> = tensors
        .iter()
        .map(|tensor| GgufTensor {
            name: &tensor.name,
            shape: &tensor.shape,
            blocks: tensor.kept_blocks(quantization),
        })
        .collect();
    let total = tensors.iter().map(PlannedTensor::bytes).sum();
    let mut meter = Meter { done: 0, total, report };
    let options =
        GgufOptions { quantization: quantization.unwrap_or(gguf::DEFAULT_QUANTIZATION), special, name: None };
    let path = directory.join(gguf::FILE_NAME);
    write_gguf(&path, &config, json.as_deref(), &entries, &options, &mut |at, put| {
        match entries[at].blocks {
            Some(_) => tensors[at].blocks(&mut |bytes| put(GgufElements::Blocks(bytes)))?,
            None => tensors[at].floats(&mut |values| put(GgufElements::Floats(values)))?,
        }
        meter.finished(&tensors[at]);
        Ok(())
    })
}

/// Writes all tensors into the file at `path`, which will become `target`.
///
/// # Errors
/// As [`write_shards`].
pub(super) fn write_file(
    path: &Path,
    target: &Path,
    tensors: &[PlannedTensor],
    format: OutputFormat,
    report: &mut dyn FnMut(Progress<'_>),
) -> Result<()> {
    check_names(target, tensors)?;
    let total = tensors.iter().map(PlannedTensor::bytes).sum();
    write_one(path, target, tensors, format, &mut Meter { done: 0, total, report })
}

fn write_one(
    path: &Path,
    target: &Path,
    tensors: &[PlannedTensor],
    format: OutputFormat,
    meter: &mut Meter<'_>,
) -> Result<()> {
    let mut elements = |at: usize, out: &mut dyn std::io::Write| {
        let tensor: &PlannedTensor = &tensors[at];
        tensor.write(path, target, out)?;
        meter.finished(tensor);
        Ok(())
    };
    let entries: Vec<NewTensor<'_>> = tensors
        .iter()
        .map(|tensor| NewTensor { name: &tensor.name, dtype: tensor.dtype, shape: &tensor.shape })
        .collect();
    match format {
        OutputFormat::Safetensors => write_safetensors(path, target, &entries, &mut elements),
        OutputFormat::Torch => write_torch(path, &entries, None, &mut elements),
        OutputFormat::Gguf => {
            let problem = "a GGUF file holds a whole Otter; give --out FILE.gguf or --format gguf";
            Err(CheckpointError::format(path, problem))
        }
    }
}

fn check_names(target: &Path, tensors: &[PlannedTensor]) -> Result<()> {
    let mut seen = HashSet::new();
    match tensors.iter().find(|tensor| !seen.insert(tensor.name.as_str()) || tensor.name == "__metadata__") {
        None => Ok(()),
        Some(twice) => Err(CheckpointError::tensor(
            target,
            &twice.name,
            "two tensors of the source would get this name; the source mixes two formats",
        )),
    }
}

/// Writes a JSON file as Python's `json.dumps(indent=2)` would, with a line end.
pub(super) fn write_json(path: &Path, target: &Path, value: &Value) -> Result<()> {
    let mut text = serde_json::to_vec_pretty(value)
        .map_err(|source| CheckpointError::Json { path: path.to_path_buf(), source })?;
    text.push(b'\n');
    fs::write(path, text).map_err(CheckpointError::write(path, target))
}

/// Small files that belong to a checkpoint whatever form its weights have.
pub(super) const CARRIED: &[&str] = &[GENERATION_CONFIG, "preprocessor_config.json", "processor_config.json"];

/// Copies those of `names` that exist and are not there yet; returns which.
///
/// # Errors
/// When reading or writing fails.
pub(super) fn carry(names: &[&str], from: &Path, to: &Path, target: &Path) -> Result<Vec<String>> {
    let mut carried = Vec::new();
    for name in names {
        let (source, copy): (PathBuf, PathBuf) = (from.join(name), to.join(name));
        if source.is_file() && !copy.exists() {
            // Not `fs::copy`, which would carry read-only permissions along.
            fs::write(&copy, read_for_copy(&source)?).map_err(CheckpointError::write(&copy, target))?;
            carried.push((*name).to_owned());
        }
    }
    Ok(carried)
}
