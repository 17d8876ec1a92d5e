//! GPT-NeoX decoder layer (Black et al., arXiv 2204.06745; Pythia, RedPajama-INCITE): fused projections with biases,
//! rotary positions on the first features of each head, attention and feed-forward side by side or in turn.

use otter_nn::{LayerNorm, ParameterSpecs, SelfAttentionCore};

use crate::config::GptNeoxConfig;
use crate::text::attention::{ProjectionSpec, SelfAttention};
use crate::text::block::{Order, TransformerLayer};
use crate::text::mlp::PlainFeedForward;

/// Registers a layer under `<name>.`.
pub(crate) fn layer(specs: &mut ParameterSpecs, name: &str, config: &GptNeoxConfig) -> TransformerLayer {
    let (width, heads, head_size) = (config.hidden_size, config.num_attention_heads, config.head_dim());
    let mut norm =
        |part: &str| LayerNorm::new(specs, &format!("{name}.{part}"), width, true, config.layer_norm_eps);
    let (first, second) = (norm("input_layernorm"), norm("post_attention_layernorm"));
    let projections = ProjectionSpec {
        inputs: &["attention.query_key_value"],
        output: "attention.dense",
        width,
        bias: config.attention_bias,
    };
    let rotary = config.rope.rotary(head_size, config.rotated(), config.max_position_embeddings);
    let core = SelfAttentionCore::new(heads, heads, head_size);
    let attention = SelfAttention::new(specs, name, &projections, core, Some(rotary));
    let names = [format!("{name}.mlp.dense_h_to_4h"), format!("{name}.mlp.dense_4h_to_h")];
    let sizes = (width, config.intermediate_size);
    let feed_forward = PlainFeedForward::new(specs, (&names[0], &names[1]), sizes, true, config.hidden_act);
    let order = if config.use_parallel_residual {
        Order::ParallelTwoNorms(first, second)
    } else {
        Order::PreNorm(first, second)
    };
    TransformerLayer { order, attention, feed_forward }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::HiddenActivation;
    use crate::text::decoder::tests::check_layer;

    #[test]
    fn layers_pass_every_check() {
        let config = GptNeoxConfig {
            hidden_size: 12,
            intermediate_size: 10,
            num_attention_heads: 2,
            rotary_pct: 0.7,
            ..GptNeoxConfig::redpajama_incite_3b()
        };
        assert_eq!(config.rotated(), 4);
        check_layer(&config.clone().into(), 12);
        let parallel = GptNeoxConfig {
            use_parallel_residual: true,
            attention_bias: false,
            hidden_act: HiddenActivation::GeluTanh,
            ..config
        };
        check_layer(&parallel.into(), 12);
    }
}
