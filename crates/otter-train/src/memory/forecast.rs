//! What a run will take, from its configuration and the headers of its files alone, so that `train.memory` can choose before
//! anything large is read.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use otter_checkpoint::{
    Checkpoint, LoadOptions, PlannedWeight, TRAINED_FILE, TrainedPart, Weights, load_tokenizer,
    planned_weight,
};
use otter_data::{Dataset, Loader, LoaderOptions, TextTokenizer};
use otter_model::{FreezeRule, Otter};
use otter_nn::{ParameterSpecs, QuantizedFormat};

use crate::config::TrainConfig;
use crate::error::{Result, TrainError};
use crate::memory::choice::{Choice, Fitted, fit};
use crate::memory::{BatchShape, Holdings, HostHoldings, Kept, MemoryPlan, WeightPlan, resident_bytes};
use crate::memory::{TrainedParts, activation_plan};
use crate::model::{batch_shape, bytes_ahead};
use crate::otter::freeze_rule;

/// Batches that are looked at to see how many pictures one has.
const BATCHES_LOOKED_AT: usize = 4;

/// The model to tune, as its headers describe it.
pub(crate) struct Base {
    /// Configuration and places of the tensors.
    pub checkpoint: Checkpoint,
    /// Its parameters.
    pub specs: ParameterSpecs,
    /// The tokenizer.
    pub tokenizer: Arc<TextTokenizer>,
    /// Blocks of the frozen matrices under a trained part.
    pub quantized: Option<QuantizedFormat>,
    /// The trained parts over the model, the lowest first.
    parts: Vec<Weights>,
    directory: PathBuf,
}

/// The largest batch to expect, and bytes of the samples that wait.
pub(crate) struct Expected {
    shape: BatchShape,
    ahead: u64,
}

impl Base {
    /// Opens the headers of `directory`, or of the model under a trained part.
    ///
    /// # Errors
    /// When a file is missing or damaged.
    pub(crate) fn open(directory: &Path) -> Result<Self> {
        let (whole, parts) = TrainedPart::chain(directory)?;
        let quantized = TrainedPart::read(directory)?.map(|part| part.quantize()).transpose()?.flatten();
        let parts = parts.iter().map(|part| Weights::open_file(&part.join(TRAINED_FILE)));
        let checkpoint = Checkpoint::open(&whole)?;
        let (_, specs) = Otter::new(&checkpoint.config.model)
            .map_err(|error| TrainError::Model(format!("{}: {error}", whole.display())))?;
        Ok(Self {
            tokenizer: Arc::new(load_tokenizer(directory)?),
            checkpoint,
            specs,
            quantized,
            parts: parts.collect::<Result<_, _>>()?,
            directory: whole,
        })
    }

    /// The weights as they will be kept.
    fn weights(&self, rule: &FreezeRule, choice: Choice) -> Result<WeightPlan> {
        let config = &self.checkpoint.config.model;
        let is_trained = |name: &str| rule.is_trainable(config, name);
        let options = LoadOptions { quantize: choice.quantize, keep: Some(&is_trained) };
        let mut plan = WeightPlan::default();
        for spec in self.specs.iter() {
            let elements = spec.len() as u64;
            let over = self.parts.iter().rev().find(|part| part.get(&spec.name).is_some());
            let weights = over.unwrap_or(&self.checkpoint.weights);
            let (kept, bytes) = match planned_weight(weights, spec, options) {
                _ if is_trained(&spec.name) => (Kept::Trained, 4 * elements),
                PlannedWeight::Full => (Kept::Full, 4 * elements),
                PlannedWeight::Half => (Kept::Half, 2 * elements),
                PlannedWeight::Quantized(format) => {
                    let (rows, width) = (spec.shape[0], spec.shape[1]);
                    (Kept::Quantized(format), (rows * format.row_bytes(width)) as u64)
                }
            };
            plan.add(kept, elements, bytes);
        }
        if plan.trained() == 0 {
            return Err(TrainError::NothingTrainable(format!(
                "the rule {rule:?} matches no parameter of {}",
                self.directory.display()
            )));
        }
        Ok(plan)
    }

    /// Chooses what fits `limit` bytes.
    ///
    /// # Errors
    /// When nothing does.
    pub(crate) fn fit(&self, config: &TrainConfig, limit: u64, expected: &Expected) -> Result<Fitted> {
        let rule = freeze_rule(&config.model);
        let model = &self.checkpoint.config.model;
        let vision = self
            .specs
            .iter()
            .any(|spec| spec.name.starts_with("vision_encoder.") && rule.is_trainable(model, &spec.name));
        // As if all layers kept something: so it is wherever embeddings or the resampler are trained.
        let trained = TrainedParts { first_layer: 0, vision };
        let process = resident_bytes().unwrap_or(0);
        // Planned once before, so that an error is not met inside the choice.
        self.weights(&rule, Choice::of(config))?;
        fit(config, limit, |choice| {
            let weights = self.weights(&rule, choice).unwrap_or_default();
            let host =
                HostHoldings { loader: expected.ahead, pictures: picture_cache_limit(config), process };
            let host = (config.train.device == "cpu").then_some(host);
            let holdings = Holdings { weights: &weights, moments: choice.moments, host };
            let activations = activation_plan(model, &expected.shape, trained, choice.recompute);
            MemoryPlan::new(holdings, activations)
        })
    }
}

/// Bytes up to which decoded pictures of training and held-out data are kept.
pub(crate) fn picture_cache_limit(config: &TrainConfig) -> u64 {
    let held_out = config.eval.as_ref().map_or(0, |eval| eval.data.frame_cache_mib);
    ((config.data.frame_cache_mib + held_out) as u64) << 20
}

impl Expected {
    /// As many tokens as a batch may have; pictures as the first batches of `dataset` have them.
    ///
    /// # Errors
    /// When samples cannot be read.
    pub(crate) fn of(config: &TrainConfig, dataset: &Arc<Dataset>, options: &LoaderOptions) -> Result<Self> {
        let options = LoaderOptions { workers: 1, prefetch: options.batch_size, ..options.clone() };
        let mut loader = Loader::new(Arc::clone(dataset), options, None)?;
        let mut expected = Self { shape: BatchShape::default(), ahead: 0 };
        for _ in 0..BATCHES_LOOKED_AT {
            let Some(batch) = loader.next_batch()? else { break };
            let (found, shape) = (batch_shape(&batch), &mut expected.shape);
            shape.frames = shape.frames.max(found.frames);
            shape.media = shape.media.max(found.media);
            expected.ahead = expected.ahead.max(bytes_ahead(&config.train, &batch));
        }
        let shape = &mut expected.shape;
        (shape.batch, shape.length) = (config.train.batch_size, config.data.max_seq_len);
        shape.targets = shape.batch * shape.length;
        Ok(expected)
    }
}
