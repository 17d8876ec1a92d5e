//! The training loop: the one place where data, model, optimizer, guards and records meet.
//!
//! One optimizer step: fetch the micro-batches, count their target tokens, run forward and backward pass of each with
//! that count as the divisor, check, mask embedding rows, clip, update. The state that a checkpoint keeps is taken
//! before the micro-batches are fetched, so a step that is abandoned (interrupt, error) is simply repeated.

mod finish;
mod setup;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::Instant;

use otter_data::{Batch, DataReport, ImageCounts, LoaderState};
use otter_nn::{Device, Gradients};

use crate::config::AccumulationLoss;
use crate::error::{Result, TrainError};
use crate::memory::{self, Holdings, HostHoldings, MemoryPlan, WeightPlan};
use crate::metrics::json_lines::{Evaluated, MetricsFile};
use crate::metrics::tensorboard::EventFile;
use crate::metrics::{Observer, Outcome, StepReport, TokenCounts, TrainSummary};
use crate::model::{LossSum, TrainableModel, batch_shape, batch_targets, bytes_ahead};
use crate::optim::embedding_rows::EmbeddingRowMask;
use crate::optim::{AdamW, Schedule, clip_factor, gradient_norm};
use crate::run::device;
use crate::run::directory::RunDirectory;
use crate::run::guard::{self, GradientCoverage};
use crate::run::trainer_state::TrainerState;

pub use setup::{Evaluation, PictureCache, Setup};

/// Gradients so many times as large as the activations keep their memory from step to step.
const KEPT_GRADIENTS: u64 = 4;

/// Reason under which samples of a batch without a target token are counted.
const BATCH_WITHOUT_TARGETS: &str = "batch_without_targets";

/// Micro-batches of one step.
struct Step {
    batches: Vec<Batch>,
    data_seconds: f64,
}

/// What forward and backward passes of a step gave.
struct StepLoss {
    /// The loss that is reported.
    loss: f64,
    targets: usize,
}

/// Place and counts after the last complete step.
#[derive(Clone)]
struct Position {
    step: u64,
    loader: LoaderState,
    /// Samples used and left out.
    samples: DataReport,
}

struct Trainer<'a, M> {
    setup: Setup<'a, M>,
    observer: &'a mut dyn Observer,
    gradients: Gradients,
    optimizer: AdamW,
    schedule: Schedule,
    mask: Option<EmbeddingRowMask>,
    coverage: GradientCoverage,
    /// Notes of images that were told when they first occurred.
    told: ImageCounts,
    metrics: MetricsFile,
    events: EventFile,
    position: Position,
    /// Samples before this process.
    samples_before: DataReport,
    /// Samples that this process left out because their batch had no target.
    without_targets: DataReport,
    /// Reasons for which samples are left out that were warned of.
    warned: BTreeSet<String>,
    weights: WeightPlan,
    largest_plan: u64,
    /// Of the steps of this process.
    tokens: TokenCounts,
    last_loss: Option<f64>,
    last_evaluation: (u64, Evaluated),
    checkpoint: Option<(u64, PathBuf)>,
}

/// Runs the training loop to its end, to `train.stop_after`, or until interrupted.
///
/// # Errors
/// What [`TrainError`] lists. After an error the newest checkpoint can be resumed.
pub fn run<'a, M: TrainableModel>(
    setup: Setup<'a, M>,
    observer: &'a mut dyn Observer,
) -> Result<TrainSummary> {
    let mut trainer = Trainer::new(setup, observer)?;
    let outcome = trainer.steps()?;
    trainer.finish(outcome)
}

impl<'a, M: TrainableModel> Trainer<'a, M> {
    fn new(setup: Setup<'a, M>, observer: &'a mut dyn Observer) -> Result<Self> {
        let config = setup.config;
        if setup.parameters.trainable_count() == 0 {
            return Err(TrainError::NothingTrainable(format!(
                "model.freeze is {:?} {:?}; choose a rule or patterns that match parameter names",
                config.model.freeze, config.model.trainable
            )));
        }
        let places = Gradients::new(setup.parameters);
        let mut optimizer = AdamW::on(setup.device, config.adamw(), setup.parameters, &places);
        if let Some(found) = setup.resume {
            RunDirectory::restore(found, setup.model, setup.parameters, &mut optimizer)?;
        }
        setup.parameters.move_to(setup.device)?;
        let gradients = Gradients::new(setup.parameters);
        let resumed_at = setup.resume.map(|found| found.state.step);
        let position = Position {
            step: resumed_at.unwrap_or(0),
            loader: setup.source.state(),
            samples: setup.resume.map(|found| found.state.samples()).unwrap_or_default(),
        };
        let mask = setup.embedding_rows.as_ref().map(|rows| {
            EmbeddingRowMask::new(setup.parameters, &gradients, &setup.model.token_tables(), rows)
        });
        let (metrics, evaluated) = MetricsFile::open(&setup.run.metrics(), position.step)?;
        Ok(Self {
            schedule: config.learning_rates(setup.total_steps),
            metrics,
            events: EventFile::create(setup.run.path(), position.step)?,
            samples_before: position.samples.clone(),
            without_targets: DataReport::default(),
            warned: BTreeSet::new(),
            checkpoint: setup.resume.map(|found| (found.state.step, found.path.clone())),
            coverage: GradientCoverage::new(),
            told: ImageCounts::default(),
            weights: WeightPlan::of(setup.parameters),
            largest_plan: 0,
            tokens: TokenCounts::default(),
            last_loss: None,
            last_evaluation: (evaluated, Evaluated::default()),
            mask,
            position,
            gradients,
            optimizer,
            observer,
            setup,
        })
    }

    fn steps(&mut self) -> Result<Outcome> {
        let (config, total) = (self.setup.config, self.setup.total_steps);
        self.tell(&format!(
            "{} of {} parameters are trained, {} tensors decayed; step {} of {total} comes next",
            self.setup.parameters.trainable_count(),
            self.setup.parameters.total_count(),
            self.optimizer.decayed().count(),
            (self.position.step + 1).min(total),
        ));
        // The process may have ended between a checkpoint and the evaluation after it.
        self.evaluate_if_due()?;
        let begun = (Instant::now(), self.position.step);
        device::reset_peak(self.setup.device);
        while self.position.step < total {
            if config.train.stop_after.is_some_and(|last| self.position.step >= last) {
                return Ok(Outcome::StoppedEarly);
            }
            let started = Instant::now();
            let Some(step) = self.fetch()? else { return Ok(Outcome::Interrupted) };
            self.plan_memory(&step);
            let Some(done) = self.forward_backward(&step)? else { return Ok(Outcome::Interrupted) };
            let mut report = self.update(&step, &done)?;
            report.data_seconds = step.data_seconds;
            report.step_seconds = started.elapsed().as_secs_f64();
            let per_step = begun.0.elapsed().as_secs_f64() / (report.step - begun.1) as f64;
            report.remaining_seconds = per_step * (total - report.step) as f64;
            drop(step);
            self.record(&report)?;
            self.tell_new_notes();
        }
        Ok(Outcome::Completed)
    }

    /// The next micro-batches; `None` when interrupted meanwhile.
    fn fetch(&mut self) -> Result<Option<Step>> {
        let started = Instant::now();
        let mut batches = Vec::with_capacity(self.setup.config.train.gradient_accumulation.min(1024));
        let mut ends = 0;
        while batches.len() < self.setup.config.train.gradient_accumulation {
            if self.interrupted() {
                return Ok(None);
            }
            match self.setup.source.next_batch()? {
                Some(batch) if batch_targets(&batch) > 0 => {
                    batches.push(batch);
                    ends = 0;
                }
                // Nothing to learn from; an empty loss would be 0 / 0.
                Some(batch) => {
                    let example = || format!("sample {}", batch.sample_ids.join(", "));
                    self.without_targets.leave_out(BATCH_WITHOUT_TARGETS, batch.samples() as u64, example);
                }
                None => {
                    ends += 1;
                    if ends == 3 {
                        return Err(TrainError::NoTargets(self.samples(0).to_string()));
                    }
                }
            }
        }
        Ok(Some(Step { batches, data_seconds: started.elapsed().as_secs_f64() }))
    }

    /// Prints the plan before the first step, and keeps the largest one. A process that holds more than that has holes of freed
    /// buffers, which are given back.
    fn plan_memory(&mut self, step: &Step) {
        let setup = &self.setup;
        let plan_of = |batch: &Batch| {
            let recompute = setup.config.model.recompute;
            let activations = setup.model.activation_plan(setup.parameters, &batch_shape(batch), recompute);
            let host = HostHoldings {
                loader: bytes_ahead(&setup.config.train, batch),
                pictures: setup.picture_cache.limit,
                process: setup.process_bytes,
            };
            let holdings = Holdings {
                weights: &self.weights,
                moments: setup.config.adamw().moments,
                host: (setup.device == Device::Cpu).then_some(host),
            };
            let bytes = activations.iter().map(|item| item.bytes).sum();
            (bytes, MemoryPlan::new(holdings, activations))
        };
        let plans: Vec<(u64, MemoryPlan)> = step.batches.iter().map(plan_of).collect();
        // Kept through the forward pass, gradients make the peak higher by the activations at most.
        let activations = plans.iter().map(|(activations, _)| *activations).max().unwrap_or(0);
        // A GPU's allocator keeps what is freed.
        let keep = setup.device == Device::Cpu;
        self.gradients.keep(keep && KEPT_GRADIENTS * activations <= 4 * self.gradients.len() as u64);
        let largest = plans.into_iter().map(|(_, plan)| plan).max_by_key(MemoryPlan::total);
        let Some(plan) = largest else { return };
        if self.largest_plan == 0 {
            self.observer.memory_plan(&plan);
        }
        self.largest_plan = self.largest_plan.max(plan.total());
        let too_much = |bytes| bytes > self.planned_bytes();
        if self.setup.device == Device::Cpu && memory::resident_bytes().is_some_and(too_much) {
            memory::give_back_freed();
        }
    }

    /// The plan for the largest batch, with what the picture cache holds by now.
    fn planned_bytes(&self) -> u64 {
        if self.setup.device != Device::Cpu {
            return self.largest_plan;
        }
        let PictureCache { limit, held } = self.setup.picture_cache;
        self.largest_plan.saturating_sub(limit) + held().min(limit)
    }

    /// Adds the gradients of all micro-batches; `None` when interrupted meanwhile.
    fn forward_backward(&mut self, step: &Step) -> Result<Option<StepLoss>> {
        let config = self.setup.config;
        let all_targets: usize = step.batches.iter().map(batch_targets).sum();
        let number = self.position.step + 1;
        self.gradients.clear();
        let mut total = LossSum::default();
        let mut sum_of_means = 0.0;
        for batch in &step.batches {
            if self.interrupted() {
                return Ok(None);
            }
            let divisor = match config.train.accumulation_loss {
                AccumulationLoss::Tokens => all_targets as f64,
                AccumulationLoss::MicroBatches => (batch_targets(batch) * step.batches.len()) as f64,
            };
            let (model, parameters) = (self.setup.model, &*self.setup.parameters);
            let recompute = config.model.recompute;
            let loss =
                model.forward_backward(parameters, batch, 1.0 / divisor, recompute, &mut self.gradients)?;
            if !loss.sum.is_finite() {
                return Err(guard::non_finite_loss(model, parameters, batch, number, loss.sum));
            }
            total.sum += loss.sum;
            total.targets += loss.targets;
            sum_of_means += loss.mean();
        }
        let loss = match config.train.accumulation_loss {
            AccumulationLoss::Tokens => total.mean(),
            AccumulationLoss::MicroBatches => sum_of_means / step.batches.len() as f64,
        };
        Ok(Some(StepLoss { loss, targets: total.targets }))
    }

    /// Guards, clipping and the optimizer; from here on the step counts.
    fn update(&mut self, step: &Step, done: &StepLoss) -> Result<StepReport> {
        let config = self.setup.config;
        let number = self.position.step + 1;
        let images = step.batches.iter().any(|batch| batch.media_slots.iter().any(|slots| !slots.is_empty()));
        let missing = self.coverage.check(self.setup.parameters, &self.gradients, images);
        if let Some(mask) = &self.mask {
            mask.apply(&mut self.gradients);
        }
        let norm = gradient_norm(&self.gradients);
        self.setup.device.check()?;
        if !norm.is_finite() {
            let parameters = &*self.setup.parameters;
            return Err(guard::non_finite_gradient(parameters, &self.gradients, &step.batches, number));
        }
        // After the check above: a gradient that is not finite is the more telling fault.
        if let Some(first) = missing.first() {
            let count = missing.len();
            if config.train.require_gradients {
                return Err(TrainError::NoGradient { step: number, count, parameter: first.clone() });
            }
            self.tell(&format!("step {number}: {count} trained parameter(s) without gradient: {missing:?}"));
        }
        let limit = config.optimizer.max_grad_norm;
        let factor = if limit > 0.0 { clip_factor(norm, limit) } else { 1.0 };
        let learning_rate = self.schedule.learning_rate(self.position.step);
        self.optimizer.step(self.setup.parameters, &self.gradients, learning_rate, factor);
        self.setup.device.check()?;

        let samples: u64 = step.batches.iter().map(|batch| batch.samples() as u64).sum();
        let tokens = TokenCounts::of(&step.batches);
        self.tokens.add(tokens);
        self.position =
            Position { step: number, loader: self.setup.source.state(), samples: self.samples(samples) };
        self.last_loss = Some(done.loss);
        Ok(StepReport {
            step: number,
            total_steps: self.setup.total_steps,
            epoch: self.position.loader.epoch,
            loss: done.loss,
            learning_rate,
            gradient_norm: norm,
            clipped: factor < 1.0,
            samples,
            tokens,
            target_tokens: done.targets as u64,
            samples_seen: self.position.samples.used,
            samples_skipped: self.position.samples.skipped_total(),
            peak_bytes: device::peak_bytes(self.setup.device),
            ..StepReport::default()
        })
    }

    /// Metrics, progress, checkpoint and evaluation after a step.
    fn record(&mut self, report: &StepReport) -> Result<()> {
        let (train, step) = (&self.setup.config.train, report.step);
        let last = step == self.setup.total_steps;
        self.observer.step(report);
        self.warn_of_left_out();
        if step.is_multiple_of(train.log_every) || last {
            self.metrics.step(report)?;
            self.events.scalars(
                step,
                &[
                    ("train/loss", report.loss),
                    ("train/learning_rate", report.learning_rate),
                    ("train/gradient_norm", report.gradient_norm),
                    ("train/samples_per_second", report.samples_per_second()),
                ],
            )?;
        }
        // The checkpoint first: an evaluation can take long or stop the run.
        if train.checkpoint_every > 0 && step.is_multiple_of(train.checkpoint_every) {
            self.save()?;
        }
        if last { Ok(()) } else { self.evaluate_if_due() }
    }

    /// Evaluates after the steps that `train.eval_every` says, unless it is done.
    fn evaluate_if_due(&mut self) -> Result<()> {
        let (every, step) = (self.setup.config.train.eval_every, self.position.step);
        if every > 0 && step.is_multiple_of(every) && self.last_evaluation.0 != step {
            self.evaluate()?;
        }
        Ok(())
    }

    fn evaluate(&mut self) -> Result<()> {
        let step = self.position.step;
        let Some(evaluation) = &mut self.setup.evaluation else { return Ok(()) };
        let Some(found) = evaluation(self.setup.parameters)? else { return Ok(()) };
        self.metrics.evaluation(step, &found)?;
        let tags: Vec<(String, f64)> =
            found.values.iter().map(|(name, value)| (format!("eval/{name}"), *value)).collect();
        let tags: Vec<(&str, f64)> = tags.iter().map(|(tag, value)| (tag.as_str(), *value)).collect();
        self.events.scalars(step, &tags)?;
        self.observer.evaluation(step, &found.values);
        if found.samples.skipped_total() > 0
            && found.samples.skipped != self.last_evaluation.1.samples.skipped
        {
            self.observer.message(&format!("warning: evaluation {}", found.samples));
        }
        self.last_evaluation = (step, found);
        Ok(())
    }

    /// Writes the checkpoint of the last complete step, unless it is there already.
    fn save(&mut self) -> Result<()> {
        let (config, step) = (self.setup.config, self.position.step);
        if self.checkpoint.as_ref().is_some_and(|(saved, _)| *saved == step) {
            return Ok(());
        }
        let trained = self.setup.parameters.trainable_count();
        let state = TrainerState {
            samples_seen: self.position.samples.used,
            skipped: self.position.samples.skipped.clone(),
            skipped_examples: self.position.samples.examples.clone(),
            loss: self.last_loss,
            ..TrainerState::new(config, step, self.setup.total_steps, self.position.loader, trained)?
        };
        let keep = config.train.keep_checkpoints;
        let path =
            self.setup.run.save(self.setup.model, self.setup.parameters, &self.optimizer, &state, keep)?;
        self.observer.checkpoint(step, &path);
        self.checkpoint = Some((step, path));
        Ok(())
    }

    /// Samples since the first step of the run, with `more` that are used now.
    fn samples(&self, more: u64) -> DataReport {
        let mut samples = self.samples_before.clone();
        samples.merge(self.without_targets.clone());
        let DataReport { skipped, examples, .. } = self.setup.source.report();
        samples.merge(DataReport { skipped, examples, ..DataReport::default() });
        samples.used = self.position.samples.used + more;
        samples
    }

    fn interrupted(&self) -> bool {
        self.setup.interrupt.load(Ordering::Relaxed)
    }

    fn tell(&mut self, text: &str) {
        self.observer.message(text);
    }
}
