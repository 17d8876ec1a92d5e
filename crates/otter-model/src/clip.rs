//! CLIP image tower (Radford et al., arXiv 2103.00020), `spec/model.md` section 2.
//!
//! What Otter uses is the un-normalised last hidden state without the class token. `post_layernorm` is stored in every
//! checkpoint; it feeds only [`ClipVision::class_features`], by which images are compared.

use otter_nn::kernels::elementwise::{QuickGelu, activate, activate_backward};
use otter_nn::kernels::matmul;
use otter_nn::layers::attention::{AttentionOutput, KeysValues};
use otter_nn::{
    AttentionMask, Gradients, Init, LayerNorm, Linear, NormStatistics, ParameterId, ParameterSpecs,
    Parameters, Real, SelfAttentionCore, Tensor,
};

use crate::config::VisionConfig;

/// Images encoded together: bounds the activations of a long video.
const IMAGE_CHUNK: usize = 8;

/// The image tower.
#[derive(Clone, Debug)]
pub struct ClipVision {
    config: VisionConfig,
    class_embedding: ParameterId,
    patch_embedding: ParameterId,
    position_embedding: ParameterId,
    pre_norm: LayerNorm,
    layers: Vec<ClipLayer>,
    post_norm: LayerNorm,
}

#[derive(Clone, Debug)]
struct ClipLayer {
    norm1: LayerNorm,
    q: Linear,
    k: Linear,
    v: Linear,
    out: Linear,
    norm2: LayerNorm,
    fc1: Linear,
    fc2: Linear,
    core: SelfAttentionCore,
}

struct LayerSaved<T> {
    x: Tensor<T>,
    norm1: NormStatistics<T>,
    q: Tensor<T>,
    k: Tensor<T>,
    v: Tensor<T>,
    attention: AttentionOutput<T>,
    middle: Tensor<T>,
    norm2: NormStatistics<T>,
    widened: Tensor<T>,
}

/// Kept for the reverse pass of a trained tower.
pub struct ClipSaved<T> {
    patches: Tensor<T>,
    embedded: Tensor<T>,
    pre_norm: NormStatistics<T>,
    layers: Vec<LayerSaved<T>>,
}

impl ClipVision {
    /// Registers the tower under `<name>.` (`vision_encoder.vision_model`).
    pub fn new(specs: &mut ParameterSpecs, name: &str, config: &VisionConfig) -> Self {
        let width = config.hidden_size;
        let patch = config.patch_size;
        let eps = config.layer_norm_eps;
        let std = Init::Normal(0.02);
        let embeddings = format!("{name}.embeddings");
        let class_embedding = specs.add(format!("{embeddings}.class_embedding"), &[width], std);
        let patch_shape = [width, config.num_channels, patch, patch];
        let patch_embedding = specs.add(format!("{embeddings}.patch_embedding.weight"), &patch_shape, std);
        let positions = [config.num_positions(), width];
        let position_embedding =
            specs.add(format!("{embeddings}.position_embedding.weight"), &positions, std);
        let pre_norm = LayerNorm::new(specs, &format!("{name}.pre_layrnorm"), width, true, eps);
        let layers = (0..config.num_hidden_layers)
            .map(|i| ClipLayer::new(specs, &format!("{name}.encoder.layers.{i}"), config))
            .collect();
        let post_norm = LayerNorm::new(specs, &format!("{name}.post_layernorm"), width, true, eps);
        Self {
            config: config.clone(),
            class_embedding,
            patch_embedding,
            position_embedding,
            pre_norm,
            layers,
            post_norm,
        }
    }

    /// One row for each of the images (images, 3, S, S): the class token's last hidden state after `post_layernorm`,
    /// (images, width). It is what CLIP projects into the space it shares with text.
    pub fn class_features<T: Real>(&self, parameters: &Parameters<T>, pixels: &Tensor<T>) -> Tensor<T> {
        let (images, width) = (pixels.shape()[0], self.config.hidden_size);
        let mut classes = Vec::with_capacity(images * width);
        self.for_chunks(parameters, pixels, |x| {
            let rows = x.data().chunks_exact((self.config.num_patches() + 1) * width);
            classes.extend(rows.flat_map(|image| image[..width].iter().copied()));
        });
        self.post_norm.forward(parameters, &Tensor::from_vec(classes, &[images, width], pixels.device()))
    }

    /// Patch features of pixels (images, 3, S, S): (images, patches, width).
    pub fn forward<T: Real>(&self, parameters: &Parameters<T>, pixels: &Tensor<T>) -> Tensor<T> {
        let images = pixels.shape()[0];
        let (count, width) = (self.config.num_patches(), self.config.hidden_size);
        let mut features = Vec::with_capacity(images * count * width);
        self.for_chunks(parameters, pixels, |x| features.extend(without_class(x, count)));
        Tensor::from_vec(features, &[images, count, width], pixels.device())
    }

    /// Last hidden states (images * (patches + 1), width) of some images at a time.
    fn for_chunks<T: Real>(
        &self,
        parameters: &Parameters<T>,
        pixels: &Tensor<T>,
        mut take: impl FnMut(&Tensor<T>),
    ) {
        let image_len = pixels.len() / pixels.shape()[0].max(1);
        for chunk in pixels.data().chunks((IMAGE_CHUNK * image_len).max(1)) {
            let patches = self.patches(chunk, image_len, pixels);
            let images = chunk.len() / image_len;
            let mut x = self.pre_norm.forward(parameters, &self.embed(parameters, &patches, images));
            for layer in &self.layers {
                layer.forward(parameters, &mut x, images);
            }
            take(&x);
        }
    }

    /// As [`ClipVision::forward`], keeping what [`ClipVision::backward`] needs.
    pub fn forward_saved<T: Real>(
        &self,
        parameters: &Parameters<T>,
        pixels: &Tensor<T>,
    ) -> (Tensor<T>, ClipSaved<T>) {
        let images = pixels.shape()[0];
        let patches = self.patches(pixels.data(), pixels.len() / images.max(1), pixels);
        let embedded = self.embed(parameters, &patches, images);
        let (mut x, pre_norm) = self.pre_norm.forward_saved(parameters, &embedded);
        let mut layers = Vec::with_capacity(self.layers.len());
        for layer in &self.layers {
            let (y, saved) = layer.forward_saved(parameters, x, images);
            layers.push(saved);
            x = y;
        }
        let (count, width) = (self.config.num_patches(), self.config.hidden_size);
        let features = without_class(&x, count).collect();
        let features = Tensor::from_vec(features, &[images, count, width], pixels.device());
        (features, ClipSaved { patches, embedded, pre_norm, layers })
    }

    /// Adds the tower's parameter gradients, given the gradient of the patch features.
    pub fn backward<T: Real>(
        &self,
        parameters: &Parameters<T>,
        saved: ClipSaved<T>,
        d_features: &Tensor<T>,
        gradients: &mut Gradients<T>,
    ) {
        let images = d_features.shape()[0];
        let (count, width) = (self.config.num_patches(), self.config.hidden_size);
        let mut dx = Tensor::zeros(&[images * (count + 1), width], d_features.device());
        let rows = (count + 1) * width;
        for (row, d) in
            dx.data_mut().chunks_exact_mut(rows).zip(d_features.data().chunks_exact(count * width))
        {
            row[width..].copy_from_slice(d);
        }
        for (layer, saved) in self.layers.iter().zip(saved.layers).rev() {
            dx = layer.backward(parameters, saved, images, dx, gradients);
        }
        let d_embedded = self.pre_norm.backward(parameters, &saved.embedded, &saved.pre_norm, &dx, gradients);
        for image in d_embedded.data().chunks_exact(rows) {
            if let Some(d_position) = gradients.get_mut(self.position_embedding) {
                d_position.iter_mut().zip(image).for_each(|(p, &d)| *p += d);
            }
            if let Some(d_class) = gradients.get_mut(self.class_embedding) {
                d_class.iter_mut().zip(image).for_each(|(c, &d)| *c += d);
            }
        }
        if let Some(d_patch) = gradients.get_mut(self.patch_embedding) {
            let d_patches: Vec<T> = d_embedded
                .data()
                .chunks_exact(rows)
                .flat_map(|image| image[width..].iter().copied())
                .collect();
            let inner = saved.patches.width();
            matmul::add_transposed_times(d_patch, &d_patches, saved.patches.data(), width, inner);
        }
    }

    /// Cuts images into rows of patches: (images * patches, 3 * patch * patch), channel-major like the kernel.
    fn patches<T: Real>(&self, pixels: &[T], image_len: usize, like: &Tensor<T>) -> Tensor<T> {
        let (side, patch) = (self.config.image_size, self.config.patch_size);
        let (grid, channels) = (side / patch, self.config.num_channels);
        let mut rows = Vec::with_capacity(pixels.len());
        for image in pixels.chunks_exact(image_len) {
            for py in 0..grid {
                for px in 0..grid {
                    for c in 0..channels {
                        for y in 0..patch {
                            let start = (c * side + py * patch + y) * side + px * patch;
                            rows.extend_from_slice(&image[start..start + patch]);
                        }
                    }
                }
            }
        }
        let inner = channels * patch * patch;
        let count = rows.len() / inner;
        Tensor::from_vec(rows, &[count, inner], like.device())
    }

    /// Class token and patches with their position embeddings: (images * (patches + 1), width).
    fn embed<T: Real>(&self, parameters: &Parameters<T>, patches: &Tensor<T>, images: usize) -> Tensor<T> {
        let width = self.config.hidden_size;
        let mut projected = vec![T::ZERO; patches.rows() * width];
        let weight = parameters.data(self.patch_embedding);
        matmul::times_transposed(&mut projected, patches.data(), weight, patches.width(), width, false);
        let class = parameters.data(self.class_embedding);
        let positions = parameters.data(self.position_embedding);
        let count = self.config.num_patches();
        let mut x = Vec::with_capacity(images * (count + 1) * width);
        for image in projected.chunks_exact(count * width) {
            let tokens = class.iter().chain(image);
            x.extend(tokens.zip(positions).map(|(&t, &p)| t + p));
        }
        Tensor::from_vec(x, &[images * (count + 1), width], patches.device())
    }
}

/// Rows of x (images * (patches + 1), width) without each image's first.
fn without_class<T: Real>(x: &Tensor<T>, patches: usize) -> impl Iterator<Item = T> + '_ {
    let width = x.width();
    x.data().chunks_exact((patches + 1) * width).flat_map(move |image| image[width..].iter().copied())
}

impl ClipLayer {
    fn new(specs: &mut ParameterSpecs, name: &str, config: &VisionConfig) -> Self {
        let (width, inner) = (config.hidden_size, config.intermediate_size);
        let mut linear = |part: &str, from: usize, to: usize| {
            Linear::new(specs, &format!("{name}.{part}"), from, to, true, Init::FanInUniform)
        };
        let q = linear("self_attn.q_proj", width, width);
        let k = linear("self_attn.k_proj", width, width);
        let v = linear("self_attn.v_proj", width, width);
        let out = linear("self_attn.out_proj", width, width);
        let fc1 = linear("mlp.fc1", width, inner);
        let fc2 = linear("mlp.fc2", inner, width);
        let mut norm =
            |part: &str| LayerNorm::new(specs, &format!("{name}.{part}"), width, true, config.layer_norm_eps);
        let (norm1, norm2) = (norm("layer_norm1"), norm("layer_norm2"));
        let heads = config.num_attention_heads;
        let core = SelfAttentionCore::new(heads, heads, config.head_dim());
        Self { norm1, q, k, v, out, norm2, fc1, fc2, core }
    }

    /// The layer on x (images * (patches + 1), width), in place.
    fn forward<T: Real>(&self, parameters: &Parameters<T>, x: &mut Tensor<T>, images: usize) {
        let normed = self.norm1.forward(parameters, x);
        let q = self.q.forward(parameters, &normed);
        let k = self.k.forward(parameters, &normed);
        let v = self.v.forward(parameters, &normed);
        let kv = KeysValues::exact(&k, &v, x.rows() / images);
        let attended = self.core.forward(&q, images, kv, &AttentionMask::Full);
        self.out.forward_add(parameters, &attended, x);
        let normed = self.norm2.forward(parameters, x);
        let widened = self.fc1.forward_activated::<QuickGelu, T>(parameters, &normed);
        self.fc2.forward_add(parameters, &widened, x);
    }

    fn forward_saved<T: Real>(
        &self,
        parameters: &Parameters<T>,
        x: Tensor<T>,
        images: usize,
    ) -> (Tensor<T>, LayerSaved<T>) {
        let (normed, norm1) = self.norm1.forward_saved(parameters, &x);
        let q = self.q.forward(parameters, &normed);
        let k = self.k.forward(parameters, &normed);
        let v = self.v.forward(parameters, &normed);
        let kv = KeysValues::exact(&k, &v, x.rows() / images);
        let attention = self.core.forward_saved(&q, images, kv, &AttentionMask::Full);
        let mut middle = x.clone();
        self.out.forward_add(parameters, &attention.out, &mut middle);
        let (normed, norm2) = self.norm2.forward_saved(parameters, &middle);
        let widened = self.fc1.forward(parameters, &normed);
        let mut y = middle.clone();
        self.fc2.forward_add(parameters, &quick_gelu(&widened), &mut y);
        (y, LayerSaved { x, norm1, q, k, v, attention, middle, norm2, widened })
    }

    fn backward<T: Real>(
        &self,
        parameters: &Parameters<T>,
        saved: LayerSaved<T>,
        images: usize,
        dy: Tensor<T>,
        gradients: &mut Gradients<T>,
    ) -> Tensor<T> {
        let LayerSaved { x, norm1, q, k, v, attention, middle, norm2, widened } = saved;
        let mut d_widened = self.fc2.backward(parameters, &quick_gelu(&widened), &dy, gradients);
        activate_backward::<QuickGelu, T>(d_widened.data_mut(), widened.data());
        let normed = self.norm2.forward(parameters, &middle);
        let d_normed = self.fc1.backward(parameters, &normed, &d_widened, gradients);
        let mut d_middle = self.norm2.backward(parameters, &middle, &norm2, &d_normed, gradients);
        d_middle.add_assign(&dy);
        let d_attention = self.out.backward(parameters, &attention.out, &d_middle, gradients);
        let kv = KeysValues::exact(&k, &v, x.rows() / images);
        let d = self.core.backward(&q, images, kv, &AttentionMask::Full, &attention, &d_attention);
        let normed = self.norm1.forward(parameters, &x);
        let mut d_normed = self.q.backward(parameters, &normed, &d.dq, gradients);
        self.k.backward_into(parameters, normed.data(), d.dk.data(), d_normed.data_mut(), true, gradients);
        self.v.backward_into(parameters, normed.data(), d.dv.data(), d_normed.data_mut(), true, gradients);
        let mut dx = self.norm1.backward(parameters, &x, &norm1, &d_normed, gradients);
        dx.add_assign(&d_middle);
        dx
    }
}

fn quick_gelu<T: Real>(x: &Tensor<T>) -> Tensor<T> {
    Tensor::from_vec(activate::<QuickGelu, T>(x.data()), x.shape(), x.device())
}

#[cfg(test)]
mod tests {
    use super::*;
    use otter_nn::gradient_check::{check, random_tensor};

    #[test]
    fn gradients_match_finite_differences() {
        let config = VisionConfig {
            hidden_size: 8,
            intermediate_size: 12,
            num_hidden_layers: 2,
            num_attention_heads: 2,
            image_size: 4,
            patch_size: 2,
            num_channels: 3,
            layer_norm_eps: 1e-5,
        };
        let mut specs = ParameterSpecs::default();
        let tower = ClipVision::new(&mut specs, "v", &config);
        let pixels = random_tensor("pixels", &[3, 3, 4, 4]);
        check(
            &specs,
            &[],
            |p, _| tower.forward(p, &pixels),
            |p, _, dy, g| {
                let (_, saved) = tower.forward_saved(p, &pixels);
                tower.backward(p, saved, dy, g);
                vec![]
            },
        );
    }
}
