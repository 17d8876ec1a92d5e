//! Few-shot evaluation and reports.
//!
//! ```text
//! truth files ─► Truth ─┐
//! data sets ────────────┼─► evaluate ─► Evaluation ─► ShotTable ─► text, JSON, report.html
//! model ────────────────┘
//! ```

mod error;
pub mod evaluate;
mod media_latents;
pub mod parity;
mod prompt_pass;
pub mod report;
mod report_html;
mod report_samples;
mod report_svg;
pub mod table;
pub mod tasks;

pub use error::EvaluationError;
pub use evaluate::{Evaluation, EvaluationOptions, EvaluationProgress, EvaluationRecord, evaluate};
pub use report::{QuickstartReport, render};
pub use report_samples::sample_card;
pub use table::{Detail, Measure, ShotTable, wilson_interval};
pub use tasks::{Task, Truth, TruthRecord};
