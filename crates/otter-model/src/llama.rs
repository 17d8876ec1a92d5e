//! LLaMA decoder layer (Touvron et al., arXiv 2302.13971), `spec/model.md` 7.1: pre-norm rotary attention and a gated
//! feed-forward, no biases. Grouped-query attention when there are fewer key heads than query heads.

use otter_nn::kernels::elementwise::{silu_product, silu_product_backward};
use otter_nn::layers::attention::{AttentionOutput, KeysValues};
use otter_nn::{
    Gradients, Init, Linear, NormStatistics, ParameterSpecs, Parameters, Real, RmsNorm, Rotary,
    SelfAttentionCore, Tensor,
};

use crate::config::LlamaConfig;
use crate::decoder::{Rows, add_backward, input_gradient};
use crate::layer_cache::LayerCache;

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
        let core = SelfAttentionCore::new(config.num_attention_heads, config.num_key_value_heads, head_size);
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
        let kv = cache.append(&k, &v, rows.batch, len);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decoder::tests::check_layer;

    #[test]
    fn layers_pass_every_check() {
        let config = LlamaConfig {
            hidden_size: 8,
            intermediate_size: 12,
            num_attention_heads: 4,
            num_key_value_heads: 2,
            ..LlamaConfig::llama_7b(16)
        };
        check_layer(&config.into(), 8);
    }
}
