//! What a card keeps behind a [`CardBuffer`], and the first failure of a device.

use std::sync::{Arc, Mutex, PoisonError};

use otter_nn::card::{CardBuffer, CardElements, CardMatrix};

use crate::quantised::QuantisedBuffer;
use crate::{Buffer, Element, GpuError, Matrix, Result};

/// The first failure, until somebody asks.
#[derive(Default)]
pub(crate) struct Failure(Mutex<Option<String>>);

impl Failure {
    /// The first failure since this was last asked.
    pub(crate) fn take(&self) -> Option<String> {
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
                self.0.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error.to_string());
                None
            }
        }
    }
}

/// Plain elements behind a [`CardBuffer`]; nothing after a failure.
pub(crate) struct Plain<T: Element> {
    pub(crate) buffer: Option<Buffer<T>>,
    pub(crate) len: usize,
    pub(crate) failure: Arc<Failure>,
}

/// Blocks behind a [`CardBuffer`]; its length is in bytes.
pub(crate) struct Blocks {
    pub(crate) matrix: Option<QuantisedBuffer>,
    pub(crate) len: usize,
}

impl<T: Element> CardElements for Plain<T> {
    fn len(&self) -> usize {
        self.len
    }

    fn bytes(&self) -> u64 {
        (self.len * size_of::<T>()) as u64
    }

    fn duplicate(&self) -> CardBuffer {
        plain(&self.failure, self.len, || self.buffer.as_ref().ok_or(GpuError::Lost)?.duplicate())
    }
}

impl CardElements for Blocks {
    fn len(&self) -> usize {
        self.len
    }

    fn bytes(&self) -> u64 {
        self.len as u64
    }

    fn duplicate(&self) -> CardBuffer {
        CardBuffer::new(Self { matrix: self.matrix.clone(), len: self.len })
    }
}

/// The buffer that some work makes, of so many elements.
pub(crate) fn plain<T: Element>(
    failure: &Arc<Failure>,
    len: usize,
    work: impl FnOnce() -> Result<Buffer<T>>,
) -> CardBuffer {
    let buffer = failure.guard(work);
    debug_assert!(buffer.as_ref().is_none_or(|buffer| buffer.len() == len), "a buffer of another length");
    CardBuffer::new(Plain { buffer, len, failure: Arc::clone(failure) })
}

/// What a card's buffer holds, of these elements.
///
/// # Panics
/// When it is of others: a mistake of the layer.
pub(crate) fn elements<T: Element>(buffer: &CardBuffer) -> Result<&Buffer<T>> {
    let Some(plain) = buffer.elements::<Plain<T>>() else {
        panic!("a buffer of other elements");
    };
    plain.buffer.as_ref().ok_or(GpuError::Lost)
}

pub(crate) fn elements_mut<T: Element>(buffer: &mut CardBuffer) -> Result<&mut Buffer<T>> {
    let Some(plain) = buffer.elements_mut::<Plain<T>>() else {
        panic!("a buffer of other elements");
    };
    plain.buffer.as_mut().ok_or(GpuError::Lost)
}

pub(crate) fn singles(buffer: &CardBuffer) -> Result<&Buffer<f32>> {
    elements(buffer)
}

pub(crate) fn singles_mut(buffer: &mut CardBuffer) -> Result<&mut Buffer<f32>> {
    elements_mut(buffer)
}

/// A matrix as the kernels take it.
pub(crate) enum Stored<'a> {
    Plain(Matrix<'a>),
    Blocks(&'a QuantisedBuffer),
}

pub(crate) fn stored(matrix: CardMatrix<'_>) -> Result<Stored<'_>> {
    Ok(match matrix {
        CardMatrix::F32(buffer) => Stored::Plain(Matrix::F32(elements(buffer)?)),
        CardMatrix::F16(buffer) => Stored::Plain(Matrix::F16(elements(buffer)?)),
        CardMatrix::Bf16(buffer) => Stored::Plain(Matrix::Bf16(elements(buffer)?)),
        CardMatrix::Quantised(buffer) => Stored::Blocks(blocks(buffer)?),
    })
}

pub(crate) fn blocks(buffer: &CardBuffer) -> Result<&QuantisedBuffer> {
    let Some(blocks) = buffer.elements::<Blocks>() else {
        panic!("a buffer of other elements");
    };
    blocks.matrix.as_ref().ok_or(GpuError::Lost)
}
