//! What can go wrong in a quickstart.

use std::path::PathBuf;

use thiserror::Error;

/// What can go wrong in a quickstart.
#[derive(Debug, Error)]
pub enum QuickstartError {
    /// Sizes that make no model, or input it refuses.
    #[error(transparent)]
    Model(#[from] otter_model::ModelError),
    /// A checkpoint that cannot be read or written.
    #[error(transparent)]
    Checkpoint(#[from] otter_checkpoint::CheckpointError),
    /// Data that cannot be written.
    #[error(transparent)]
    Toybox(#[from] otter_mimicit::toybox::ToyboxError),
    /// A file that cannot be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
}
