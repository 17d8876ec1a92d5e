//! What a run tells about itself while it goes on.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use otter_data::{Batch, ImageCounts};

use crate::memory::MemoryPlan;
use crate::run::directory::Resumable;

/// Tokens of batches, with and without padding.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TokenCounts {
    /// Tokens of the samples.
    pub real: u64,
    /// Tokens that were computed: rows times their length.
    pub computed: u64,
    /// Tokens that would have been computed with one sample a row.
    pub unpacked: u64,
}

impl TokenCounts {
    /// Those of some batches.
    pub fn of(batches: &[Batch]) -> Self {
        let mut counts = Self::default();
        for batch in batches {
            counts.add(Self {
                real: batch.text.tokens() as u64,
                computed: batch.text.ids.len() as u64,
                unpacked: batch.unpacked_cells() as u64,
            });
        }
        counts
    }

    /// Adds others.
    pub fn add(&mut self, other: Self) {
        self.real += other.real;
        self.computed += other.computed;
        self.unpacked += other.unpacked;
    }
}

impl fmt::Display for TokenCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let share = |all: u64| 100.0 * all.saturating_sub(self.real) as f64 / all.max(1) as f64;
        write!(
            f,
            "tokens: {}, computed {} ({:.1} % padding)",
            self.real,
            self.computed,
            share(self.computed)
        )?;
        if self.computed == self.unpacked {
            return Ok(());
        }
        write!(f, "; without packing {} ({:.1} % padding)", self.unpacked, share(self.unpacked))
    }
}

/// One optimizer step.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct StepReport {
    /// Number of the step, from 1.
    pub step: u64,
    /// Steps of the whole run.
    pub total_steps: u64,
    /// Pass over the data, from 0.
    pub epoch: u64,
    /// Mean loss of the target tokens of the step.
    pub loss: f64,
    /// Learning rate used by this step.
    pub learning_rate: f64,
    /// Global gradient norm before clipping.
    pub gradient_norm: f64,
    /// Whether the gradients were scaled down.
    pub clipped: bool,
    /// Samples of the step.
    pub samples: u64,
    /// Tokens of the step, with and without padding.
    pub tokens: TokenCounts,
    /// Tokens that were predicted.
    pub target_tokens: u64,
    /// Samples since the first step, earlier parts of a resumed run included.
    pub samples_seen: u64,
    /// Samples left out since the first step, all reasons together.
    pub samples_skipped: u64,
    /// Time spent waiting for data.
    pub data_seconds: f64,
    /// Time of the whole step, waiting included.
    pub step_seconds: f64,
    /// Estimated time to the end of the run.
    pub remaining_seconds: f64,
    /// Peak memory of the process, where the system tells.
    pub peak_bytes: Option<u64>,
}

impl StepReport {
    /// Throughput of this step.
    pub fn samples_per_second(&self) -> f64 {
        if self.step_seconds > 0.0 { self.samples as f64 / self.step_seconds } else { 0.0 }
    }
}

/// Why a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// All steps were made.
    Completed,
    /// `train.stop_after` was reached.
    StoppedEarly,
    /// The interrupt flag was set; the run can be resumed.
    Interrupted,
}

/// What came of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainSummary {
    /// Why it ended.
    pub outcome: Outcome,
    /// Last step made.
    pub step: u64,
    /// Loss of the last step.
    pub loss: Option<f64>,
    /// Values of the last evaluation.
    pub evaluation: Vec<(String, f64)>,
    /// The newest checkpoint.
    pub checkpoint: Option<PathBuf>,
    /// Samples since the first step.
    pub samples_seen: u64,
    /// Samples left out since the first step, by reason. One counts each time it is met.
    pub skipped: BTreeMap<String, u64>,
    /// Images of the steps of this process that hold more than their pixels show.
    pub image_notes: ImageCounts,
    /// A message for each of these reasons, which names a sample.
    pub skipped_examples: BTreeMap<String, String>,
    /// Samples left out of the last evaluation, by reason.
    pub evaluation_skipped: BTreeMap<String, u64>,
    /// Tokens of the steps of this process, with and without padding.
    pub tokens: TokenCounts,
    /// Bytes of the memory plan for the largest batch met.
    pub planned_bytes: u64,
    /// Peak memory measured, where the system tells.
    pub peak_bytes: Option<u64>,
}

impl TrainSummary {
    /// Of a run that was stopped before a step of this process.
    pub(crate) fn interrupted_at(found: Option<&Resumable>) -> Self {
        let samples = found.map(|found| found.state.samples()).unwrap_or_default();
        Self {
            outcome: Outcome::Interrupted,
            step: found.map_or(0, |found| found.state.step),
            loss: None,
            evaluation: Vec::new(),
            checkpoint: found.map(|found| found.path.clone()),
            samples_seen: samples.used,
            skipped: samples.skipped,
            skipped_examples: samples.examples,
            evaluation_skipped: BTreeMap::new(),
            image_notes: ImageCounts::default(),
            tokens: TokenCounts::default(),
            planned_bytes: 0,
            peak_bytes: None,
        }
    }
}

/// Follows a run. Every method has an empty default.
pub trait Observer: Send {
    /// Something to tell, one line or a few.
    fn message(&mut self, _text: &str) {}
    /// The memory plan, before the first step.
    fn memory_plan(&mut self, _plan: &MemoryPlan) {}
    /// A step was made.
    fn step(&mut self, _report: &StepReport) {}
    /// An evaluation was made after `step`.
    fn evaluation(&mut self, _step: u64, _values: &[(String, f64)]) {}
    /// A checkpoint was written.
    fn checkpoint(&mut self, _step: u64, _path: &Path) {}
    /// The run is over.
    fn finished(&mut self, _summary: &TrainSummary) {}
}

/// Follows nothing.
impl Observer for () {}
