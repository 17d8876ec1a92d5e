//! What can go wrong with a checkpoint. Every message names the file, what was found and what to do.

use otter_model::config::ConfigError;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Any failure of this crate.
#[derive(Debug, Error)]
pub enum CheckpointError {
    /// The device has no room for the weights.
    #[error(transparent)]
    Device(otter_nn::DeviceError),
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
    #[error("{path}: `{key}` is {found}; {expected}")]
    Key {
        /// The file.
        path: PathBuf,
        /// Full key.
        key: String,
        /// The value found.
        found: String,
        /// What is supported or expected.
        expected: String,
    },
    /// The sizes in the configuration do not describe a model.
    #[error("{path}: {source}")]
    Sizes {
        /// The file.
        path: PathBuf,
        /// The offending field.
        source: ConfigError,
    },
    /// A weight file is damaged, truncated or hostile.
    #[error("{path}: {problem}")]
    Format {
        /// The file.
        path: PathBuf,
        /// What was found and what was expected.
        problem: String,
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
    /// File and model do not hold the same tensors.
    #[error("{path}: the weights do not fit the model.{details}")]
    Mismatch {
        /// Directory or file.
        path: PathBuf,
        /// Lists of missing and unexpected names and wrong shapes.
        details: String,
    },
    /// The tokenizer files cannot be used.
    #[error("{path}: {problem}")]
    Tokenizer {
        /// File or directory.
        path: PathBuf,
        /// What is wrong and what is expected.
        problem: String,
    },
}

impl CheckpointError {
    /// An [`CheckpointError::Io`] for use in `map_err`.
    pub fn io(path: &Path, action: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { path, action, source }
    }

    /// A [`CheckpointError::Write`] for use in `map_err`.
    pub(crate) fn write(path: &Path, target: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let (path, target) = (path.to_path_buf(), target.to_path_buf());
        move |source| Self::Write { path, target, source }
    }

    pub(crate) fn format(path: &Path, problem: impl Into<String>) -> Self {
        Self::Format { path: path.to_path_buf(), problem: problem.into() }
    }

    pub(crate) fn tokenizer(path: &Path, problem: impl Into<String>) -> Self {
        Self::Tokenizer { path: path.to_path_buf(), problem: problem.into() }
    }
}

/// Shorthand of this crate.
pub type Result<T> = std::result::Result<T, CheckpointError>;
