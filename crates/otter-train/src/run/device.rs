//! Where a run computes, and how: `train.device` and `train.dtype`.

use otter_cuda::Precision;
use otter_nn::Device;
use serde::{Deserialize, Serialize};

use crate::config::TrainConfig;
use crate::error::{Result, TrainError};
use crate::memory;

/// How products of many rows are computed. Weights that are trained, their gradients and moments are f32 in either case.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// In f32.
    #[default]
    F32,
    /// Factors rounded to bfloat16, sums in f32; on cards.
    Bf16,
}

impl From<Dtype> for Precision {
    fn from(dtype: Dtype) -> Self {
        match dtype {
            Dtype::F32 => Self::F32,
            Dtype::Bf16 => Self::Bf16,
        }
    }
}

/// Opens the device of a run. A card takes no more memory than `train.memory` says.
///
/// # Errors
/// When there is no such device.
pub(crate) fn open(config: &TrainConfig) -> Result<Device> {
    let device = otter_cuda::device(&config.train.device, config.train.dtype.into())
        .map_err(|error| TrainError::config("train.device", error.to_string()))?;
    if let Some(card) = device.card() {
        card.limit(config.memory_limit()?.unwrap_or(u64::MAX));
    }
    Ok(device)
}

/// Memory in use at most since [`reset_peak`]: of the card, or of this process where it computes on the host.
pub(crate) fn peak_bytes(device: Device) -> Option<u64> {
    match device {
        Device::Cpu => memory::peak_bytes(),
        Device::Card(card) => Some(card.memory().peak),
    }
}

/// Lets the peak start again from the present value.
pub(crate) fn reset_peak(device: Device) {
    match device {
        Device::Cpu => memory::reset_peak(),
        Device::Card(card) => card.reset_peak(),
    }
}
