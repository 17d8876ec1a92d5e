//! What can stop a training run. Every message names the key, file, parameter or sample and what to do.

use std::path::{Path, PathBuf};

use otter_checkpoint::CheckpointError;
use otter_data::DataError;
use thiserror::Error;

/// Any failure of this crate.
#[derive(Debug, Error)]
pub enum TrainError {
    /// The device failed, or has no room.
    #[error("{0}; a smaller train.memory, batch_size or data.max_seq_len makes the run smaller")]
    Device(#[from] otter_nn::DeviceError),
    /// The operating system refused.
    #[error("{path}: cannot {action}: {source}")]
    Io {
        /// File or directory.
        path: PathBuf,
        /// What was attempted, e.g. `create`.
        action: &'static str,
        /// The system's answer.
        source: std::io::Error,
    },
    /// A key of the configuration is unknown.
    #[error("{place}: unknown key `{key}`; the nearest known key is `{nearest}`. Correct or remove it")]
    UnknownKey {
        /// Configuration file, or `overrides`.
        place: String,
        /// What was found, with its section where that is known.
        key: String,
        /// The known key with the smallest edit distance.
        nearest: String,
    },
    /// The configuration cannot be read or contradicts itself.
    #[error("{place}: {problem}")]
    Config {
        /// Configuration file or key.
        place: String,
        /// What was found, what is expected and what to do.
        problem: String,
    },
    /// A resumed run has another configuration than the one that was saved.
    #[error(
        "{checkpoint}: this run was started with another configuration, so it cannot be continued exactly.\
         {differences}\nRestore these keys, or start a new run in another train.run_dir"
    )]
    ChangedConfig {
        /// The checkpoint.
        checkpoint: PathBuf,
        /// One line a key: saved and present value.
        differences: String,
    },
    /// A resumed run would have another learning rate than it was begun with.
    #[error(
        "{checkpoint}: {change}. Restore train.steps or train.epochs as they were; or begin a new run from the model of this \
         checkpoint (model.init_from, another train.run_dir); or add --extend-schedule to go on like this"
    )]
    ChangedSchedule {
        /// The checkpoint.
        checkpoint: PathBuf,
        /// Steps before and now, and the learning rates around the present step.
        change: String,
    },
    /// A checkpoint does not fit the run or is damaged.
    #[error("{path}: {problem}")]
    Checkpoint {
        /// File or directory.
        path: PathBuf,
        /// What was found, what was expected and what to do.
        problem: String,
    },
    /// A loss is NaN or infinite.
    #[error(
        "step {step}: the loss of sample {samples} is {value}. The parameters are still those of the step \
         before; look at the sample, lower optimizer.learning_rate or optimizer.max_grad_norm, then resume"
    )]
    NonFiniteLoss {
        /// Step about to be made, from 1.
        step: u64,
        /// Ids of the samples concerned.
        samples: String,
        /// The loss.
        value: f64,
    },
    /// A loss is NaN or infinite because a parameter is.
    #[error(
        "step {step}: the loss is not finite, since {count} parameter(s) are not, the first is {parameter}. If this is the \
         first step, take another copy of the checkpoint; else resume from the newest checkpoint with a smaller \
         optimizer.learning_rate"
    )]
    NonFiniteParameter {
        /// Step about to be made, from 1.
        step: u64,
        /// The first parameter concerned, and what is in it.
        parameter: String,
        /// How many parameters.
        count: usize,
    },
    /// A gradient is NaN or infinite.
    #[error(
        "step {step}: the gradient of {parameter} is not finite at element {element} ({value}); samples of the \
         step: {samples}. The parameters are still those of the step before"
    )]
    NonFiniteGradient {
        /// Step about to be made, from 1.
        step: u64,
        /// The first parameter concerned.
        parameter: String,
        /// Its first non-finite element.
        element: usize,
        /// The value found there.
        value: f32,
        /// Ids of the samples of the step.
        samples: String,
    },
    /// A trained parameter received no gradient.
    #[error(
        "step {step}: {count} trained parameter(s) received no gradient although nothing excuses it, first \
         {parameter}. Freeze what should not be trained (model.freeze, model.trainable), or set \
         train.require_gradients = false to go on"
    )]
    NoGradient {
        /// Step, from 1.
        step: u64,
        /// How many parameters.
        count: usize,
        /// The first of them.
        parameter: String,
    },
    /// Nothing is trained.
    #[error("no parameter is trainable: {0}")]
    NothingTrainable(String),
    /// The data gives no target.
    #[error(
        "the data gave no batch with a target token in two whole epochs; check data.sets, data.max_seq_len and \
         what was left out. {0}"
    )]
    NoTargets(String),
    /// The data side failed.
    #[error(transparent)]
    Data(#[from] DataError),
    /// Reading or writing a checkpoint failed.
    #[error(transparent)]
    Storage(#[from] CheckpointError),
    /// The model refused its input.
    #[error("model: {0}")]
    Model(String),
}

impl TrainError {
    /// An [`TrainError::Io`] for use in `map_err`.
    pub fn io(path: &Path, action: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { path, action, source }
    }

    pub(crate) fn checkpoint(path: &Path, problem: impl Into<String>) -> Self {
        Self::Checkpoint { path: path.to_path_buf(), problem: problem.into() }
    }

    pub(crate) fn config(place: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Config { place: place.into(), problem: problem.into() }
    }
}

/// Shorthand of this crate.
pub type Result<T, E = TrainError> = std::result::Result<T, E>;
