//! A checkpoint directory as a model that runs: layers, parameters, tokenizer.

use std::marker::PhantomData;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use half::vec::HalfBitsVecExt;
use half::{bf16, f16};
use memmap2::Mmap;
use otter_data::TextTokenizer;
use otter_model::Otter;
use otter_nn::{
    Device, ParameterSpec, Parameters, QuantizedFormat, QuantizedMatrix, SharedSlice, Tensor, Weight,
};

use crate::config::checkpoint_config::CheckpointConfig;
use crate::config::input_rules::InputRules;
use crate::directory::account::LoadReport;
use crate::directory::open::Checkpoint;
use crate::directory::save::{NamedTensor, SaveOptions, save_checkpoint};
use crate::directory::trained_part::{TrainedPart, open_trained};
use crate::directory::weights::Weights;
use crate::error::{CheckpointError, Result};
use crate::gguf::stored_type;
use crate::tokenizer::load::load_tokenizer;
use otter_formats::{StoredDType, give_back};

/// A model read from a directory.
pub struct LoadedModel {
    /// The layers.
    pub otter: Otter,
    /// The parameters, all frozen. Contiguous 32-bit floats and 16-bit matrices stay in the mapped file; other 16-bit
    /// matrices are copied, and everything else is widened once.
    pub parameters: Parameters<f32>,
    /// The tokenizer.
    pub tokenizer: TextTokenizer,
    /// The configuration file.
    pub config: CheckpointConfig,
    /// What became of every tensor.
    pub report: LoadReport,
}

/// An element of which every bit pattern is a value.
trait Plain: Send + Sync + 'static {}
impl Plain for f32 {}
impl Plain for f16 {}
impl Plain for bf16 {}
impl Plain for u8 {}

/// Elements inside a mapped file.
struct Mapped<E> {
    map: Arc<Mmap>,
    /// Aligned for `E` and a whole number of elements.
    bytes: Range<usize>,
    element: PhantomData<E>,
}

impl<E: Plain> Mapped<E> {
    fn tensor((map, bytes): (Arc<Mmap>, Range<usize>), shape: &[usize], device: Device) -> Tensor<E>
    where
        E: Copy,
    {
        Tensor::from_shared(Arc::new(Self { map, bytes, element: PhantomData }), shape, device)
    }
}

impl<E: Plain> SharedSlice<E> for Mapped<E> {
    fn as_slice(&self) -> &[E] {
        let bytes = &self.map[self.bytes.clone()];
        assert!(bytes.as_ptr().cast::<E>().is_aligned());
        // SAFETY: the range is aligned for `E` (checked above and by `TensorEntry::mapped_f32` and `mapped_half`, where it
        // comes from), every bit pattern is a valid `E`, and the map is read-only and kept alive by `self`.
        unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast::<E>(), bytes.len() / size_of::<E>()) }
    }

    fn give_back(&self) {
        give_back(&self.map, self.bytes.clone());
    }
}

/// How weights are kept in memory.
#[derive(Clone, Copy, Default)]
pub struct LoadOptions<'a> {
    /// Large matrices become blocks of this format, each as it is read: peak memory is the result and some rows. Tables of
    /// tokens, vision tower and resampler get at least eight bits. Without it everything stays as the file has it.
    pub quantize: Option<QuantizedFormat>,
    /// Parameters that are not quantized, by name: those that will be trained.
    pub keep: Option<&'a dyn Fn(&str) -> bool>,
}

/// Loads a model; every tensor is accounted for. The directory of a trained part is opened together with its base.
///
/// # Errors
/// When a file is missing or damaged, a tensor is missing, unexpected or misshapen, or the tokenizer does not fit.
pub fn load_model(directory: &Path, device: Device) -> Result<LoadedModel> {
    load_model_with(directory, device, LoadOptions::default())
}

/// As [`load_model`], with a choice of how weights are kept. Without one, the frozen matrices under a trained part are kept as
/// they were when it was trained.
///
/// # Errors
/// As [`load_model`]; when a value is too large for the scale of a block.
pub fn load_model_with(directory: &Path, device: Device, options: LoadOptions<'_>) -> Result<LoadedModel> {
    let (base, parts) = TrainedPart::chain(directory)?;
    let trained_over = TrainedPart::read(directory)?.map(|part| part.quantize()).transpose()?.flatten();
    let base_options = LoadOptions { quantize: options.quantize.or(trained_over), ..options };
    let mut checkpoint = Checkpoint::open(&base)?;
    checkpoint.config.input = InputRules::of(directory)?;
    let (otter, specs) = Otter::new(&checkpoint.config.model)
        .map_err(|error| CheckpointError::format(&base.join("config.json"), error.to_string()))?;
    let report = checkpoint.account(specs.iter().map(|s| (s.name.as_str(), s.shape.as_slice())))?;
    let parts = parts.iter().map(|part| open_trained(part, &specs)).collect::<Result<Vec<Weights>>>()?;
    let host = Device::Cpu;
    let mut parameters = Parameters::build(&specs, host, |spec| {
        match parts.iter().rev().find(|part| part.get(&spec.name).is_some()) {
            Some(part) => values(part, spec, host, options),
            None => values(&checkpoint.weights, spec, host, base_options),
        }
    })?;
    parameters.move_to(device).map_err(CheckpointError::Device)?;
    let tokenizer = load_tokenizer(directory)?;
    Ok(LoadedModel { otter, parameters, tokenizer, config: checkpoint.config, report })
}

/// The format that a parameter is quantized to, if it is.
fn format_of(spec: &ParameterSpec, options: LoadOptions<'_>) -> Option<QuantizedFormat> {
    let wanted = options.quantize?;
    if options.keep.is_some_and(|keep| keep(&spec.name)) { None } else { quantized_format(spec, wanted) }
}

/// The format of a parameter where large matrices are to be kept in `wanted`; `None` for what is not quantized.
pub fn quantized_format(spec: &ParameterSpec, wanted: QuantizedFormat) -> Option<QuantizedFormat> {
    if !spec.low_precision {
        return None;
    }
    stored_type(&spec.name, &spec.shape, wanted.into()).quantized()
}

/// How [`load_model_with`] will keep a parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlannedWeight {
    /// In 32 bits.
    Full,
    /// In 16 bits.
    Half,
    /// In blocks.
    Quantized(QuantizedFormat),
}

/// How a parameter of a checkpoint will be kept, from its header alone.
pub fn planned_weight(weights: &Weights, spec: &ParameterSpec, options: LoadOptions<'_>) -> PlannedWeight {
    let entry = weights.get(&spec.name).filter(|_| spec.low_precision);
    let Some(entry) = entry else { return PlannedWeight::Full };
    let kept = options.keep.is_some_and(|keep| keep(&spec.name));
    let blocks = entry.mapped_blocks().filter(|_| !kept).map(|(format, ..)| format);
    match blocks.or_else(|| format_of(spec, options)) {
        Some(format) => PlannedWeight::Quantized(format),
        None if entry.is_half() => PlannedWeight::Half,
        None => PlannedWeight::Full,
    }
}

/// The values of a parameter: borrowed from the mapped file, copied in half precision or blocks, quantized, or widened into
/// memory.
///
/// # Errors
/// When the file has no such tensor.
fn values(
    weights: &Weights,
    spec: &ParameterSpec,
    device: Device,
    options: LoadOptions<'_>,
) -> Result<Weight> {
    let shape = &spec.shape;
    let entry = weights.get(&spec.name).filter(|_| spec.low_precision);
    let kept = options.keep.is_some_and(|keep| keep(&spec.name));
    if let (Some(entry), &[rows, width]) = (entry, &shape[..]) {
        let matrix = |format, bytes| Weight::Quantized(QuantizedMatrix::new(format, bytes, [rows, width]));
        let wanted = format_of(spec, options);
        if let Some((format, map, range)) = entry.mapped_blocks().filter(|_| !kept) {
            // What a file has in blocks is kept: making four bits of eight would only lose.
            return Ok(matrix(
                format,
                Mapped::tensor((map, range), &[rows, format.row_bytes(width)], device),
            ));
        }
        if let Some(format) = wanted {
            let bytes = entry.quantize(&spec.name, format)?;
            return Ok(matrix(format, Tensor::from_vec(bytes, &[rows, format.row_bytes(width)], device)));
        }
    }
    let Some(entry) = entry.filter(|entry| entry.is_half()) else {
        return mapped_full(weights, &spec.name, shape, device);
    };
    let brain = entry.dtype == StoredDType::Bf16;
    Ok(match entry.mapped_half() {
        Some(mapped) if brain => Weight::Bf16(Mapped::tensor(mapped, shape, device)),
        Some(mapped) => Weight::F16(Mapped::tensor(mapped, shape, device)),
        None if brain => Weight::Bf16(Tensor::from_vec(entry.read_bits().reinterpret_into(), shape, device)),
        None => Weight::F16(Tensor::from_vec(entry.read_bits().reinterpret_into(), shape, device)),
    })
}

/// The values of a parameter in 32 bits: borrowed from the mapped file, or widened into memory.
///
/// # Errors
/// When the file has no such tensor.
fn mapped_full(weights: &Weights, name: &str, shape: &[usize], device: Device) -> Result<Weight> {
    Ok(Weight::Full(match weights.mapped_f32(name) {
        Some(mapped) => Mapped::tensor(mapped, shape, device),
        None => Tensor::from_vec(weights.read_f32(name)?, shape, device),
    }))
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
        data: p.tensor.view(),
    });
    save_checkpoint(directory, config, tensors, options)
}
