//! Progress on standard error: a bar on a terminal, plain lines elsewhere.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::memory::MemoryPlan;
use crate::metrics::{Observer, Outcome, StepReport, TrainSummary};

/// Shows a run on standard error.
pub struct Progress {
    bar: ProgressBar,
    /// Plain lines every so many steps where there is no terminal.
    log_every: u64,
}

impl Progress {
    /// A display that prints a plain line every `log_every` steps where standard error is no terminal.
    pub fn new(log_every: u64) -> Self {
        let bar = ProgressBar::no_length();
        if let Ok(style) = ProgressStyle::with_template("{bar:24} {pos}/{len} {wide_msg}") {
            bar.set_style(style);
        }
        Self { bar, log_every: log_every.max(1) }
    }

    fn print(&self, text: &str) {
        if self.bar.is_hidden() { tell(text) } else { self.bar.println(text) }
    }
}

/// A line on standard error. A failure is passed over: a run goes on when nobody listens any more.
fn tell(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// How a run ended, in one line.
pub(crate) fn ending(summary: &TrainSummary) -> String {
    let how = match summary.outcome {
        Outcome::Interrupted if summary.step == 0 => return "interrupted before the first step".to_owned(),
        Outcome::Completed => "finished",
        Outcome::StoppedEarly => "stopped as asked",
        Outcome::Interrupted => "interrupted; resume to go on",
    };
    let left_out = match summary.skipped.values().sum::<u64>() {
        0 => String::new(),
        count => format!(", {count} left out"),
    };
    format!("{how} after step {} ({} samples{left_out})", summary.step, summary.samples_seen)
}

/// `loss 2.3456  lr 1.00e-5  norm 0.87  3.2 samples/s  eta 0:12:30`, with the part of the samples that is left out where there is
/// one.
pub fn describe(report: &StepReport) -> String {
    let left_out = match report.samples_skipped {
        0 => String::new(),
        skipped => {
            let all = (report.samples_seen + skipped) as f64;
            format!("  {:.1} % left out", 100.0 * skipped as f64 / all)
        }
    };
    format!(
        "loss {:.4}  lr {:.2e}  norm {:.3}  {:.2} samples/s  eta {}{left_out}",
        report.loss,
        report.learning_rate,
        report.gradient_norm,
        report.samples_per_second(),
        clock(report.remaining_seconds)
    )
}

/// Hours, minutes and seconds.
fn clock(seconds: f64) -> String {
    let Ok(duration) = Duration::try_from_secs_f64(seconds) else { return "unknown".into() };
    let seconds = duration.as_secs();
    format!("{}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

impl Observer for Progress {
    fn message(&mut self, text: &str) {
        self.print(text);
    }

    fn memory_plan(&mut self, plan: &MemoryPlan) {
        self.print(&plan.to_string());
    }

    fn step(&mut self, report: &StepReport) {
        self.bar.set_length(report.total_steps);
        self.bar.set_position(report.step);
        self.bar.set_message(describe(report));
        let due = report.step.is_multiple_of(self.log_every) || report.step == report.total_steps;
        if self.bar.is_hidden() && due {
            tell(&format!("step {}/{}  {}", report.step, report.total_steps, describe(report)));
        }
    }

    fn evaluation(&mut self, step: u64, values: &[(String, f64)]) {
        let values: Vec<String> = values.iter().map(|(name, value)| format!("{name} {value:.4}")).collect();
        self.print(&format!("step {step}  {}", values.join("  ")));
    }

    fn checkpoint(&mut self, step: u64, path: &Path) {
        self.print(&format!("step {step}  checkpoint {}", path.display()));
    }

    fn finished(&mut self, summary: &TrainSummary) {
        self.bar.finish_and_clear();
        tell(&ending(summary));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_described_in_one_line() {
        let report = StepReport {
            loss: 2.34567,
            learning_rate: 1e-5,
            gradient_norm: 0.8714,
            samples: 6,
            step_seconds: 2.0,
            remaining_seconds: 3750.4,
            ..StepReport::default()
        };
        assert_eq!(describe(&report), "loss 2.3457  lr 1.00e-5  norm 0.871  3.00 samples/s  eta 1:02:30");
        let some = StepReport { samples_seen: 30, samples_skipped: 10, ..report };
        assert!(describe(&some).ends_with("eta 1:02:30  25.0 % left out"), "{}", describe(&some));
        assert_eq!(clock(f64::INFINITY), "unknown");
    }
}
