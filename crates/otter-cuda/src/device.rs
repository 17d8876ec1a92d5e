//! Devices by their names, and cards that are open.

use std::sync::{Mutex, PoisonError};

use otter_nn::Device;
use otter_nn::backend::Card;

use crate::backend::Layers;
use crate::{Gpu, GpuError, Precision, Result};

/// Cards that are open, with how they multiply.
static OPEN: Mutex<Vec<(usize, Precision, Card)>> = Mutex::new(Vec::new());

/// Card `ordinal` of this machine as a device for layers, open for the rest of the process.
///
/// # Errors
/// As [`Gpu::new`].
pub fn open(ordinal: usize, precision: Precision) -> Result<Device> {
    let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    let known = open.iter().find(|(number, how, _)| (*number, *how) == (ordinal, precision));
    if let Some(&(_, _, card)) = known {
        return Ok(Device::Card(card));
    }
    let card = card(Gpu::new(ordinal)?, precision);
    open.push((ordinal, precision, card));
    Ok(Device::Card(card))
}

/// The device with this name: `cpu`, `cuda` (card 0), `cuda:N`, and in builds with the feature `emulate` also `emulated` and, a
/// card that computes nothing and counts its memory, `counted`.
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
        "counted" => return Ok(Device::Card(card(Gpu::counted(), precision))),
        "cuda" => Some(0),
        _ => name.strip_prefix("cuda:").and_then(|number| number.parse().ok()),
    };
    let number = number.ok_or_else(|| GpuError::UnknownDevice(name.to_owned()))?;
    open(number, precision)
}

/// The host in place of a card, for tests: a device of its own with every call.
#[cfg(feature = "emulate")]
pub fn emulated(precision: Precision) -> Device {
    Device::Card(card(Gpu::emulated(), precision))
}

fn card(gpu: Gpu, precision: Precision) -> Card {
    // A device is named by every tensor on it; there are as many as a process opens cards.
    Card::new(Box::leak(Box::new(Layers::new(gpu, precision))))
}
