//! Few-shot evaluation, reports, and parity with recordings of the original.
//!
//! ```text
//! truth files ─► Truth ─┐
//! data sets ────────────┼─► evaluate ─► Evaluation ─► ShotTable ─► text, JSON, report.html
//! model ────────────────┘
//! ```

mod error;
pub mod evaluate;
pub mod parity;
pub mod report;

pub use error::EvaluationError;
pub use evaluate::table::{Detail, Measure, ShotTable, wilson_interval};
pub use evaluate::tasks::{Task, Truth, TruthRecord};
pub use evaluate::{Evaluation, EvaluationOptions, EvaluationRecord, evaluate};
pub use evaluate::{table, tasks};
pub use report::{QuickstartReport, render, sample_card};
