//! What ends an import.

use std::path::{Path, PathBuf};

use super::item::Skip;
use crate::sources::import::report::ImportReport;

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
    /// Nothing of the source could be used, and no data set was written.
    #[error("{}", nothing_used(.0))]
    NothingUsed(Box<ImportReport>),
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

fn nothing_used(report: &ImportReport) -> String {
    let left_out = report.left_out();
    let what = match (report.items, report.used) {
        (0, _) => return "the annotations hold no item, so no data set was written".to_owned(),
        (items, 0) => format!("none of the {items} items could be used"),
        (_, used) => format!("no pair of the {used} usable items is a sample"),
    };
    let left_out =
        if left_out.is_empty() { String::new() } else { format!("; left out: {}", left_out.join("; ")) };
    let told: String = report.warnings.iter().map(|warning| format!("; {warning}")).collect();
    format!("{what}, so no data set was written{left_out}{told}")
}

impl ImportError {
    pub(crate) fn io(path: &Path, error: impl std::fmt::Display) -> Self {
        Self::Io { path: path.to_owned(), message: error.to_string() }
    }

    pub(crate) fn format(path: &Path, message: impl Into<String>) -> Self {
        Self::Format { path: path.to_owned(), message: message.into() }
    }
}
