//! GPT-NeoX (Black et al., arXiv 2204.06745; Pythia, RedPajama-INCITE): fused projections with biases, rotary positions on
//! the first features of each head, attention and feed-forward side by side or in turn.

use otter_nn::{Init, SelfAttentionCore};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::config::{ConfigError, LARGEST_DEPTH, LARGEST_TABLE, LARGEST_WIDTH, bounded, divides, positive};
use crate::text::attention::{AttentionSpec, InputNames};
use crate::text::block::{BlockParts, NormSpec, Residual, TransformerBlock};
use crate::text::config::{HiddenActivation, TextNames, TextSizes};
use crate::text::config_json::{
    KeyError, Section, activation, pad_token, rope, rotated_share, set, write_activation, write_rope,
};
use crate::text::family::{Family, TextFamily};
use crate::text::gguf::{GgufArchitecture, GgufMetadata, Moved};
use crate::text::mlp::{MlpForm, MlpSpec};
use crate::text::rope::RopeConfig;

/// The family.
pub static GPT_NEOX: Family = Family {
    name: "GPT-NeoX",
    classes: &[("GPTNeoXForCausalLM", "gpt_neox")],
    keys: GPT_NEOX_KEYS,
    inner_keys: &[],
    has_one_table: false,
    ties_by_default: false,
    uses_cache: true,
    read: |text, warnings| Ok(read(text, warnings)?.into()),
    prefix: "gpt_neox.",
    layers: "gpt_neox.layers",
    input_table: "gpt_neox.embed_in.weight",
    output_table: Some("embed_out.weight"),
    width_keys: &["hidden_size"],
    gguf: GGUF,
    depth_keys: &["num_hidden_layers"],
};

/// Keys of a `text_config`.
const GPT_NEOX_KEYS: &[&str] = &[
    "attention_bias",
    "attention_dropout",
    "classifier_dropout",
    "hidden_act",
    "hidden_dropout",
    "hidden_size",
    "intermediate_size",
    "layer_norm_eps",
    "max_position_embeddings",
    "num_attention_heads",
    "num_hidden_layers",
    "partial_rotary_factor",
    "quantization_config",
    "rope_parameters",
    "rope_scaling",
    "rope_theta",
    "rotary_emb_base",
    "rotary_pct",
    "use_parallel_residual",
    "vocab_size",
];

/// GPT-NeoX language model: layer norms, fused projections, rotary positions on a part of each head, biases, untied
/// tables.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GptNeoxConfig {
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Inner width of the feed-forward part.
    pub intermediate_size: usize,
    /// Number of decoder layers.
    pub num_hidden_layers: usize,
    /// Attention heads per layer.
    pub num_attention_heads: usize,
    /// Rows of the token tables.
    pub vocab_size: usize,
    /// Longest sequence the model was trained for.
    pub max_position_embeddings: usize,
    /// Share of each head's features that rotary positions turn.
    pub rotary_pct: f64,
    /// Rotary frequencies.
    pub rope: RopeConfig,
    /// Whether attention and feed-forward read the same rows, instead of one after the other.
    pub use_parallel_residual: bool,
    /// Whether the attention's matrices have biases (the feed-forward's always have).
    pub attention_bias: bool,
    /// Activation of the feed-forward.
    pub hidden_act: HiddenActivation,
    /// Epsilon of the layer norms.
    pub layer_norm_eps: f64,
    /// Beginning-of-sequence token.
    pub bos_token_id: Option<u32>,
    /// End-of-sequence token of the language model.
    pub eos_token_id: Option<u32>,
    /// Fills finished rows in generation.
    pub pad_token_id: Option<u32>,
}

impl GptNeoxConfig {
    /// RedPajama-INCITE 3B, the language model of OpenFlamingo 4B.
    pub fn redpajama_incite_3b() -> Self {
        Self {
            hidden_size: 2560,
            intermediate_size: 10240,
            num_hidden_layers: 32,
            num_attention_heads: 32,
            vocab_size: 50432,
            max_position_embeddings: 2048,
            rotary_pct: 1.0,
            rope: RopeConfig::plain(),
            use_parallel_residual: false,
            attention_bias: true,
            hidden_act: HiddenActivation::Gelu,
            layer_norm_eps: 1e-5,
            bos_token_id: Some(0),
            eos_token_id: Some(0),
            pad_token_id: None,
        }
    }

    /// Width of one attention head.
    pub fn head_dim(&self) -> usize {
        self.hidden_size / self.num_attention_heads.max(1)
    }

    /// Features of a head that rotary positions turn.
    pub fn rotated(&self) -> usize {
        (self.head_dim() as f64 * self.rotary_pct) as usize
    }

    fn norm(&self) -> NormSpec {
        NormSpec::Layer { eps: self.layer_norm_eps, bias: true }
    }
}

impl TextFamily for GptNeoxConfig {
    fn sizes(&self) -> TextSizes {
        let names = TextNames {
            class: "GPTNeoXForCausalLM",
            embedding: "gpt_neox.embed_in",
            layers: "gpt_neox.layers",
            norm: "gpt_neox.final_layer_norm",
            output: "embed_out",
            ..TextSizes::COMMON.names
        };
        TextSizes {
            names,
            hidden_size: self.hidden_size,
            num_hidden_layers: self.num_hidden_layers,
            num_attention_heads: self.num_attention_heads,
            key_heads: (self.num_attention_heads, self.head_dim()),
            feed_forward_width: self.intermediate_size,
            vocab_size: self.vocab_size,
            embedding_width: self.hidden_size,
            max_positions: self.max_position_embeddings,
            final_norm: Some(self.norm()),
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
        bounded("text.intermediate_size", self.intermediate_size, LARGEST_WIDTH)?;
        bounded("text.num_hidden_layers", self.num_hidden_layers, LARGEST_DEPTH)?;
        bounded("text.num_attention_heads", self.num_attention_heads, LARGEST_WIDTH)?;
        bounded("text.vocab_size", self.vocab_size, LARGEST_TABLE)?;
        bounded("text.max_position_embeddings", self.max_position_embeddings, LARGEST_TABLE)?;
        positive("text.rotary_pct", self.rotary_pct)?;
        positive("text.layer_norm_eps", self.layer_norm_eps)?;
        divides(
            ("text.hidden_size", self.hidden_size),
            ("text.num_attention_heads", self.num_attention_heads),
        )?;
        self.rope.validate(self.head_dim(), self.rotated())
    }

    fn write(&self, map: &mut Map<String, Value>) {
        set(map, "intermediate_size", json!(self.intermediate_size));
        set(map, "num_hidden_layers", json!(self.num_hidden_layers));
        set(map, "num_attention_heads", json!(self.num_attention_heads));
        set(map, "max_position_embeddings", json!(self.max_position_embeddings));
        set(map, "use_parallel_residual", json!(self.use_parallel_residual));
        set(map, "attention_bias", json!(self.attention_bias));
        set(map, "layer_norm_eps", json!(self.layer_norm_eps));
        write_activation(map, "hidden_act", self.hidden_act);
        write_rope(map, &self.rope, "rotary_emb_base", Some(("rotary_pct", self.rotary_pct)));
    }

    fn template(&self, tied: bool) -> Value {
        json!({
            "_name_or_path": "",
            "architectures": [self.sizes().names.class],
            "attention_dropout": 0.0,
            "hidden_dropout": 0.0,
            "initializer_range": 0.02,
            "model_type": "gpt_neox",
            "tie_word_embeddings": tied,
        })
    }

    fn block(&self, mut parts: BlockParts<'_>) -> TransformerBlock {
        let (heads, head_size) = (self.num_attention_heads, self.head_dim());
        let first = parts.norm("input_layernorm", self.norm());
        let second = parts.norm("post_attention_layernorm", self.norm());
        let residual = if self.use_parallel_residual {
            Residual::ParallelTwoNorms(first, second)
        } else {
            Residual::PreNorm(first, second)
        };
        let init = [Init::Normal(0.02); 2];
        let attention = parts.attention(AttentionSpec {
            inputs: InputNames::Grouped("attention.query_key_value"),
            output: "attention.dense",
            bias: self.attention_bias,
            init,
            clip: None,
            rotary: Some(self.rope.rotary(head_size, self.rotated(), self.max_position_embeddings)),
            core: SelfAttentionCore::new(heads, heads, head_size),
        });
        let mlp = parts.mlp(&MlpSpec {
            form: MlpForm::Plain(self.hidden_act.kind()),
            up: "mlp.dense_h_to_4h",
            down: "mlp.dense_4h_to_h",
            inner: self.intermediate_size,
            bias: true,
            init,
        });
        TransformerBlock { residual, attention, mlp }
    }
}

/// What is absent takes the defaults of Transformers' class, those of GPT-NeoX 20B.
fn read(text: &Section<'_>, warnings: &mut Vec<String>) -> Result<GptNeoxConfig, KeyError> {
    for key in ["attention_dropout", "hidden_dropout"] {
        text.warn_dropout(key, warnings)?;
    }
    let default = GptNeoxConfig::redpajama_incite_3b();
    Ok(GptNeoxConfig {
        hidden_size: text.size("hidden_size")?.unwrap_or(6144),
        intermediate_size: text.size("intermediate_size")?.unwrap_or(24576),
        num_hidden_layers: text.size("num_hidden_layers")?.unwrap_or(44),
        num_attention_heads: text.size("num_attention_heads")?.unwrap_or(64),
        vocab_size: text.size("vocab_size")?.unwrap_or(default.vocab_size),
        max_position_embeddings: text
            .size("max_position_embeddings")?
            .unwrap_or(default.max_position_embeddings),
        rotary_pct: rotated_share(text, "rotary_pct")?.unwrap_or(0.25),
        rope: rope(text, "rotary_emb_base")?,
        use_parallel_residual: text.flag("use_parallel_residual")?.unwrap_or(true),
        attention_bias: text.flag("attention_bias")?.unwrap_or(true),
        hidden_act: activation(text, "hidden_act", default.hidden_act)?,
        layer_norm_eps: text.real("layer_norm_eps")?.unwrap_or(default.layer_norm_eps),
        bos_token_id: text.token("bos_token_id")?.or(default.bos_token_id),
        eos_token_id: text.first_token("eos_token_id")?.or(default.eos_token_id),
        pad_token_id: pad_token(text, default.pad_token_id)?,
    })
}

/// In files of llama.cpp.
const GGUF: &[GgufArchitecture] = &[GgufArchitecture {
    name: "gptneox",
    tensors: &[
        ("token_embd", "gpt_neox.embed_in", Moved::No),
        ("output_norm", "gpt_neox.final_layer_norm", Moved::No),
        ("output", "embed_out", Moved::No),
        ("blk.{}.attn_norm", "gpt_neox.layers.{}.input_layernorm", Moved::No),
        ("blk.{}.attn_qkv", "gpt_neox.layers.{}.attention.query_key_value", Moved::Fused),
        ("blk.{}.attn_output", "gpt_neox.layers.{}.attention.dense", Moved::No),
        ("blk.{}.ffn_norm", "gpt_neox.layers.{}.post_attention_layernorm", Moved::No),
        ("blk.{}.ffn_up", "gpt_neox.layers.{}.mlp.dense_h_to_4h", Moved::No),
        ("blk.{}.ffn_down", "gpt_neox.layers.{}.mlp.dense_4h_to_h", Moved::No),
    ],
    dropped: &[],
    computed: &[],
    turns_whole_heads: false,
    config: gguf_config,
}];

fn gguf_config(file: &dyn GgufMetadata) -> Result<Value, String> {
    let (width, heads) = (file.size("embedding_length")?, file.size("attention.head_count")?);
    let head_dim = width / heads;
    let rotary = file.optional_size("rope.dimension_count")?.unwrap_or(head_dim);
    let parallel = file.flag("use_parallel_residual")?.unwrap_or(true);
    Ok(json!({
        "hidden_size": width,
        "intermediate_size": file.size("feed_forward_length")?,
        "num_hidden_layers": file.size("block_count")?,
        "num_attention_heads": heads,
        "max_position_embeddings": file.size("context_length")?,
        "rotary_pct": rotary as f64 / head_dim.max(1) as f64,
        "rotary_emb_base": file.real("rope.freq_base")?.unwrap_or(10_000.0),
        "layer_norm_eps": file.real("attention.layer_norm_epsilon")?.unwrap_or(1e-5),
        "use_parallel_residual": parallel,
        "hidden_act": "gelu",
        "tie_word_embeddings": !file.has("output.weight"),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::HiddenActivation;
    use crate::text::block::tests::check_layer;

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
