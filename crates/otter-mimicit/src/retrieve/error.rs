//! What can go wrong while in-context examples are picked.

use std::path::{Path, PathBuf};

use otter_checkpoint::CheckpointError;
use otter_data::DataError;

/// Any failure of retrieval. Every message names the file or option, what was found and what to do.
#[derive(Debug, thiserror::Error)]
pub enum RetrieveError {
    /// The operating system refused.
    #[error("{}: cannot {action}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was attempted.
        action: &'static str,
        /// The system's answer.
        source: std::io::Error,
    },
    /// A file is readable but not what was expected.
    #[error("{}: {problem}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What was found, what was expected, and what to do.
        problem: String,
    },
    /// Options contradict each other or the data.
    #[error("{0}")]
    Options(String),
    /// A data file.
    #[error(transparent)]
    Data(#[from] DataError),
    /// A checkpoint.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The caller asked to stop; what was computed is kept.
    #[error("stopped; run the same command again to go on from {}", work.display())]
    Stopped {
        /// Where the finished part is.
        work: PathBuf,
    },
}

/// Result of this module.
pub type Result<T, E = RetrieveError> = std::result::Result<T, E>;

impl RetrieveError {
    pub(super) fn io(path: &Path, action: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { path, action, source }
    }

    pub(super) fn format(path: &Path, problem: impl Into<String>) -> Self {
        Self::Format { path: path.to_path_buf(), problem: problem.into() }
    }
}
