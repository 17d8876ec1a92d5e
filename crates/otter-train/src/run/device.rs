//! Where a run computes, and how: `train.device` and `train.dtype`.

use otter_nn::{DType, Device};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use crate::config::TrainConfig;
use crate::error::{Result, TrainError};
use crate::memory;

/// The types that products of many rows are computed in.
const PRODUCTS: [DType; 2] = [DType::F32, DType::Bf16];

/// Reads how products of many rows are computed: `f32`, or factors rounded to bfloat16 with sums in f32, on a GPU.
/// Weights that are trained, their gradients and moments are f32 in either case.
pub(crate) fn products<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<DType, D::Error> {
    let name = String::deserialize(deserializer)?;
    let found = PRODUCTS.into_iter().find(|dtype| dtype.name() == name);
    found.ok_or_else(|| D::Error::unknown_variant(&name, &["f32", "bf16"]))
}

/// Opens the device of a run. A GPU takes no more memory than `train.memory` says.
///
/// # Errors
/// When there is no such device.
pub(crate) fn open(config: &TrainConfig) -> Result<Device> {
    let device = otter_cuda::device(&config.train.device, config.train.dtype.into())
        .map_err(|error| TrainError::config("train.device", error.to_string()))?;
    if let Some(gpu) = device.gpu() {
        gpu.limit(config.memory_limit()?.unwrap_or(u64::MAX));
    }
    Ok(device)
}

/// Memory in use at most since [`reset_peak`]: of the GPU, or of this process where it computes on the host.
pub(crate) fn peak_bytes(device: Device) -> Option<u64> {
    match device {
        Device::Cpu => memory::peak_bytes(),
        Device::Gpu(gpu) => Some(gpu.memory().peak),
    }
}

/// Lets the peak start again from the present value.
pub(crate) fn reset_peak(device: Device) {
    match device {
        Device::Cpu => memory::reset_peak(),
        Device::Gpu(gpu) => gpu.reset_peak(),
    }
}
