//! How much memory one forward and backward pass of an Otter needs beyond the weights, from sizes alone.
//!
//! With rows = batch x length, D, I, K the widths of the language model, of its feed-forward and of its keys, and E the
//! width of the heads of gated cross-attention, in elements of 4 bytes:
//!
//! ```text
//! decoder layer    rows (4 D + 2 K + 2 I + heads)         LLaMA; `TextConfig::saved_elements_per_row` for each model
//! cross-attention  rows (4 D + ff D + 2 E + heads) + 2 E latents     inputs and outputs of both branches, keys, values
//! recompute        rows D a layer, and the above for one layer at a time
//! resampler layer  latents (2 V + 2 E + ff V) + 2 E (patches + latents)
//! vision tower     frozen: one layer of eight images at a time; trained: rows (6 V + I) a layer
//! working memory   the larger of the backward pass of one layer and the frozen vision tower
//! logits           one chunk of target rows x vocabulary
//! ```

use otter_model::config::OtterConfig;

use crate::memory::{BatchShape, PlanItem};

/// What of a model is trained, as far as it decides about activations.
#[derive(Debug, Clone, Copy)]
pub struct TrainedParts {
    /// First decoder layer that keeps something for the backward pass.
    pub first_layer: usize,
    /// Whether the vision tower is trained.
    pub vision: bool,
}

/// Images that the frozen tower takes at a time.
const IMAGE_CHUNK: usize = 8;
/// Largest number of logits held at once, see `otter_nn::CrossEntropy`.
const CHUNK_LOGITS: usize = 1 << 22;

/// The items of a plan for one micro-batch.
pub fn activation_plan(
    config: &OtterConfig,
    shape: &BatchShape,
    trained: TrainedParts,
    recompute: bool,
) -> Vec<PlanItem> {
    let (text, vision, cross) = (&config.text, &config.vision, &config.cross_attention);
    let wide = |value: usize| value as u64;
    let rows = wide(shape.batch) * wide(shape.length);
    let (width, inner) = (wide(text.hidden_size()), wide(text.feed_forward_width()));
    let cross_inner = wide(cross.inner_dim());
    let latents = wide(shape.media) * wide(config.perceiver.num_latents);

    let decoder = rows * wide(text.saved_elements_per_row());
    let branch = if shape.media > 0 {
        rows * (width + 2 * cross_inner + wide(cross.heads)) + 2 * cross_inner * latents
    } else {
        0
    };
    let block = rows * (3 * width + wide(cross.ff_mult) * width) + branch;
    let layers = wide(text.num_hidden_layers().saturating_sub(trained.first_layer));
    let blocks =
        wide((trained.first_layer..text.num_hidden_layers()).filter(|&i| cross.has_block(i)).count());
    let (kept, how) = if recompute {
        let one = decoder + if blocks > 0 { block } else { 0 };
        (layers * rows * width + one, format!("inputs of {layers} layers, and one layer run again"))
    } else {
        (layers * decoder + blocks * block, format!("{layers} layers, {blocks} with cross-attention"))
    };

    let vision_width = wide(vision.hidden_size);
    let vision_inner = wide(vision.intermediate_size);
    let patches = wide(shape.frames) * wide(vision.num_patches());
    let pixels = wide(shape.frames) * 3 * wide(vision.image_size) * wide(vision.image_size);
    let tower_rows = |images: u64| images * wide(vision.num_positions());
    let (tower, tower_working) = if trained.vision {
        let layer = tower_rows(wide(shape.frames)) * (6 * vision_width + vision_inner);
        (wide(vision.num_hidden_layers) * layer, 2 * layer)
    } else {
        let images = wide(shape.frames.min(IMAGE_CHUNK));
        (0, tower_rows(images) * (6 * vision_width + 2 * vision_inner))
    };
    let resampler_inner = wide(config.perceiver.inner_dim());
    let resampler_layer = latents
        * (2 * vision_width + 2 * resampler_inner + wide(config.perceiver.ff_mult) * vision_width)
        + 2 * resampler_inner * (patches + latents);
    let resampler = wide(config.perceiver.depth) * resampler_layer;

    let reverse_decoder = rows * (3 * inner + 8 * width);
    let reverse_block = rows * (2 * wide(cross.ff_mult) * width + 6 * width);
    let working = reverse_decoder.max(reverse_block).max(tower_working);
    let chunk = (CHUNK_LOGITS / text.vocab_size().max(1)).clamp(16, 1024).min(shape.targets);
    let logits = wide(chunk) * (wide(text.vocab_size()) + 2 * width);

    let size = format!("{} x {} tokens, {} images", shape.batch, shape.length, shape.frames);
    vec![
        PlanItem::new("language activations", 4 * kept, format!("{size}; {how}")),
        PlanItem::new("residual stream", 4 * rows * 6 * width, "embeddings, final norm and their gradients"),
        PlanItem::new(
            "images and features",
            4 * (2 * pixels + 2 * patches * vision_width),
            "pixels, patch features",
        ),
        PlanItem::new(
            "vision tower",
            4 * tower,
            if trained.vision { "trained" } else { "frozen: nothing is kept" },
        ),
        PlanItem::new("resampler activations", 4 * resampler, format!("{} layers", config.perceiver.depth)),
        PlanItem::new("logits", 4 * logits, format!("{chunk} target rows at a time")),
        PlanItem::new("working memory", 4 * working, "backward pass of one layer, or the vision tower"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn total(recompute: bool, length: usize, trained: TrainedParts) -> u64 {
        let shape = BatchShape { batch: 1, length, frames: 3, media: 3, targets: 20 };
        let items = activation_plan(&OtterConfig::otter_9b(), &shape, trained, recompute);
        items.iter().map(|item| item.bytes).sum()
    }

    #[test]
    fn the_plan_of_the_published_model_is_plausible() {
        let all = TrainedParts { first_layer: 0, vision: false };
        let whole = total(false, 512, all);
        // 32 layers x 512 rows x (4 x 4096 + 2 x 4096 + 2 x 11008 + 32) x 4 bytes = 3.05 GB for the decoder alone.
        assert!((3_000_000_000..5_000_000_000).contains(&whole), "{whole}");
        assert!(total(true, 512, all) < whole / 3);
        assert!(total(false, 1024, all) > whole * 3 / 2);
        // Nothing below the first trained layer is kept.
        assert!(total(false, 512, TrainedParts { first_layer: 31, vision: false }) < whole / 4);
        assert!(total(false, 512, TrainedParts { first_layer: 0, vision: true }) > whole);
    }
}
