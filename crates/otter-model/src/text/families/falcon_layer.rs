//! Falcon decoder layer (Almazrouei et al., arXiv 2311.16867), `spec/model.md` 7.4: fused projections with one key head, a
//! few or one for each query head, rotary positions or ALiBi, attention and feed-forward side by side or in turn.
//!
//! Unlike in the original's own class, padding is not attended and a cache works; and ALiBi is exact, where Transformers
//! rounds it to bfloat16.

use otter_nn::{LayerNorm, ParameterSpecs, SelfAttentionCore};

use crate::config::{FalconBlock, FalconConfig, alibi_slopes};
use crate::text::attention::{ProjectionSpec, SelfAttention};
use crate::text::block::{Order, TransformerLayer};
use crate::text::mlp::PlainFeedForward;

/// Exponent of the smallest slope of ALiBi.
const ALIBI_BIAS_MAX: f64 = 8.0;

/// Registers a layer under `<name>.`.
pub(crate) fn layer(specs: &mut ParameterSpecs, name: &str, config: &FalconConfig) -> TransformerLayer {
    let (width, head_size) = (config.hidden_size, config.head_dim());
    let mut norm =
        |part: &str| LayerNorm::new(specs, &format!("{name}.{part}"), width, true, config.layer_norm_epsilon);
    let order = match config.block {
        FalconBlock::Sequential => Order::PreNorm(norm("input_layernorm"), norm("post_attention_layernorm")),
        FalconBlock::Parallel => Order::Parallel(norm("input_layernorm")),
        FalconBlock::ParallelTwoNorms => Order::ParallelTwoNorms(norm("ln_attn"), norm("ln_mlp")),
    };
    let projections = ProjectionSpec {
        inputs: &["self_attention.query_key_value"],
        output: "self_attention.dense",
        width,
        bias: config.bias,
    };
    let mut core = SelfAttentionCore::new(config.num_attention_heads, config.num_kv_heads, head_size);
    let mut rotary = None;
    if config.alibi {
        // The bias joins the products before they are scaled.
        let slopes = alibi_slopes(config.num_attention_heads, ALIBI_BIAS_MAX);
        core.slopes = Some(slopes.into_iter().map(|slope| slope * core.scale).collect());
    } else {
        rotary = Some(config.rope.rotary(head_size, head_size, config.max_position_embeddings));
    }
    let attention = SelfAttention::new(specs, name, &projections, core, rotary);
    let names = [format!("{name}.mlp.dense_h_to_4h"), format!("{name}.mlp.dense_4h_to_h")];
    let sizes = (width, config.ffn_hidden_size);
    let feed_forward =
        PlainFeedForward::new(specs, (&names[0], &names[1]), sizes, config.bias, config.activation);
    TransformerLayer { order, attention, feed_forward }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::decoder::tests::check_layer;

    #[test]
    fn layers_pass_every_check() {
        let config = FalconConfig {
            hidden_size: 18,
            ffn_hidden_size: 10,
            num_attention_heads: 3,
            ..FalconConfig::falcon_7b()
        };
        check_layer(&config.clone().into(), 18);
        let refined_web = FalconConfig {
            num_kv_heads: 3,
            block: FalconBlock::Sequential,
            bias: true,
            alibi: true,
            ..config.clone()
        };
        check_layer(&refined_web.into(), 18);
        let grouped = FalconConfig {
            hidden_size: 16,
            num_attention_heads: 4,
            num_kv_heads: 2,
            block: FalconBlock::ParallelTwoNorms,
            ..config
        };
        check_layer(&grouped.into(), 16);
    }
}
