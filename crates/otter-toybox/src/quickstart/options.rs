//! What a quickstart is asked for, and what it measures.

use std::path::PathBuf;

use otter_cuda::Precision;
use otter_eval::{Evaluation, Measure, ShotTable};
use otter_nn::Device;

use super::error::QuickstartError;

/// The measure that the tables and the report show first.
pub const MEASURE: Measure = Measure::Choice;

/// What to run.
#[derive(Clone, Debug)]
pub struct QuickstartOptions {
    /// Run directory.
    pub out: PathBuf,
    /// Seed of data and tuning.
    pub seed: u64,
    /// Base model; `None` for the one that ships with this project.
    pub base: Option<PathBuf>,
    /// Factor on data and steps.
    pub scale: f64,
    /// Where tuning and evaluation compute: see `train.device` of a run.
    pub device: String,
    /// Whether a GPU multiplies factors rounded to bf16.
    pub rounded: bool,
}

impl QuickstartOptions {
    /// Opens the device.
    pub(super) fn open(&self) -> Result<Device, QuickstartError> {
        let precision = if self.rounded { Precision::Bf16 } else { Precision::F32 };
        Ok(otter_cuda::device(&self.device, precision)?)
    }
}

/// A model measured by shots.
pub struct Measured {
    /// Accuracy by family and shots.
    pub table: ShotTable,
    /// Every query.
    pub evaluation: Evaluation,
}
