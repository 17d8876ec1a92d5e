//! What can go wrong with a checkpoint. Every message names the file, what was found and what to do.

use otter_formats::FormatError;
use otter_model::config::ConfigError;
use otter_model::text::config_json::KeyError;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Any failure of this crate.
#[derive(Debug, Error)]
pub enum CheckpointError {
    /// A file cannot be read or written, or is damaged.
    #[error(transparent)]
    File(#[from] FormatError),
    /// The device has no room for the weights.
    #[error(transparent)]
    Device(otter_nn::DeviceError),
    /// A JSON file does not parse.
    #[error("{path}: not valid JSON: {source}")]
    Json {
        /// The file.
        path: PathBuf,
        /// Parser message with line and column.
        source: serde_json::Error,
    },
    /// A key of `config.json` that no known writer produces.
    #[error("{path}: unknown key `{key}`; the nearest known key is `{nearest}`. Correct or remove it")]
    UnknownKey {
        /// The file.
        path: PathBuf,
        /// Full key, e.g. `text_config.hiden_size`.
        key: String,
        /// The known key with the smallest edit distance.
        nearest: String,
    },
    /// A key of a JSON file has a value that cannot be used.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The sizes in the configuration do not describe a model.
    #[error("{path}: {source}")]
    Sizes {
        /// The file.
        path: PathBuf,
        /// The offending field.
        source: ConfigError,
    },
    /// The directory holds no weights in a known form.
    #[error(
        "{path}: no weights found; expected model.safetensors, model.safetensors.index.json, \
             pytorch_model.bin or pytorch_model.bin.index.json"
    )]
    NoWeights {
        /// The directory.
        path: PathBuf,
    },
    /// A tensor was asked for that the files do not hold.
    #[error("{path}: there is no tensor `{name}`")]
    NoTensor {
        /// Where it was looked for.
        path: PathBuf,
        /// The name.
        name: String,
    },
    /// File and model do not hold the same tensors.
    #[error("{path}: the weights do not fit the model.{details}")]
    Mismatch {
        /// Directory or file.
        path: PathBuf,
        /// Lists of missing and unexpected names and wrong shapes.
        details: String,
    },
}

impl CheckpointError {
    /// A [`FormatError::Io`] for use in `map_err`.
    pub fn io(path: &Path, action: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        let error = FormatError::io(path, action);
        move |source| error(source).into()
    }

    /// A [`FormatError::Write`] for use in `map_err`.
    pub(crate) fn write(path: &Path, target: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let error = FormatError::write(path, target);
        move |source| error(source).into()
    }

    /// A [`FormatError::Damaged`]: what was found in a file, and what was expected.
    pub(crate) fn format(path: &Path, problem: impl Into<String>) -> Self {
        FormatError::damaged(path, problem).into()
    }

    /// A [`FormatError::Tensor`].
    pub(crate) fn tensor(path: &Path, name: &str, problem: impl Into<String>) -> Self {
        FormatError::tensor(path, name, problem).into()
    }
}

/// Shorthand of this crate.
pub type Result<T> = std::result::Result<T, CheckpointError>;
