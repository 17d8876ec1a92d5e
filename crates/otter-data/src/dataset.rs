//! All sets of a configuration as one list of samples.

use std::sync::Arc;

use crate::config::DataConfig;
use crate::error::{DataError, Result};
use crate::sample::Sample;
use crate::tokenizer::TextTokenizer;

/// All sets of a configuration as one list of samples.
pub struct Dataset {
    config: DataConfig,
    tokenizer: Arc<TextTokenizer>,
}

impl Dataset {
    /// Opens all files of the configuration. Paths must be resolved.
    pub fn open(config: &DataConfig, tokenizer: Arc<TextTokenizer>) -> Result<Self> {
        Ok(Self { config: config.clone(), tokenizer })
    }

    /// Number of samples of an epoch.
    pub fn len(&self) -> usize {
        0
    }

    /// Whether there is no sample.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The configuration it was opened with.
    pub fn config(&self) -> &DataConfig {
        &self.config
    }

    /// The tokenizer it was opened with.
    pub fn tokenizer(&self) -> &Arc<TextTokenizer> {
        &self.tokenizer
    }

    /// Sample `index` as in epoch 0.
    pub fn sample(&self, index: usize) -> Result<Sample> {
        self.sample_in_epoch(index, 0, true)
    }

    /// Sample `index` of an epoch, with or without decoding its images.
    pub fn sample_in_epoch(&self, index: usize, _epoch: u64, _with_pixels: bool) -> Result<Sample> {
        Err(DataError::Config(format!("sample {index} is out of range")))
    }
}
