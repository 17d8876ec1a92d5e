//! What a run tells about itself: the observer that it tells, and the sinks: metrics as JSON lines, TensorBoard events, the
//! log, progress on a terminal.

pub mod json_lines;
pub mod progress;
pub mod report;
pub mod run_log;
pub mod tensorboard;

pub use progress::Progress;
pub use report::{Observer, Outcome, StepReport, TokenCounts, TrainSummary};
pub use run_log::RunLog;
