//! What the loop says about data and memory, on the way and at its end.

use otter_data::{LoaderState, SkipReason};

use super::Trainer;
use crate::error::Result;
use crate::memory;
use crate::metrics::{Outcome, TrainSummary};
use crate::model::TrainableModel;
use crate::run::device;

/// With a larger part of the samples left out, a run warns as it goes on.
const MUCH_LEFT_OUT: f64 = 0.01;

impl<M: TrainableModel> Trainer<'_, M> {
    pub(super) fn finish(&mut self, mut outcome: Outcome) -> Result<TrainSummary> {
        let (planned, peak) = (self.planned_bytes(), device::peak_bytes(self.setup.device));
        if self.position.step > 0 {
            // The checkpoint first: an evaluation can take long, and an interrupt must not wait for it.
            self.save()?;
            if outcome != Outcome::Interrupted && self.last_evaluation.0 != self.position.step {
                self.evaluate()?;
                let is_missing =
                    self.setup.evaluation.is_some() && self.last_evaluation.0 != self.position.step;
                outcome = if is_missing { Outcome::Interrupted } else { outcome };
            }
        }
        if self.largest_plan > 0 {
            self.tell(&memory::compare(planned, peak));
        }
        if self.tokens.real > 0 {
            self.tell(&self.tokens.to_string());
        }
        let image_notes = self.setup.source.report().image_notes;
        for line in image_notes.warnings() {
            self.tell(&format!("warning: {line}"));
        }
        let pending = self.coverage.pending();
        if let Some(first) = pending.first() {
            let message = format!(
                "{} trained parameters received no gradient so far, for example {first}",
                pending.len()
            );
            self.tell(&message);
        }
        self.tell(&self.position.samples.to_string());
        self.tell_passes(outcome);
        let samples = &self.position.samples;
        let evaluated = &self.last_evaluation.1;
        let summary = TrainSummary {
            outcome,
            step: self.position.step,
            loss: self.last_loss,
            evaluation: evaluated.values.clone(),
            checkpoint: self.checkpoint.as_ref().map(|(_, path)| path.clone()),
            samples_seen: samples.used,
            skipped: samples.skipped.clone(),
            skipped_examples: samples.examples.clone(),
            evaluation_skipped: evaluated.samples.skipped.clone(),
            planned_bytes: planned,
            image_notes,
            tokens: self.tokens,
            peak_bytes: peak,
        };
        self.observer.finished(&summary);
        Ok(summary)
    }

    /// Says once what images of a kind hold that their pixels do not show.
    pub(super) fn tell_new_notes(&mut self) {
        let notes = self.setup.source.report().image_notes;
        for line in notes.warnings_since(&self.told) {
            self.tell(&format!("warning: so far {line}"));
        }
        self.told = notes;
    }

    /// Says how often the data was passed over where that is more than was asked for: the number of steps takes every sample as
    /// used.
    fn tell_passes(&mut self, outcome: Outcome) {
        let train = &self.setup.config.train;
        let Some(epochs) = train.epochs.filter(|_| outcome == Outcome::Completed) else { return };
        let LoaderState { epoch, position, samples, .. } = self.position.loader;
        let part = |samples_met: f64| samples_met / samples.max(1) as f64;
        let passes = epoch as f64 + part(position as f64);
        if passes > epochs + part((train.batch_size * train.gradient_accumulation) as f64) {
            self.tell(&format!(
                "warning: the {} steps of train.epochs = {epochs} were {passes:.2} passes over the data, because steps were made up \
                 for what is left out",
                self.setup.total_steps
            ));
        }
    }

    /// Warns once of every reason, as soon as much is left out.
    pub(super) fn warn_of_left_out(&mut self) {
        let samples = &self.position.samples;
        // What is marked as an example is no sample that anyone misses.
        let example_only = SkipReason::ExampleOnly.name();
        let skipped =
            samples.skipped_total() - samples.skipped.get(example_only).copied().unwrap_or_default();
        if skipped as f64 <= MUCH_LEFT_OUT * (skipped + samples.used) as f64 {
            return;
        }
        let said = |reason: &str| reason == example_only || self.warned.contains(reason);
        let new: Vec<&String> = samples.skipped.keys().filter(|reason| !said(reason)).collect();
        let lines: Vec<String> =
            new.iter().map(|reason| format!("warning: so far {}", samples.line(reason))).collect();
        self.warned = samples.skipped.keys().cloned().collect();
        lines.iter().for_each(|line| self.tell(line));
    }
}
