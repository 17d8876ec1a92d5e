//! Otter as a trainable model: batches become its inputs, checkpoints its directory.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use otter_checkpoint::{CheckpointConfig, SaveOptions, TrainedPart, load_model, save_model};
use otter_data::Batch;
use otter_model::{FreezeRule, LossScale, Otter, VisionInput};
use otter_nn::{Device, Gradients, Parameters, QuantizedFormat, Tensor, Weight};

use crate::config::{Freeze, ModelSection};
use crate::error::{Result, TrainError};
use crate::feature_cache::{CacheCounts, FeatureCache};
use crate::memory::{BatchShape, PlanItem};
use crate::memory::{TrainedParts, activation_plan};
use crate::model::{LossSum, TrainableModel};
use crate::run::model_card;
use crate::run::trainer_state::TrainerState;

/// An Otter with what is needed to feed and save it.
pub struct TrainableOtter {
    otter: Otter,
    config: CheckpointConfig,
    /// Directory of the model that is tuned.
    base: PathBuf,
    /// Directory whose tokenizer goes along with every checkpoint.
    tokenizer_from: PathBuf,
    features: Option<Mutex<FeatureCache>>,
    /// How large frozen matrices are kept.
    quantize: Option<QuantizedFormat>,
}

impl TrainableOtter {
    /// `base` is the directory of the model.
    ///
    /// # Errors
    /// When `base` is a trained part whose own base is not there.
    pub fn new(otter: Otter, config: CheckpointConfig, base: &Path) -> Result<Self> {
        let (tokenizer_from, _) = TrainedPart::chain(base)?;
        let base = base.to_path_buf();
        Ok(Self { otter, config, base, tokenizer_from, features: None, quantize: None })
    }

    /// Says how large frozen matrices are kept, for those who open the trained part later.
    pub fn with_quantized_base(mut self, format: Option<QuantizedFormat>) -> Self {
        self.quantize = format;
        self
    }

    /// Takes the features of pictures from this cache. The tower must be frozen.
    pub fn with_features(mut self, cache: FeatureCache) -> Self {
        self.features = Some(Mutex::new(cache));
        self
    }

    /// What the cache of features did.
    pub fn feature_counts(&self) -> Option<CacheCounts> {
        let cache = self.features.as_ref()?;
        Some(cache.lock().unwrap_or_else(PoisonError::into_inner).counts())
    }

    /// The layers.
    pub fn otter(&self) -> &Otter {
        &self.otter
    }

    /// Media of a batch as the model takes them: its pixels, not copied, or the features that the cache has of them.
    fn vision(&self, parameters: &Parameters, batch: &Batch) -> Result<Option<VisionInput>> {
        if batch.media_frames.is_empty() {
            return Ok(None);
        }
        let shape = [batch.frames(), 3, batch.image_size, batch.image_size];
        let mut pixels = Tensor::from_shared(batch.pixels.clone(), &shape, Device::Cpu);
        if let Some(cache) = &self.features {
            let mut cache = cache.lock().unwrap_or_else(PoisonError::into_inner);
            pixels = cache.features(&self.otter, parameters, &pixels)?;
        }
        let (media_frames, slots) = (batch.media_frames.clone(), batch.media_slots.clone());
        Ok(Some(VisionInput { pixels, media_frames, slots }))
    }
}

/// The rule of a configuration.
pub fn freeze_rule(section: &ModelSection) -> FreezeRule {
    match section.freeze {
        Freeze::Head => FreezeRule::Head,
        Freeze::V01 => FreezeRule::V01,
        Freeze::Patterns => FreezeRule::Patterns(section.trainable.clone()),
    }
}

fn refused(batch: &Batch) -> impl FnOnce(otter_model::ModelError) -> TrainError {
    let samples = batch.sample_ids.join(", ");
    move |error| TrainError::Model(format!("{error} (samples {samples})"))
}

impl TrainableModel for TrainableOtter {
    fn forward_backward(
        &self,
        parameters: &Parameters,
        batch: &Batch,
        factor: f64,
        recompute: bool,
        gradients: &mut Gradients,
    ) -> Result<LossSum> {
        let vision = self.vision(parameters, batch)?;
        let scale = LossScale::Factor(factor);
        self.otter
            .forward_backward(
                parameters,
                vision.as_ref(),
                &batch.text,
                &batch.labels,
                scale,
                recompute,
                gradients,
            )
            .map_err(refused(batch))
    }

    fn loss(&self, parameters: &Parameters, batch: &Batch) -> Result<LossSum> {
        let vision = self.vision(parameters, batch)?;
        self.otter.loss(parameters, vision.as_ref(), &batch.text, &batch.labels).map_err(refused(batch))
    }

    fn token_tables(&self) -> Vec<String> {
        let config = self.otter.config();
        vec![config.input_table(), config.output_table()]
    }

    fn activation_plan(&self, parameters: &Parameters, shape: &BatchShape, recompute: bool) -> Vec<PlanItem> {
        let trained = |prefix: &str| parameters.iter().any(|p| p.trainable && p.name.starts_with(prefix));
        let vision = trained("vision_encoder.");
        let media_trained = (vision || trained("perceiver.")) && shape.media > 0;
        let first_layer = self.otter.language().first_trained_layer(parameters, media_trained);
        activation_plan(self.otter.config(), shape, TrainedParts { first_layer, vision }, recompute)
    }

    fn save(&self, parameters: &Parameters, directory: &Path, state: &TrainerState) -> Result<()> {
        let options = SaveOptions {
            tokenizer_from: Some(&self.tokenizer_from),
            card: Some(model_card::card(state)?),
            ..SaveOptions::default()
        };
        Ok(save_model(directory, &self.config, &parameters.on_host(), &options)?)
    }

    fn describe_part(&self, directory: &Path) -> Result<()> {
        let base = std::path::absolute(&self.base).map_err(TrainError::io(&self.base, "resolve"))?;
        Ok(TrainedPart::new(&base, self.quantize).with_input(self.config.input).write(directory)?)
    }

    fn restore(&self, parameters: &mut Parameters, directory: &Path) -> Result<()> {
        let loaded = load_model(directory, parameters.device())?;
        for parameter in parameters.iter_mut() {
            let Some(saved) = loaded.parameters.by_name(&parameter.name) else {
                return Err(TrainError::checkpoint(
                    directory,
                    format!("there is no tensor `{}`", parameter.name),
                ));
            };
            if saved.tensor.shape() != parameter.tensor.shape() {
                let (found, expected) = (saved.tensor.shape(), parameter.tensor.shape());
                let problem = format!("tensor `{}` is {found:?}; expected {expected:?}", parameter.name);
                return Err(TrainError::checkpoint(directory, problem));
            }
            if parameter.trainable {
                parameter.tensor = saved.tensor.clone();
                parameter.tensor.make_full().make_owned();
            } else if same_values(&parameter.tensor, &saved.tensor) {
                saved.tensor.give_back();
            } else {
                parameter.tensor = saved.tensor.clone();
            }
        }
        Ok(())
    }
}

/// Compares bit by bit, a part at a time. A frozen half matrix that was saved widened is the same and stays half.
fn same_values(a: &Weight, b: &Weight) -> bool {
    const PART: usize = 1 << 16;
    let mut parts = a.view().chunks(PART).zip(b.view().chunks(PART));
    parts.all(|(a, b)| a.iter().zip(b.iter()).all(|(a, b)| a.to_bits() == b.to_bits()))
}
