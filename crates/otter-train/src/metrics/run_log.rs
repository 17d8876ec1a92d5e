//! `log.txt`: what a run tells, line by line as it is told, so that a kill loses nothing.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;

use crate::error::{Result, TrainError};
use crate::memory::MemoryPlan;
use crate::metrics::progress::ending;
use crate::metrics::{Observer, StepReport, TrainSummary};

/// Writes what it is told into a file, and passes everything on.
pub struct RunLog<'a> {
    file: File,
    step: u64,
    observer: &'a mut dyn Observer,
}

impl<'a> RunLog<'a> {
    /// Opens the file to append to it. `step` is the last one made.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn open(path: &Path, step: u64, observer: &'a mut dyn Observer) -> Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path);
        Ok(Self { file: file.map_err(TrainError::io(path, "open"))?, step, observer })
    }

    /// Writes a line that is told elsewhere. The log is a convenience: a failure to write it does not stop a run.
    pub fn write(&mut self, text: &str) {
        let _ = writeln!(self.file, "step {}: {text}", self.step);
    }
}

impl Observer for RunLog<'_> {
    fn message(&mut self, text: &str) {
        self.write(text);
        self.observer.message(text);
    }

    fn memory_plan(&mut self, plan: &MemoryPlan) {
        self.write(&plan.to_string());
        self.observer.memory_plan(plan);
    }

    fn step(&mut self, report: &StepReport) {
        self.step = report.step;
        self.observer.step(report);
    }

    fn evaluation(&mut self, step: u64, values: &[(String, f64)]) {
        let values_told: Vec<String> = values.iter().map(|(name, value)| format!("{name} {value}")).collect();
        self.write(&format!("evaluation: {}", values_told.join("  ")));
        self.observer.evaluation(step, values);
    }

    fn checkpoint(&mut self, step: u64, path: &Path) {
        self.write(&format!("checkpoint {}", path.display()));
        self.observer.checkpoint(step, path);
    }

    fn finished(&mut self, summary: &TrainSummary) {
        self.write(&ending(summary));
        self.observer.finished(summary);
    }
}
