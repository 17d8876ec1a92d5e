//! Few-shot evaluation and reports.
pub mod parity;
