//! What can go wrong while an image is read.

use std::path::PathBuf;

/// An image that cannot be shown. Every variant names the image and says what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// The file could not be read.
    #[error("{}: {message}. Check that the path exists and is readable", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        message: String,
    },
    /// The bytes could not be decoded.
    #[error("image {name}: {message}")]
    Decode {
        /// The file, or the image id and the file that holds it.
        name: String,
        /// What was found and what to do.
        message: String,
    },
}
