//! What can go wrong in a quickstart.

use std::path::PathBuf;

use thiserror::Error;

/// What can go wrong in a quickstart.
#[derive(Debug, Error)]
pub enum QuickstartError {
    /// A device that is not there.
    #[error(transparent)]
    Device(#[from] otter_cuda::GpuError),
    /// Sizes that make no model, or input it refuses.
    #[error(transparent)]
    Model(#[from] otter_model::ModelError),
    /// A checkpoint that cannot be read or written.
    #[error(transparent)]
    Checkpoint(#[from] otter_checkpoint::CheckpointError),
    /// Data that cannot be written.
    #[error(transparent)]
    Toybox(#[from] crate::world::ToyboxError),
    /// Training that failed.
    #[error(transparent)]
    Train(#[from] otter_train::TrainError),
    /// Evaluation that failed.
    #[error(transparent)]
    Evaluation(#[from] otter_eval::EvaluationError),
    /// Data that cannot be read.
    #[error(transparent)]
    Data(#[from] otter_data::DataError),
    /// A summary that is no JSON.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    /// A scale out of bounds.
    #[error("the scale is {found}; it must be above 0 and at most 10")]
    Scale {
        /// The scale asked for.
        found: f64,
    },
    /// Something else lies where results would go.
    #[error("{path} exists and no quickstart made it; choose another --out so that nothing is overwritten")]
    Occupied {
        /// What would be replaced.
        path: PathBuf,
    },
    /// The run was interrupted.
    #[error("interrupted during: {stage}; checkpoints written so far are kept")]
    Interrupted {
        /// The stage that was under way.
        stage: String,
    },
    /// A run without steps.
    #[error("the tuning made no checkpoint; nothing can be evaluated")]
    NoCheckpoint,
    /// A file that cannot be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
}
