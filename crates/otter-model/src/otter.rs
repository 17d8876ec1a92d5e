//! Otter: vision tower, resampler and language model put together.

use std::ops::Range;

use otter_nn::layers::cross_entropy::LossSum;
use otter_nn::layers::rows;
use otter_nn::{Float, Gradients, IGNORE_INDEX, ParameterSpecs, Parameters, Tensor};

use crate::ModelError;
use crate::config::OtterConfig;
use crate::flamingo::LanguageModel;
use crate::flamingo::perceiver_resampler::{PerceiverResampler, PerceiverSaved};
use crate::input::{TextInput, TextPlan, VisionInput};
use crate::vision::clip::{ClipSaved, ClipVision};

/// Receives intermediate results by name (`xattn.3`, `hidden.3`, `final_norm`, …).
pub type Trace<'a, T> = dyn FnMut(&str, &Tensor<T>) + 'a;

/// The layers of a model; its parameters live apart.
#[derive(Clone, Debug)]
pub struct Otter {
    config: OtterConfig,
    vision: ClipVision,
    perceiver: PerceiverResampler,
    language: LanguageModel,
}

/// Factor on the sum of token losses before the backward pass.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum LossScale {
    /// One over the number of targets of this batch.
    Mean,
    /// A given factor, for targets counted over several batches.
    Factor(f64),
}

struct GroupSaved<T> {
    items: Vec<usize>,
    perceiver: PerceiverSaved<T>,
}

struct VisionSaved<T> {
    clip: Option<ClipSaved<T>>,
    groups: Vec<GroupSaved<T>>,
}

impl Otter {
    /// Lays out a model and lists its parameters; allocates no tensor.
    ///
    /// # Errors
    /// Impossible sizes.
    pub fn new(config: &OtterConfig) -> Result<(Self, ParameterSpecs), ModelError> {
        config.validate()?;
        let mut specs = ParameterSpecs::default();
        let vision = ClipVision::new(&mut specs, "vision_encoder.vision_model", &config.vision);
        let width = config.vision.hidden_size;
        let perceiver = PerceiverResampler::new(&mut specs, "perceiver", width, &config.perceiver);
        let language = LanguageModel::new(&mut specs, "lang_encoder", config);
        Ok((Self { config: config.clone(), vision, perceiver, language }, specs))
    }

    /// Sizes.
    pub fn config(&self) -> &OtterConfig {
        &self.config
    }

    /// The language model.
    pub fn language(&self) -> &LanguageModel {
        &self.language
    }

    /// What the tower sees in pixels (frames, 3, side, side): features (frames, patches, width). They can stand in the
    /// place of the pixels in a [`VisionInput`].
    pub fn vision_features<T: Float>(&self, parameters: &Parameters<T>, pixels: &Tensor<T>) -> Tensor<T> {
        self.vision.forward(parameters, pixels)
    }

    fn features<T: Float>(&self, parameters: &Parameters<T>, vision: &VisionInput<T>) -> Tensor<T> {
        if vision.is_features() {
            vision.pixels.to_device(parameters.device())
        } else {
            self.vision.forward(parameters, &vision.pixels)
        }
    }

    /// Latents (items * latents, width) of all media items.
    ///
    /// # Errors
    /// Pixels or frames that do not fit the model.
    pub fn encode_media<T: Float>(
        &self,
        parameters: &Parameters<T>,
        vision: &VisionInput<T>,
        trace: &mut Trace<'_, T>,
    ) -> Result<Tensor<T>, ModelError> {
        self.check_vision(vision)?;
        let features = self.features(parameters, vision);
        trace("vision_features", &features);
        let times = self.media_times(vision)?;
        let width = self.config.vision.hidden_size;
        let latents_per_item = self.config.perceiver.num_latents * width;
        let items = vision.media_frames.len();
        let mut latents =
            Tensor::zeros(&[items * self.config.perceiver.num_latents, width], features.device());
        for (frames, group) in groups(&vision.media_frames) {
            let (gathered, group_times) = self.gather(&features, vision, &group, &times);
            let out = self.perceiver.forward(parameters, &gathered, group.len(), frames, &group_times);
            // Each item once: adding to zeros writes.
            rows::scatter_add_rows(&mut latents, &out, &numbers(&group), latents_per_item);
        }
        trace("perceiver_out", &latents);
        parameters.device().check()?;
        Ok(latents)
    }

    fn encode_media_saved<T: Float>(
        &self,
        parameters: &Parameters<T>,
        vision: &VisionInput<T>,
    ) -> Result<(Tensor<T>, VisionSaved<T>), ModelError> {
        self.check_vision(vision)?;
        let trained = parameters.iter().any(|p| p.trainable && p.name.starts_with("vision_encoder."));
        let (features, clip) = if trained {
            if vision.is_features() {
                return Err(ModelError::FeaturesOfTrainedTower);
            }
            let (features, saved) = self.vision.forward_saved(parameters, &vision.pixels);
            (features, Some(saved))
        } else {
            (self.features(parameters, vision), None)
        };
        let times = self.media_times(vision)?;
        let width = self.config.vision.hidden_size;
        let size = self.config.perceiver.num_latents * width;
        let items = vision.media_frames.len();
        let mut latents =
            Tensor::zeros(&[items * self.config.perceiver.num_latents, width], features.device());
        let mut saved_groups = Vec::new();
        for (frames, group) in groups(&vision.media_frames) {
            let (gathered, group_times) = self.gather(&features, vision, &group, &times);
            let (out, perceiver) =
                self.perceiver.forward_saved(parameters, &gathered, group.len(), frames, &group_times);
            rows::scatter_add_rows(&mut latents, &out, &numbers(&group), size);
            saved_groups.push(GroupSaved { items: group, perceiver });
        }
        Ok((latents, VisionSaved { clip, groups: saved_groups }))
    }

    fn encode_media_backward<T: Float>(
        &self,
        parameters: &Parameters<T>,
        saved: VisionSaved<T>,
        vision: &VisionInput<T>,
        d_latents: &Tensor<T>,
        gradients: &mut Gradients<T>,
    ) {
        let width = self.config.vision.hidden_size;
        let size = self.config.perceiver.num_latents * width;
        let frame_size = self.config.vision.num_patches() * width;
        let frames = vision.pixels.shape()[0];
        let mut d_features = saved
            .clip
            .is_some()
            .then(|| Tensor::zeros(&[frames, frame_size / width, width], d_latents.device()));
        for GroupSaved { items, perceiver } in saved.groups {
            let d_out = rows::gather_rows(d_latents, &numbers(&items), size);
            let d_out = d_out.reshape(&[items.len() * size / width, width]);
            let d = self.perceiver.backward(parameters, perceiver, &d_out, d_features.is_some(), gradients);
            if let (Some(total), Some(d)) = (&mut d_features, d) {
                rows::scatter_add_rows(total, &d, &frames_of(vision, &items), frame_size);
            }
        }
        if let (Some(clip), Some(d_features)) = (saved.clip, d_features) {
            self.vision.backward(parameters, clip, &d_features, gradients);
        }
    }

    /// Normalized hidden states (batch * length, width) and, through `trace`, everything on the way. Positions are
    /// 0..length whatever the padding, as in the reference's plain forward pass; in packed rows they restart in every
    /// segment.
    ///
    /// # Errors
    /// Input that does not fit the model.
    pub fn forward<T: Float>(
        &self,
        parameters: &Parameters<T>,
        vision: Option<&VisionInput<T>>,
        text: &TextInput,
        trace: &mut Trace<'_, T>,
    ) -> Result<Tensor<T>, ModelError> {
        self.check_text(text, vision)?;
        let latents = vision.map(|vision| self.encode_media(parameters, vision, trace)).transpose()?;
        let plan = TextPlan::new(text, vision.map(|v| v.slots.as_slice()), &self.config.text);
        let context = plan.context(text);
        let hidden = self.language.forward(parameters, &text.ids, latents.as_ref(), &context, trace);
        parameters.device().check()?;
        Ok(hidden)
    }

    /// Sum of the losses of `labels` (batch, length), where position t predicts label t + 1 of the same sequence.
    ///
    /// # Errors
    /// As [`Otter::forward`].
    pub fn loss<T: Float>(
        &self,
        parameters: &Parameters<T>,
        vision: Option<&VisionInput<T>>,
        text: &TextInput,
        labels: &[i64],
    ) -> Result<LossSum, ModelError> {
        let vision = vision.filter(|_| text.shows_media());
        let hidden = self.forward(parameters, vision, text, &mut |_, _| {})?;
        let targets = self.targets(labels, text)?;
        let loss = self.language.cross_entropy().forward(parameters, &hidden, &targets);
        parameters.device().check()?;
        Ok(loss)
    }

    /// Log-probability of every label (batch, length) given the tokens before it; `None` where nothing is asked.
    ///
    /// # Errors
    /// As [`Otter::forward`], and where one is not finite.
    pub fn log_probabilities<T: Float>(
        &self,
        parameters: &Parameters<T>,
        vision: Option<&VisionInput<T>>,
        text: &TextInput,
        labels: &[i64],
    ) -> Result<Vec<Option<f64>>, ModelError> {
        let vision = vision.filter(|_| text.shows_media());
        let hidden = self.forward(parameters, vision, text, &mut |_, _| {})?;
        let targets = self.targets(labels, text)?;
        let shifted = self.language.cross_entropy().log_probabilities(parameters, &hidden, &targets);
        parameters.device().check()?;
        if let Some(row) = shifted.iter().position(|value| value.is_some_and(|value| !value.is_finite())) {
            let (sequence, token) = (row / text.length + 1, row % text.length + 2);
            let what = format!("the log-probabilities of sequence {sequence}, from its token {token} on,");
            return Err(self.not_finite(parameters, vision, Some(text), what));
        }
        let mut out = vec![None; labels.len()];
        for (index, value) in shifted.into_iter().enumerate().filter(|(_, v)| v.is_some()) {
            out[index + 1] = value;
        }
        Ok(out)
    }

    /// Loss of `labels` and, added to `gradients`, the gradient of the scaled sum of losses with respect to every trained
    /// parameter. With `recompute`, decoder layers keep only their input and run again in the backward pass. Without a
    /// media token in the batch the vision side is skipped: it could influence nothing.
    ///
    /// # Errors
    /// As [`Otter::forward`].
    pub fn forward_backward<T: Float>(
        &self,
        parameters: &Parameters<T>,
        vision: Option<&VisionInput<T>>,
        text: &TextInput,
        labels: &[i64],
        scale: LossScale,
        recompute: bool,
        gradients: &mut Gradients<T>,
    ) -> Result<LossSum, ModelError> {
        self.check_text(text, vision)?;
        let targets = self.targets(labels, text)?;
        let vision = vision.filter(|_| text.shows_media());
        let trained = |prefix: &str| parameters.iter().any(|p| p.trainable && p.name.starts_with(prefix));
        let media_trained = trained("perceiver.") || trained("vision_encoder.");
        let encoded = vision.map(|vision| self.encode_media_saved(parameters, vision)).transpose()?;
        let (latents, vision_saved) = encoded.unzip();
        let plan = TextPlan::new(text, vision.map(|v| v.slots.as_slice()), &self.config.text);
        let context = plan.context(text);
        let first = self.language.first_trained_layer(parameters, media_trained && vision.is_some());
        let (hidden, saved) =
            self.language.forward_saved(parameters, &text.ids, latents.as_ref(), &context, recompute, first);
        let scale = match scale {
            LossScale::Factor(factor) => factor,
            LossScale::Mean => 1.0 / targets.iter().filter(|&&t| t != IGNORE_INDEX).count().max(1) as f64,
        };
        let head = self.language.cross_entropy();
        let (loss, d_hidden) = head.forward_backward(parameters, &hidden, &targets, scale, gradients);
        drop(hidden);
        let mut d_latents = latents.as_ref().filter(|_| media_trained).map(Tensor::zeros_like);
        let inputs = (text.ids.as_slice(), latents.as_ref());
        self.language.backward(parameters, saved, inputs, &context, &d_hidden, d_latents.as_mut(), gradients);
        if let (Some(vision), Some(saved), Some(d_latents)) = (vision, vision_saved, d_latents) {
            self.encode_media_backward(parameters, saved, vision, &d_latents, gradients);
        }
        parameters.device().check()?;
        Ok(loss)
    }

    /// Features of a group of media items (rows, width) and the items' places.
    fn gather<T: Float>(
        &self,
        features: &Tensor<T>,
        vision: &VisionInput<T>,
        group: &[usize],
        times: &[usize],
    ) -> (Tensor<T>, Vec<usize>) {
        let times = group.iter().map(|&item| times[item]).collect();
        if group.len() == vision.media_frames.len() {
            return (features.clone(), times);
        }
        let width = self.config.vision.hidden_size;
        let size = self.config.vision.num_patches() * width;
        let gathered = rows::gather_rows(features, &frames_of(vision, group), size);
        let count = gathered.len() / width;
        (gathered.reshape(&[count, width]), times)
    }
}

/// The frames of some media items, one after the other.
fn frames_of<T>(vision: &VisionInput<T>, items: &[usize]) -> Vec<u32> {
    let frames = |&item: &usize| vision.media_frames[item].clone().map(|frame| frame as u32);
    items.iter().flat_map(frames).collect()
}

fn numbers(items: &[usize]) -> Vec<u32> {
    items.iter().map(|&item| item as u32).collect()
}

/// Media items by their number of frames, since the resampler handles equal ones together.
fn groups(media_frames: &[Range<usize>]) -> Vec<(usize, Vec<usize>)> {
    let mut groups: Vec<(usize, Vec<usize>)> = Vec::new();
    for (item, range) in media_frames.iter().enumerate() {
        match groups.iter_mut().find(|(frames, _)| *frames == range.len()) {
            Some((_, items)) => items.push(item),
            None => groups.push((range.len(), vec![item])),
        }
    }
    groups
}
