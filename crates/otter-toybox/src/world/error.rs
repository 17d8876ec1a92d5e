//! What can go wrong while making a toybox.

use std::path::PathBuf;

/// An error of the toybox; each says what was found, what was expected and what to do.
#[derive(Debug, thiserror::Error)]
pub enum ToyboxError {
    /// An option is out of its range.
    #[error("toybox option `{option}` is {found}, expected {expected}; change the option")]
    Option {
        /// Name of the option.
        option: String,
        /// Its value.
        found: String,
        /// The accepted range.
        expected: String,
    },
    /// A file or folder cannot be written.
    #[error("cannot write {path}: {source}; check that the folder exists, is writable and has space left")]
    Write {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// A picture cannot be encoded.
    #[error("cannot encode image {id} as PNG: {source}; this is a defect, please report it")]
    Encode {
        /// The image id.
        id: String,
        /// The cause.
        source: image::ImageError,
    },
}

impl ToyboxError {
    pub(crate) fn option(option: &str, found: impl ToString, expected: impl ToString) -> Self {
        Self::Option { option: option.into(), found: found.to_string(), expected: expected.to_string() }
    }

    pub(crate) fn write(path: &std::path::Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Write { path, source }
    }
}
