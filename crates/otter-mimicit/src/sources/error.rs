//! What ends an import.

use std::path::{Path, PathBuf};

use super::item::Skip;

/// An error of an import; each says what was found, what was expected and what to do.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// A file or folder cannot be read or written.
    #[error("{}: {message}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the operating system said.
        message: String,
    },
    /// An annotation file is not of its schema as a whole.
    #[error("{}: {message}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What was found and expected.
        message: String,
    },
    /// An option is missing or out of its range.
    #[error("{0}")]
    Option(String),
    /// With `strict`: the first thing that would be left out.
    #[error("{} [{}]; without --strict it would be counted and left out", .0.message, .0.reason.name())]
    Strict(Skip),
    /// ffmpeg is missing, or an option of the frames is wrong.
    #[error(transparent)]
    Video(#[from] otter_data::video::VideoError),
    /// The data set cannot be written.
    #[error(transparent)]
    Data(#[from] otter_data::DataError),
}

impl ImportError {
    pub(crate) fn io(path: &Path, error: impl std::fmt::Display) -> Self {
        Self::Io { path: path.to_owned(), message: error.to_string() }
    }

    pub(crate) fn format(path: &Path, message: impl Into<String>) -> Self {
        Self::Format { path: path.to_owned(), message: message.into() }
    }
}
