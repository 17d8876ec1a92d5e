//! A checkpoint directory as a model that runs: layers, parameters, tokenizer.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use memmap2::Mmap;
use otter_data::TextTokenizer;
use otter_model::Otter;
use otter_nn::{Device, ParameterSpec, Parameters, SharedSlice, Tensor};

use crate::checkpoint::Checkpoint;
use crate::config_file::CheckpointConfig;
use crate::error::{CheckpointError, Result};
use crate::load_report::LoadReport;
use crate::save::{NamedTensor, SaveOptions, save_checkpoint};
use crate::tokenizer::load_tokenizer;
use crate::weights::Weights;

/// A model read from a directory.
pub struct LoadedModel {
    /// The layers.
    pub otter: Otter,
    /// The parameters, all frozen. Contiguous 32-bit floats stay in the mapped file; others are widened once.
    pub parameters: Parameters<f32>,
    /// The tokenizer.
    pub tokenizer: TextTokenizer,
    /// The configuration file.
    pub config: CheckpointConfig,
    /// What became of every tensor.
    pub report: LoadReport,
}

/// Elements inside a mapped file.
struct MappedFloats {
    map: Arc<Mmap>,
    bytes: Range<usize>,
}

impl SharedSlice<f32> for MappedFloats {
    fn as_slice(&self) -> &[f32] {
        let bytes = &self.map[self.bytes.clone()];
        // SAFETY: `TensorEntry::mapped_f32` only gives ranges that are aligned for f32 and a whole number of elements,
        // every bit pattern is a valid f32, and the map is read-only and kept alive by `self`.
        unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast::<f32>(), bytes.len() / size_of::<f32>()) }
    }
}

/// Loads a model; every tensor is accounted for.
///
/// # Errors
/// When a file is missing or damaged, a tensor is missing, unexpected or misshapen, or the tokenizer does not fit.
pub fn load_model(directory: &Path, device: Device) -> Result<LoadedModel> {
    let checkpoint = Checkpoint::open(directory)?;
    let (otter, specs) = Otter::new(&checkpoint.config.model)
        .map_err(|error| CheckpointError::format(&directory.join("config.json"), error.to_string()))?;
    let report = checkpoint.account(specs.iter().map(|s| (s.name.as_str(), s.shape.as_slice())))?;
    let parameters = Parameters::build(&specs, device, |spec| tensor(&checkpoint.weights, spec, device))?;
    let tokenizer = load_tokenizer(directory)?;
    Ok(LoadedModel { otter, parameters, tokenizer, config: checkpoint.config, report })
}

/// The tensor of a parameter: borrowed from the mapped file, or widened into memory.
///
/// # Errors
/// When the file has no such tensor.
fn tensor(weights: &Weights, spec: &ParameterSpec, device: Device) -> Result<Tensor> {
    Ok(match weights.mapped_f32(&spec.name) {
        Some((map, bytes)) => Tensor::from_shared(Arc::new(MappedFloats { map, bytes }), &spec.shape, device),
        None => Tensor::from_vec(weights.read_f32(&spec.name)?, &spec.shape, device),
    })
}

/// Writes parameters as a checkpoint directory.
///
/// # Errors
/// As [`save_checkpoint`].
pub fn save_model(
    directory: &Path,
    config: &CheckpointConfig,
    parameters: &Parameters<f32>,
    options: &SaveOptions<'_>,
) -> Result<()> {
    let tensors = parameters.iter().map(|p| NamedTensor {
        name: p.name.clone(),
        shape: p.tensor.shape().to_vec(),
        data: p.tensor.data(),
    });
    save_checkpoint(directory, config, tensors, options)
}
