//! Perceiver resampler (Jaegle et al., arXiv 2103.03206; Flamingo, arXiv 2204.14198).
//!
//! Turns the patch features of all frames of a media item into a fixed number of latents. The un-normalized latents
//! carry the residual; the media tokens are normalized anew in each block but never updated.

use otter_nn::layers::attention::{AttentionOutput, KeysValues};
use otter_nn::layers::rows::{self, RowStrides};
use otter_nn::{
    AttentionMask, Float, Gradients, Init, Linear, Norm, NormStatistics, ParameterId, ParameterSpecs,
    Parameters, SelfAttentionCore, Tensor,
};

use crate::config::PerceiverConfig;
use crate::flamingo::feed_forward::{self, FeedForward};
use crate::flamingo::key_value_projection::{KeyValueProjection, KeysAndValues};

/// The resampler.
#[derive(Clone, Debug)]
pub struct PerceiverResampler {
    config: PerceiverConfig,
    width: usize,
    latents: ParameterId,
    frame_embs: Option<ParameterId>,
    media_time_embs: Option<ParameterId>,
    layers: Vec<PerceiverLayer>,
    norm: Norm,
}

#[derive(Clone, Debug)]
struct PerceiverLayer {
    norm_media: Norm,
    norm_latents: Norm,
    to_q: Linear,
    to_kv: KeyValueProjection,
    to_out: Linear,
    feed_forward: FeedForward,
    core: SelfAttentionCore,
}

struct LayerSaved<T> {
    latents: Tensor<T>,
    norm_media: NormStatistics<T>,
    norm_latents: NormStatistics<T>,
    q: Tensor<T>,
    kv: KeysAndValues<T>,
    attention: AttentionOutput<T>,
    middle: Tensor<T>,
    feed_forward: feed_forward::Saved<T>,
}

/// Kept for the backward pass.
pub struct PerceiverSaved<T> {
    media: Tensor<T>,
    frames: usize,
    times: Vec<usize>,
    layers: Vec<LayerSaved<T>>,
    last: Tensor<T>,
    norm: NormStatistics<T>,
}

impl PerceiverResampler {
    /// Registers the resampler under `<name>.` for features of `width`.
    pub fn new(specs: &mut ParameterSpecs, name: &str, width: usize, config: &PerceiverConfig) -> Self {
        let table = Init::Normal(1.0);
        let latents = specs.add(format!("{name}.latents"), &[config.num_latents, width], table);
        let frame_embs = config
            .max_num_frames
            .map(|frames| specs.add(format!("{name}.frame_embs"), &[frames, width], table));
        let media_time_embs = config
            .max_num_media
            .map(|media| specs.add(format!("{name}.media_time_embs"), &[media, 1, width], table));
        let layers = (0..config.depth)
            .map(|i| PerceiverLayer::new(specs, &format!("{name}.layers.{i}"), width, config))
            .collect();
        let norm = Norm::layer(specs, &format!("{name}.norm"), width, true, 1e-5);
        Self { config: config.clone(), width, latents, frame_embs, media_time_embs, layers, norm }
    }

    /// Latents (items * latents, width) of features (items * frames * patches, width). `times` gives each item's place
    /// in its sequence and is read only by models with media-time embeddings.
    pub fn forward<T: Float>(
        &self,
        parameters: &Parameters<T>,
        features: &Tensor<T>,
        items: usize,
        frames: usize,
        times: &[usize],
    ) -> Tensor<T> {
        let media = self.with_embeddings(parameters, features, items, frames, times);
        let mut latents = self.repeated_latents(parameters, items);
        for layer in &self.layers {
            latents = layer.forward_saved(parameters, &media, latents, items).0;
        }
        self.norm.forward(parameters, &latents)
    }

    /// As [`PerceiverResampler::forward`], keeping what the backward pass needs.
    pub fn forward_saved<T: Float>(
        &self,
        parameters: &Parameters<T>,
        features: &Tensor<T>,
        items: usize,
        frames: usize,
        times: &[usize],
    ) -> (Tensor<T>, PerceiverSaved<T>) {
        let media = self.with_embeddings(parameters, features, items, frames, times);
        let mut latents = self.repeated_latents(parameters, items);
        let mut layers = Vec::with_capacity(self.layers.len());
        for layer in &self.layers {
            let (next, saved) = layer.forward_saved(parameters, &media, latents, items);
            layers.push(saved);
            latents = next;
        }
        let (out, norm) = self.norm.forward_saved(parameters, &latents);
        (out, PerceiverSaved { media, frames, times: times.to_vec(), layers, last: latents, norm })
    }

    /// Adds parameter gradients, given the gradient of the latents; returns the gradient of the features when
    /// `needs_features_grad`.
    pub fn backward<T: Float>(
        &self,
        parameters: &Parameters<T>,
        saved: PerceiverSaved<T>,
        d_out: &Tensor<T>,
        needs_features_grad: bool,
        gradients: &mut Gradients<T>,
    ) -> Option<Tensor<T>> {
        let tables = [self.frame_embs, self.media_time_embs];
        let needs_media_grad =
            needs_features_grad || tables.iter().flatten().any(|&id| gradients.requires_grad(id));
        let items = d_out.rows() / self.config.num_latents;
        let mut d_latents = self.norm.backward(parameters, &saved.last, &saved.norm, d_out, gradients);
        let mut d_media = needs_media_grad.then(|| saved.media.zeros_like());
        for (layer, layer_saved) in self.layers.iter().zip(saved.layers).rev() {
            let context = (&saved.media, items);
            d_latents =
                layer.backward(parameters, layer_saved, context, d_latents, d_media.as_mut(), gradients);
        }
        if let Some(d) = gradients.tensor_mut(self.latents) {
            rows::add_sum_of_each(d, &d_latents);
        }
        if let Some(d_media) = &d_media {
            self.embedding_gradients(d_media, items, saved.frames, &saved.times, gradients);
        }
        d_media.filter(|_| needs_features_grad)
    }

    fn repeated_latents<T: Float>(&self, parameters: &Parameters<T>, items: usize) -> Tensor<T> {
        let latents = parameters.tensor(self.latents);
        let shape = [items * self.config.num_latents, self.width];
        let mut repeated = Tensor::empty(&shape, parameters.device());
        let (to, from) = (RowStrides::every(0, latents.len()), RowStrides::every(0, 0));
        rows::copy((&mut repeated, to), (latents, from), [1, 1, items], latents.len());
        repeated
    }

    /// Features plus frame and media-time embeddings (just the features without such tables).
    fn with_embeddings<T: Float>(
        &self,
        parameters: &Parameters<T>,
        features: &Tensor<T>,
        items: usize,
        frames: usize,
        times: &[usize],
    ) -> Tensor<T> {
        let rows = features.len() / self.width;
        let mut media = features.clone().reshape(&[rows, self.width]);
        let patches = rows / (items * frames).max(1);
        let (width, frame, item) = (self.width, patches * self.width, frames * patches * self.width);
        if let Some(table) = self.frame_embs.map(|id| parameters.tensor(id)) {
            let to = RowStrides { offset: 0, strides: [item, frame, width] };
            let from = RowStrides { offset: 0, strides: [0, width, 0] };
            rows::add((&mut media, to), (table, from), [items, frames, patches], width);
        }
        if let Some(table) = self.media_time_embs.map(|id| parameters.tensor(id)) {
            for (index, time) in times.iter().enumerate() {
                let to = RowStrides::every(index * item, width);
                let from = RowStrides::every(time * width, 0);
                rows::add((&mut media, to), (table, from), [1, 1, frames * patches], width);
            }
        }
        media
    }

    fn embedding_gradients<T: Float>(
        &self,
        d_media: &Tensor<T>,
        items: usize,
        frames: usize,
        times: &[usize],
        gradients: &mut Gradients<T>,
    ) {
        let patches = d_media.rows() / (items * frames).max(1);
        for (id, by_frame) in [(self.frame_embs, true), (self.media_time_embs, false)] {
            let Some(table) = id.and_then(|id| gradients.tensor_mut(id)) else { continue };
            let place = |row: usize| match by_frame {
                true => (row / patches % frames) as u32,
                false => times[row / (patches * frames)] as u32,
            };
            let places: Vec<u32> = (0..d_media.rows()).map(place).collect();
            rows::scatter_add_rows(table, d_media, &places, self.width);
        }
    }
}

impl PerceiverLayer {
    fn new(specs: &mut ParameterSpecs, name: &str, width: usize, config: &PerceiverConfig) -> Self {
        let inner = config.inner_dim();
        let init = Init::FanInUniform;
        Self {
            norm_media: Norm::layer(specs, &format!("{name}.norm_media"), width, true, 1e-5),
            norm_latents: Norm::layer(specs, &format!("{name}.norm_latents"), width, true, 1e-5),
            to_q: Linear::new(specs, &format!("{name}.to_q"), width, inner, false, init),
            to_kv: KeyValueProjection::new(specs, &format!("{name}.to_kv"), width, inner),
            to_out: Linear::new(specs, &format!("{name}.to_out"), inner, width, false, init),
            feed_forward: FeedForward::new(specs, &format!("{name}.feed_forward"), width, config.ff_mult),
            core: SelfAttentionCore::new(config.heads, config.heads, config.dim_head),
        }
    }

    /// Keys come from each item's media tokens followed by its latents.
    fn forward_saved<T: Float>(
        &self,
        parameters: &Parameters<T>,
        media: &Tensor<T>,
        latents: Tensor<T>,
        items: usize,
    ) -> (Tensor<T>, LayerSaved<T>) {
        let (normed_media, norm_media) = self.norm_media.forward_saved(parameters, media);
        let (normed_latents, norm_latents) = self.norm_latents.forward_saved(parameters, &latents);
        let q = self.to_q.forward(parameters, &normed_latents);
        let context = joined(&normed_media, &normed_latents, items);
        let kv = self.to_kv.forward(parameters, &context);
        let keys = KeysValues::exact(&kv.k, &kv.v, context.rows() / items);
        let attention = self.core.forward_saved(&q, items, keys, &AttentionMask::Full);
        let mut middle = latents.clone();
        self.to_out.forward_add(parameters, &attention.out, &mut middle);
        let (mut out, feed_forward) = self.feed_forward.forward_saved(parameters, &middle);
        out.add_assign(&middle);
        let saved = LayerSaved { latents, norm_media, norm_latents, q, kv, attention, middle, feed_forward };
        (out, saved)
    }

    fn backward<T: Float>(
        &self,
        parameters: &Parameters<T>,
        saved: LayerSaved<T>,
        (media, items): (&Tensor<T>, usize),
        dy: Tensor<T>,
        d_media: Option<&mut Tensor<T>>,
        gradients: &mut Gradients<T>,
    ) -> Tensor<T> {
        let LayerSaved { latents, norm_media, norm_latents, q, kv, attention, middle, feed_forward } = saved;
        let mut d_middle = self.feed_forward.backward(parameters, &middle, &feed_forward, &dy, gradients);
        d_middle.add_assign(&dy);
        let d_attention = self.to_out.backward(parameters, &attention.out, &d_middle, gradients);
        let normed_media = self.norm_media.forward(parameters, media);
        let normed_latents = self.norm_latents.forward(parameters, &latents);
        let context = joined(&normed_media, &normed_latents, items);
        let keys = KeysValues::exact(&kv.k, &kv.v, context.rows() / items);
        let d = self.core.backward(&q, items, keys, &AttentionMask::Full, &attention, &d_attention);
        let d_context = self.to_kv.backward(parameters, &context, (&d.dk, &d.dv), true, gradients);
        let mut d_normed_latents = self.to_q.backward(parameters, &normed_latents, &d.dq, gradients);
        let mut d_normed_media = normed_media.zeros_like();
        if let Some(d_context) = d_context {
            split(&d_context, &mut d_normed_media, &mut d_normed_latents, items);
        }
        match d_media {
            Some(d_media) => {
                let d = self.norm_media.backward(parameters, media, &norm_media, &d_normed_media, gradients);
                d_media.add_assign(&d);
            }
            None => self.norm_media.backward_parameters(media, &norm_media, &d_normed_media, gradients),
        }
        let mut d_latents =
            self.norm_latents.backward(parameters, &latents, &norm_latents, &d_normed_latents, gradients);
        d_latents.add_assign(&d_middle);
        d_latents
    }
}

/// Rows of each item: its media tokens, then its latents.
fn joined<T: Float>(media: &Tensor<T>, latents: &Tensor<T>, items: usize) -> Tensor<T> {
    let mut joined = Tensor::empty(&[media.rows() + latents.rows(), media.width()], media.device());
    let (m, l) = (media.len() / items, latents.len() / items);
    let (own_m, own_l) = (RowStrides::every(0, m), RowStrides::every(0, l));
    rows::copy((&mut joined, RowStrides::every(0, m + l)), (media, own_m), [1, 1, items], m);
    rows::copy((&mut joined, RowStrides::every(m, m + l)), (latents, own_l), [1, 1, items], l);
    joined
}

/// Reverse of [`joined`]: writes the media part, adds the latents' part.
fn split<T: Float>(joined: &Tensor<T>, media: &mut Tensor<T>, latents: &mut Tensor<T>, items: usize) {
    let (m, l) = (media.len() / items, latents.len() / items);
    let (own_m, own_l) = (RowStrides::every(0, m), RowStrides::every(0, l));
    rows::copy((media, own_m), (joined, RowStrides::every(0, m + l)), [1, 1, items], m);
    rows::add((latents, own_l), (joined, RowStrides::every(m, m + l)), [1, 1, items], l);
}

#[cfg(test)]
mod tests {
    use super::*;
    use otter_nn::testing::gradient_check::{check, random_tensor};

    #[test]
    fn gradients_match_finite_differences_with_every_table() {
        let config = PerceiverConfig {
            depth: 2,
            heads: 2,
            dim_head: 3,
            num_latents: 3,
            ff_mult: 2,
            max_num_frames: Some(3),
            max_num_media: Some(4),
        };
        let mut specs = ParameterSpecs::default();
        let resampler = PerceiverResampler::new(&mut specs, "perceiver", 5, &config);
        let times = [2, 0];
        check(
            &specs,
            &[random_tensor("features", &[2 * 2 * 4, 5])],
            |p, x| resampler.forward(p, &x[0], 2, 2, &times),
            |p, x, dy, g| {
                let (_, saved) = resampler.forward_saved(p, &x[0], 2, 2, &times);
                resampler.backward(p, saved, dy, true, g).into_iter().collect()
            },
        );
    }
}
