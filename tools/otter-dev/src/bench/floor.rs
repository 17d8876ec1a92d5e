//! Floors of `otter-dev bench`: the bytes that must come from memory over its measured bandwidth, and the operations over the
//! measured peak, whichever takes longer. Norms, activations and softmax count as nothing.

use otter_model::FreezeRule;
use otter_model::config::{OtterConfig, VisionConfig};
use otter_nn::{Parameters, Weight};
use serde_json::{Value, json};

use crate::integer_peak::measured_integer_peak;
use crate::peak::measured_peak;

/// Limits of this machine with the threads of this process.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peaks {
    /// Bytes read from memory a second.
    pub(super) bandwidth: f64,
    /// f32 operations a second.
    pub(super) float: f64,
    /// Operations on bytes a second.
    pub(super) integer: f64,
}

impl Peaks {
    pub(super) fn measure() -> Self {
        let peak = measured_peak();
        Self { bandwidth: peak.bytes, float: peak.flops, integer: measured_integer_peak() }
    }

    pub(super) fn to_json(self) -> Value {
        json!({
            "bytes_per_second": self.bandwidth,
            "f32_operations_per_second": self.float,
            "byte_operations_per_second": self.integer,
        })
    }
}

/// What has to be read and computed.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Work {
    bytes: f64,
    float: f64,
    integer: f64,
}

impl Work {
    /// Seconds that it takes at least.
    pub(super) fn floor(self, peaks: Option<Peaks>) -> Option<f64> {
        peaks.map(|peaks| self.floor_of(peaks))
    }

    fn floor_of(self, peaks: Peaks) -> f64 {
        (self.bytes / peaks.bandwidth).max(self.float / peaks.float + self.integer / peaks.integer)
    }

    /// A matrix read once and multiplied with `rows` rows.
    fn matrix(&mut self, weight: &Weight<f32>, rows: usize) {
        self.bytes += weight.bytes() as f64;
        let operations = 2.0 * weight.len() as f64 * rows as f64;
        *(if weight.quantized().is_some() { &mut self.integer } else { &mut self.float }) += operations;
    }

    fn times(self, factor: f64) -> Self {
        Self { bytes: self.bytes * factor, float: self.float * factor, integer: self.integer * factor }
    }

    fn and(self, other: Self) -> Self {
        Self {
            bytes: self.bytes + other.bytes,
            float: self.float + other.float,
            integer: self.integer + other.integer,
        }
    }
}

/// Scores and weighted values of `rows` query rows over `keys` keys of `width` features.
fn attention(rows: f64, keys: f64, width: usize) -> f64 {
    4.0 * rows * keys * width as f64
}

/// Matrices by where they stand.
#[derive(Clone, Copy, PartialEq)]
enum Part {
    Vision,
    Perceiver,
    /// Keys and values that a cross-attention block makes of the latents.
    MediaProjection,
    InputTable,
    OutputTable,
    Layers,
}

fn part(config: &OtterConfig, name: &str) -> Part {
    if name.starts_with("vision_encoder.") {
        Part::Vision
    } else if name.starts_with("perceiver.") {
        Part::Perceiver
    } else if name.ends_with("attn.to_kv.weight") {
        Part::MediaProjection
    } else if name == config.output_table() {
        Part::OutputTable
    } else if name == config.input_table() {
        Part::InputTable
    } else {
        Part::Layers
    }
}

/// One pass of `sequences` sequences of `length` tokens through the language model, each seeing one image; `outputs` rows
/// reach the output table.
fn language(
    config: &OtterConfig,
    parameters: &Parameters<f32>,
    (sequences, length, outputs): (usize, usize, usize),
) -> Work {
    let mut work = Work::default();
    let (latents, rows) = (config.perceiver.num_latents, sequences * length);
    for parameter in parameters.iter().filter(|p| p.tensor.shape().len() == 2) {
        match part(config, &parameter.name) {
            Part::Layers => work.matrix(&parameter.tensor, rows),
            Part::MediaProjection => work.matrix(&parameter.tensor, sequences * latents),
            Part::OutputTable => work.matrix(&parameter.tensor, outputs),
            Part::InputTable if config.tie_word_embeddings => work.matrix(&parameter.tensor, outputs),
            Part::InputTable | Part::Vision | Part::Perceiver => {}
        }
    }
    let half = (length + 1) as f64 / 2.0;
    let layers = config.text.num_hidden_layers() as f64;
    work.float += layers * attention(rows as f64, half, config.text.hidden_size());
    let blocks = config.cross_attention_layers().len() as f64;
    work.float += blocks * attention(rows as f64, latents as f64, config.cross_attention.inner_dim());
    work
}

fn perceiver(config: &OtterConfig, parameters: &Parameters<f32>, images: usize) -> Work {
    let mut work = Work::default();
    let (latents, patches) = (config.perceiver.num_latents, config.vision.num_patches());
    let own = parameters.iter().filter(|p| part(config, &p.name) == Part::Perceiver);
    for parameter in own.filter(|p| p.tensor.shape().len() == 2) {
        let keys = if parameter.name.ends_with("to_kv.weight") { patches } else { 0 };
        work.matrix(&parameter.tensor, images * (latents + keys));
    }
    work
}

/// From an image's features and a prompt of `tokens` tokens to the scores of the next one.
pub(super) fn prefill(config: &OtterConfig, parameters: &Parameters<f32>, tokens: usize) -> Work {
    language(config, parameters, (1, tokens, 1)).and(perceiver(config, parameters, 1))
}

/// `new` tokens, one at a time, after `tokens` of a prompt with an image.
pub(super) fn decode(config: &OtterConfig, parameters: &Parameters<f32>, tokens: usize, new: usize) -> Work {
    let mut work = Work::default();
    for parameter in parameters.iter().filter(|p| p.tensor.shape().len() == 2) {
        match part(config, &parameter.name) {
            Part::Layers | Part::OutputTable => work.matrix(&parameter.tensor, 1),
            Part::InputTable if config.tie_word_embeddings => work.matrix(&parameter.tensor, 1),
            Part::InputTable | Part::MediaProjection | Part::Vision | Part::Perceiver => {}
        }
    }
    // Keys and values of what came before, and of the image.
    let cached = config.text.num_hidden_layers() as f64
        * config.text.key_width() as f64
        * (tokens as f64 + (new as f64 + 1.0) / 2.0);
    let media = config.cross_attention_layers().len() * config.cross_attention.inner_dim();
    let media = (media * config.perceiver.num_latents) as f64;
    work.bytes += 2.0 * size_of::<f32>() as f64 * (cached + media);
    work.float += 4.0 * (cached + media);
    work.times(new as f64)
}

/// The vision tower on `images` images.
pub(super) fn vision(config: &OtterConfig, parameters: &Parameters<f32>, images: usize) -> Work {
    let VisionConfig { hidden_size, num_hidden_layers, .. } = config.vision;
    let mut work = Work::default();
    let (patches, positions) = (config.vision.num_patches(), config.vision.num_positions());
    for parameter in parameters.iter().filter(|p| part(config, &p.name) == Part::Vision) {
        let name = parameter.name.as_str();
        let is_table = name.contains("position_embedding") || name.contains("class_embedding");
        if parameter.tensor.shape().len() < 2 || is_table {
            continue;
        }
        let rows = if name.contains("patch_embedding") { patches } else { positions };
        work.matrix(&parameter.tensor, images * rows);
    }
    let of_layer = attention(positions as f64, positions as f64, hidden_size);
    work.float += (images * num_hidden_layers) as f64 * of_layer;
    work
}

/// A training step: forward, gradients of inputs in the language model and the Perceiver, gradients of what is trained,
/// and the update.
pub(super) fn train(
    config: &OtterConfig,
    parameters: &Parameters<f32>,
    (sequences, length): (usize, usize),
) -> Work {
    let targets = sequences * length / 2;
    let forward = language(config, parameters, (sequences, length, targets))
        .and(perceiver(config, parameters, sequences));
    // What is frozen gives its input's gradient; what is trained its own as well.
    let mut own = Work::default();
    let mut trained = 0;
    for parameter in parameters.iter().filter(|p| FreezeRule::Head.is_trainable(config, &p.name)) {
        trained += parameter.tensor.len();
        let rows = match part(config, &parameter.name) {
            Part::Layers => sequences * length,
            Part::OutputTable => targets,
            Part::Perceiver | Part::MediaProjection => sequences * config.perceiver.num_latents,
            Part::InputTable | Part::Vision => 0,
        };
        own.float += 2.0 * (parameter.tensor.len() * rows) as f64;
    }
    // Weight, gradient and two moments are read, all but the gradient written.
    own.bytes += 7.0 * size_of::<f32>() as f64 * trained as f64;
    forward.times(2.0).and(own).and(vision(config, parameters, sequences))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use otter_model::Otter;
    use otter_nn::{Device, Tensor};

    use super::*;

    /// Written out for the shipped base, whose matrices are all f32.
    #[test]
    fn a_decode_reads_every_matrix_of_the_language_model_once() -> anyhow::Result<()> {
        let config = otter_toybox::quickstart::base::config();
        let (_, specs) = Otter::new(&config)?;
        let parameters = Parameters::build(&specs, Device::Cpu, |s| {
            Ok::<_, Infallible>(Tensor::zeros(&s.shape, Device::Cpu))
        })?;
        let text = &config.text;
        let output = if config.tie_word_embeddings { config.input_table() } else { config.output_table() };
        let elements = specs.count(|name| {
            let in_layers = name.starts_with("lang_encoder.") && name != config.input_table();
            (in_layers || name == output) && !name.ends_with("attn.to_kv.weight")
        });
        let vectors: usize = (specs.iter())
            .filter(|s| s.name.starts_with("lang_encoder.") && s.shape.len() != 2)
            .map(|s| s.len())
            .sum();
        let work = decode(&config, &parameters, 10, 1);
        let cached = 2 * text.num_hidden_layers() * text.key_width() * 11;
        let media = 2
            * config.cross_attention_layers().len()
            * config.cross_attention.inner_dim()
            * config.perceiver.num_latents;
        let expected = 4.0 * (elements as f64 - vectors as f64 + (cached + media) as f64);
        assert_eq!(work.bytes, expected);
        assert_eq!(work.integer, 0.0);
        assert_eq!(
            decode(&config, &parameters, 10, 3).bytes,
            3.0 * decode(&config, &parameters, 11, 1).bytes
        );
        Ok(())
    }

    #[test]
    fn a_floor_is_the_longer_of_reading_and_computing() {
        let peaks = Peaks { bandwidth: 10.0, float: 2.0, integer: 4.0 };
        let work = Work { bytes: 100.0, float: 4.0, integer: 4.0 };
        assert_eq!(work.floor(Some(peaks)), Some(10.0));
        assert_eq!(work.floor(None), None);
        assert_eq!(Work { float: 40.0, ..work }.floor(Some(peaks)), Some(21.0));
    }
}
