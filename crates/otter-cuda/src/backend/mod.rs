//! A GPU as layers use it: [`otter_nn::backend::Backend`] by the kernels of this crate.
//!
//! Every function here only finds the buffers behind its arguments, calls the function of the kernel, and keeps the first
//! failure: after one nothing more is done until it was asked for.

mod operations;

use std::sync::{Arc, Mutex, PoisonError};

use otter_nn::backend::{Accelerator, AdamWStep, GpuBuffer, GpuMemory, GpuTransfers, Moments, Optimizer};
use otter_nn::{Device, DeviceError, QuantizedView, Rotary, Tensor};

use crate::adamw::{self, Settings};
use crate::memory::elements::{
    Blocks, Failure, blocks, elements, elements_mut, plain, singles, singles_mut, values, values_mut,
};
use crate::quantized::QuantizedBuffer;
use crate::rotary::RotaryAngles;
use crate::{Buffer, Gpu, Precision, Result};

/// Angles that are kept: those of the passes that alternate.
const KEPT_ANGLES: usize = 4;

/// Angles of rows at these positions, that all layers of a pass share.
type Known = (Rotary, Vec<u32>, Arc<RotaryAngles>);

/// A GPU as layers use it.
pub(crate) struct Layers {
    gpu: Gpu,
    precision: Precision,
    failure: Arc<Failure>,
    angles: Mutex<Vec<Known>>,
}

impl Layers {
    pub(crate) fn new(gpu: Gpu, precision: Precision) -> Self {
        Self { gpu, precision, failure: Arc::default(), angles: Mutex::default() }
    }

    /// Work that changes buffers.
    fn run(&self, work: impl FnOnce() -> Result<()>) {
        self.failure.guard(work);
    }

    /// Work that makes a tensor with the shape and on the device of another.
    fn like(&self, x: &Tensor, work: impl FnOnce() -> Result<Buffer<f32>>) -> Tensor {
        self.tensor(x.device(), x.shape(), work)
    }

    /// Work that makes a tensor on this device.
    fn tensor(&self, device: Device, shape: &[usize], work: impl FnOnce() -> Result<Buffer<f32>>) -> Tensor {
        let Some(gpu) = device.gpu() else { panic!("a tensor of the host among those of a GPU") };
        Tensor::from_gpu(self.made(shape.iter().product(), work), shape, gpu)
    }

    /// Work that makes a buffer of so many f32.
    fn made(&self, len: usize, work: impl FnOnce() -> Result<Buffer<f32>>) -> GpuBuffer {
        plain(&self.failure, len, work)
    }

    fn angles(&self, rotary: &Rotary, positions: &[u32]) -> Result<Arc<RotaryAngles>> {
        let mut angles = self.angles.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, _, known)) = angles.iter().find(|(r, p, _)| p == positions && r == rotary) {
            return Ok(Arc::clone(known));
        }
        let new = Arc::new(RotaryAngles::new(&self.gpu, rotary, positions)?);
        if angles.len() >= KEPT_ANGLES {
            angles.remove(0);
        }
        angles.push((rotary.clone(), positions.to_vec(), Arc::clone(&new)));
        Ok(new)
    }
}

impl Accelerator for Layers {
    fn name(&self) -> String {
        let how = match self.precision {
            Precision::F32 => "f32",
            Precision::Bf16 => "bf16 products",
        };
        format!("{}, {how}", self.gpu.name())
    }

    fn memory(&self) -> GpuMemory {
        GpuMemory { used: self.gpu.used(), peak: self.gpu.peak(), limit: self.gpu.most() }
    }

    fn transfers(&self) -> GpuTransfers {
        let (uploads, downloads) = self.gpu.transfers();
        GpuTransfers { uploads, downloads }
    }

    fn limit(&self, bytes: u64) {
        self.gpu.limit(bytes);
    }

    fn reset_peak(&self) {
        self.gpu.reset_peak();
    }

    fn take_error(&self) -> Option<DeviceError> {
        self.failure.take()
    }

    fn synchronize(&self) {
        self.run(|| self.gpu.synchronize());
    }

    fn empty(&self, len: usize) -> GpuBuffer {
        self.made(len, || self.gpu.allocate(len))
    }

    fn zeros(&self, len: usize) -> GpuBuffer {
        self.made(len, || self.gpu.zeros(len))
    }

    fn clear(&self, x: &mut GpuBuffer) {
        self.run(|| singles_mut(x)?.clear());
    }

    fn upload(&self, elements: &[f32]) -> GpuBuffer {
        self.made(elements.len(), || self.gpu.upload(elements))
    }

    fn upload_halves(&self, bits: &[u16]) -> GpuBuffer {
        plain(&self.failure, bits.len(), || self.gpu.upload(bits))
    }

    fn upload_blocks(&self, blocks: QuantizedView<'_>) -> GpuBuffer {
        let matrix = self.failure.guard(|| QuantizedBuffer::upload(&self.gpu, blocks));
        GpuBuffer::new(Blocks { matrix, len: blocks.bytes().len() })
    }

    fn zero_bytes(&self, len: usize) -> GpuBuffer {
        plain::<u8>(&self.failure, len, || self.gpu.zeros(len))
    }

    fn write(&self, to: &mut GpuBuffer, elements: &[f32]) {
        self.run(|| singles_mut(to)?.upload(elements));
    }

    fn write_bytes(&self, to: &mut GpuBuffer, bytes: &[u8]) {
        self.run(|| elements_mut::<u8>(to)?.upload(bytes));
    }

    fn download(&self, from: &GpuBuffer, to: &mut [f32]) {
        if self.failure.guard(|| singles(from)?.download_to(to)).is_none() {
            to.fill(f32::NAN);
        }
    }

    fn download_bytes(&self, from: &GpuBuffer, to: &mut [u8]) {
        self.run(|| elements::<u8>(from)?.download_to(to));
    }

    fn download_halves(&self, from: &GpuBuffer, to: &mut [u16]) {
        if self.failure.guard(|| elements::<u16>(from)?.download_to(to)).is_none() {
            // Not a number as f16 and as bf16.
            to.fill(0x7fff);
        }
    }

    fn download_blocks(&self, from: &GpuBuffer, to: &mut [u8]) {
        self.run(|| blocks(from)?.bytes().download_to(to));
    }
}

impl Optimizer for Layers {
    fn adamw(&self, parameter: &mut Tensor, gradients: &Tensor, moments: &mut Moments, step: &AdamWStep) {
        let settings = Settings {
            learning_rate: step.learning_rate,
            beta1: step.betas.0,
            beta2: step.betas.1,
            epsilon: step.epsilon,
            decay: step.decay,
            step: step.step,
            factor: step.factor,
        };
        self.run(|| {
            let (parameter, gradients) = (values_mut(parameter)?, values(gradients)?);
            match moments {
                Moments::Full([first, second]) => {
                    adamw::update(parameter, gradients, values_mut(first)?, values_mut(second)?, &settings)
                }
                Moments::EightBit {
                    codes: [first, second],
                    scales: [first_scales, second_scales],
                    position,
                } => {
                    let moments = adamw::EightBitMoments {
                        first: elements_mut(first.on_gpu_mut())?,
                        second: elements_mut(second.on_gpu_mut())?,
                        first_scales: values_mut(first_scales)?,
                        second_scales: values_mut(second_scales)?,
                    };
                    adamw::update_eight_bit(parameter, gradients, moments, *position, &settings)
                }
            }
        });
    }
}
