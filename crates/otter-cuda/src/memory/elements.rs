//! What a GPU keeps behind a [`GpuBuffer`], and the first failure of a device.

use std::sync::{Arc, Mutex, PoisonError};

use otter_nn::backend::{GpuBuffer, GpuElements};
use otter_nn::{DeviceError, Tensor};

use crate::quantized::QuantizedBuffer;
use crate::{Buffer, Element, GpuError, Matrix, Result};

/// The first failure, until somebody asks.
#[derive(Default)]
pub(crate) struct Failure(Mutex<Option<DeviceError>>);

impl Failure {
    /// The first failure since this was last asked.
    pub(crate) fn take(&self) -> Option<DeviceError> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn is_there(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// The result of some work, unless it or something before failed.
    pub(crate) fn guard<R>(&self, work: impl FnOnce() -> Result<R>) -> Option<R> {
        if self.is_there() {
            return None;
        }
        match work() {
            Ok(result) => Some(result),
            Err(error) => {
                self.0.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error.into());
                None
            }
        }
    }
}

/// Plain elements behind a [`GpuBuffer`]; nothing after a failure.
pub(crate) struct Plain<T: Element> {
    pub(crate) buffer: Option<Buffer<T>>,
    pub(crate) len: usize,
    pub(crate) failure: Arc<Failure>,
}

/// Blocks behind a [`GpuBuffer`]; its length is in bytes.
pub(crate) struct Blocks {
    pub(crate) matrix: Option<QuantizedBuffer>,
    pub(crate) len: usize,
}

impl<T: Element> GpuElements for Plain<T> {
    fn len(&self) -> usize {
        self.len
    }

    fn bytes(&self) -> u64 {
        (self.len * size_of::<T>()) as u64
    }

    fn duplicate(&self) -> GpuBuffer {
        plain(&self.failure, self.len, || self.buffer.as_ref().ok_or(GpuError::Lost)?.duplicate())
    }
}

impl GpuElements for Blocks {
    fn len(&self) -> usize {
        self.len
    }

    fn bytes(&self) -> u64 {
        self.len as u64
    }

    fn duplicate(&self) -> GpuBuffer {
        GpuBuffer::new(Self { matrix: self.matrix.clone(), len: self.len })
    }
}

/// The buffer that some work makes, of so many elements.
pub(crate) fn plain<T: Element>(
    failure: &Arc<Failure>,
    len: usize,
    work: impl FnOnce() -> Result<Buffer<T>>,
) -> GpuBuffer {
    let buffer = failure.guard(work);
    debug_assert!(buffer.as_ref().is_none_or(|buffer| buffer.len() == len), "a buffer of another length");
    GpuBuffer::new(Plain { buffer, len, failure: Arc::clone(failure) })
}

/// What a GPU's buffer holds, of these elements.
///
/// # Panics
/// When it is of others: a mistake of the layer.
pub(crate) fn elements<T: Element>(buffer: &GpuBuffer) -> Result<&Buffer<T>> {
    let Some(plain) = buffer.elements::<Plain<T>>() else {
        panic!("a buffer of other elements");
    };
    plain.buffer.as_ref().ok_or(GpuError::Lost)
}

pub(crate) fn elements_mut<T: Element>(buffer: &mut GpuBuffer) -> Result<&mut Buffer<T>> {
    let Some(plain) = buffer.elements_mut::<Plain<T>>() else {
        panic!("a buffer of other elements");
    };
    plain.buffer.as_mut().ok_or(GpuError::Lost)
}

pub(crate) fn singles(buffer: &GpuBuffer) -> Result<&Buffer<f32>> {
    elements(buffer)
}

pub(crate) fn singles_mut(buffer: &mut GpuBuffer) -> Result<&mut Buffer<f32>> {
    elements_mut(buffer)
}

/// The elements of a tensor.
pub(crate) fn values(tensor: &Tensor) -> Result<&Buffer<f32>> {
    elements(tensor.on_gpu())
}

pub(crate) fn values_mut(tensor: &mut Tensor) -> Result<&mut Buffer<f32>> {
    elements_mut(tensor.on_gpu_mut())
}

/// A matrix as the kernels take it.
pub(crate) enum Stored<'a> {
    Plain(Matrix<'a>),
    Blocks(&'a QuantizedBuffer),
}

pub(crate) fn stored(matrix: otter_nn::Matrix<'_, f32>) -> Result<Stored<'_>> {
    use otter_nn::Matrix as Kept;
    Ok(match matrix {
        Kept::Full(tensor) => Stored::Plain(Matrix::F32(values(tensor)?)),
        Kept::F16(tensor) => Stored::Plain(Matrix::F16(elements(tensor.on_gpu())?)),
        Kept::Bf16(tensor) => Stored::Plain(Matrix::Bf16(elements(tensor.on_gpu())?)),
        Kept::Quantized(matrix) => Stored::Blocks(blocks(matrix.on_gpu())?),
    })
}

pub(crate) fn blocks(buffer: &GpuBuffer) -> Result<&QuantizedBuffer> {
    let Some(blocks) = buffer.elements::<Blocks>() else {
        panic!("a buffer of other elements");
    };
    blocks.matrix.as_ref().ok_or(GpuError::Lost)
}
