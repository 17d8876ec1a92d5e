//! What can go wrong on a GPU.

use otter_nn::DeviceError;

/// An error of a GPU or of what was asked of it.
#[derive(Debug, thiserror::Error)]
pub enum GpuError {
    /// No device has this name.
    #[error("`{0}` is no device; there are `cpu`, `cuda` and, of several GPUs, `cuda:0`, `cuda:1`, …")]
    UnknownDevice(String),
    /// Products of rounded factors were asked of the host.
    #[error("dtype bf16 needs a GPU (device `cuda`): the host computes in f32")]
    RoundedOnHost,
    /// This build has no GPUs.
    #[error(
        "this build cannot use a GPU: build it with `--features cuda` (docs/cuda.md says what that needs)"
    )]
    NotBuilt,
    /// The driver is not there, or too old.
    #[error("the CUDA driver (libcuda) cannot be used: {0}; install the driver of the GPU (580 or later)")]
    NoDriver(String),
    /// No such GPU.
    #[error("there is no GPU {ordinal}: the driver knows {count}")]
    NoGpu {
        /// Number asked for.
        ordinal: usize,
        /// GPUs that are there.
        count: usize,
    },
    /// More memory than there is, or than was allowed.
    #[error("{wanted} bytes more do not fit: {used} of {limit} bytes are in use ({why})")]
    OutOfMemory {
        /// Bytes asked for.
        wanted: u64,
        /// Bytes in use.
        used: u64,
        /// Bytes allowed.
        limit: u64,
        /// Who refused.
        why: String,
    },
    /// Something that was to be made when the GPU failed.
    #[error("memory of the GPU was lost by an earlier failure")]
    Lost,
    /// A kernel that is not part of this build.
    #[error("there is no kernel `{0}` in this build")]
    NoKernel(String),
    /// The driver refused something.
    #[error("{what}: {error}")]
    Driver {
        /// What was asked for.
        what: String,
        /// The driver's answer.
        error: String,
    },
}

impl From<GpuError> for DeviceError {
    fn from(error: GpuError) -> Self {
        match error {
            GpuError::OutOfMemory { .. } => Self::OutOfMemory(error.to_string()),
            _ => Self::Failed(error.to_string()),
        }
    }
}
