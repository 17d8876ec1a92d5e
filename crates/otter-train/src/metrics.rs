//! Metrics as JSON lines, one object a line, flushed line by line.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use otter_checkpoint::atomic;
use serde_json::{Value, json};

use crate::error::{Result, TrainError};
use crate::report::StepReport;

/// The metrics file of a run.
pub struct MetricsFile {
    file: File,
    path: PathBuf,
}

impl MetricsFile {
    /// Opens the file to append to it. Lines of steps after `steps_made` are removed first: that part of the run is made
    /// again.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub fn open(path: &Path, steps_made: u64) -> Result<Self> {
        if path.exists() {
            let file = File::open(path).map_err(TrainError::io(path, "open"))?;
            let mut kept = String::new();
            for line in BufReader::new(file).lines() {
                let line = line.map_err(TrainError::io(path, "read"))?;
                // A line cut off by a crash does not parse and is dropped too.
                let step = serde_json::from_str::<Value>(&line).ok().and_then(|value| value["step"].as_u64());
                if step.is_some_and(|step| step <= steps_made) {
                    kept.push_str(&line);
                    kept.push('\n');
                }
            }
            atomic::write_file(path, kept.as_bytes())?;
        }
        let file =
            OpenOptions::new().create(true).append(true).open(path).map_err(TrainError::io(path, "open"))?;
        Ok(Self { file, path: path.to_path_buf() })
    }

    /// Adds the line of a step.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn step(&mut self, report: &StepReport) -> Result<()> {
        self.line(&json!({
            "kind": "step",
            "step": report.step,
            "epoch": report.epoch,
            "loss": report.loss,
            "learning_rate": report.learning_rate,
            "gradient_norm": report.gradient_norm,
            "clipped": report.clipped,
            "samples": report.samples,
            "tokens": report.tokens.real,
            "computed_tokens": report.tokens.computed,
            "unpacked_tokens": report.tokens.unpacked,
            "target_tokens": report.target_tokens,
            "samples_seen": report.samples_seen,
            "samples_skipped": report.samples_skipped,
            "samples_per_second": report.samples_per_second(),
            "data_seconds": report.data_seconds,
            "step_seconds": report.step_seconds,
            "peak_bytes": report.peak_bytes,
        }))
    }

    /// Adds the line of an evaluation.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn evaluation(&mut self, step: u64, values: &[(String, f64)]) -> Result<()> {
        let mut line = json!({ "kind": "evaluation", "step": step });
        for (name, value) in values {
            line[name] = json!(value);
        }
        self.line(&line)
    }

    fn line(&mut self, value: &Value) -> Result<()> {
        let line = format!("{value}\n");
        self.file.write_all(line.as_bytes()).map_err(TrainError::io(&self.path, "write"))
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn report(step: u64) -> StepReport {
        StepReport { step, loss: 1.0 / step as f64, step_seconds: 2.0, samples: 4, ..StepReport::default() }
    }

    #[test]
    fn lines_parse_and_resuming_removes_what_is_made_again() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("metrics.jsonl");
        let mut metrics = MetricsFile::open(&path, 0).unwrap();
        for step in 1..=3 {
            metrics.step(&report(step)).unwrap();
        }
        metrics.evaluation(3, &[("eval_loss".into(), 0.5)]).unwrap();
        // As if the process had died while writing.
        OpenOptions::new().append(true).open(&path).unwrap().write_all(b"{\"step\":").unwrap();
        drop(metrics);
        let mut metrics = MetricsFile::open(&path, 2).unwrap();
        metrics.step(&report(3)).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.iter().map(|line| line["step"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!(lines[1]["loss"], 0.5);
        assert_eq!(lines[1]["samples_per_second"], 2.0);
    }
}
