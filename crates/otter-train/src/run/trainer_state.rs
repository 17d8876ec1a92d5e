//! `trainer.json`: what the next step depends on besides weights and moments.

use std::collections::BTreeMap;

use otter_data::{DataReport, LoaderState};
use serde::{Deserialize, Serialize};

use crate::config::{SaveWeights, TrainConfig};
use crate::error::Result;

/// Layout of `trainer.json`; a later layout is refused.
pub const FORMAT: u32 = 1;

/// Everything but weights and moments that the next step depends on. Nothing else is random: the loader's state
/// holds the seed and place of the data order, and the model has no dropout.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainerState {
    /// Layout of this file.
    pub format: u32,
    /// Optimizer steps made.
    pub step: u64,
    /// Steps of the whole run.
    pub total_steps: u64,
    /// Where the data stands.
    pub loader: LoaderState,
    /// Samples used so far.
    pub samples_seen: u64,
    /// Samples left out so far, by reason.
    pub skipped: BTreeMap<String, u64>,
    /// A message for each reason, which names a sample.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub skipped_examples: BTreeMap<String, String>,
    /// What the model folder holds.
    pub save: SaveWeights,
    /// Number of trained elements.
    pub trained: u64,
    /// Loss of the last step, for the reader.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss: Option<f64>,
    /// The resolved configuration as TOML.
    pub config: String,
}

impl TrainerState {
    /// A state in the present layout.
    pub fn new(
        config: &TrainConfig,
        step: u64,
        total_steps: u64,
        loader: LoaderState,
        trained: u64,
    ) -> Result<Self> {
        Ok(Self {
            format: FORMAT,
            step,
            total_steps,
            loader,
            samples_seen: 0,
            skipped: BTreeMap::new(),
            skipped_examples: BTreeMap::new(),
            save: config.train.save.unwrap_or_default(),
            trained,
            loss: None,
            config: config.to_toml()?,
        })
    }

    /// Samples used and left out so far.
    pub fn samples(&self) -> DataReport {
        DataReport {
            used: self.samples_seen,
            skipped: self.skipped.clone(),
            examples: self.skipped_examples.clone(),
            ..DataReport::default()
        }
    }
}
