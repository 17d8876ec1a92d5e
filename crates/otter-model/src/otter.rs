//! Otter: vision tower, resampler and language model put together (`spec/model.md` sections 1 and 5).

use std::ops::Range;

use otter_nn::layers::cross_entropy::LossSum;
use otter_nn::layers::rows;
use otter_nn::{
    AttentionMask, Gradients, IGNORE_INDEX, MediaRows, ParameterSpecs, Parameters, Real, Segments, Tensor,
};

use crate::ModelError;
use crate::clip::{ClipSaved, ClipVision};
use crate::config::{OtterConfig, TextConfig};
use crate::decoder::Rows;
use crate::language_model::{Context, LanguageModel, causal_mask};
use crate::perceiver_resampler::{PerceiverResampler, PerceiverSaved};

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

/// Frames, how they group into media items, and which items each sequence shows.
#[derive(Clone)]
pub struct VisionInput<T = f32> {
    /// On the host: (frames of all items, 3, S, S); or, where the frozen tower has seen them before, what
    /// [`Otter::vision_features`] gives: (frames of all items, patches, width).
    pub pixels: Tensor<T>,
    /// Frames of each media item, in order and without gaps.
    pub media_frames: Vec<Range<usize>>,
    /// Per sequence (in packed rows: per segment): the media item of its first, second, … media token. Items may be
    /// shared.
    pub slots: Vec<Vec<usize>>,
}

/// Token ids of a batch.
#[derive(Clone, Debug)]
pub struct TextInput {
    /// (batch, length).
    pub ids: Vec<u32>,
    /// (batch, length): false for padding.
    pub attention_mask: Vec<bool>,
    /// Rows.
    pub batch: usize,
    /// Tokens of each, padding included.
    pub length: usize,
    /// The sequences in packed rows; `None` when every row is one sequence.
    pub segments: Option<Segments>,
    /// Id of `<image>`.
    pub media_token_id: u32,
}

/// Factor on the sum of token losses before the reverse pass.
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
    pub fn vision_features<T: Real>(&self, parameters: &Parameters<T>, pixels: &Tensor<T>) -> Tensor<T> {
        self.vision.forward(parameters, pixels)
    }

    fn features<T: Real>(&self, parameters: &Parameters<T>, vision: &VisionInput<T>) -> Tensor<T> {
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
    pub fn encode_media<T: Real>(
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
            rows::add_to_picked(&mut latents, &out, &numbers(&group), latents_per_item);
        }
        trace("perceiver_out", &latents);
        parameters.device().check()?;
        Ok(latents)
    }

    fn encode_media_saved<T: Real>(
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
            rows::add_to_picked(&mut latents, &out, &numbers(&group), size);
            saved_groups.push(GroupSaved { items: group, perceiver });
        }
        Ok((latents, VisionSaved { clip, groups: saved_groups }))
    }

    fn encode_media_backward<T: Real>(
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
            let d_out = rows::picked(d_latents, &numbers(&items), size);
            let d_out = d_out.reshape(&[items.len() * size / width, width]);
            let d = self.perceiver.backward(parameters, perceiver, &d_out, d_features.is_some(), gradients);
            if let (Some(total), Some(d)) = (&mut d_features, d) {
                rows::add_to_picked(total, &d, &frames_of(vision, &items), frame_size);
            }
        }
        if let (Some(clip), Some(d_features)) = (saved.clip, d_features) {
            self.vision.backward(parameters, clip, &d_features, gradients);
        }
    }

    /// Normalised hidden states (batch * length, width) and, through `trace`, everything on the way. Positions are
    /// 0..length whatever the padding, as in the reference's plain forward pass; in packed rows they restart in every
    /// segment.
    ///
    /// # Errors
    /// Input that does not fit the model.
    pub fn forward<T: Real>(
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
    pub fn loss<T: Real>(
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
    pub fn log_probabilities<T: Real>(
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
    /// parameter. With `recompute`, decoder layers keep only their input and run again in the reverse pass. Without a
    /// media token in the batch the vision side is skipped: it could influence nothing.
    ///
    /// # Errors
    /// As [`Otter::forward`].
    pub fn forward_backward<T: Real>(
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

    /// Labels moved one position to the left: the target of each row.
    fn targets(&self, labels: &[i64], text: &TextInput) -> Result<Vec<i64>, ModelError> {
        let expected = text.batch * text.length;
        if labels.len() != expected {
            return Err(ModelError::Shape { what: "number of labels", found: labels.len(), expected });
        }
        let vocabulary = self.config.text.vocab_size();
        let mut first = vec![false; labels.len()];
        match &text.segments {
            None => first.iter_mut().step_by(text.length.max(1)).for_each(|first| *first = true),
            Some(segments) => {
                let padding =
                    |(index, &label): (usize, &i64)| label != IGNORE_INDEX && !text.attention_mask[index];
                if let Some(index) = labels.iter().enumerate().position(padding) {
                    let (row, position, label) = (index / text.length, index % text.length, labels[index]);
                    return Err(ModelError::LabelOnPadding { row, position, label });
                }
                segments.list().iter().for_each(|segment| first[segments.tokens(segment).start] = true);
            }
        }
        let mut targets = vec![IGNORE_INDEX; labels.len()];
        for (index, &label) in labels.iter().enumerate() {
            // Nothing comes before the first token of a sequence.
            if first[index] || label == IGNORE_INDEX {
                continue;
            }
            if !(0..vocabulary as i64).contains(&label) {
                let (sequence, position) = (index / text.length, index % text.length);
                let id = u32::try_from(label).unwrap_or(u32::MAX);
                return Err(ModelError::TokenOutside { id, sequence, position, vocabulary });
            }
            targets[index - 1] = label;
        }
        Ok(targets)
    }

    pub(crate) fn check_text<T: Real>(
        &self,
        text: &TextInput,
        vision: Option<&VisionInput<T>>,
    ) -> Result<(), ModelError> {
        let expected = text.batch * text.length;
        for (what, found) in
            [("number of token ids", text.ids.len()), ("attention mask length", text.attention_mask.len())]
        {
            if found != expected {
                return Err(ModelError::Shape { what, found, expected });
            }
        }
        if let Some(segments) = &text.segments {
            text.check_segments(segments)?;
        }
        if let Some(vision) = vision
            && vision.slots.len() != text.sequences()
        {
            let (found, expected) = (vision.slots.len(), text.sequences());
            return Err(ModelError::Shape { what: "sequences of the vision input", found, expected });
        }
        self.check_length(text, |_| 0)?;
        let vocabulary = self.config.text.vocab_size();
        match text.ids.iter().position(|&id| id as usize >= vocabulary) {
            Some(index) => Err(ModelError::TokenOutside {
                id: text.ids[index],
                sequence: index / text.length,
                position: index % text.length,
                vocabulary,
            }),
            None => Ok(()),
        }
    }

    /// Whether every token, and `new` more behind each sequence, has a row in the table of learned positions.
    pub(crate) fn check_length(
        &self,
        text: &TextInput,
        new: impl Fn(usize) -> usize,
    ) -> Result<(), ModelError> {
        let Some(limit) = self.config.text.learned_positions() else { return Ok(()) };
        let counts: Vec<usize> = match &text.segments {
            Some(segments) => segments.list().iter().map(|segment| segment.len).collect(),
            None => {
                let rows = text.attention_mask.chunks(text.length.max(1));
                rows.map(|mask| mask.iter().filter(|&&visible| visible).count()).collect()
            }
        };
        let mut lengths =
            counts.iter().enumerate().map(|(sequence, count)| (sequence, count + new(sequence)));
        match lengths.find(|&(_, tokens)| tokens > limit) {
            None => Ok(()),
            Some((sequence, tokens)) => Err(ModelError::TooLong { sequence, tokens, limit }),
        }
    }

    fn check_vision<T: Real>(&self, vision: &VisionInput<T>) -> Result<(), ModelError> {
        let side = self.config.vision.image_size;
        let shape = vision.pixels.shape();
        let features = [self.config.vision.num_patches(), self.config.vision.hidden_size];
        let pixels = [3, side, side];
        let (what, expected) = match vision.is_features() {
            true => ("patches and width of the features", features.as_slice()),
            false => ("channels and sides of the pixels", pixels.as_slice()),
        };
        if !vision.is_features() && shape.len() != 4 {
            return Err(ModelError::Shape {
                what: "dimensions of the pixels",
                found: shape.len(),
                expected: 4,
            });
        }
        for (&found, &expected) in shape[1..].iter().zip(expected) {
            if found != expected {
                return Err(ModelError::Shape { what, found, expected });
            }
        }
        let mut end = 0;
        for range in &vision.media_frames {
            if range.start != end || range.is_empty() {
                return Err(ModelError::Shape {
                    what: "first frame of a media item",
                    found: range.start,
                    expected: end,
                });
            }
            end = range.end;
            if let Some(limit) = self.config.perceiver.max_num_frames
                && range.len() > limit
            {
                return Err(ModelError::TooManyFrames { frames: range.len(), limit });
            }
        }
        if end != shape[0] {
            return Err(ModelError::Shape {
                what: "frames of all media items",
                found: end,
                expected: shape[0],
            });
        }
        let items = vision.media_frames.len();
        match vision.slots.iter().flatten().find(|&&item| item >= items) {
            Some(&found) => Err(ModelError::Shape { what: "media item of a slot", found, expected: items }),
            None => Ok(()),
        }
    }

    /// Place of each media item in its sequence.
    fn media_times<T: Real>(&self, vision: &VisionInput<T>) -> Result<Vec<usize>, ModelError> {
        let mut times = vec![0; vision.media_frames.len()];
        if !self.perceiver.has_media_time() {
            return Ok(times);
        }
        let mut placed = vec![None; times.len()];
        for slots in &vision.slots {
            if let Some(limit) = self.config.perceiver.max_num_media
                && slots.len() > limit
            {
                return Err(ModelError::TooManyMedia { media: slots.len(), limit });
            }
            for (time, &item) in slots.iter().enumerate() {
                if placed[item].replace(time).is_some_and(|other| other != time) {
                    return Err(ModelError::SharedMedia { item });
                }
                times[item] = time;
            }
        }
        Ok(times)
    }

    /// Features of a group of media items (rows, width) and the items' places.
    fn gather<T: Real>(
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
        let gathered = rows::picked(features, &frames_of(vision, group), size);
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

impl<T: Real> VisionInput<T> {
    /// Whether features stand in the place of the pixels.
    pub fn is_features(&self) -> bool {
        self.pixels.shape().len() == 3
    }
}

impl TextInput {
    /// One sequence without padding.
    pub fn single(ids: Vec<u32>, media_token_id: u32) -> Self {
        let length = ids.len();
        Self { attention_mask: vec![true; length], ids, batch: 1, length, segments: None, media_token_id }
    }

    /// Number of sequences: rows, or segments where rows are packed.
    pub fn sequences(&self) -> usize {
        self.segments.as_ref().map_or(self.batch, |segments| segments.list().len())
    }

    /// Whether the segments are those of these rows and hold exactly what the mask marks as text.
    fn check_segments(&self, segments: &Segments) -> Result<(), ModelError> {
        for (what, found, expected) in [
            ("rows of the segments", segments.rows(), self.batch),
            ("row length of the segments", segments.length(), self.length),
        ] {
            if found != expected {
                return Err(ModelError::Shape { what, found, expected });
            }
        }
        let mut inside = vec![false; self.attention_mask.len()];
        segments.list().iter().for_each(|segment| inside[segments.tokens(segment)].fill(true));
        match inside.iter().zip(&self.attention_mask).position(|(inside, visible)| inside != visible) {
            None => Ok(()),
            Some(index) => {
                let (row, position) = (index / self.length, index % self.length);
                Err(ModelError::SegmentMask { row, position, visible: self.attention_mask[index] })
            }
        }
    }

    /// Whether some sequence has a media token.
    pub fn shows_media(&self) -> bool {
        self.ids.contains(&self.media_token_id)
    }

    /// Position of every token, counting no padding; padding before a sequence stands at `padding`.
    pub(crate) fn positions_without_padding(&self, padding: u32) -> Vec<u32> {
        let mut positions = Vec::with_capacity(self.ids.len());
        for mask in self.attention_mask.chunks(self.length.max(1)) {
            let mut next = 0;
            for &visible in mask {
                positions.push(if visible { next } else { padding });
                next += u32::from(visible);
            }
        }
        positions
    }

    /// What every token attends, given each sequence's media.
    pub fn media_rows(&self, slots: Option<&[Vec<usize>]>) -> MediaRows {
        let media_tokens: Vec<bool> = self.ids.iter().map(|&id| id == self.media_token_id).collect();
        let none = vec![Vec::new(); self.sequences()];
        let items = slots.unwrap_or(&none);
        match &self.segments {
            Some(segments) => MediaRows::in_segments(&media_tokens, segments, items),
            None => MediaRows::from_media_tokens(&media_tokens, self.length, items),
        }
    }
}

/// Positions, mask and media of a plain pass.
struct TextPlan {
    positions: Vec<u32>,
    mask: AttentionMask,
    media_rows: MediaRows,
}

impl TextPlan {
    fn new(text: &TextInput, slots: Option<&[Vec<usize>]>, config: &TextConfig) -> Self {
        let media_rows = text.media_rows(slots);
        if let Some(segments) = &text.segments {
            let mask = AttentionMask::Segments(segments.clone());
            return Self { positions: segments.positions(), mask, media_rows };
        }
        let positions = if config.positions_skip_padding() {
            text.positions_without_padding(0)
        } else {
            (0..text.batch).flat_map(|_| 0..text.length as u32).collect()
        };
        Self { positions, mask: causal_mask(&text.attention_mask, 0), media_rows }
    }

    fn context(&self, text: &TextInput) -> Context<'_> {
        let rows = Rows { batch: text.batch, positions: &self.positions, mask: &self.mask };
        Context { rows, media_rows: &self.media_rows }
    }
}
