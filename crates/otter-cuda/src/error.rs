//! What can go wrong on a card.

use otter_nn::DeviceError;

/// An error of a card or of what was asked of it.
#[derive(Debug, thiserror::Error)]
pub enum GpuError {
    /// No device has this name.
    #[error("`{0}` is no device; there are `cpu`, `cuda` and, of several cards, `cuda:0`, `cuda:1`, …")]
    UnknownDevice(String),
    /// Products of rounded factors were asked of the host.
    #[error("dtype bf16 needs a card (device `cuda`): the host computes in f32")]
    RoundedOnHost,
    /// This build has no cards.
    #[error(
        "this build cannot use a card: build it with `--features cuda` (docs/cuda.md says what that needs)"
    )]
    NotBuilt,
    /// The driver is not there, or too old.
    #[error("the CUDA driver (libcuda) cannot be used: {0}; install the driver of the card (580 or later)")]
    NoDriver(String),
    /// No such card.
    #[error("there is no card {ordinal}: the driver knows {count}")]
    NoCard {
        /// Number asked for.
        ordinal: usize,
        /// Cards that are there.
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
    /// Something that was to be made when the card failed.
    #[error("memory of the card was lost by an earlier failure")]
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
