//! Batches in a deterministic order, built by worker threads.
//!
//! Position p of an epoch's order is built by worker p mod workers and handed over through that
//! worker's own bounded channel, so the order does not depend on the number of workers or on
//! their speed, and the memory of finished samples is bounded.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::JoinHandle;

use serde::{Deserialize, Serialize};

use crate::batch::Batch;
use crate::batch::epoch_order::Rank;
use crate::batch::packing::Packing;
use crate::batch::report::DataReport;
use crate::error::{DataError, Result};
use crate::sample::Sample;
use crate::sample::dataset::Dataset;
use crate::sample::frame_cache::FrameCounts;

/// Reason under which samples of an incomplete last batch are counted.
const INCOMPLETE_LAST_BATCH: &str = "incomplete_last_batch";

/// How batches are made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoaderOptions {
    /// Samples per batch.
    pub batch_size: usize,
    /// Worker threads; the order of the batches does not depend on it.
    pub workers: usize,
    /// Finished samples that may wait, over all workers; at least one per worker. With a batch or more, the next batch
    /// is ready when a step ends.
    pub prefetch: usize,
    /// Leave out the last batch of an epoch if it is not full.
    pub drop_last: bool,
    /// Where the samples of a batch stand; the samples themselves and their order do not depend on it.
    pub packing: Packing,
    /// Which part of every epoch is ours, where several processes train together.
    pub rank: Rank,
    /// Longest packed row; `None`: all samples of a batch in one row.
    pub pack_length: Option<usize>,
}

impl Default for LoaderOptions {
    fn default() -> Self {
        Self {
            batch_size: 1,
            workers: 2,
            prefetch: 16,
            drop_last: false,
            packing: Packing::Off,
            rank: Rank::default(),
            pack_length: None,
        }
    }
}

/// Where a loader stands; enough to go on exactly from there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoaderState {
    /// Current epoch, from 0.
    pub epoch: u64,
    /// Positions of the epoch's order consumed by the batches given out, skipped samples included.
    pub position: u64,
    /// Seed of the order.
    pub seed: u64,
    /// Number of samples of an epoch, to notice that the data changed.
    pub samples: u64,
    /// Batches of this epoch given out so far.
    #[serde(default)]
    pub batches: u64,
}

/// The workers of the epoch under way.
struct Workers {
    receivers: Vec<Receiver<Result<Sample>>>,
    threads: Vec<JoinHandle<()>>,
    /// Next position to take, and the end of the epoch.
    next: u64,
    end: u64,
}

impl Drop for Workers {
    fn drop(&mut self) {
        // Closed channels end the workers at their next sample.
        self.receivers.clear();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Gives out the batches of epoch after epoch.
pub struct Loader {
    dataset: Arc<Dataset>,
    options: LoaderOptions,
    state: LoaderState,
    report: DataReport,
    /// Hashes of the images in `report.image_notes`: an image comes again in every epoch.
    noted: HashSet<u64>,
    /// Counts of the data set when this loader was made.
    frames_before: FrameCounts,
    workers: Option<Workers>,
}

impl Loader {
    /// Starts at the beginning of epoch 0, or at `state`.
    pub fn new(dataset: Arc<Dataset>, options: LoaderOptions, state: Option<LoaderState>) -> Result<Self> {
        if options.batch_size == 0 || options.workers == 0 || options.workers > 1024 {
            return Err(DataError::Config(
                "the loader needs a batch size of at least 1 and 1 to 1024 workers".into(),
            ));
        }
        if options.rank.rank >= options.rank.world {
            let Rank { rank, world } = options.rank;
            return Err(DataError::Config(format!("rank {rank} of {world}; ranks are counted from 0")));
        }
        let samples = dataset.mixture().epoch_len() as u64;
        if options.rank.world > 1 && samples < (options.rank.world * options.batch_size) as u64 {
            return Err(DataError::Config(format!(
                "an epoch of {samples} samples is less than one batch of {} for each of {} processes; lower the batch size",
                options.batch_size, options.rank.world
            )));
        }
        let seed = dataset.config().seed;
        let state = state.unwrap_or(LoaderState { epoch: 0, position: 0, seed, samples, batches: 0 });
        if state.samples != samples || state.position > 2 * samples {
            return Err(DataError::Config(format!(
                "the saved position is {} of {} samples, but the data has {samples} now; resume with the same data",
                state.position, state.samples
            )));
        }
        let frames_before = dataset.frame_counts();
        Ok(Self {
            dataset,
            options,
            state,
            report: DataReport::default(),
            noted: HashSet::new(),
            frames_before,
            workers: None,
        })
    }

    /// The next batch; `None` once at the end of each epoch, after which the next epoch begins.
    ///
    /// After an error the loader stands where it stood before the call.
    pub fn next_batch(&mut self) -> Result<Option<Batch>> {
        let result = self.collect_batch();
        self.report.frames = self.dataset.frame_counts().since(self.frames_before);
        if result.is_err() {
            self.workers = None;
        }
        result
    }

    fn collect_batch(&mut self) -> Result<Option<Batch>> {
        let mut workers = match self.workers.take() {
            Some(workers) => workers,
            None => self.start_workers()?,
        };
        let epoch_begins = workers.next == 0;
        let mut samples = Vec::with_capacity(self.options.batch_size.min(4096));
        let mut report = DataReport::default();
        // Steps of several processes are common: the epoch ends after the same number of batches for all of them.
        let ended = self.options.rank.world > 1 && self.state.batches == self.batches_per_epoch() as u64;
        while !ended && samples.len() < self.options.batch_size && workers.next < workers.end {
            let worker = (workers.next % self.options.workers as u64) as usize;
            let result = workers.receivers[worker].recv().map_err(|_| {
                DataError::Loader(format!(
                    "the worker of position {} ended early; see its message above",
                    workers.next
                ))
            })?;
            workers.next += 1;
            match result {
                Ok(sample) => {
                    self.note_images(&sample);
                    samples.push(sample);
                }
                Err(error) => match error.skip_reason().filter(|reason| self.dataset.passes_over(*reason)) {
                    Some(reason) => report.skip(reason, &error),
                    None => return Err(error),
                },
            }
        }
        let complete = samples.len() == self.options.batch_size;
        if self.options.rank.world > 1 && !complete && !ended {
            return Err(DataError::Loader(format!(
                "epoch {}: more than half of this process's samples cannot be used, so that it has no batch for a step of \
                 all; {}",
                self.state.epoch, report
            )));
        }
        if !complete && self.options.drop_last && !samples.is_empty() {
            let (count, first) = (samples.len() as u64, &samples[0].id);
            report.leave_out(INCOMPLETE_LAST_BATCH, count, || format!("sample {first}"));
            samples.clear();
        }
        if samples.is_empty() {
            // The end of the epoch.
            self.report.merge(report);
            if epoch_begins {
                return Err(DataError::Loader(format!(
                    "epoch {} gave no batch, because none of its {} samples can be used; {}",
                    self.state.epoch, workers.end, self.report
                )));
            }
            self.state.epoch += 1;
            self.state.position = 0;
            self.state.batches = 0;
            return Ok(None);
        }
        report.used += samples.len() as u64;
        self.report.merge(report);
        self.state.position = workers.next;
        self.state.batches += 1;
        self.workers = Some(workers);
        let special = self.dataset.tokenizer().special();
        let image_size = self.dataset.config().image_size;
        Ok(Some(match self.options.packing {
            Packing::Off => Batch::collate(samples, special, image_size),
            Packing::Batch => Batch::collate_packed(samples, self.options.pack_length, special, image_size),
        }))
    }

    fn note_images(&mut self, sample: &Sample) {
        let frames = sample.media.iter().flat_map(|item| &item.frames);
        for frame in frames.filter(|frame| !frame.notes.is_empty()) {
            let mut hasher = DefaultHasher::new();
            (frame.table, &frame.image_id).hash(&mut hasher);
            if self.noted.insert(hasher.finish()) {
                self.report.image_notes.add(frame.notes, || self.dataset.frame_name(frame));
            }
        }
    }

    fn start_workers(&self) -> Result<Workers> {
        let sampling = self.dataset.switches().sampling;
        let order = self.dataset.mixture().order(sampling, self.state.seed, self.state.epoch);
        let mut order = self.options.rank.part(order, self.options.batch_size);
        if self.options.rank.world > 1 {
            // What cannot be used is made up for from the beginning, so that no process runs out before the others.
            order.extend_from_within(..);
        }
        let order: Arc<[u32]> = order.into();
        let count = self.options.workers;
        let start = self.state.position as usize;
        let mut workers = Workers {
            receivers: Vec::with_capacity(count),
            threads: Vec::with_capacity(count),
            next: start as u64,
            end: order.len() as u64,
        };
        for worker in 0..count {
            let (sender, receiver) = sync_channel(self.options.prefetch.div_ceil(count).max(1));
            let (dataset, order, epoch) = (self.dataset.clone(), order.clone(), self.state.epoch);
            // The first position from `start` on that belongs to this worker.
            let first = start + (worker + count - start % count) % count;
            let thread = std::thread::Builder::new().name(format!("data-{worker}")).spawn(move || {
                for position in (first..order.len()).step_by(count) {
                    let sample = dataset.sample_in_epoch(order[position] as usize, epoch, true);
                    if sender.send(sample).is_err() {
                        return;
                    }
                }
            });
            let thread = thread
                .map_err(|error| DataError::Loader(format!("cannot start a worker thread: {error}")))?;
            workers.receivers.push(receiver);
            workers.threads.push(thread);
        }
        Ok(workers)
    }

    /// Where the loader stands after the batches given out so far.
    pub fn state(&self) -> LoaderState {
        self.state
    }

    /// What became of the samples since this loader was made.
    pub fn report(&self) -> &DataReport {
        &self.report
    }

    /// Batches of a full epoch, if no sample is left out.
    pub fn batches_per_epoch(&self) -> usize {
        let samples = self.dataset.mixture().epoch_len();
        if self.options.rank.world > 1 {
            samples / (self.options.rank.world * self.options.batch_size)
        } else if self.options.drop_last {
            samples / self.options.batch_size
        } else {
            samples.div_ceil(self.options.batch_size)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_tells_reasons_and_examples() {
        let mut report = DataReport { used: 14, ..DataReport::default() };
        assert_eq!(report.to_string(), "samples: 14 used, none left out");
        report.leave_out("too_long", 1, || "sample a".to_owned());
        report.leave_out("too_long", 4, || unreachable!("the first example stays"));
        report.leave_out("bad_image", 1, || "sample b".to_owned());
        assert_eq!(
            report.to_string(),
            "samples: 14 used, 6 left out (30.0 %)\n  bad_image        1    5.0 %  for example sample b\n  \
             too_long         5   25.0 %  for example sample a"
        );
        assert_eq!(
            report.line("too_long"),
            "5 of 20 samples (25.0 %) are left out: too_long, for example sample a"
        );
    }
}
