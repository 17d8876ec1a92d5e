//! Pre-training of the base vision tower: every patch names the color, shape, size and rough place of the object that
//! covers it, read off the un-normalized last hidden state through a norm and one linear layer per attribute.

use std::time::Instant;

use crate::world::{PatchLabel, Scene, patch_labels, random_stream, render};
use otter_data::{ImageTransform, RgbImage, preprocess};
use otter_model::config::VisionConfig;
use otter_model::vision::ClipVision;
use otter_nn::{
    CrossEntropy, Device, Gradients, IGNORE_INDEX, Init, Norm, ParameterSpecs, Parameters, Tensor,
};
use otter_train::optim::{AdamW, AdamWOptions, clip_factor, gradient_norm};
use rayon::prelude::*;

/// Prefix of the tower's parameters, as in a whole model.
pub const TOWER: &str = "vision_encoder.vision_model";

/// Length and rates of the pre-training.
#[derive(Clone, Debug)]
pub struct VisionRecipe {
    /// Optimizer steps.
    pub steps: u64,
    /// Pictures a step.
    pub batch: usize,
    /// Highest learning rate.
    pub learning_rate: f64,
    /// Seed of weights and pictures.
    pub seed: u64,
}

impl Default for VisionRecipe {
    fn default() -> Self {
        Self { steps: 3000, batch: 48, learning_rate: 1.5e-3, seed: 1 }
    }
}

/// Classes of each attribute without "background", and the weight of its loss.
const ATTRIBUTES: [(&str, usize, f64); 5] =
    [("colour", 8, 1.0), ("shape", 6, 1.0), ("size", 2, 1.0), ("column", 4, 0.3), ("row", 4, 0.3)];
/// Weight of a background patch against one with an object.
const BACKGROUND_WEIGHT: f64 = 0.3;

/// What is reported while training.
#[derive(Clone, Copy, Debug)]
pub struct VisionProgress {
    /// Steps done.
    pub step: u64,
    /// Steps in all.
    pub steps: u64,
    /// Loss of the step.
    pub loss: f64,
    /// Share of object patches with the right color, shape, size on fresh pictures.
    pub accuracy: [f64; 3],
    /// Seconds since the start.
    pub seconds: f64,
}

struct Heads {
    norm: Norm,
    tables: Vec<CrossEntropy>,
    weights: Vec<otter_nn::ParameterId>,
}

/// Pixels and, per attribute, one label a patch.
struct Pictures {
    pixels: Tensor,
    labels: Vec<Vec<i64>>,
}

/// Trains the tower from random weights; the parameters returned hold the tower (and the heads, which are of no use
/// afterwards).
pub fn pretrain(
    config: &VisionConfig,
    recipe: &VisionRecipe,
    progress: &mut dyn FnMut(&VisionProgress),
) -> Parameters<f32> {
    let mut specs = ParameterSpecs::default();
    let tower = ClipVision::new(&mut specs, TOWER, config);
    let norm = Norm::layer(&mut specs, "heads.norm", config.hidden_size, true, 1e-5);
    let std = 1.0 / (config.hidden_size as f64).sqrt();
    let weights: Vec<_> = ATTRIBUTES
        .iter()
        .map(|(name, classes, _)| {
            specs.add(format!("heads.{name}"), &[classes + 1, config.hidden_size], Init::Normal(std))
        })
        .collect();
    let heads = Heads { norm, tables: weights.iter().map(|&id| CrossEntropy::new(id)).collect(), weights };
    let mut parameters = Parameters::<f32>::initialize(&specs, recipe.seed, Device::Cpu);
    parameters.set_trainable(|name| !name.contains("post_layernorm"));
    let mut gradients = Gradients::new(&parameters);
    let mut optimizer = AdamW::new(AdamWOptions::default(), &parameters, &gradients);
    let start = Instant::now();
    for step in 0..recipe.steps {
        let pictures = pictures(config, recipe, "base pictures", step, recipe.batch);
        gradients.clear();
        let loss = forward_backward(&tower, &heads, &parameters, &pictures, &mut gradients);
        let factor = clip_factor(gradient_norm(&gradients), 1.0);
        optimizer.step(&mut parameters, &gradients, recipe.rate(step), factor);
        if (step + 1) % 100 == 0 || step + 1 == recipe.steps {
            let accuracy = measure(&tower, &heads, &parameters, config, recipe, step);
            let seconds = start.elapsed().as_secs_f64();
            progress(&VisionProgress { step: step + 1, steps: recipe.steps, loss, accuracy, seconds });
        }
    }
    parameters
}

impl VisionRecipe {
    fn rate(&self, step: u64) -> f64 {
        let warm = ((step + 1) as f64 / 100.0).min(1.0);
        let cosine = 0.5 * (1.0 + (std::f64::consts::PI * step as f64 / self.steps as f64).cos());
        self.learning_rate * warm * (0.03 + 0.97 * cosine)
    }
}

/// Draws pictures; each has its own random stream.
fn pictures(
    config: &VisionConfig,
    recipe: &VisionRecipe,
    purpose: &str,
    step: u64,
    count: usize,
) -> Pictures {
    let side = config.image_size;
    let drawn: Vec<(Vec<f32>, Vec<[i64; 5]>)> = (0..count as u64)
        .into_par_iter()
        .map(|index| {
            let index = step * count as u64 + index;
            let random = &mut random_stream(recipe.seed, purpose, index);
            let scene = Scene::random(random);
            let image = render(&scene, side as u32, recipe.seed ^ (index << 1));
            let pixels = RgbImage::new(side, side, image.into_raw())
                .map(|image| preprocess(&image, side, ImageTransform::Train))
                .unwrap_or_else(|| vec![0.0; 3 * side * side]);
            (pixels, patch_classes(&scene, config))
        })
        .collect();
    let mut pixels = Vec::with_capacity(count * 3 * side * side);
    let mut labels = vec![Vec::new(); ATTRIBUTES.len()];
    for (picture, classes) in drawn {
        pixels.extend(picture);
        for class in classes {
            labels.iter_mut().zip(class).for_each(|(list, c)| list.push(c));
        }
    }
    Pictures { pixels: Tensor::from_vec(pixels, &[count, 3, side, side], Device::Cpu), labels }
}

/// Classes of every patch; the last class of each attribute is background.
fn patch_classes(scene: &Scene, config: &VisionConfig) -> Vec<[i64; 5]> {
    let background = [8, 6, 2, 4, 4];
    let labels = patch_labels(scene, config.image_size as u32, config.patch_size as u32).unwrap_or_default();
    labels
        .into_iter()
        .map(|label| match label {
            PatchLabel::Background => background,
            PatchLabel::Object { color, shape, size } => {
                let object =
                    scene.objects.iter().rfind(|o| (o.color, o.shape, o.size) == (color, shape, size));
                let place = object.map_or((0.0, 0.0), |o| (o.x, o.y));
                let quarter = |v: f32| ((v / 8.0) as i64).clamp(0, 3);
                [color as i64, shape as i64, size as i64, quarter(place.0), quarter(place.1)]
            }
        })
        .collect()
}

fn forward_backward(
    tower: &ClipVision,
    heads: &Heads,
    parameters: &Parameters<f32>,
    pictures: &Pictures,
    gradients: &mut Gradients,
) -> f64 {
    let (features, saved) = tower.forward_saved(parameters, &pictures.pixels);
    let shape = features.shape().to_vec();
    let rows = features.rows();
    let features = features.reshape(&[rows, shape[2]]);
    let (normed, statistics) = heads.norm.forward_saved(parameters, &features);
    let mut d_normed = normed.zeros_like();
    let mut total = 0.0;
    for (((_, classes, weight), table), labels) in ATTRIBUTES.iter().zip(&heads.tables).zip(&pictures.labels)
    {
        let background = *classes as i64;
        let objects = labels.iter().filter(|&&l| l != background).count() as f64;
        let sum_of_weights = objects + BACKGROUND_WEIGHT * (labels.len() as f64 - objects);
        for (is_background, class_weight) in [(false, 1.0), (true, BACKGROUND_WEIGHT)] {
            let only: Vec<i64> = labels
                .iter()
                .map(|&l| if (l == background) == is_background { l } else { IGNORE_INDEX })
                .collect();
            let scale = weight * class_weight / sum_of_weights;
            let (loss, d) = table.forward_backward(parameters, &normed, &only, scale, gradients);
            total += scale * loss.sum;
            d_normed.add_assign(&d);
        }
    }
    let d_features = heads.norm.backward(parameters, &features, &statistics, &d_normed, gradients);
    tower.backward(parameters, saved, &d_features.reshape(&shape), gradients);
    total
}

/// Share of object patches with the right color, shape and size on fresh pictures.
fn measure(
    tower: &ClipVision,
    heads: &Heads,
    parameters: &Parameters<f32>,
    config: &VisionConfig,
    recipe: &VisionRecipe,
    step: u64,
) -> [f64; 3] {
    let pictures = pictures(config, recipe, "base check", step, 64);
    let features = tower.forward(parameters, &pictures.pixels);
    let rows = features.rows();
    let normed = heads.norm.forward(parameters, &features.reshape(&[rows, config.hidden_size]));
    std::array::from_fn(|attribute| {
        let table = parameters.data(heads.weights[attribute]);
        let classes = ATTRIBUTES[attribute].1;
        let (mut right, mut all) = (0u32, 0u32);
        for (row, &label) in normed.data().chunks_exact(config.hidden_size).zip(&pictures.labels[attribute]) {
            if label == classes as i64 {
                continue;
            }
            let score = |class: usize| -> f32 {
                row.iter().zip(&table[class * row.len()..][..row.len()]).map(|(a, b)| a * b).sum()
            };
            let best = (0..classes).max_by(|&a, &b| score(a).total_cmp(&score(b)));
            right += u32::from(best == Some(label as usize));
            all += 1;
        }
        f64::from(right) / f64::from(all.max(1))
    })
}
