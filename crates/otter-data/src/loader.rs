//! Batches in a deterministic order, built by worker threads.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::batch::Batch;
use crate::dataset::Dataset;
use crate::error::Result;

/// How batches are made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoaderOptions {
    /// Samples per batch.
    pub batch_size: usize,
    /// Worker threads; the order of the batches does not depend on it.
    pub workers: usize,
    /// Samples that may wait finished, over all workers.
    pub prefetch: usize,
    /// Leave out the last batch of an epoch if it is not full.
    pub drop_last: bool,
}

impl Default for LoaderOptions {
    fn default() -> Self {
        Self { batch_size: 1, workers: 2, prefetch: 16, drop_last: false }
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
}

/// What became of the samples.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataReport {
    /// Samples in the batches given out.
    pub used: u64,
    /// Samples left out, by reason.
    pub skipped: BTreeMap<String, u64>,
}

/// Gives out the batches of epoch after epoch.
pub struct Loader {
    #[expect(dead_code, reason = "read by the next commit")]
    dataset: Arc<Dataset>,
    #[expect(dead_code, reason = "read by the next commit")]
    options: LoaderOptions,
    state: LoaderState,
    report: DataReport,
}

impl Loader {
    /// Starts at the beginning of epoch 0, or at `state`.
    pub fn new(dataset: Arc<Dataset>, options: LoaderOptions, state: Option<LoaderState>) -> Result<Self> {
        let seed = dataset.config().seed;
        let state = state.unwrap_or(LoaderState { epoch: 0, position: 0, seed });
        Ok(Self { dataset, options, state, report: DataReport::default() })
    }

    /// The next batch; `None` once at the end of each epoch, after which the next epoch begins.
    pub fn next_batch(&mut self) -> Result<Option<Batch>> {
        Ok(None)
    }

    /// Where the loader stands after the batches given out so far.
    pub fn state(&self) -> LoaderState {
        self.state
    }

    /// What became of the samples so far.
    pub fn report(&self) -> &DataReport {
        &self.report
    }
}
