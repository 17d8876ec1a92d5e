//! OPT (Zhang et al., arXiv 2205.01068): separate projections with biases, learned positions and a rectifier; norms before
//! attention and feed-forward, in the 350M model behind them.

use otter_nn::{Init, SelfAttentionCore};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::config::{ConfigError, LARGEST_DEPTH, LARGEST_TABLE, LARGEST_WIDTH, bounded, divides};
use crate::text::attention::{AttentionSpec, InputNames};
use crate::text::block::{BlockParts, NormSpec, Residual, TransformerBlock};
use crate::text::config::{HiddenActivation, TextNames, TextSizes};
use crate::text::config_json::{KeyError, Section, activation, pad_token, set, write_activation};
use crate::text::family::{Family, TextFamily};
use crate::text::mlp::{MlpForm, MlpSpec};

/// The family.
pub static OPT: Family = Family {
    name: "OPT",
    classes: &[("OPTForCausalLM", "opt")],
    keys: OPT_KEYS,
    inner_keys: &[],
    has_one_table: false,
    ties_by_default: true,
    uses_cache: true,
    read: |text, warnings| Ok(read(text, warnings)?.into()),
    prefix: "model.",
    layers: "model.decoder.layers",
    input_table: "model.decoder.embed_tokens.weight",
    output_table: Some("lm_head.weight"),
    width_keys: &["hidden_size"],
    gguf: &[],
    depth_keys: &["num_hidden_layers"],
};

/// Keys of a `text_config`.
const OPT_KEYS: &[&str] = &[
    "_remove_final_layer_norm",
    "activation_dropout",
    "activation_function",
    "attention_dropout",
    "do_layer_norm_before",
    "dropout",
    "enable_bias",
    "ffn_dim",
    "hidden_size",
    "init_std",
    "layer_norm_elementwise_affine",
    "layerdrop",
    "max_position_embeddings",
    "num_attention_heads",
    "num_hidden_layers",
    "quantization_config",
    "vocab_size",
    "word_embed_proj_dim",
];

/// Every norm of the family.
const NORM: NormSpec = NormSpec::Layer { eps: 1e-5, bias: true };

/// OPT language model: learned positions, layer norms before or after each part, biases, usually tied tables.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OptConfig {
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Inner width of the feed-forward part.
    pub ffn_dim: usize,
    /// Number of decoder layers.
    pub num_hidden_layers: usize,
    /// Attention heads per layer.
    pub num_attention_heads: usize,
    /// Rows of the token tables.
    pub vocab_size: usize,
    /// Width of the token tables; projections lead to and from the residual stream where it differs.
    pub word_embed_proj_dim: usize,
    /// Longest sequence; the table of positions has two rows more.
    pub max_position_embeddings: usize,
    /// Whether norms stand before attention and feed-forward (all but the 350M model).
    pub do_layer_norm_before: bool,
    /// Whether a norm follows the last layer; only with norms before the parts.
    pub final_layer_norm: bool,
    /// Whether the matrices have biases.
    pub enable_bias: bool,
    /// Activation of the feed-forward.
    pub activation: HiddenActivation,
    /// Beginning-of-sequence token.
    pub bos_token_id: Option<u32>,
    /// End-of-sequence token of the language model.
    pub eos_token_id: Option<u32>,
    /// Fills finished rows in generation.
    pub pad_token_id: Option<u32>,
}

impl OptConfig {
    /// Row of the position table at which position 0 stands.
    pub const POSITION_OFFSET: u32 = 2;

    /// OPT 125M.
    pub fn opt_125m() -> Self {
        Self {
            hidden_size: 768,
            ffn_dim: 3072,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            vocab_size: 50272,
            word_embed_proj_dim: 768,
            max_position_embeddings: 2048,
            do_layer_norm_before: true,
            final_layer_norm: true,
            enable_bias: true,
            activation: HiddenActivation::Relu,
            bos_token_id: Some(2),
            eos_token_id: Some(2),
            pad_token_id: Some(1),
        }
    }

    /// Width of one attention head.
    pub fn head_dim(&self) -> usize {
        self.hidden_size / self.num_attention_heads.max(1)
    }

    /// Whether the token tables have another width than the residual stream.
    pub fn has_projections(&self) -> bool {
        self.word_embed_proj_dim != self.hidden_size
    }
}

impl TextFamily for OptConfig {
    fn sizes(&self) -> TextSizes {
        let names = TextNames {
            class: "OPTForCausalLM",
            embedding: "model.decoder.embed_tokens",
            positions: "model.decoder.embed_positions",
            project_in: "model.decoder.project_in",
            project_out: "model.decoder.project_out",
            layers: "model.decoder.layers",
            norm: "model.decoder.final_layer_norm",
            ..TextSizes::COMMON.names
        };
        TextSizes {
            names,
            hidden_size: self.hidden_size,
            num_hidden_layers: self.num_hidden_layers,
            num_attention_heads: self.num_attention_heads,
            key_heads: (self.num_attention_heads, self.head_dim()),
            feed_forward_width: self.ffn_dim,
            vocab_size: self.vocab_size,
            embedding_width: self.word_embed_proj_dim,
            max_positions: self.max_position_embeddings,
            learned_positions: Some(self.max_position_embeddings),
            position_offset: Self::POSITION_OFFSET,
            positions_skip_padding: true,
            final_norm: self.final_layer_norm.then_some(NORM),
            bos_token_id: self.bos_token_id,
            eos_token_id: self.eos_token_id,
            pad_token_id: self.pad_token_id,
            ..TextSizes::COMMON
        }
    }

    fn set_vocab_size(&mut self, rows: usize) {
        self.vocab_size = rows;
    }

    fn validate(&self) -> Result<(), ConfigError> {
        bounded("text.hidden_size", self.hidden_size, LARGEST_WIDTH)?;
        bounded("text.ffn_dim", self.ffn_dim, LARGEST_WIDTH)?;
        bounded("text.num_hidden_layers", self.num_hidden_layers, LARGEST_DEPTH)?;
        bounded("text.num_attention_heads", self.num_attention_heads, LARGEST_WIDTH)?;
        bounded("text.vocab_size", self.vocab_size, LARGEST_TABLE)?;
        bounded("text.word_embed_proj_dim", self.word_embed_proj_dim, LARGEST_WIDTH)?;
        bounded("text.max_position_embeddings", self.max_position_embeddings, LARGEST_TABLE)?;
        divides(
            ("text.hidden_size", self.hidden_size),
            ("text.num_attention_heads", self.num_attention_heads),
        )
    }

    fn write(&self, map: &mut Map<String, Value>) {
        set(map, "ffn_dim", json!(self.ffn_dim));
        set(map, "num_hidden_layers", json!(self.num_hidden_layers));
        set(map, "num_attention_heads", json!(self.num_attention_heads));
        set(map, "word_embed_proj_dim", json!(self.word_embed_proj_dim));
        set(map, "max_position_embeddings", json!(self.max_position_embeddings));
        set(map, "do_layer_norm_before", json!(self.do_layer_norm_before));
        set(map, "_remove_final_layer_norm", json!(self.do_layer_norm_before && !self.final_layer_norm));
        set(map, "enable_bias", json!(self.enable_bias));
        write_activation(map, "activation_function", self.activation);
    }

    fn template(&self, tied: bool) -> Value {
        json!({
            "_name_or_path": "",
            "architectures": [self.sizes().names.class],
            "attention_dropout": 0.0,
            "dropout": 0.0,
            "init_std": 0.02,
            "layer_norm_elementwise_affine": true,
            "layerdrop": 0.0,
            "model_type": "opt",
            "tie_word_embeddings": tied,
        })
    }

    fn block(&self, mut parts: BlockParts<'_>) -> TransformerBlock {
        let heads = self.num_attention_heads;
        let init = [Init::Normal(0.02); 2];
        let attention = parts.attention(AttentionSpec {
            inputs: InputNames::Separate(["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]),
            output: "self_attn.out_proj",
            bias: self.enable_bias,
            init,
            clip: None,
            rotary: None,
            core: SelfAttentionCore::new(heads, heads, self.head_dim()),
        });
        let mlp = parts.mlp(&MlpSpec {
            form: MlpForm::Plain(self.activation.kind()),
            up: "fc1",
            down: "fc2",
            inner: self.ffn_dim,
            bias: self.enable_bias,
            init,
        });
        let first = parts.norm("self_attn_layer_norm", NORM);
        let second = parts.norm("final_layer_norm", NORM);
        let residual = if self.do_layer_norm_before {
            Residual::PreNorm(first, second)
        } else {
            Residual::PostNorm(first, second)
        };
        TransformerBlock { residual, attention, mlp }
    }
}

/// What is absent takes the defaults of Transformers' class, those of OPT 125M.
fn read(text: &Section<'_>, warnings: &mut Vec<String>) -> Result<OptConfig, KeyError> {
    for key in ["activation_dropout", "attention_dropout", "dropout", "layerdrop"] {
        text.warn_dropout(key, warnings)?;
    }
    if text.flag("layer_norm_elementwise_affine")? == Some(false) {
        let expected = "only norms with weights and biases (true) are supported";
        return Err(text.wrong("layer_norm_elementwise_affine", &false, expected));
    }
    let default = OptConfig::opt_125m();
    let hidden_size = text.size("hidden_size")?.unwrap_or(default.hidden_size);
    let do_layer_norm_before = text.flag("do_layer_norm_before")?.unwrap_or(true);
    let removed = text.flag("_remove_final_layer_norm")?.unwrap_or(false);
    Ok(OptConfig {
        hidden_size,
        ffn_dim: text.size("ffn_dim")?.unwrap_or(default.ffn_dim),
        num_hidden_layers: text.size("num_hidden_layers")?.unwrap_or(default.num_hidden_layers),
        num_attention_heads: text.size("num_attention_heads")?.unwrap_or(default.num_attention_heads),
        vocab_size: text.size("vocab_size")?.unwrap_or(default.vocab_size),
        word_embed_proj_dim: text.size("word_embed_proj_dim")?.unwrap_or(hidden_size),
        max_position_embeddings: text
            .size("max_position_embeddings")?
            .unwrap_or(default.max_position_embeddings),
        do_layer_norm_before,
        final_layer_norm: do_layer_norm_before && !removed,
        enable_bias: text.flag("enable_bias")?.unwrap_or(true),
        activation: activation(text, "activation_function", default.activation)?,
        bos_token_id: text.token("bos_token_id")?.or(default.bos_token_id),
        eos_token_id: text.first_token("eos_token_id")?.or(default.eos_token_id),
        pad_token_id: pad_token(text, default.pad_token_id)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::HiddenActivation;
    use crate::text::block::tests::check_layer;

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
