//! OPT decoder layer (Zhang et al., arXiv 2205.01068): separate projections with biases and a rectifier; norms before
//! attention and feed-forward, in the 350M model behind them.

use otter_nn::{LayerNorm, ParameterSpecs, SelfAttentionCore};

use crate::config::OptConfig;
use crate::text::attention::{ProjectionSpec, SelfAttention};
use crate::text::block::{Order, TransformerLayer};
use crate::text::mlp::PlainFeedForward;

/// Epsilon of every norm of the family.
pub(crate) const EPSILON: f64 = 1e-5;

/// Registers a layer under `<name>.`.
pub(crate) fn layer(specs: &mut ParameterSpecs, name: &str, config: &OptConfig) -> TransformerLayer {
    let (width, heads, bias) = (config.hidden_size, config.num_attention_heads, config.enable_bias);
    let projections = ProjectionSpec {
        inputs: &["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
        output: "self_attn.out_proj",
        width,
        bias,
    };
    let core = SelfAttentionCore::new(heads, heads, config.head_dim());
    let attention = SelfAttention::new(specs, name, &projections, core, None);
    let names = [format!("{name}.fc1"), format!("{name}.fc2")];
    let sizes = (width, config.ffn_dim);
    let feed_forward = PlainFeedForward::new(specs, (&names[0], &names[1]), sizes, bias, config.activation);
    let mut norm = |part: &str| LayerNorm::new(specs, &format!("{name}.{part}"), width, true, EPSILON);
    let (first, second) = (norm("self_attn_layer_norm"), norm("final_layer_norm"));
    let order = if config.do_layer_norm_before {
        Order::PreNorm(first, second)
    } else {
        Order::PostNorm(first, second)
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
        let config =
            OptConfig { hidden_size: 12, ffn_dim: 10, num_attention_heads: 3, ..OptConfig::opt_125m() };
        check_layer(&config.clone().into(), 12);
        check_layer(&OptConfig { do_layer_norm_before: false, ..config.clone() }.into(), 12);
        let plain = OptConfig { enable_bias: false, activation: HiddenActivation::Gelu, ..config };
        check_layer(&plain.into(), 12);
    }
}
