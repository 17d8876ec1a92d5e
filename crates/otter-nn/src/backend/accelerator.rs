//! A GPU: a [`Backend`] with memory of its own. `otter-cuda` implements it; nothing of a GPU's library is known here.
//!
//! Work is done in the order in which it is asked for, and may be done later: nothing waits but what brings numbers back.
//! So that layers read the same for every backend, operations return no errors. The first one that fails is kept, nothing is
//! done after it, and [`Accelerator::take_error`] gives it to whoever ends a pass ([`Device::check`](crate::Device::check));
//! numbers that are brought back after a failure are NaN. An operation that a GPU does not have is such an error: none is
//! done on the host instead.

use std::any::Any;
use std::fmt;
use std::ops::Deref;

use crate::backend::{Backend, Optimizer};
use crate::{DeviceError, QuantizedView};

/// Elements in memory of a GPU, freed with it.
pub struct GpuBuffer(Box<dyn GpuElements>);

/// What a GPU keeps for a [`GpuBuffer`].
pub trait GpuElements: Any + Send + Sync {
    /// Number of elements.
    fn len(&self) -> usize;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes.
    fn bytes(&self) -> u64;

    /// The same elements once more.
    fn duplicate(&self) -> GpuBuffer;
}

impl GpuBuffer {
    /// Wraps what a GPU keeps.
    pub fn new(elements: impl GpuElements) -> Self {
        Self(Box::new(elements))
    }

    /// What the GPU keeps, if it is of this type.
    pub fn elements<E: GpuElements>(&self) -> Option<&E> {
        (&*self.0 as &dyn Any).downcast_ref()
    }

    /// As [`GpuBuffer::elements`], writable.
    pub fn elements_mut<E: GpuElements>(&mut self) -> Option<&mut E> {
        (&mut *self.0 as &mut dyn Any).downcast_mut()
    }
}

impl Deref for GpuBuffer {
    type Target = dyn GpuElements;

    fn deref(&self) -> &Self::Target {
        &*self.0
    }
}

impl Clone for GpuBuffer {
    fn clone(&self) -> Self {
        self.0.duplicate()
    }
}

impl fmt::Debug for GpuBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GpuBuffer({} elements)", self.len())
    }
}

/// Memory of a GPU, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GpuMemory {
    /// What buffers take now.
    pub used: u64,
    /// Most that they took at once since [`Accelerator::reset_peak`].
    pub peak: u64,
    /// Most that they may take.
    pub limit: u64,
}

/// Copies between the host and a GPU since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GpuTransfers {
    /// To the GPU.
    pub uploads: u64,
    /// From it: each waits for everything that was asked for before.
    pub downloads: u64,
}

/// A GPU's memory, beside its operations. Elements are f32 where nothing else is said; lengths that do not fit each other are
/// mistakes of the caller and panic.
pub trait Accelerator: Backend<f32> + Optimizer {
    /// Name of the GPU, and how it multiplies.
    fn name(&self) -> String;
    /// What is in use.
    fn memory(&self) -> GpuMemory;
    /// Copies so far.
    fn transfers(&self) -> GpuTransfers;
    /// Refuses to take more memory than this, as if the GPU were smaller.
    fn limit(&self, bytes: u64);
    /// Begins to look for a new peak.
    fn reset_peak(&self);
    /// The first failure since this was last asked; the GPU is then used again.
    fn take_error(&self) -> Option<DeviceError>;
    /// Waits until everything is done.
    fn synchronize(&self);

    /// Memory for `len` elements, whatever is in it.
    fn empty(&self, len: usize) -> GpuBuffer;
    /// `len` zeros.
    fn zeros(&self, len: usize) -> GpuBuffer;
    /// Zeros in all of a buffer.
    fn clear(&self, x: &mut GpuBuffer);
    /// A copy of elements of the host.
    fn upload(&self, elements: &[f32]) -> GpuBuffer;
    /// A copy of 16-bit elements of the host, by their bits.
    fn upload_halves(&self, bits: &[u16]) -> GpuBuffer;
    /// A copy of blocks of the host.
    fn upload_blocks(&self, blocks: QuantizedView<'_>) -> GpuBuffer;
    /// `len` bytes of zero.
    fn zero_bytes(&self, len: usize) -> GpuBuffer;
    /// Writes elements of the host over all of a buffer.
    fn write(&self, to: &mut GpuBuffer, elements: &[f32]);
    /// Writes bytes of the host over all of a buffer of bytes.
    fn write_bytes(&self, to: &mut GpuBuffer, bytes: &[u8]);
    /// Brings elements back, when everything asked for before is done.
    fn download(&self, from: &GpuBuffer, to: &mut [f32]);
    /// Brings bytes back.
    fn download_bytes(&self, from: &GpuBuffer, to: &mut [u8]);
    /// Brings 16-bit elements back.
    fn download_halves(&self, from: &GpuBuffer, to: &mut [u16]);
    /// Brings blocks back as their bytes.
    fn download_blocks(&self, from: &GpuBuffer, to: &mut [u8]);
}

/// A GPU that is open for the rest of the process.
#[derive(Clone, Copy)]
pub struct GpuHandle(&'static dyn Accelerator);

impl GpuHandle {
    /// The GPU behind this object.
    pub fn new(accelerator: &'static dyn Accelerator) -> Self {
        Self(accelerator)
    }

    /// Its updates of parameters.
    pub fn optimizer(self) -> &'static dyn Optimizer {
        self.0
    }

    /// Its operations.
    pub fn backend(self) -> &'static dyn Backend<f32> {
        self.0
    }
}

impl Deref for GpuHandle {
    type Target = dyn Accelerator;

    fn deref(&self) -> &Self::Target {
        self.0
    }
}

impl fmt::Debug for GpuHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Gpu({})", self.0.name())
    }
}

impl PartialEq for GpuHandle {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::addr_eq(self.0, other.0)
    }
}

impl Eq for GpuHandle {}
