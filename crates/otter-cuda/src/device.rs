//! Devices by their names, and GPUs that are open.

use std::sync::{Mutex, PoisonError};

use otter_nn::Device;
use otter_nn::backend::GpuHandle;

use crate::backend::Layers;
use crate::{Gpu, GpuError, Precision, Result};

/// GPUs that are open, with how they multiply.
static OPEN: Mutex<Vec<(usize, Precision, GpuHandle)>> = Mutex::new(Vec::new());

/// GPU `ordinal` of this machine as a device for layers, open for the rest of the process.
///
/// # Errors
/// As [`Gpu::new`].
pub fn open(ordinal: usize, precision: Precision) -> Result<Device> {
    let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    let known = open.iter().find(|(number, how, _)| (*number, *how) == (ordinal, precision));
    if let Some(&(_, _, gpu)) = known {
        return Ok(Device::Gpu(gpu));
    }
    let gpu = handle(Gpu::new(ordinal)?, precision);
    open.push((ordinal, precision, gpu));
    Ok(Device::Gpu(gpu))
}

/// The device with this name: `cpu`, `cuda` (GPU 0), `cuda:N`, and in builds with the feature `emulate` also `emulated` and, a
/// GPU that computes nothing and counts its memory, `counted`.
///
/// # Errors
/// As [`open`]; an unknown name; rounded products on the host, which computes in f32.
pub fn device(name: &str, precision: Precision) -> Result<Device> {
    let number = match name {
        "cpu" if precision == Precision::F32 => return Ok(Device::Cpu),
        "cpu" => return Err(GpuError::RoundedOnHost),
        #[cfg(feature = "emulate")]
        "emulated" => return Ok(emulated(precision)),
        #[cfg(feature = "emulate")]
        "counted" => return Ok(Device::Gpu(handle(Gpu::counted(), precision))),
        "cuda" => Some(0),
        _ => name.strip_prefix("cuda:").and_then(|number| number.parse().ok()),
    };
    let number = number.ok_or_else(|| GpuError::UnknownDevice(name.to_owned()))?;
    open(number, precision)
}

/// The host in place of a GPU, for tests: a device of its own with every call.
#[cfg(feature = "emulate")]
pub fn emulated(precision: Precision) -> Device {
    Device::Gpu(handle(Gpu::emulated(), precision))
}

fn handle(gpu: Gpu, precision: Precision) -> GpuHandle {
    // A device is named by every tensor on it; there are as many as a process opens GPUs.
    GpuHandle::new(Box::leak(Box::new(Layers::new(gpu, precision))))
}
