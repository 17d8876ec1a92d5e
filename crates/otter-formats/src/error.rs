//! What can go wrong with a file. Every message names the file, what was found and what to do.

use std::path::{Path, PathBuf};
use thiserror::Error;

/// Any failure of this crate.
#[derive(Debug, Error)]
pub enum FormatError {
    /// The operating system refused.
    #[error("{path}: cannot {action}: {source}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What was attempted, e.g. `open`.
        action: &'static str,
        /// The system's answer.
        source: std::io::Error,
    },
    /// A write failed; nothing that existed before was changed.
    #[error(
        "{path}: writing failed ({source}); the previous content of {target}, if any, is unchanged. \
             Free some space or choose another place, then save again"
    )]
    Write {
        /// The file being written.
        path: PathBuf,
        /// The file or directory it would have become.
        target: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// A file is damaged, truncated or hostile.
    #[error("{path}: {problem}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was found and what was expected.
        problem: String,
    },
    /// A tensor has an element type that cannot become 32-bit floats, or does not fit the one asked for.
    #[error("{path}: tensor `{name}`: {problem}")]
    Tensor {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// What is wrong and what to do.
        problem: String,
    },
}

impl FormatError {
    /// A [`FormatError::Io`] for use in `map_err`.
    pub fn io(path: &Path, action: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { path, action, source }
    }

    /// A [`FormatError::Write`] for use in `map_err`.
    pub fn write(path: &Path, target: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let (path, target) = (path.to_path_buf(), target.to_path_buf());
        move |source| Self::Write { path, target, source }
    }

    /// A [`FormatError::Damaged`].
    pub fn damaged(path: &Path, problem: impl Into<String>) -> Self {
        Self::Damaged { path: path.to_path_buf(), problem: problem.into() }
    }

    /// A [`FormatError::Tensor`].
    pub fn tensor(path: &Path, name: &str, problem: impl Into<String>) -> Self {
        Self::Tensor { path: path.to_path_buf(), name: name.to_owned(), problem: problem.into() }
    }
}

/// Shorthand of this crate.
pub type Result<T, E = FormatError> = std::result::Result<T, E>;
