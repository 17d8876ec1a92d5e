//! The toybox base model and the quickstart: data, tuning, evaluation and report in one run.

pub mod base;
mod error;

pub use error::QuickstartError;
