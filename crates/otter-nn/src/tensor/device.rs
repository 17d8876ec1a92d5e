//! Devices, and what can go wrong on them.

use crate::Float;
use crate::backend::cpu::Cpu;
use crate::backend::{Backend, GpuHandle, Optimizer};

/// Where a tensor's elements live and its kernels run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Device {
    /// Host memory and host threads.
    #[default]
    Cpu,
    /// A GPU: its memory, its kernels, for f32.
    Gpu(GpuHandle),
}

/// Why a device gives no results.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceError {
    /// More memory was asked for than there is, or than was allowed. The pass is lost, the device is not.
    OutOfMemory(String),
    /// The device failed; what it was doing is lost.
    Failed(String),
}

impl DeviceError {
    /// The same error, with what was being done before it.
    pub fn context(self, doing: impl std::fmt::Display) -> Self {
        match self {
            Self::OutOfMemory(message) => Self::OutOfMemory(format!("{doing}: {message}")),
            Self::Failed(message) => Self::Failed(format!("{doing}: {message}")),
        }
    }
}

impl std::fmt::Display for DeviceError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (Self::OutOfMemory(message) | Self::Failed(message)) = self;
        message.fmt(f)
    }
}

impl std::error::Error for DeviceError {}

impl Device {
    /// The operations on tensors of this device.
    ///
    /// # Panics
    /// When it is a GPU and the elements are not f32.
    pub fn backend<T: Float>(self) -> &'static dyn Backend<T> {
        match self {
            Self::Cpu => &Cpu,
            Self::Gpu(gpu) => T::backend_of(gpu),
        }
    }

    /// The updates of parameters on this device.
    pub fn optimizer(self) -> &'static dyn Optimizer {
        match self {
            Self::Cpu => &Cpu,
            Self::Gpu(gpu) => gpu.optimizer(),
        }
    }

    /// The GPU, if it is one.
    pub fn gpu(self) -> Option<GpuHandle> {
        match self {
            Self::Cpu => None,
            Self::Gpu(gpu) => Some(gpu),
        }
    }

    /// Whether everything that was asked of the device so far succeeded, or is still under way.
    ///
    /// # Errors
    /// The first failure since this was last asked.
    pub fn check(self) -> Result<(), DeviceError> {
        self.gpu().and_then(|gpu| gpu.take_error()).map_or(Ok(()), Err)
    }
}
