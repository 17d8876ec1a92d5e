//! LLaMA (Touvron et al., arXiv 2302.13971): RMS norms before each part, rotary positions, a gated feed-forward, by default
//! without biases. Grouped-query attention when there are fewer key heads than query heads.

use otter_nn::{Init, SelfAttentionCore};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::config::{ConfigError, LARGEST_DEPTH, LARGEST_TABLE, LARGEST_WIDTH, bounded, divides, positive};
use crate::text::attention::{AttentionSpec, InputNames};
use crate::text::block::{BlockParts, NormSpec, Residual, TransformerBlock};
use crate::text::config::{TextNames, TextSizes};
use crate::text::config_json::{KeyError, Section, must_turn_whole_heads, pad_token, rope, set, write_rope};
use crate::text::family::{Family, TextFamily};
use crate::text::gguf::{GgufArchitecture, GgufMetadata, Moved};
use crate::text::mlp::{MlpForm, MlpSpec};
use crate::text::rope::{RopeConfig, RopeScaling};

/// The family.
pub static LLAMA: Family = Family {
    name: "LLaMA",
    classes: &[
        ("LlamaForCausalLM", "llama"),
        // As the first files of Transformers spelled it.
        ("LLaMAForCausalLM", "llama"),
    ],
    keys: LLAMA_KEYS,
    inner_keys: &[],
    has_one_table: false,
    ties_by_default: false,
    uses_cache: true,
    read: |text, warnings| Ok(read(text, warnings)?.into()),
    prefix: "model.",
    layers: "model.layers",
    input_table: "model.embed_tokens.weight",
    output_table: Some("lm_head.weight"),
    width_keys: &["hidden_size"],
    gguf: GGUF,
    depth_keys: &["num_hidden_layers"],
};

/// Keys of a `text_config`.
const LLAMA_KEYS: &[&str] = &[
    "attention_bias",
    "attention_dropout",
    "head_dim",
    "hidden_act",
    "hidden_size",
    "intermediate_size",
    "max_position_embeddings",
    "max_sequence_length",
    "mlp_bias",
    "num_attention_heads",
    "num_hidden_layers",
    "num_key_value_heads",
    "pretraining_tp",
    "quantization_config",
    "rms_norm_eps",
    "rope_parameters",
    "rope_scaling",
    "rope_theta",
    "vocab_size",
];

/// LLaMA language model: RMS norms, rotary positions, SwiGLU, usually no biases and an untied output table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LlamaConfig {
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Inner width of the feed-forward part.
    pub intermediate_size: usize,
    /// Number of decoder layers.
    pub num_hidden_layers: usize,
    /// Query heads per layer.
    pub num_attention_heads: usize,
    /// Key and value heads per layer; equal to the query heads in every published Otter.
    pub num_key_value_heads: usize,
    /// Width of a head where it is not the residual stream's width over the query heads.
    pub head_dim_override: Option<usize>,
    /// Whether the attention's matrices have biases.
    pub attention_bias: bool,
    /// Whether the feed-forward's matrices have biases.
    pub mlp_bias: bool,
    /// Rows of the input and output tables.
    pub vocab_size: usize,
    /// Epsilon of the RMS norms.
    pub rms_norm_eps: f64,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Change of the rotary frequencies.
    pub rope_scaling: RopeScaling,
    /// Longest sequence the model was trained for.
    pub max_position_embeddings: usize,
    /// Beginning-of-sequence token.
    pub bos_token_id: u32,
    /// End-of-sequence token of the language model (generation stops at the end-of-chunk token instead).
    pub eos_token_id: u32,
    /// Fills finished rows in generation; the tokenizer's own pad token may differ.
    pub pad_token_id: Option<u32>,
}

impl LlamaConfig {
    /// LLaMA 7B and Vicuna 7B.
    pub fn llama_7b(vocab_size: usize) -> Self {
        Self {
            hidden_size: 4096,
            intermediate_size: 11008,
            num_hidden_layers: 32,
            num_attention_heads: 32,
            num_key_value_heads: 32,
            head_dim_override: None,
            attention_bias: false,
            mlp_bias: false,
            vocab_size,
            rms_norm_eps: 1e-6,
            rope_theta: 10000.0,
            rope_scaling: RopeScaling::None,
            max_position_embeddings: 2048,
            bos_token_id: 1,
            eos_token_id: 2,
            pad_token_id: Some(0),
        }
    }

    /// LLaMA-2 13B (chat).
    pub fn llama2_13b(vocab_size: usize) -> Self {
        Self {
            hidden_size: 5120,
            intermediate_size: 13824,
            num_hidden_layers: 40,
            num_attention_heads: 40,
            num_key_value_heads: 40,
            rms_norm_eps: 1e-5,
            max_position_embeddings: 4096,
            ..Self::llama_7b(vocab_size)
        }
    }

    /// Vicuna 33B v1.3.
    pub fn vicuna_33b(vocab_size: usize) -> Self {
        Self {
            hidden_size: 6656,
            intermediate_size: 17920,
            num_hidden_layers: 60,
            num_attention_heads: 52,
            num_key_value_heads: 52,
            ..Self::llama_7b(vocab_size)
        }
    }

    /// Width of one attention head.
    pub fn head_dim(&self) -> usize {
        self.head_dim_override.unwrap_or(self.hidden_size / self.num_attention_heads.max(1))
    }

    /// Rotary frequencies.
    pub fn rope(&self) -> RopeConfig {
        RopeConfig { theta: self.rope_theta, scaling: self.rope_scaling }
    }

    fn norm(&self) -> NormSpec {
        NormSpec::Rms { eps: self.rms_norm_eps }
    }
}

impl TextFamily for LlamaConfig {
    fn sizes(&self) -> TextSizes {
        let names = TextNames {
            class: "LlamaForCausalLM",
            embedding: "model.embed_tokens",
            layers: "model.layers",
            norm: "model.norm",
            ..TextSizes::COMMON.names
        };
        TextSizes {
            names,
            hidden_size: self.hidden_size,
            num_hidden_layers: self.num_hidden_layers,
            num_attention_heads: self.num_attention_heads,
            key_heads: (self.num_key_value_heads, self.head_dim()),
            feed_forward_width: self.intermediate_size,
            vocab_size: self.vocab_size,
            embedding_width: self.hidden_size,
            max_positions: self.max_position_embeddings,
            final_norm: Some(self.norm()),
            trains_output_table: true,
            bos_token_id: Some(self.bos_token_id),
            eos_token_id: Some(self.eos_token_id),
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
        bounded("text.num_key_value_heads", self.num_key_value_heads, LARGEST_WIDTH)?;
        bounded("text.vocab_size", self.vocab_size, LARGEST_TABLE)?;
        bounded("text.max_position_embeddings", self.max_position_embeddings, LARGEST_TABLE)?;
        positive("text.rms_norm_eps", self.rms_norm_eps)?;
        let heads = ("text.num_attention_heads", self.num_attention_heads);
        match self.head_dim_override {
            Some(head_dim) => bounded("text.head_dim", head_dim, LARGEST_WIDTH)?,
            None => divides(("text.hidden_size", self.hidden_size), heads)?,
        }
        divides(heads, ("text.num_key_value_heads", self.num_key_value_heads))?;
        self.rope().validate(self.head_dim(), self.head_dim())
    }

    fn write(&self, map: &mut Map<String, Value>) {
        set(map, "intermediate_size", json!(self.intermediate_size));
        set(map, "max_position_embeddings", json!(self.max_position_embeddings));
        set(map, "num_attention_heads", json!(self.num_attention_heads));
        set(map, "num_hidden_layers", json!(self.num_hidden_layers));
        set(map, "num_key_value_heads", json!(self.num_key_value_heads));
        set(map, "rms_norm_eps", json!(self.rms_norm_eps));
        set(map, "attention_bias", json!(self.attention_bias));
        if self.mlp_bias || map.contains_key("mlp_bias") {
            set(map, "mlp_bias", json!(self.mlp_bias));
        }
        if self.head_dim_override.is_some() || map.contains_key("head_dim") {
            set(map, "head_dim", json!(self.head_dim()));
        }
        write_rope(map, &self.rope(), "rope_theta", None);
    }

    fn template(&self, tied: bool) -> Value {
        json!({
            "_name_or_path": "luodian/llama-7b-hf",
            "architectures": [self.sizes().names.class],
            "attention_bias": false,
            "hidden_act": "silu",
            "initializer_range": 0.02,
            "model_type": "llama",
            "pretraining_tp": 1,
            "rope_scaling": null,
            "tie_word_embeddings": tied,
        })
    }

    fn block(&self, mut parts: BlockParts<'_>) -> TransformerBlock {
        let head_size = self.head_dim();
        let init = [Init::Normal(0.02); 2];
        let attention = parts.attention(AttentionSpec {
            inputs: InputNames::Separate(["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]),
            output: "self_attn.o_proj",
            bias: self.attention_bias,
            init,
            clip: None,
            rotary: Some(self.rope().rotary(head_size, head_size, self.max_position_embeddings)),
            core: SelfAttentionCore::new(self.num_attention_heads, self.num_key_value_heads, head_size),
        });
        let mlp = parts.mlp(&MlpSpec {
            form: MlpForm::Gated("mlp.gate_proj"),
            up: "mlp.up_proj",
            down: "mlp.down_proj",
            inner: self.intermediate_size,
            bias: self.mlp_bias,
            init,
        });
        let first = parts.norm("input_layernorm", self.norm());
        let second = parts.norm("post_attention_layernorm", self.norm());
        TransformerBlock { residual: Residual::PreNorm(first, second), attention, mlp }
    }
}

/// What is absent takes the defaults of Transformers' class, those of LLaMA 7B.
fn read(text: &Section<'_>, warnings: &mut Vec<String>) -> Result<LlamaConfig, KeyError> {
    text.must_equal("hidden_act", "silu")?;
    must_turn_whole_heads(text)?;
    text.warn_dropout("attention_dropout", warnings)?;
    let default = LlamaConfig::llama_7b(32000);
    let num_attention_heads = text.size("num_attention_heads")?.unwrap_or(default.num_attention_heads);
    let rope = rope(text, "rope_theta")?;
    let mut config = LlamaConfig {
        hidden_size: text.size("hidden_size")?.unwrap_or(default.hidden_size),
        intermediate_size: text.size("intermediate_size")?.unwrap_or(default.intermediate_size),
        num_hidden_layers: text.size("num_hidden_layers")?.unwrap_or(default.num_hidden_layers),
        num_attention_heads,
        num_key_value_heads: text.size("num_key_value_heads")?.unwrap_or(num_attention_heads),
        head_dim_override: None,
        attention_bias: text.flag("attention_bias")?.unwrap_or(false),
        mlp_bias: text.flag("mlp_bias")?.unwrap_or(false),
        vocab_size: text.size("vocab_size")?.unwrap_or(default.vocab_size),
        rms_norm_eps: text.real("rms_norm_eps")?.unwrap_or(default.rms_norm_eps),
        rope_theta: rope.theta,
        rope_scaling: rope.scaling,
        max_position_embeddings: text
            .size("max_position_embeddings")?
            .or(text.size("max_sequence_length")?)
            .unwrap_or(default.max_position_embeddings),
        bos_token_id: text.token("bos_token_id")?.unwrap_or(default.bos_token_id),
        eos_token_id: text.first_token("eos_token_id")?.unwrap_or(default.eos_token_id),
        pad_token_id: pad_token(text, default.pad_token_id)?,
    };
    let usual = config.head_dim();
    config.head_dim_override = text.size("head_dim")?.filter(|&head_dim| head_dim != usual);
    Ok(config)
}

/// In files of llama.cpp.
const GGUF: &[GgufArchitecture] = &[GgufArchitecture {
    name: "llama",
    tensors: &[
        ("token_embd", "model.embed_tokens", Moved::No),
        ("output_norm", "model.norm", Moved::No),
        ("output", "lm_head", Moved::No),
        ("blk.{}.attn_norm", "model.layers.{}.input_layernorm", Moved::No),
        ("blk.{}.attn_q", "model.layers.{}.self_attn.q_proj", Moved::QueryHeads),
        ("blk.{}.attn_k", "model.layers.{}.self_attn.k_proj", Moved::KeyHeads),
        ("blk.{}.attn_v", "model.layers.{}.self_attn.v_proj", Moved::No),
        ("blk.{}.attn_output", "model.layers.{}.self_attn.o_proj", Moved::No),
        ("blk.{}.ffn_norm", "model.layers.{}.post_attention_layernorm", Moved::No),
        ("blk.{}.ffn_gate", "model.layers.{}.mlp.gate_proj", Moved::No),
        ("blk.{}.ffn_up", "model.layers.{}.mlp.up_proj", Moved::No),
        ("blk.{}.ffn_down", "model.layers.{}.mlp.down_proj", Moved::No),
    ],
    dropped: &[
        ("rope_freqs", "factors of the rotary frequencies, which the configuration describes"),
        ("blk.{}.attn_rot_embd", "rotary frequencies, which are computed"),
    ],
    computed: &[],
    turns_whole_heads: true,
    config: gguf_config,
}];

fn gguf_config(file: &dyn GgufMetadata) -> Result<Value, String> {
    let (width, heads) = (file.size("embedding_length")?, file.size("attention.head_count")?);
    let head_dim = file.optional_size("attention.key_length")?.filter(|length| length * heads != width);
    let bias = file.has("blk.0.attn_q.bias");
    Ok(json!({
        "hidden_size": width,
        "intermediate_size": file.size("feed_forward_length")?,
        "num_hidden_layers": file.size("block_count")?,
        "num_attention_heads": heads,
        "num_key_value_heads": file.key_heads()?,
        "head_dim": head_dim,
        "max_position_embeddings": file.size("context_length")?,
        "rms_norm_eps": file.real("attention.layer_norm_rms_epsilon")?.unwrap_or(1e-5),
        "rope_theta": file.real("rope.freq_base")?.unwrap_or(10_000.0),
        "rope_scaling": file.rope_scaling(head_dim.unwrap_or(width / heads))?,
        "hidden_act": "silu",
        "attention_bias": bias.then_some(true),
        "tie_word_embeddings": !file.has("output.weight"),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::RopeScaling;
    use crate::text::block::tests::check_layer;

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
