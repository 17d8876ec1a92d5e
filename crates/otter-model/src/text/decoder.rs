//! A decoder layer of whichever language model, and what those layers share.

use otter_nn::{AttentionMask, Gradients, Linear, ParameterSpecs, Parameters, Real, Tensor};

use crate::config::TextConfig;
use crate::text::block::{TransformerLayer, TransformerLayerSaved};
use crate::text::cache::LayerCache;
use crate::text::families::llama_layer::{LlamaLayer, LlamaLayerSaved};
use crate::text::families::mpt_layer::{MptLayer, MptLayerSaved};
use crate::text::families::{falcon_layer as falcon, gpt_neox_layer as gpt_neox, opt_layer as opt};
use crate::workspace::Scratch;

/// Where the rows of a pass stand.
#[derive(Clone, Debug)]
pub struct Rows<'a> {
    /// Sequences.
    pub batch: usize,
    /// Position of every row (batch * length), for models with rotary or learned positions.
    pub positions: &'a [u32],
    /// Which keys each row may see.
    pub mask: &'a AttentionMask,
}

/// One decoder layer.
#[derive(Clone, Debug)]
pub enum DecoderLayer {
    /// See [`LlamaLayer`].
    Llama(LlamaLayer),
    /// See [`MptLayer`].
    Mpt(MptLayer),
    /// GPT-NeoX, OPT, Falcon: see [`TransformerLayer`].
    Transformer(TransformerLayer),
}

/// Kept for the reverse pass of a [`DecoderLayer`].
pub enum DecoderSaved<T> {
    /// See [`LlamaLayerSaved`].
    Llama(LlamaLayerSaved<T>),
    /// See [`MptLayerSaved`].
    Mpt(MptLayerSaved<T>),
    /// See [`TransformerLayerSaved`].
    Transformer(TransformerLayerSaved<T>),
}

impl DecoderLayer {
    /// Registers a layer of the configured language model under `<name>.`.
    pub fn new(specs: &mut ParameterSpecs, name: &str, config: &TextConfig) -> Self {
        match config {
            TextConfig::Llama(config) => Self::Llama(LlamaLayer::new(specs, name, config)),
            TextConfig::Mpt(config) => Self::Mpt(MptLayer::new(specs, name, config)),
            TextConfig::GptNeox(config) => Self::Transformer(gpt_neox::layer(specs, name, config)),
            TextConfig::Opt(config) => Self::Transformer(opt::layer(specs, name, config)),
            TextConfig::Falcon(config) => Self::Transformer(falcon::layer(specs, name, config)),
        }
    }

    /// The layer on x (batch * length, width).
    pub fn forward_saved<T: Real>(
        &self,
        parameters: &Parameters<T>,
        x: Tensor<T>,
        rows: &Rows<'_>,
    ) -> (Tensor<T>, DecoderSaved<T>) {
        match self {
            Self::Llama(layer) => {
                let (y, saved) = layer.forward_saved(parameters, x, rows);
                (y, DecoderSaved::Llama(saved))
            }
            Self::Mpt(layer) => {
                let (y, saved) = layer.forward_saved(parameters, x, rows);
                (y, DecoderSaved::Mpt(saved))
            }
            Self::Transformer(layer) => {
                let (y, saved) = layer.forward_saved(parameters, x, rows);
                (y, DecoderSaved::Transformer(saved))
            }
        }
    }

    /// The layer on new rows (batch * new, width) that follow cached ones (the cache and their number), in place; their
    /// keys and values join the cache.
    pub fn forward_cached<T: Real>(
        &self,
        parameters: &Parameters<T>,
        x: &mut Tensor<T>,
        rows: &Rows<'_>,
        cache: (&mut LayerCache<T>, usize),
        scratch: &mut Scratch<T>,
    ) {
        match self {
            Self::Llama(layer) => layer.forward_cached(parameters, x, rows, cache, scratch),
            Self::Mpt(layer) => layer.forward_cached(parameters, x, rows, cache, scratch),
            Self::Transformer(layer) => layer.forward_cached(parameters, x, rows, cache, scratch),
        }
    }

    /// Gradient of x; adds parameter gradients of whatever is trained. `saved` is what this layer's
    /// [`DecoderLayer::forward_saved`] returned.
    pub fn backward<T: Real>(
        &self,
        parameters: &Parameters<T>,
        saved: DecoderSaved<T>,
        rows: &Rows<'_>,
        dy: Tensor<T>,
        gradients: &mut Gradients<T>,
    ) -> Tensor<T> {
        match (self, saved) {
            (Self::Llama(layer), DecoderSaved::Llama(saved)) => {
                layer.backward(parameters, saved, rows, dy, gradients)
            }
            (Self::Mpt(layer), DecoderSaved::Mpt(saved)) => {
                layer.backward(parameters, saved, rows, dy, gradients)
            }
            (Self::Transformer(layer), DecoderSaved::Transformer(saved)) => {
                layer.backward(parameters, saved, rows, dy, gradients)
            }
            _ => unreachable!("a layer's reverse pass gets what the same layer saved"),
        }
    }
}

/// Input gradient of a frozen layer.
pub(crate) fn input_gradient<T: Real>(
    layer: &Linear,
    parameters: &Parameters<T>,
    dy: &Tensor<T>,
    shape: &[usize],
    gradients: &mut Gradients<T>,
) -> Tensor<T> {
    let mut dx = Tensor::empty(shape, dy.device());
    layer.backward_into(parameters, None, dy, &mut dx, false, gradients);
    dx
}

/// Adds a layer's input gradient to `dx`; its input is there only when some weight is trained.
pub(crate) fn add_backward<T: Real>(
    layer: &Linear,
    parameters: &Parameters<T>,
    input: Option<&Tensor<T>>,
    dy: &Tensor<T>,
    dx: &mut Tensor<T>,
    gradients: &mut Gradients<T>,
) {
    layer.backward_into(parameters, input, dy, dx, true, gradients);
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use otter_nn::gradient_check::{check, random_parameters, random_tensor};

    /// What holds for a layer of every language model, of `width` features.
    pub(crate) fn check_layer(config: &TextConfig, width: usize) {
        let mut specs = ParameterSpecs::default();
        let layer = DecoderLayer::new(&mut specs, "l", config);
        gradients_match_finite_differences(&specs, &layer, width);
        a_frozen_layer_gives_the_same_input_gradient(&specs, &layer, width);
        cached_rows_equal_the_whole_pass(&specs, &layer, config, width);
    }

    fn causal(offset: usize) -> AttentionMask {
        AttentionMask::Causal { offset, visible: None }
    }

    fn gradients_match_finite_differences(specs: &ParameterSpecs, layer: &DecoderLayer, width: usize) {
        let positions = [0, 1, 2, 0, 1, 2];
        let visible = Some(vec![true, true, true, false, true, true]);
        for mask in [causal(0), AttentionMask::Causal { offset: 0, visible }] {
            let rows = Rows { batch: 2, positions: &positions, mask: &mask };
            check(
                specs,
                &[random_tensor("x", &[6, width])],
                |p, x| layer.forward_saved(p, x[0].clone(), &rows).0,
                |p, x, dy, g| {
                    let (_, saved) = layer.forward_saved(p, x[0].clone(), &rows);
                    vec![layer.backward(p, saved, &rows, dy.clone(), g)]
                },
            );
        }
    }

    fn a_frozen_layer_gives_the_same_input_gradient(
        specs: &ParameterSpecs,
        layer: &DecoderLayer,
        width: usize,
    ) {
        let rows = Rows { batch: 1, positions: &[0, 1, 2], mask: &causal(0) };
        let mut parameters = random_parameters(specs);
        let (x, dy) = (random_tensor("x", &[3, width]), random_tensor("dy", &[3, width]));
        let run = |parameters: &Parameters<f64>| {
            let mut gradients = Gradients::new(parameters);
            let (_, saved) = layer.forward_saved(parameters, x.clone(), &rows);
            layer.backward(parameters, saved, &rows, dy.clone(), &mut gradients).into_vec()
        };
        let trained = run(&parameters);
        parameters.set_trainable(|_| false);
        assert_eq!(trained, run(&parameters));
    }

    fn cached_rows_equal_the_whole_pass(
        specs: &ParameterSpecs,
        layer: &DecoderLayer,
        config: &TextConfig,
        width: usize,
    ) {
        let parameters = random_parameters(specs);
        let x = random_tensor("x", &[2 * 5, width]);
        let positions = [0, 1, 2, 3, 4, 0, 1, 2, 3, 4];
        let rows = Rows { batch: 2, positions: &positions, mask: &causal(0) };
        let (whole, _) = layer.forward_saved(&parameters, x.clone(), &rows);
        let mut cache = LayerCache::new(config.key_heads(), 2, 6, x.device());
        let part = |range: std::ops::Range<usize>| {
            let rows: Vec<f64> = (0..2)
                .flat_map(|b| x.data()[(b * 5 + range.start) * width..(b * 5 + range.end) * width].to_vec())
                .collect();
            Tensor::from_vec(rows, &[2 * range.len(), width], x.device())
        };
        let mut scratch = Scratch::new(x.device());
        for range in [0..3, 3..4, 4..5] {
            let positions: Vec<u32> = (0..2).flat_map(|_| range.clone().map(|p| p as u32)).collect();
            let mask = causal(range.start);
            let rows = Rows { batch: 2, positions: &positions, mask: &mask };
            let mut y = part(range.clone());
            layer.forward_cached(&parameters, &mut y, &rows, (&mut cache, range.start), &mut scratch);
            let y = y.data();
            for b in 0..2 {
                let got = &y[b * range.len() * width..][..range.len() * width];
                let want = &whole.data()[(b * 5 + range.start) * width..(b * 5 + range.end) * width];
                assert!(got.iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-12));
            }
        }
    }
}
