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
use otter_nn::{Device, ParameterSpec, Parameters, SharedSlice, Tensor, Weight};

use crate::checkpoint::Checkpoint;
use crate::config_file::CheckpointConfig;
use crate::error::{CheckpointError, Result};
use crate::load_report::LoadReport;
use crate::save::{NamedTensor, SaveOptions, save_checkpoint};
use crate::tensor::{Dtype, give_back};
use crate::tokenizer::load_tokenizer;
use crate::trained_part::{TrainedPart, put_over};
use crate::weights::Weights;

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
trait PlainFloat: Send + Sync + 'static {}
impl PlainFloat for f32 {}
impl PlainFloat for f16 {}
impl PlainFloat for bf16 {}

/// Elements inside a mapped file.
struct Mapped<E> {
    map: Arc<Mmap>,
    /// Aligned for `E` and a whole number of elements.
    bytes: Range<usize>,
    element: PhantomData<E>,
}

impl<E: PlainFloat> Mapped<E> {
    fn tensor((map, bytes): (Arc<Mmap>, Range<usize>), shape: &[usize], device: Device) -> Tensor<E>
    where
        E: Copy,
    {
        Tensor::from_shared(Arc::new(Self { map, bytes, element: PhantomData }), shape, device)
    }
}

impl<E: PlainFloat> SharedSlice<E> for Mapped<E> {
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

/// Loads a model; every tensor is accounted for. The directory of a trained part is opened together with its base.
///
/// # Errors
/// When a file is missing or damaged, a tensor is missing, unexpected or misshapen, or the tokenizer does not fit.
pub fn load_model(directory: &Path, device: Device) -> Result<LoadedModel> {
    let (base, parts) = TrainedPart::chain(directory)?;
    let mut model = load_whole(&base, device)?;
    parts.iter().try_for_each(|part| put_over(&mut model.parameters, part, device))?;
    Ok(model)
}

fn load_whole(directory: &Path, device: Device) -> Result<LoadedModel> {
    let checkpoint = Checkpoint::open(directory)?;
    let (otter, specs) = Otter::new(&checkpoint.config.model)
        .map_err(|error| CheckpointError::format(&directory.join("config.json"), error.to_string()))?;
    let report = checkpoint.account(specs.iter().map(|s| (s.name.as_str(), s.shape.as_slice())))?;
    let parameters = Parameters::build(&specs, device, |spec| values(&checkpoint.weights, spec, device))?;
    let tokenizer = load_tokenizer(directory)?;
    Ok(LoadedModel { otter, parameters, tokenizer, config: checkpoint.config, report })
}

/// The values of a parameter: borrowed from the mapped file, copied in half precision, or widened into memory.
///
/// # Errors
/// When the file has no such tensor.
fn values(weights: &Weights, spec: &ParameterSpec, device: Device) -> Result<Weight> {
    let shape = &spec.shape;
    let entry = weights.get(&spec.name).filter(|entry| spec.half && entry.is_half());
    let Some(entry) = entry else { return mapped_full(weights, &spec.name, shape, device) };
    let brain = entry.dtype == Dtype::Bf16;
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
pub(crate) fn mapped_full(weights: &Weights, name: &str, shape: &[usize], device: Device) -> Result<Weight> {
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
