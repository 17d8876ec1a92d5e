//! LLaMA decoder layer (Touvron et al., arXiv 2302.13971), `spec/model.md` 7.1: pre-norm rotary attention and a gated
//! feed-forward, no biases. Grouped-query attention when there are fewer key heads than query heads.

use otter_nn::kernels::elementwise::{silu_product, silu_product_backward};
use otter_nn::layers::attention::{AttentionOutput, KeysValues};
use otter_nn::{
    AttentionMask, Gradients, Init, Linear, NormStatistics, ParameterSpecs, Parameters, Real, RmsNorm,
    Rotary, SelfAttentionCore, Tensor,
};

use crate::config::LlamaConfig;

/// One decoder layer.
#[derive(Clone, Debug)]
pub struct LlamaLayer {
    input_norm: RmsNorm,
    q: Linear,
    k: Linear,
    v: Linear,
    o: Linear,
    post_attention_norm: RmsNorm,
    gate: Linear,
    up: Linear,
    down: Linear,
    rotary: Rotary,
    core: SelfAttentionCore,
}

/// Kept for the reverse pass: nothing that a cheap pass over rows can make again.
pub struct LlamaLayerSaved<T> {
    x: Tensor<T>,
    input_norm: NormStatistics<T>,
    q: Tensor<T>,
    k: Tensor<T>,
    v: Tensor<T>,
    attention: AttentionOutput<T>,
    middle: Tensor<T>,
    post_attention_norm: NormStatistics<T>,
    gate: Tensor<T>,
    up: Tensor<T>,
}

/// Keys and values of one layer for all tokens seen so far: (batch, capacity, key heads * head size) each.
#[derive(Clone, Debug)]
pub struct LayerCache<T = f32> {
    keys: Vec<T>,
    values: Vec<T>,
}

/// Where the rows of a pass stand.
#[derive(Clone, Debug)]
pub struct Rows<'a> {
    /// Sequences.
    pub batch: usize,
    /// Rotary position of every row (batch * length).
    pub positions: &'a [u32],
    /// Which keys each row may see.
    pub mask: &'a AttentionMask,
}

impl LlamaLayer {
    /// Registers the layer under `<name>.`.
    pub fn new(specs: &mut ParameterSpecs, name: &str, config: &LlamaConfig) -> Self {
        let (width, inner) = (config.hidden_size, config.intermediate_size);
        let head_size = config.head_dim();
        let key_width = config.num_key_value_heads * head_size;
        let mut linear = |part: &str, from: usize, to: usize| {
            Linear::new(specs, &format!("{name}.{part}"), from, to, false, Init::Normal(0.02))
        };
        let q = linear("self_attn.q_proj", width, width);
        let k = linear("self_attn.k_proj", width, key_width);
        let v = linear("self_attn.v_proj", width, key_width);
        let o = linear("self_attn.o_proj", width, width);
        let gate = linear("mlp.gate_proj", width, inner);
        let up = linear("mlp.up_proj", width, inner);
        let down = linear("mlp.down_proj", inner, width);
        let mut norm =
            |part: &str| RmsNorm::new(specs, &format!("{name}.{part}"), width, config.rms_norm_eps);
        let (input_norm, post_attention_norm) = (norm("input_layernorm"), norm("post_attention_layernorm"));
        let core = SelfAttentionCore {
            heads: config.num_attention_heads,
            key_heads: config.num_key_value_heads,
            head_size,
        };
        let rotary = Rotary::new(head_size, config.rope_theta);
        Self { input_norm, q, k, v, o, post_attention_norm, gate, up, down, rotary, core }
    }

    /// The layer on x (batch * length, width).
    pub fn forward_saved<T: Real>(
        &self,
        parameters: &Parameters<T>,
        x: Tensor<T>,
        rows: &Rows<'_>,
    ) -> (Tensor<T>, LlamaLayerSaved<T>) {
        let (normed, input_norm) = self.input_norm.forward_saved(parameters, &x);
        let (q, k, v) = self.project(parameters, &normed, rows.positions);
        let kv = KeysValues::exact(&k, &v, x.rows() / rows.batch);
        let attention = self.core.forward_saved(&q, rows.batch, kv, rows.mask);
        let mut middle = x.clone();
        self.o.forward_add(parameters, &attention.out, &mut middle);
        let (normed, post_attention_norm) = self.post_attention_norm.forward_saved(parameters, &middle);
        let gate = self.gate.forward(parameters, &normed);
        let up = self.up.forward(parameters, &normed);
        let mut y = middle.clone();
        self.down.forward_add(parameters, &product(&gate, &up), &mut y);
        let saved =
            LlamaLayerSaved { x, input_norm, q, k, v, attention, middle, post_attention_norm, gate, up };
        (y, saved)
    }

    /// The layer on new rows (batch * new, width) that follow `len` cached ones; their keys and values join the cache.
    pub fn forward_cached<T: Real>(
        &self,
        parameters: &Parameters<T>,
        mut x: Tensor<T>,
        rows: &Rows<'_>,
        cache: &mut LayerCache<T>,
        len: usize,
    ) -> Tensor<T> {
        let normed = self.input_norm.forward(parameters, &x);
        let (q, k, v) = self.project(parameters, &normed, rows.positions);
        let capacity = cache.keys.len() / (rows.batch * k.width());
        cache.append(&k, &v, rows.batch, capacity, len);
        let new = x.rows() / rows.batch;
        let kv = KeysValues { keys: &cache.keys, values: &cache.values, len: len + new, capacity };
        let attended = self.core.forward(&q, rows.batch, kv, rows.mask);
        self.o.forward_add(parameters, &attended, &mut x);
        let normed = self.post_attention_norm.forward(parameters, &x);
        let gate = self.gate.forward(parameters, &normed);
        let up = self.up.forward(parameters, &normed);
        self.down.forward_add(parameters, &product(&gate, &up), &mut x);
        x
    }

    /// Gradient of x; adds parameter gradients of whatever is trained.
    pub fn backward<T: Real>(
        &self,
        parameters: &Parameters<T>,
        saved: LlamaLayerSaved<T>,
        rows: &Rows<'_>,
        dy: Tensor<T>,
        gradients: &mut Gradients<T>,
    ) -> Tensor<T> {
        let LlamaLayerSaved { x, input_norm, q, k, v, attention, middle, post_attention_norm, gate, up } =
            saved;
        // Inputs of frozen layers are not needed again: an empty stand-in saves making them.
        let wants_feed_forward = [&self.gate, &self.up].iter().any(|l| gradients.wants(l.weight()));
        let mut d_up = if gradients.wants(self.down.weight()) {
            self.down.backward(parameters, &product(&gate, &up), &dy, gradients)
        } else {
            input_gradient(&self.down, parameters, &dy, up.shape(), gradients)
        };
        let d_gate = silu_product_backward(gate.data(), up.data(), d_up.data_mut());
        let d_gate = Tensor::from_vec(d_gate, gate.shape(), gate.device());
        let normed = wants_feed_forward.then(|| self.post_attention_norm.forward(parameters, &middle));
        let mut d_normed = middle.zeros_like();
        for (layer, d) in [(&self.gate, &d_gate), (&self.up, &d_up)] {
            add_backward(layer, parameters, normed.as_ref(), d, &mut d_normed, gradients);
        }
        let mut d_middle = self.post_attention_norm.backward(
            parameters,
            &middle,
            &post_attention_norm,
            &d_normed,
            gradients,
        );
        d_middle.add_assign(&dy);
        let d_attended = self.o.backward(parameters, &attention.out, &d_middle, gradients);
        let kv = KeysValues::exact(&k, &v, x.rows() / rows.batch);
        let mut d = self.core.backward(&q, rows.batch, kv, rows.mask, &attention, &d_attended);
        self.rotary.rotate_back(d.dq.data_mut(), rows.positions);
        self.rotary.rotate_back(d.dk.data_mut(), rows.positions);
        let wants_attention = [&self.q, &self.k, &self.v].iter().any(|l| gradients.wants(l.weight()));
        let normed = wants_attention.then(|| self.input_norm.forward(parameters, &x));
        let mut d_normed = x.zeros_like();
        for (layer, d) in [(&self.q, &d.dq), (&self.k, &d.dk), (&self.v, &d.dv)] {
            add_backward(layer, parameters, normed.as_ref(), d, &mut d_normed, gradients);
        }
        let mut dx = self.input_norm.backward(parameters, &x, &input_norm, &d_normed, gradients);
        dx.add_assign(&d_middle);
        dx
    }

    fn project<T: Real>(
        &self,
        parameters: &Parameters<T>,
        normed: &Tensor<T>,
        positions: &[u32],
    ) -> (Tensor<T>, Tensor<T>, Tensor<T>) {
        let mut q = self.q.forward(parameters, normed);
        let mut k = self.k.forward(parameters, normed);
        let v = self.v.forward(parameters, normed);
        self.rotary.rotate(q.data_mut(), positions);
        self.rotary.rotate(k.data_mut(), positions);
        (q, k, v)
    }
}

fn product<T: Real>(gate: &Tensor<T>, up: &Tensor<T>) -> Tensor<T> {
    Tensor::from_vec(silu_product(gate.data(), up.data()), gate.shape(), gate.device())
}

/// Input gradient of a frozen layer.
fn input_gradient<T: Real>(
    layer: &Linear,
    parameters: &Parameters<T>,
    dy: &Tensor<T>,
    shape: &[usize],
    gradients: &mut Gradients<T>,
) -> Tensor<T> {
    let mut dx = Tensor::zeros(shape, dy.device());
    layer.backward_into(parameters, &[], dy.data(), dx.data_mut(), false, gradients);
    dx
}

/// Adds a layer's input gradient to `dx`; its input is there only when some weight is trained.
fn add_backward<T: Real>(
    layer: &Linear,
    parameters: &Parameters<T>,
    input: Option<&Tensor<T>>,
    dy: &Tensor<T>,
    dx: &mut Tensor<T>,
    gradients: &mut Gradients<T>,
) {
    let input = input.map_or(&[][..], |x| x.data());
    layer.backward_into(parameters, input, dy.data(), dx.data_mut(), true, gradients);
}

impl<T: Real> LayerCache<T> {
    /// Room for `capacity` tokens of `batch` sequences.
    pub fn new(config: &LlamaConfig, batch: usize, capacity: usize) -> Self {
        let len = batch * capacity * config.num_key_value_heads * config.head_dim();
        Self { keys: vec![T::ZERO; len], values: vec![T::ZERO; len] }
    }

    fn append(&mut self, k: &Tensor<T>, v: &Tensor<T>, batch: usize, capacity: usize, len: usize) {
        let width = k.width();
        let new = k.rows() / batch * width;
        for b in 0..batch {
            let at = (b * capacity + len) * width;
            self.keys[at..at + new].copy_from_slice(&k.data()[b * new..][..new]);
            self.values[at..at + new].copy_from_slice(&v.data()[b * new..][..new]);
        }
    }

    /// Makes sequence i of (batch, capacity) what sequence `rows[i]` was at the positions `tokens`. When there are more
    /// sequences than before, the positions before `tokens` are copied too.
    pub fn reorder(
        &mut self,
        rows: &[usize],
        (batch, capacity): (usize, usize),
        tokens: std::ops::Range<usize>,
    ) {
        for elements in [&mut self.keys, &mut self.values] {
            let size = elements.len() / batch;
            let width = size / capacity;
            let used = tokens.end * width;
            if rows.len() > batch {
                let mut grown = vec![T::ZERO; rows.len() * size];
                for (to, &from) in grown.chunks_exact_mut(size).zip(rows) {
                    to[..used].copy_from_slice(&elements[from * size..][..used]);
                }
                *elements = grown;
                continue;
            }
            let part = tokens.start * width..used;
            let moved = rows.iter().enumerate().filter(|(to, from)| to != *from);
            let moved: Vec<(usize, Vec<T>)> =
                moved.map(|(to, &from)| (to, elements[from * size..][part.clone()].to_vec())).collect();
            for (to, kept) in moved {
                elements[to * size..][part.clone()].copy_from_slice(&kept);
            }
            elements.truncate(rows.len() * size);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use otter_nn::Gradients;
    use otter_nn::gradient_check::{check, random_parameters, random_tensor};

    fn config() -> LlamaConfig {
        LlamaConfig {
            hidden_size: 8,
            intermediate_size: 12,
            num_attention_heads: 4,
            num_key_value_heads: 2,
            ..LlamaConfig::llama_7b(16)
        }
    }

    #[test]
    fn gradients_match_finite_differences() {
        let mut specs = ParameterSpecs::default();
        let layer = LlamaLayer::new(&mut specs, "l", &config());
        let positions = [0, 1, 2, 0, 1, 2];
        let visible = Some(vec![true, true, true, false, true, true]);
        for mask in
            [AttentionMask::Causal { offset: 0, visible: None }, AttentionMask::Causal { offset: 0, visible }]
        {
            let rows = Rows { batch: 2, positions: &positions, mask: &mask };
            check(
                &specs,
                &[random_tensor("x", &[6, 8])],
                |p, x| layer.forward_saved(p, x[0].clone(), &rows).0,
                |p, x, dy, g| {
                    let (_, saved) = layer.forward_saved(p, x[0].clone(), &rows);
                    vec![layer.backward(p, saved, &rows, dy.clone(), g)]
                },
            );
        }
    }

    #[test]
    fn a_frozen_layer_gives_the_same_input_gradient() {
        let mut specs = ParameterSpecs::default();
        let layer = LlamaLayer::new(&mut specs, "l", &config());
        let mask = AttentionMask::Causal { offset: 0, visible: None };
        let rows = Rows { batch: 1, positions: &[0, 1, 2], mask: &mask };
        let mut parameters = random_parameters(&specs);
        let (x, dy) = (random_tensor("x", &[3, 8]), random_tensor("dy", &[3, 8]));
        let run = |parameters: &Parameters<f64>| {
            let mut gradients = Gradients::new(parameters);
            let (_, saved) = layer.forward_saved(parameters, x.clone(), &rows);
            layer.backward(parameters, saved, &rows, dy.clone(), &mut gradients).into_vec()
        };
        let trained = run(&parameters);
        parameters.set_trainable(|_| false);
        assert_eq!(trained, run(&parameters));
    }

    #[test]
    fn cached_rows_equal_the_whole_pass() {
        let mut specs = ParameterSpecs::default();
        let layer = LlamaLayer::new(&mut specs, "l", &config());
        let parameters = random_parameters(&specs);
        let x = random_tensor("x", &[2 * 5, 8]);
        let positions = [0, 1, 2, 3, 4, 0, 1, 2, 3, 4];
        let mask = AttentionMask::Causal { offset: 0, visible: None };
        let (whole, _) = layer.forward_saved(
            &parameters,
            x.clone(),
            &Rows { batch: 2, positions: &positions, mask: &mask },
        );
        let mut cache = LayerCache::new(&config(), 2, 6);
        let part = |range: std::ops::Range<usize>| {
            let rows: Vec<f64> = (0..2)
                .flat_map(|b| x.data()[(b * 5 + range.start) * 8..(b * 5 + range.end) * 8].to_vec())
                .collect();
            Tensor::from_vec(rows, &[2 * range.len(), 8], x.device())
        };
        for range in [0..3, 3..4, 4..5] {
            let positions: Vec<u32> = (0..2).flat_map(|_| range.clone().map(|p| p as u32)).collect();
            let mask = AttentionMask::Causal { offset: range.start, visible: None };
            let rows = Rows { batch: 2, positions: &positions, mask: &mask };
            let y = layer.forward_cached(&parameters, part(range.clone()), &rows, &mut cache, range.start);
            for b in 0..2 {
                let got = &y.data()[b * range.len() * 8..][..range.len() * 8];
                let want = &whole.data()[(b * 5 + range.start) * 8..(b * 5 + range.end) * 8];
                assert!(got.iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-12));
            }
        }
    }
}
