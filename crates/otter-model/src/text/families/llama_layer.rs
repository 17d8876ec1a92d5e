//! LLaMA decoder layer (Touvron et al., arXiv 2302.13971), `spec/model.md` 7.1: pre-norm rotary attention and a gated
//! feed-forward, by default without biases. Grouped-query attention when there are fewer key heads than query heads.

use otter_nn::layers::elementwise::{silu_product, silu_product_backward, silu_product_in_place};
use otter_nn::{
    Gradients, Init, Linear, NormStatistics, ParameterSpecs, Parameters, Real, RmsNorm, SelfAttentionCore,
    Tensor,
};

use crate::config::LlamaConfig;
use crate::text::attention::{ProjectionSpec, SelfAttention, SelfAttentionSaved};
use crate::text::cache::LayerCache;
use crate::text::decoder::{Rows, add_backward, input_gradient};
use crate::workspace::Scratch;

/// One decoder layer.
#[derive(Clone, Debug)]
pub struct LlamaLayer {
    input_norm: RmsNorm,
    attention: SelfAttention,
    post_attention_norm: RmsNorm,
    gate: Linear,
    up: Linear,
    down: Linear,
}

/// Kept for the reverse pass: nothing that a cheap pass over rows can make again.
pub struct LlamaLayerSaved<T> {
    x: Tensor<T>,
    input_norm: NormStatistics<T>,
    attention: SelfAttentionSaved<T>,
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
        let projections = ProjectionSpec {
            inputs: &["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
            output: "self_attn.o_proj",
            width,
            bias: config.attention_bias,
        };
        let core = SelfAttentionCore::new(config.num_attention_heads, config.num_key_value_heads, head_size);
        let rotary = config.rope().rotary(head_size, head_size, config.max_position_embeddings);
        let attention = SelfAttention::new(specs, name, &projections, core, Some(rotary));
        let mut linear = |part: &str, from: usize, to: usize| {
            Linear::new(specs, &format!("{name}.{part}"), from, to, config.mlp_bias, Init::Normal(0.02))
        };
        let gate = linear("mlp.gate_proj", width, inner);
        let up = linear("mlp.up_proj", width, inner);
        let down = linear("mlp.down_proj", inner, width);
        let mut norm =
            |part: &str| RmsNorm::new(specs, &format!("{name}.{part}"), width, config.rms_norm_eps);
        let (input_norm, post_attention_norm) = (norm("input_layernorm"), norm("post_attention_layernorm"));
        Self { input_norm, attention, post_attention_norm, gate, up, down }
    }

    /// The layer on x (batch * length, width).
    pub fn forward_saved<T: Real>(
        &self,
        parameters: &Parameters<T>,
        x: Tensor<T>,
        rows: &Rows<'_>,
    ) -> (Tensor<T>, LlamaLayerSaved<T>) {
        let (normed, input_norm) = self.input_norm.forward_saved(parameters, &x);
        let mut middle = x.clone();
        let attention = self.attention.forward_saved(parameters, &normed, rows, &mut middle);
        let (normed, post_attention_norm) = self.post_attention_norm.forward_saved(parameters, &middle);
        let gate = self.gate.forward(parameters, &normed);
        let up = self.up.forward(parameters, &normed);
        let mut y = middle.clone();
        self.down.forward_add(parameters, &silu_product(&gate, &up), &mut y);
        (y, LlamaLayerSaved { x, input_norm, attention, middle, post_attention_norm, gate, up })
    }

    /// The layer on new rows (batch * new, width) that follow `len` cached ones, in place; their keys and values join the
    /// cache.
    pub fn forward_cached<T: Real>(
        &self,
        parameters: &Parameters<T>,
        x: &mut Tensor<T>,
        rows: &Rows<'_>,
        (cache, len): (&mut LayerCache<T>, usize),
        scratch: &mut Scratch<T>,
    ) {
        let count = rows.positions.len();
        let mut normed = scratch.take(x.shape());
        self.input_norm.forward_into(parameters, x, &mut normed);
        self.attention.forward_cached(parameters, &normed, rows, (cache, len), x, scratch);
        self.post_attention_norm.forward_into(parameters, x, &mut normed);
        let (mut gate, mut up) =
            (scratch.take(&[count, self.gate.outer()]), scratch.take(&[count, self.up.outer()]));
        Linear::forward_each(parameters, &normed, [(&self.gate, &mut gate), (&self.up, &mut up)]);
        silu_product_in_place(&mut gate, &up);
        self.down.forward_into(parameters, &gate, x, true);
        [normed, gate, up].into_iter().for_each(|buffer| scratch.give(buffer));
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
        let LlamaLayerSaved { x, input_norm, attention, middle, post_attention_norm, gate, up } = saved;
        // Inputs of frozen layers are not needed again: an empty stand-in saves making them.
        let wants_feed_forward = [&self.gate, &self.up].iter().any(|l| gradients.wants(l.weight()));
        let mut d_up = if gradients.wants(self.down.weight()) {
            self.down.backward(parameters, &silu_product(&gate, &up), &dy, gradients)
        } else {
            input_gradient(&self.down, parameters, &dy, up.shape(), gradients)
        };
        let d_gate = silu_product_backward(&gate, &up, &mut d_up);
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
        let normed = self.attention.wants_input(gradients).then(|| self.input_norm.forward(parameters, &x));
        let mut d_normed = x.zeros_like();
        self.attention.backward(
            parameters,
            &attention,
            normed.as_ref(),
            rows,
            &d_middle,
            &mut d_normed,
            gradients,
        );
        let mut dx = self.input_norm.backward(parameters, &x, &input_norm, &d_normed, gradients);
        dx.add_assign(&d_middle);
        dx
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::RopeScaling;
    use crate::text::decoder::tests::check_layer;

    #[test]
    fn layers_pass_every_check() {
        let config = LlamaConfig {
            hidden_size: 8,
            intermediate_size: 12,
            num_attention_heads: 4,
            num_key_value_heads: 2,
            ..LlamaConfig::llama_7b(16)
        };
        check_layer(&config.clone().into(), 8);
        let biased = LlamaConfig {
            attention_bias: true,
            mlp_bias: true,
            head_dim_override: Some(6),
            rope_scaling: RopeScaling::Linear { factor: 2.0 },
            ..config
        };
        check_layer(&biased.into(), 8);
    }
}
