//! CLIP image tower (Radford et al., arXiv 2103.00020).
//!
//! What Otter uses is the un-normalized last hidden state without the class token. `post_layernorm` is stored in every
//! checkpoint; it feeds only [`ClipVision::class_features`], by which images are compared.

use otter_nn::layers::rows::{self, RowStrides};
use otter_nn::{
    ActivationKind, AttentionMask, Device, Float, Gradients, Init, Linear, Norm, NormStatistics, ParameterId,
    ParameterSpecs, Parameters, SelfAttentionCore, Tensor,
};

use crate::config::VisionConfig;
use crate::text::attention::{AttentionSpec, InputNames};
use crate::text::block::{BlockParts, BlockSaved, NormSpec, Residual, Rows, TransformerBlock};
use crate::text::mlp::{MlpForm, MlpSpec};
use crate::workspace::Workspace;

/// Images encoded together: bounds the activations of a long video.
const IMAGE_CHUNK: usize = 8;

/// The image tower.
#[derive(Clone, Debug)]
pub struct ClipVision {
    config: VisionConfig,
    class_embedding: ParameterId,
    patch_embedding: ParameterId,
    position_embedding: ParameterId,
    pre_norm: Norm,
    layers: Vec<TransformerBlock>,
    post_norm: Norm,
}

/// Kept for the backward pass of a trained tower.
pub struct ClipSaved<T> {
    patches: Tensor<T>,
    embedded: Tensor<T>,
    pre_norm: NormStatistics<T>,
    layers: Vec<BlockSaved<T>>,
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
        let pre_norm = Norm::layer(specs, &format!("{name}.pre_layrnorm"), width, true, eps);
        let layers = (0..config.num_hidden_layers)
            .map(|i| block(specs, &format!("{name}.encoder.layers.{i}"), config))
            .collect();
        let post_norm = Norm::layer(specs, &format!("{name}.post_layernorm"), width, true, eps);
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
    pub fn class_features<T: Float>(&self, parameters: &Parameters<T>, pixels: &Tensor<T>) -> Tensor<T> {
        let (images, width) = (pixels.shape()[0], self.config.hidden_size);
        let mut classes = Tensor::empty(&[images, width], parameters.device());
        self.for_chunks(parameters, pixels, |first, x| {
            let (to, from) =
                (RowStrides::every(first * width, width), RowStrides::every(0, self.image_len()));
            rows::copy((&mut classes, to), (x, from), [1, 1, x.len() / self.image_len()], width);
        });
        self.post_norm.forward(parameters, &classes)
    }

    /// Numbers of the hidden states of an image.
    fn image_len(&self) -> usize {
        (self.config.num_patches() + 1) * self.config.hidden_size
    }

    /// Where the patches of every image begin: in all hidden states, and in features.
    fn patch_strides(&self) -> (RowStrides, RowStrides) {
        let width = self.config.hidden_size;
        (RowStrides::every(width, self.image_len()), RowStrides::every(0, self.image_len() - width))
    }

    /// The patches of hidden states (images * (patches + 1), width): (images, patches, width).
    fn without_class<T: Float>(&self, x: &Tensor<T>) -> Tensor<T> {
        let images = x.len() / self.image_len();
        let (with, without) = self.patch_strides();
        let shape = [images, self.config.num_patches(), self.config.hidden_size];
        let mut patches = Tensor::empty(&shape, x.device());
        rows::copy((&mut patches, without), (x, with), [1, 1, images], without.strides[2]);
        patches
    }

    /// Patch features of pixels (images, 3, S, S), which are on the host: (images, patches, width).
    pub fn forward<T: Float>(&self, parameters: &Parameters<T>, pixels: &Tensor<T>) -> Tensor<T> {
        let images = pixels.shape()[0];
        let shape = [images, self.config.num_patches(), self.config.hidden_size];
        let (with, without) = self.patch_strides();
        let len = without.strides[2];
        let mut features = Tensor::empty(&shape, parameters.device());
        self.for_chunks(parameters, pixels, |first, x| {
            let to = RowStrides { offset: first * len, ..without };
            rows::copy((&mut features, to), (x, with), [1, 1, x.len() / self.image_len()], len);
        });
        features
    }

    /// Last hidden states (images * (patches + 1), width) of some images at a time, with the first image's number.
    fn for_chunks<T: Float>(
        &self,
        parameters: &Parameters<T>,
        pixels: &Tensor<T>,
        mut take: impl FnMut(usize, &Tensor<T>),
    ) {
        let image_len = pixels.len() / pixels.shape()[0].max(1);
        let mut workspace = Workspace::new(parameters.device());
        for (number, chunk) in pixels.data().chunks((IMAGE_CHUNK * image_len).max(1)).enumerate() {
            let patches = self.patches(chunk, image_len, parameters.device());
            let images = chunk.len() / image_len;
            let mut x = self.pre_norm.forward(parameters, &self.embed(parameters, &patches, images));
            for layer in &self.layers {
                layer.forward(parameters, &mut x, &rows_of(images), None, &mut workspace);
            }
            take(number * IMAGE_CHUNK, &x);
        }
    }

    /// As [`ClipVision::forward`], keeping what [`ClipVision::backward`] needs.
    pub fn forward_saved<T: Float>(
        &self,
        parameters: &Parameters<T>,
        pixels: &Tensor<T>,
    ) -> (Tensor<T>, ClipSaved<T>) {
        let images = pixels.shape()[0];
        let patches = self.patches(pixels.data(), pixels.len() / images.max(1), parameters.device());
        let embedded = self.embed(parameters, &patches, images);
        let (mut x, pre_norm) = self.pre_norm.forward_saved(parameters, &embedded);
        let mut layers = Vec::with_capacity(self.layers.len());
        for layer in &self.layers {
            let (y, saved) = layer.forward_saved(parameters, x, &rows_of(images));
            layers.push(saved);
            x = y;
        }
        (self.without_class(&x), ClipSaved { patches, embedded, pre_norm, layers })
    }

    /// Adds the tower's parameter gradients, given the gradient of the patch features.
    pub fn backward<T: Float>(
        &self,
        parameters: &Parameters<T>,
        saved: ClipSaved<T>,
        d_features: &Tensor<T>,
        gradients: &mut Gradients<T>,
    ) {
        let images = d_features.shape()[0];
        let (count, width) = (self.config.num_patches(), self.config.hidden_size);
        let mut dx = Tensor::zeros(&[images * (count + 1), width], d_features.device());
        let (with, without) = self.patch_strides();
        rows::copy((&mut dx, with), (d_features, without), [1, 1, images], without.strides[2]);
        for (layer, saved) in self.layers.iter().zip(saved.layers).rev() {
            dx = layer.backward(parameters, saved, &rows_of(images), dx, gradients);
        }
        let d_embedded = self.pre_norm.backward(parameters, &saved.embedded, &saved.pre_norm, &dx, gradients);
        if let Some(d_position) = gradients.tensor_mut(self.position_embedding) {
            rows::add_sum_of_each(d_position, &d_embedded);
        }
        if let Some(d_class) = gradients.tensor_mut(self.class_embedding) {
            let mut classes = Tensor::empty(&[images, width], d_embedded.device());
            let (to, from) = (RowStrides::every(0, width), RowStrides::every(0, self.image_len()));
            rows::copy((&mut classes, to), (&d_embedded, from), [1, 1, images], width);
            rows::add_sum_of_each(d_class, &classes);
        }
        if gradients.requires_grad(self.patch_embedding) {
            let d_patches = self.without_class(&d_embedded);
            self.project(&saved.patches).backward_parameters(Some(&saved.patches), &d_patches, gradients);
        }
    }

    /// Cuts images into rows of patches: (images * patches, 3 * patch * patch), channel-major like the kernel.
    fn patches<T: Float>(&self, pixels: &[T], image_len: usize, device: Device) -> Tensor<T> {
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
        let rows = Tensor::from_vec(rows, &[count, inner], Device::Cpu);
        if device == Device::Cpu { rows } else { rows.to_device(device) }
    }

    /// Class token and patches with their position embeddings: (images * (patches + 1), width).
    fn embed<T: Float>(&self, parameters: &Parameters<T>, patches: &Tensor<T>, images: usize) -> Tensor<T> {
        let width = self.config.hidden_size;
        let projected = self.project(patches).forward(parameters, patches);
        let shape = [images * (self.config.num_patches() + 1), width];
        let mut x = Tensor::empty(&shape, patches.device());
        let class = (parameters.tensor(self.class_embedding), RowStrides::every(0, 0));
        rows::copy((&mut x, RowStrides::every(0, self.image_len())), class, [1, 1, images], width);
        let (with, without) = self.patch_strides();
        rows::copy((&mut x, with), (&projected, without), [1, 1, images], without.strides[2]);
        rows::add_to_each(&mut x, parameters.tensor(self.position_embedding));
        x
    }

    /// The convolution of the patches as a product of their rows.
    fn project<T: Float>(&self, patches: &Tensor<T>) -> Linear {
        Linear::over(self.patch_embedding, patches.width(), self.config.hidden_size)
    }
}

/// Registers a layer under `<name>.`.
fn block(specs: &mut ParameterSpecs, name: &str, config: &VisionConfig) -> TransformerBlock {
    let mut parts = BlockParts { specs, name, width: config.hidden_size };
    let heads = config.num_attention_heads;
    let init = [Init::FanInUniform; 2];
    let attention = parts.attention(AttentionSpec {
        inputs: InputNames::Separate(["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]),
        output: "self_attn.out_proj",
        bias: true,
        init,
        clip: None,
        rotary: None,
        core: SelfAttentionCore::new(heads, heads, config.head_dim()),
    });
    let mlp = parts.mlp(&MlpSpec {
        form: MlpForm::Plain(ActivationKind::QuickGelu),
        up: "mlp.fc1",
        down: "mlp.fc2",
        inner: config.intermediate_size,
        bias: true,
        init,
    });
    let norm = NormSpec::Layer { eps: config.layer_norm_eps, bias: true };
    let residual = Residual::PreNorm(parts.norm("layer_norm1", norm), parts.norm("layer_norm2", norm));
    TransformerBlock { residual, attention, mlp }
}

/// Every patch of an image sees every other.
fn rows_of(images: usize) -> Rows<'static> {
    Rows { batch: images, positions: &[], mask: &AttentionMask::Full }
}

#[cfg(test)]
mod tests {
    use super::*;
    use otter_nn::testing::gradient_check::{check, random_tensor};

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
