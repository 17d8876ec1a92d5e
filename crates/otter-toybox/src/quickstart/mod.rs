//! The toybox base model and the quickstart: data, tuning, evaluation and report in one run.

pub mod base;
mod embedded;
mod error;
mod options;
mod run;
mod summary;

pub use embedded::unpack as unpack_base;
pub use error::QuickstartError;
pub use options::QuickstartOptions;
pub use run::{QuickstartResult, SHOTS, run};
