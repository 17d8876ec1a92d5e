//! Metrics as JSON lines, one object a line, flushed line by line.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use otter_checkpoint::atomic;
use otter_data::DataReport;
use serde_json::{Value, json};

use crate::error::{Result, TrainError};
use crate::metrics::StepReport;

/// What an evaluation gave.
#[derive(Debug, Clone, Default)]
pub struct Evaluated {
    /// Named values.
    pub values: Vec<(String, f64)>,
    /// The samples they are from, and those left out.
    pub samples: DataReport,
}

/// The kind of a line that tells of an evaluation.
const EVALUATION: &str = "evaluation";

/// The metrics file of a run.
pub struct MetricsFile {
    file: File,
    path: PathBuf,
}

impl MetricsFile {
    /// Opens the file to append to it. Lines of steps after `steps_made` are removed first: that part of the run is made
    /// again. Gives the step of the last evaluation too, 0 without one.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub fn open(path: &Path, steps_made: u64) -> Result<(Self, u64)> {
        let mut evaluated = 0;
        if path.exists() {
            let file = File::open(path).map_err(TrainError::io(path, "open"))?;
            let mut kept = String::new();
            for line in BufReader::new(file).lines() {
                let line = line.map_err(TrainError::io(path, "read"))?;
                // A line cut off by a crash does not parse and is dropped too.
                let Ok(value) = serde_json::from_str::<Value>(&line) else { continue };
                let Some(step) = value["step"].as_u64().filter(|step| *step <= steps_made) else { continue };
                if value["kind"] == EVALUATION {
                    evaluated = step;
                }
                kept.push_str(&line);
                kept.push('\n');
            }
            atomic::write_file(path, kept.as_bytes())?;
        }
        let file =
            OpenOptions::new().create(true).append(true).open(path).map_err(TrainError::io(path, "open"))?;
        Ok((Self { file, path: path.to_path_buf() }, evaluated))
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
    pub fn evaluation(&mut self, step: u64, found: &Evaluated) -> Result<()> {
        let (used, skipped) = (found.samples.used, found.samples.skipped_total());
        let mut line =
            json!({ "kind": EVALUATION, "step": step, "samples": used, "samples_skipped": skipped });
        for (name, value) in &found.values {
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
    fn lines_parse_and_resuming_removes_what_is_repeated() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("metrics.jsonl");
        let (mut metrics, _) = MetricsFile::open(&path, 0).unwrap();
        for step in 1..=3 {
            metrics.step(&report(step)).unwrap();
        }
        let found = Evaluated { values: vec![("eval_loss".into(), 0.5)], ..Evaluated::default() };
        metrics.evaluation(2, &found).unwrap();
        metrics.evaluation(3, &found).unwrap();
        // As if the process had died while writing.
        OpenOptions::new().append(true).open(&path).unwrap().write_all(b"{\"step\":").unwrap();
        drop(metrics);
        let (mut metrics, evaluated) = MetricsFile::open(&path, 2).unwrap();
        assert_eq!(evaluated, 2);
        metrics.step(&report(3)).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.iter().map(|line| line["step"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 2, 2, 3]);
        assert_eq!(lines[1]["loss"], 0.5);
        assert_eq!(lines[1]["samples_per_second"], 2.0);
    }
}
