//! Pre-training of the base language model on the curriculum.

use std::time::Instant;

use crate::world::random_stream;
use otter_model::config::OtterConfig;
use otter_model::flamingo::{Context, causal_mask};
use otter_model::text::Rows;
use otter_model::{ModelError, Otter};
use otter_nn::{Device, Gradients, IGNORE_INDEX, MediaRows, Parameters, Tensor};
use otter_train::optim::{AdamW, AdamWOptions, clip_factor, gradient_norm};
use rand::RngExt;
use rand::rngs::ChaCha8Rng;

use super::curriculum::{Curriculum, LAST_SOFT_RUNG, LAST_WORDS_RUNG, Part, Rungs, TextSample};

/// Length and rates of the pre-training.
#[derive(Clone, Debug)]
pub struct LanguageRecipe {
    /// Optimizer steps.
    pub steps: u64,
    /// Sequences a step.
    pub batch: usize,
    /// Highest learning rate.
    pub learning_rate: f64,
    /// Steps of warm-up.
    pub warmup: u64,
    /// Share of the run over which the rate falls at the end.
    pub decay: f64,
    /// Seed of weights and data.
    pub seed: u64,
}

impl Default for LanguageRecipe {
    fn default() -> Self {
        Self { steps: 4000, batch: 16, learning_rate: 2e-3, warmup: 200, decay: 0.4, seed: 1 }
    }
}

/// Steps between measurements that decide about the next rung.
const MEASURE_EVERY: u64 = 50;
/// Share of right first tokens that opens the next rung: copying, soft binding, binding in words.
const COPY_OPENS: f64 = 0.8;
const SOFT_OPENS: f64 = 0.88;
const WORDS_OPENS: f64 = 0.9;

/// A batch of sequences padded on the right.
struct TextBatch {
    ids: Vec<u32>,
    targets: Vec<i64>,
    parts: Vec<Option<Part>>,
    positions: Vec<u32>,
    /// Row, token, weight.
    soft: Vec<(usize, u32, f32)>,
    batch: usize,
    length: usize,
}

/// Accuracy of the first answer tokens after a stretch of training.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rates {
    /// Repeated sequences.
    pub copy: f64,
    /// Bound words, soft descriptions.
    pub soft: f64,
    /// Bound words, descriptions in words.
    pub words: f64,
    /// Other answers.
    pub answers: f64,
}

/// What is reported while training.
#[derive(Clone, Copy, Debug)]
pub struct LanguageProgress {
    /// Steps done.
    pub step: u64,
    /// Steps in all.
    pub steps: u64,
    /// Mean loss since the last report.
    pub loss: f64,
    /// Accuracies on fresh sequences.
    pub rates: Rates,
    /// Rungs reached.
    pub rungs: Rungs,
    /// Seconds since the start.
    pub seconds: f64,
}

/// Two-way binding of held-out words and concepts after one example of each.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TextBinding {
    /// Without examples.
    pub zero_shot: f64,
    /// Descriptions added to the embeddings.
    pub soft: f64,
    /// Descriptions in words.
    pub words: f64,
}

/// Trains the language model of `config` (without its cross-attention) from random weights.
///
/// # Errors
/// Sizes that make no model.
pub fn pretrain(
    config: &OtterConfig,
    recipe: &LanguageRecipe,
    progress: &mut dyn FnMut(&LanguageProgress),
) -> Result<(Otter, Parameters<f32>), ModelError> {
    let (otter, mut parameters) = fresh(config, recipe.seed)?;
    let curriculum = Curriculum::new();
    let mut gradients = Gradients::new(&parameters);
    let options = AdamWOptions { betas: (0.9, 0.98), ..AdamWOptions::default() };
    let mut optimizer = AdamW::new(options, &parameters, &gradients);
    let mut rungs = Rungs::default();
    let start = Instant::now();
    let mut loss_sum = 0.0;
    for step in 0..recipe.steps {
        let random = &mut random_stream(recipe.seed, "base language", step);
        let samples: Vec<TextSample> =
            (0..recipe.batch).map(|_| with_noise(curriculum.sample(rungs, random), random)).collect();
        let batch = TextBatch::new(&samples);
        gradients.clear();
        loss_sum += forward_backward(&otter, &parameters, &batch, &mut gradients);
        let factor = clip_factor(gradient_norm(&gradients), 1.0);
        optimizer.step(&mut parameters, &gradients, recipe.rate(step), factor);
        if (step + 1) % MEASURE_EVERY == 0 {
            let rates = measure(&otter, &parameters, &curriculum, rungs, recipe.seed, step);
            let loss = std::mem::take(&mut loss_sum) / MEASURE_EVERY as f64;
            let seconds = start.elapsed().as_secs_f64();
            let (step, steps) = (step + 1, recipe.steps);
            progress(&LanguageProgress { step, steps, loss, rates, rungs, seconds });
            rungs = next_rungs(rungs, rates);
        }
    }
    Ok((otter, parameters))
}

/// Two-way binding on held-out words.
pub fn evaluate_binding(
    otter: &Otter,
    parameters: &Parameters<f32>,
    questions: u64,
    seed: u64,
) -> TextBinding {
    let curriculum = Curriculum::new();
    let accuracy = |shots: usize, in_words: bool| {
        let right = (0..questions)
            .filter(|&index| {
                let random = &mut random_stream(seed, "base evaluation", index);
                let pair = curriculum.two_way(shots, in_words, random);
                let batch = TextBatch::new(&pair);
                let hidden = hidden(otter, parameters, &batch);
                let head = otter.language().cross_entropy();
                let scores = head.log_probabilities(parameters, &hidden, &batch.targets);
                let sums = scores.chunks(batch.length).map(|row| row.iter().flatten().sum::<f64>());
                let sums: Vec<f64> = sums.collect();
                sums[0] > sums[1]
            })
            .count();
        right as f64 / questions.max(1) as f64
    };
    TextBinding { zero_shot: accuracy(0, false), soft: accuracy(1, false), words: accuracy(1, true) }
}

impl LanguageRecipe {
    fn rate(&self, step: u64) -> f64 {
        let warm = ((step + 1) as f64 / self.warmup.max(1) as f64).min(1.0);
        let left = 1.0 - step as f64 / self.steps as f64;
        self.learning_rate * warm * (0.03 + 0.97 * (left / self.decay).min(1.0))
    }
}

/// The model without cross-attention, all language parameters trained, at the scales the curriculum was found with.
fn fresh(config: &OtterConfig, seed: u64) -> Result<(Otter, Parameters<f32>), ModelError> {
    let mut config = config.clone();
    config.cross_attention.every_n_layers = config.text.num_hidden_layers() + 1;
    let (otter, specs) = Otter::new(&config)?;
    let mut parameters = Parameters::<f32>::initialize(&specs, seed, Device::Cpu);
    parameters.set_trainable(|name| name.starts_with("lang_encoder."));
    let depth = (2.0 * config.text.num_hidden_layers() as f64).sqrt();
    for parameter in parameters.iter_mut().filter(|p| p.trainable) {
        let &[_, inner] = parameter.tensor.shape() else { continue };
        let mut std = 1.0 / (inner as f64).sqrt();
        if parameter.name.contains("embed_tokens") {
            std = 0.5;
        } else if parameter.name.contains("o_proj") || parameter.name.contains("down_proj") {
            std /= depth;
        }
        // Layers start at a standard deviation of 0.02.
        let factor = (std / 0.02) as f32;
        parameter.tensor.make_full().data_mut().iter_mut().for_each(|v| *v *= factor);
    }
    Ok((otter, parameters))
}

/// Varies the weights of soft descriptions, so that the model accepts a range of strengths.
fn with_noise(mut sample: TextSample, random: &mut ChaCha8Rng) -> TextSample {
    let scale = (0.2 * normal(random)).exp();
    for soft in &mut sample.soft {
        soft.2 *= scale * (1.0 + 0.2 * normal(random));
    }
    sample
}

/// One draw from N(0, 1).
fn normal(random: &mut ChaCha8Rng) -> f32 {
    let radius = (-2.0 * (1.0 - random.random::<f32>()).ln()).sqrt();
    radius * (std::f32::consts::TAU * random.random::<f32>()).cos()
}

fn next_rungs(rungs: Rungs, rates: Rates) -> Rungs {
    let soft_opens = if rungs.soft == 0 { rates.copy > COPY_OPENS } else { rates.soft > SOFT_OPENS };
    let words_open = rungs.soft > 3 && rates.words > WORDS_OPENS;
    Rungs {
        soft: (rungs.soft + u32::from(soft_opens)).min(LAST_SOFT_RUNG),
        words: (rungs.words + u32::from(words_open)).min(LAST_WORDS_RUNG),
    }
}

impl TextBatch {
    fn new(samples: &[TextSample]) -> Self {
        let length = samples.iter().map(|s| s.ids.len()).max().unwrap_or(0);
        let batch = samples.len();
        let mut ids = vec![0; batch * length];
        let mut targets = vec![IGNORE_INDEX; batch * length];
        let mut parts = vec![None; batch * length];
        let mut soft = Vec::new();
        for (row, sample) in samples.iter().enumerate() {
            let at = row * length;
            ids[at..at + sample.ids.len()].copy_from_slice(&sample.ids);
            for (i, part) in sample.parts.iter().enumerate().skip(1).filter(|(_, part)| part.is_some()) {
                targets[at + i - 1] = i64::from(sample.ids[i]);
                parts[at + i - 1] = *part;
            }
            soft.extend(sample.soft.iter().map(|&(place, word, weight)| (at + place, word, weight)));
        }
        let positions = (0..batch).flat_map(|_| 0..length as u32).collect();
        Self { ids, targets, parts, positions, soft, batch, length }
    }

    /// Embeddings with the soft descriptions added.
    fn embed(&self, otter: &Otter, parameters: &Parameters<f32>) -> Tensor {
        let embedding = otter.language().embedding();
        let mut x = embedding.forward(parameters, &self.ids);
        let width = x.width();
        let table = parameters.data(embedding.weight());
        let rows = x.data_mut();
        for &(row, word, weight) in &self.soft {
            let source = &table[word as usize * width..][..width];
            for (x, &e) in rows[row * width..][..width].iter_mut().zip(source) {
                *x += weight * e;
            }
        }
        x
    }

    /// Adds the embedding gradients of tokens and soft descriptions.
    fn embed_backward(&self, otter: &Otter, dx: &Tensor, gradients: &mut Gradients) {
        let embedding = otter.language().embedding();
        embedding.backward(&self.ids, dx, gradients);
        let width = dx.width();
        let Some(table) = gradients.get_mut(embedding.weight()) else { return };
        for &(row, word, weight) in &self.soft {
            let target = &mut table[word as usize * width..][..width];
            for (t, &d) in target.iter_mut().zip(&dx.data()[row * width..][..width]) {
                *t += weight * d;
            }
        }
    }
}

/// Runs `body` with the context of a batch of plain text.
fn with_context<R>(batch: &TextBatch, body: impl FnOnce(&Context<'_>) -> R) -> R {
    // Padding stands on the right, where the causal mask hides it from everything that counts.
    let mask = causal_mask(&vec![true; batch.ids.len()], 0);
    let media_rows = MediaRows::from_media_tokens(
        &vec![false; batch.ids.len()],
        batch.length,
        &vec![Vec::new(); batch.batch],
    );
    let rows = Rows { batch: batch.batch, positions: &batch.positions, mask: &mask };
    body(&Context { rows, media_rows: &media_rows })
}

fn hidden(otter: &Otter, parameters: &Parameters<f32>, batch: &TextBatch) -> Tensor {
    with_context(batch, |context| {
        let x = batch.embed(otter, parameters);
        otter.language().forward_embedded(parameters, x, None, context, true, usize::MAX).0
    })
}

/// Mean loss of a batch; adds its gradient.
fn forward_backward(
    otter: &Otter,
    parameters: &Parameters<f32>,
    batch: &TextBatch,
    gradients: &mut Gradients,
) -> f64 {
    with_context(batch, |context| {
        let language = otter.language();
        let x = batch.embed(otter, parameters);
        let (hidden, saved) = language.forward_embedded(parameters, x, None, context, false, 0);
        let targets = batch.targets.iter().filter(|&&t| t != IGNORE_INDEX).count().max(1);
        let scale = 1.0 / targets as f64;
        let (loss, d_hidden) =
            language.cross_entropy().forward_backward(parameters, &hidden, &batch.targets, scale, gradients);
        let dx = language.backward_embedded(parameters, saved, None, context, &d_hidden, None, gradients);
        batch.embed_backward(otter, &dx, gradients);
        loss.mean()
    })
}

/// Accuracy of first answer tokens on fresh sequences of the present rungs.
fn measure(
    otter: &Otter,
    parameters: &Parameters<f32>,
    curriculum: &Curriculum,
    rungs: Rungs,
    seed: u64,
    step: u64,
) -> Rates {
    let random = &mut random_stream(seed, "base measurement", step);
    let samples: Vec<TextSample> = (0..96).map(|_| curriculum.sample(rungs, random)).collect();
    let batch = TextBatch::new(&samples);
    let hidden = hidden(otter, parameters, &batch);
    let logits = otter.language().logits(parameters, &hidden);
    let vocabulary = logits.width();
    let rate = |wanted: Part| {
        let rows = (0..batch.parts.len()).filter(|&row| batch.parts[row] == Some(wanted));
        let (mut right, mut all) = (0u32, 0u32);
        for row in rows {
            let scores = &logits.data()[row * vocabulary..][..vocabulary];
            let best = scores.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map(|(id, _)| id as i64);
            right += u32::from(best == Some(batch.targets[row]));
            all += 1;
        }
        f64::from(right) / f64::from(all.max(1))
    };
    Rates {
        copy: rate(Part::Copy),
        soft: rate(Part::BindSoft),
        words: rate(Part::BindWords),
        answers: rate(Part::Answer),
    }
}
