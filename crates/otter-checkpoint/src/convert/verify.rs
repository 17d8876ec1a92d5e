//! The result read back: a directory that becomes visible is one that loads.

use crate::checkpoint::Checkpoint;
use crate::error::{CheckpointError, Result};
use otter_model::Otter;
use std::path::Path;

/// Opens the written directory as any command would and accounts for every tensor. Returns a warning where this program
/// cannot run such a model, and the remarks of the loader.
///
/// # Errors
/// When a parameter is missing, a tensor is unexpected, or a shape differs.
pub(super) fn verify(written: &Path, target: &Path) -> Result<Vec<String>> {
    let unsupported =
        |reason: String| vec![format!("written, but this program cannot run the result: {reason}")];
    let checkpoint = match Checkpoint::open(written) {
        Ok(checkpoint) => checkpoint,
        Err(
            error @ (CheckpointError::Key { .. }
            | CheckpointError::UnknownKey { .. }
            | CheckpointError::Sizes { .. }),
        ) => {
            return Ok(unsupported(rename(&error.to_string(), written, target)));
        }
        Err(error) => return Err(error),
    };
    let specs = match Otter::new(&checkpoint.config.model) {
        Ok((_, specs)) => specs,
        Err(error) => return Ok(unsupported(error.to_string())),
    };
    match checkpoint.account(specs.iter().map(|spec| (spec.name.as_str(), spec.shape.as_slice()))) {
        Ok(report) => Ok(report.warnings),
        Err(CheckpointError::Mismatch { details, .. }) => {
            Err(CheckpointError::Mismatch { path: target.to_path_buf(), details })
        }
        Err(error) => Err(error),
    }
}

/// The temporary directory is gone when the message is read.
fn rename(message: &str, written: &Path, target: &Path) -> String {
    message.replace(&written.display().to_string(), &target.display().to_string())
}
