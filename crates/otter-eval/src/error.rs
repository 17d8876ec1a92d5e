//! What can go wrong in an evaluation.

use std::path::PathBuf;

use otter_data::DataError;
use otter_model::ModelError;
use thiserror::Error;

/// An error of an evaluation; each names the file and key or sample concerned and says what to do.
#[derive(Debug, Error)]
pub enum EvaluationError {
    /// A file or folder cannot be read.
    #[error("cannot read {path}: {source}; check that the path exists and is readable")]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// A folder holds no truth file.
    #[error(
        "{folder}: no file ends in `{suffix}`; an evaluation needs at least one, make the data set again"
    )]
    NoTruth {
        /// The folder.
        folder: PathBuf,
        /// How truth files end.
        suffix: &'static str,
    },
    /// A truth file is not the expected JSON.
    #[error("{path}: {message}; expected an object of query ids, make the data set again")]
    TruthFormat {
        /// The truth file.
        path: PathBuf,
        /// What the parser found.
        message: String,
    },
    /// One entry of a truth file is wrong.
    #[error("{path}: query '{id}': {message}")]
    TruthEntry {
        /// The truth file.
        path: PathBuf,
        /// The query id.
        id: String,
        /// What was found, what was expected, what to do.
        message: String,
    },
    /// Queries of the truth without a sample.
    #[error(
        "{count} queries of the truth have no sample with {shots} in-context examples, the first is '{id}' of {path}; \
         add its set to the data configuration or leave its truth file out"
    )]
    WithoutSample {
        /// How many.
        count: usize,
        /// The first one.
        id: String,
        /// In-context examples of the data set.
        shots: usize,
        /// The truth file that names it.
        path: PathBuf,
    },
    /// Samples without truth.
    #[error(
        "{count} samples have no truth for {shots} in-context examples, the first is '{id}'; \
         add its truth file ({files} read) or leave its set out of the data configuration"
    )]
    WithoutTruth {
        /// How many.
        count: usize,
        /// The first one.
        id: String,
        /// In-context examples of the data set.
        shots: usize,
        /// Truth files that were read.
        files: usize,
    },
    /// A sample does not fit its truth or the evaluation.
    #[error("sample '{id}': {message}")]
    Sample {
        /// The query id.
        id: String,
        /// What was found, what was expected, what to do.
        message: String,
    },
    /// An option or the combination of model and data is impossible.
    #[error("evaluation: {0}")]
    Options(String),
    /// The data set gives an error.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The model refuses the input.
    #[error(transparent)]
    Model(#[from] ModelError),
}
