//! What the trainer asks of a model and of its data.

use std::path::Path;

use otter_data::{Batch, DataReport, Loader, LoaderState};
use otter_model::TextInput;
use otter_nn::{Gradients, IGNORE_INDEX, Parameters};

pub use otter_nn::layers::cross_entropy::LossSum;

use crate::config::TrainSection;
use crate::error::Result;
use crate::memory::{BatchShape, PlanItem};
use crate::run::trainer_state::TrainerState;

/// A model that can be tuned. Parameters are kept beside it.
pub trait TrainableModel: Sync {
    /// Sum of the losses of a batch; adds the gradient of `factor` times that sum to `gradients`.
    ///
    /// # Errors
    /// When the model refuses the batch.
    fn forward_backward(
        &self,
        parameters: &Parameters,
        batch: &Batch,
        factor: f64,
        recompute: bool,
        gradients: &mut Gradients,
    ) -> Result<LossSum>;

    /// Sum of the losses of a batch.
    ///
    /// # Errors
    /// When the model refuses the batch.
    fn loss(&self, parameters: &Parameters, batch: &Batch) -> Result<LossSum>;

    /// Names of the tables with one row a token, whose rows can be trained one by one.
    fn token_tables(&self) -> Vec<String>;

    /// Largest memory that forward and backward pass of such a batch need beyond the weights.
    fn activation_plan(&self, parameters: &Parameters, shape: &BatchShape, recompute: bool) -> Vec<PlanItem>;

    /// Writes the model as the directory `directory`, which does not exist yet. `state` is where the run stands.
    ///
    /// # Errors
    /// When a file cannot be written.
    fn save(&self, parameters: &Parameters, directory: &Path, state: &TrainerState) -> Result<()>;

    /// Writes into `directory`, which holds the trained parameters alone, what else is needed to open them as a model.
    ///
    /// # Errors
    /// When a file cannot be written.
    fn describe_part(&self, _directory: &Path) -> Result<()> {
        Ok(())
    }

    /// Reads back what [`TrainableModel::save`] wrote; which parameters are trained stays as it is.
    ///
    /// # Errors
    /// When the directory does not hold this model.
    fn restore(&self, parameters: &mut Parameters, directory: &Path) -> Result<()>;
}

/// Where batches come from.
pub trait BatchSource: Send {
    /// The next batch; `None` once at the end of each pass over the data.
    ///
    /// # Errors
    /// When the data cannot be read.
    fn next_batch(&mut self) -> Result<Option<Batch>>;

    /// Enough to go on exactly after the batches given out so far.
    fn state(&self) -> LoaderState;

    /// What became of the samples so far.
    fn report(&self) -> DataReport;
}

impl BatchSource for Loader {
    fn next_batch(&mut self) -> Result<Option<Batch>> {
        Ok(Loader::next_batch(self)?)
    }

    fn state(&self) -> LoaderState {
        Loader::state(self)
    }

    fn report(&self) -> DataReport {
        Loader::report(self).clone()
    }
}

/// Predicted tokens of a sample: its first label is never one, because nothing comes before it.
pub fn sample_targets(batch: &Batch, sample: usize) -> usize {
    let labels = &batch.labels[batch.text.tokens_of(sample)];
    labels.iter().skip(1).filter(|&&label| label != IGNORE_INDEX).count()
}

/// Predicted tokens of a batch.
pub fn batch_targets(batch: &Batch) -> usize {
    (0..batch.samples()).map(|sample| sample_targets(batch, sample)).sum()
}

/// The sizes that decide about memory.
pub fn batch_shape(batch: &Batch) -> BatchShape {
    BatchShape {
        batch: batch.text.batch,
        length: batch.text.length,
        frames: batch.frames(),
        media: batch.media_frames.len(),
        targets: batch_targets(batch),
    }
}

/// Bytes of the pictures of samples that wait or are being prepared, when all are like those of `batch`.
pub fn bytes_ahead(config: &TrainSection, batch: &Batch) -> u64 {
    let ahead =
        config.prefetch + config.workers.max(1) + config.batch_size * (config.gradient_accumulation - 1);
    let sample = size_of_val(batch.pixels.as_slice()) / batch.samples().max(1);
    (ahead * sample) as u64
}

/// One sample of a batch as a batch of its own, without padding, media included.
pub fn single_sample(batch: &Batch, sample: usize) -> Batch {
    let range = batch.text.tokens_of(sample);
    let labels = batch.labels[range.clone()].to_vec();
    Batch {
        sample_ids: vec![batch.sample_ids[sample].clone()],
        groups: vec![batch.groups[sample]],
        texts: vec![batch.texts[sample].clone()],
        text: TextInput::single(batch.text.ids[range.clone()].to_vec(), batch.text.media_token_id),
        media_slots: vec![batch.media_slots[sample].clone()],
        label_tokens: labels.iter().filter(|&&label| label != IGNORE_INDEX).count(),
        labels,
        ..batch.clone()
    }
}
