//! What a run is made of, and what its evaluations give.

use std::sync::atomic::AtomicBool;

use otter_nn::{Device, Parameters};

use crate::config::TrainConfig;
use crate::error::Result;
use crate::metrics::json_lines::Evaluated;
use crate::model::BatchSource;
use crate::run::directory::{Resumable, RunDirectory};

/// Evaluates the parameters; gives nothing when interrupted meanwhile.
pub type Evaluation<'a> = dyn FnMut(&Parameters) -> Result<Option<Evaluated>> + Send + 'a;

/// What a run is made of.
pub struct Setup<'a, M> {
    /// The resolved configuration.
    pub config: &'a TrainConfig,
    /// Layers.
    pub model: &'a M,
    /// Weights on the host, with the trained ones marked; they go to `device`.
    pub parameters: &'a mut Parameters,
    /// Where the run computes.
    pub device: Device,
    /// Training data, standing where the checkpoint left it.
    pub source: &'a mut dyn BatchSource,
    /// Optimizer steps of the whole run.
    pub total_steps: u64,
    /// Token ids whose rows of the token tables are trained; `None`: all.
    pub embedding_rows: Option<Vec<u32>>,
    /// Where to write.
    pub run: &'a RunDirectory,
    /// The checkpoint to go on from.
    pub resume: Option<&'a Resumable>,
    /// Evaluates, where there is held-out data.
    pub evaluation: Option<&'a mut Evaluation<'a>>,
    /// Set from outside to stop with a checkpoint.
    pub interrupt: &'a AtomicBool,
    /// Bytes that the process held before the weights were loaded.
    pub process_bytes: u64,
    /// The cache of decoded pictures.
    pub picture_cache: PictureCache<'a>,
}

/// What the data keeps of decoded pictures. It grows as the run goes on.
#[derive(Clone, Copy)]
pub struct PictureCache<'a> {
    /// Bytes that it may take.
    pub limit: u64,
    /// Bytes that it takes now.
    pub held: &'a (dyn Fn() -> u64 + Sync),
}
