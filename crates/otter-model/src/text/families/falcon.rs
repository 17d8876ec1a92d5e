//! Falcon (Almazrouei et al., arXiv 2311.16867): fused projections with one key head, a few or one for each query head,
//! rotary positions or ALiBi, attention and feed-forward side by side or in turn.
//!
//! Unlike in the original's own class, padding is not attended and a cache works; and ALiBi is exact, where Transformers
//! rounds it to bfloat16.

use otter_nn::{Init, SelfAttentionCore};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::mpt::alibi_slopes;
use crate::config::{ConfigError, LARGEST_DEPTH, LARGEST_TABLE, LARGEST_WIDTH, bounded, divides, positive};
use crate::text::attention::{AttentionSpec, InputNames};
use crate::text::block::{BlockParts, NormSpec, Residual, TransformerBlock};
use crate::text::config::{HiddenActivation, TextNames, TextSizes};
use crate::text::config_json::{
    KeyError, Section, activation, must_turn_whole_heads, pad_token, rope, set, write_activation, write_rope,
};
use crate::text::family::{Family, TextFamily};
use crate::text::gguf::{GgufArchitecture, GgufMetadata, Moved};
use crate::text::mlp::{MlpForm, MlpSpec};
use crate::text::rope::RopeConfig;

/// The family, under its name in Transformers or in the model's own code.
pub static FALCON: Family = Family {
    name: "Falcon",
    classes: &[
        ("FalconForCausalLM", "falcon"),
        ("RWForCausalLM", "RefinedWebModel"),
        ("RWForCausalLM", "RefinedWeb"),
    ],
    keys: FALCON_KEYS,
    inner_keys: &[],
    has_one_table: false,
    ties_by_default: true,
    uses_cache: true,
    read: |text, warnings| Ok(read(text, warnings)?.into()),
    prefix: "transformer.",
    layers: "transformer.h",
    input_table: "transformer.word_embeddings.weight",
    output_table: Some("lm_head.weight"),
    width_keys: &["hidden_size", "n_embed"],
    gguf: GGUF,
    depth_keys: &["num_hidden_layers", "n_layer"],
};

/// Keys of a `text_config`, the older names of the model's own code included.
const FALCON_KEYS: &[&str] = &[
    "activation",
    "alibi",
    "apply_residual_connection_post_layernorm",
    "attention_dropout",
    "bias",
    "ffn_hidden_size",
    "hidden_dropout",
    "hidden_size",
    "layer_norm_epsilon",
    "max_position_embeddings",
    "multi_query",
    "n_embed",
    "n_head",
    "n_head_kv",
    "n_layer",
    "new_decoder_architecture",
    "num_attention_heads",
    "num_hidden_layers",
    "num_kv_heads",
    "num_ln_in_parallel_attn",
    "parallel_attn",
    "quantization_config",
    "rope_parameters",
    "rope_scaling",
    "rope_theta",
    "vocab_size",
];

/// Exponent of the smallest slope of ALiBi.
const ALIBI_BIAS_MAX: f64 = 8.0;

/// How attention and feed-forward of a Falcon layer join the residual stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum FalconBlock {
    /// One after the other, each with its norm (Falcon-RW).
    Sequential,
    /// Side by side behind one norm (7B).
    Parallel,
    /// Side by side, each behind its own norm (40B, 180B).
    ParallelTwoNorms,
}

/// Falcon language model: layer norms, fused projections with one or few key heads, rotary positions or ALiBi.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FalconConfig {
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Inner width of the feed-forward part.
    pub ffn_hidden_size: usize,
    /// Number of decoder layers.
    pub num_hidden_layers: usize,
    /// Query heads per layer.
    pub num_attention_heads: usize,
    /// Key and value heads per layer.
    pub num_kv_heads: usize,
    /// Rows of the token tables.
    pub vocab_size: usize,
    /// Longest sequence the model was trained for.
    pub max_position_embeddings: usize,
    /// Shape of the layers.
    pub block: FalconBlock,
    /// Whether the matrices have biases.
    pub bias: bool,
    /// ALiBi instead of rotary positions.
    pub alibi: bool,
    /// Rotary frequencies, without ALiBi.
    pub rope: RopeConfig,
    /// Activation of the feed-forward.
    pub activation: HiddenActivation,
    /// Epsilon of the layer norms.
    pub layer_norm_epsilon: f64,
    /// Beginning-of-sequence token.
    pub bos_token_id: Option<u32>,
    /// End-of-sequence token of the language model.
    pub eos_token_id: Option<u32>,
    /// Fills finished rows in generation.
    pub pad_token_id: Option<u32>,
}

impl FalconConfig {
    /// Falcon 7B.
    pub fn falcon_7b() -> Self {
        Self {
            hidden_size: 4544,
            ffn_hidden_size: 4 * 4544,
            num_hidden_layers: 32,
            num_attention_heads: 71,
            num_kv_heads: 1,
            vocab_size: 65024,
            max_position_embeddings: 2048,
            block: FalconBlock::Parallel,
            bias: false,
            alibi: false,
            rope: RopeConfig::plain(),
            activation: HiddenActivation::Gelu,
            layer_norm_epsilon: 1e-5,
            bos_token_id: Some(11),
            eos_token_id: Some(11),
            pad_token_id: None,
        }
    }

    /// Width of one attention head.
    pub fn head_dim(&self) -> usize {
        self.hidden_size / self.num_attention_heads.max(1)
    }

    /// Width of the keys, and of the values.
    pub fn key_width(&self) -> usize {
        self.num_kv_heads * self.head_dim()
    }

    fn norm(&self) -> NormSpec {
        NormSpec::Layer { eps: self.layer_norm_epsilon, bias: true }
    }
}

impl TextFamily for FalconConfig {
    fn sizes(&self) -> TextSizes {
        let names = TextNames {
            class: "FalconForCausalLM",
            embedding: "transformer.word_embeddings",
            layers: "transformer.h",
            norm: "transformer.ln_f",
            ..TextSizes::COMMON.names
        };
        TextSizes {
            names,
            hidden_size: self.hidden_size,
            num_hidden_layers: self.num_hidden_layers,
            num_attention_heads: self.num_attention_heads,
            key_heads: (self.num_kv_heads, self.head_dim()),
            feed_forward_width: self.ffn_hidden_size,
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
        bounded("text.ffn_hidden_size", self.ffn_hidden_size, LARGEST_WIDTH)?;
        bounded("text.num_hidden_layers", self.num_hidden_layers, LARGEST_DEPTH)?;
        bounded("text.num_attention_heads", self.num_attention_heads, LARGEST_WIDTH)?;
        bounded("text.num_kv_heads", self.num_kv_heads, LARGEST_WIDTH)?;
        bounded("text.vocab_size", self.vocab_size, LARGEST_TABLE)?;
        bounded("text.max_position_embeddings", self.max_position_embeddings, LARGEST_TABLE)?;
        positive("text.layer_norm_epsilon", self.layer_norm_epsilon)?;
        let heads = ("text.num_attention_heads", self.num_attention_heads);
        divides(("text.hidden_size", self.hidden_size), heads)?;
        divides(heads, ("text.num_kv_heads", self.num_kv_heads))?;
        if self.alibi { Ok(()) } else { self.rope.validate(self.head_dim(), self.head_dim()) }
    }

    fn write(&self, map: &mut Map<String, Value>) {
        let older = map.contains_key("n_layer") || map.contains_key("n_head");
        let (layers, heads, key_heads) = if older {
            ("n_layer", "n_head", "n_head_kv")
        } else {
            ("num_hidden_layers", "num_attention_heads", "num_kv_heads")
        };
        set(map, layers, json!(self.num_hidden_layers));
        set(map, heads, json!(self.num_attention_heads));
        let multi_query = self.num_kv_heads == 1;
        let grouped = self.block == FalconBlock::ParallelTwoNorms
            || !multi_query && self.num_kv_heads != self.num_attention_heads;
        if grouped {
            set(map, key_heads, json!(self.num_kv_heads));
            set(map, "num_ln_in_parallel_attn", json!(1 + usize::from(self.block != FalconBlock::Parallel)));
        }
        if grouped || !older {
            set(map, "new_decoder_architecture", json!(grouped));
        }
        if !older {
            set(map, "ffn_hidden_size", json!(self.ffn_hidden_size));
            set(map, "max_position_embeddings", json!(self.max_position_embeddings));
            write_rope(map, &self.rope, "rope_theta", None);
            write_activation(map, "activation", self.activation);
        }
        set(map, "multi_query", json!(multi_query));
        set(map, "parallel_attn", json!(self.block != FalconBlock::Sequential));
        set(map, "bias", json!(self.bias));
        set(map, "alibi", json!(self.alibi));
        set(map, "layer_norm_epsilon", json!(self.layer_norm_epsilon));
    }

    fn template(&self, tied: bool) -> Value {
        json!({
            "_name_or_path": "",
            "architectures": [self.sizes().names.class],
            "attention_dropout": 0.0,
            "hidden_dropout": 0.0,
            "initializer_range": 0.02,
            "model_type": "falcon",
            "tie_word_embeddings": tied,
        })
    }

    fn block(&self, mut parts: BlockParts<'_>) -> TransformerBlock {
        let (heads, head_size) = (self.num_attention_heads, self.head_dim());
        let mut norm = |part| parts.norm(part, self.norm());
        let residual = match self.block {
            FalconBlock::Sequential => {
                Residual::PreNorm(norm("input_layernorm"), norm("post_attention_layernorm"))
            }
            FalconBlock::Parallel => Residual::Parallel(norm("input_layernorm")),
            FalconBlock::ParallelTwoNorms => Residual::ParallelTwoNorms(norm("ln_attn"), norm("ln_mlp")),
        };
        let mut core = SelfAttentionCore::new(heads, self.num_kv_heads, head_size);
        // The bias of ALiBi joins the products before they are scaled.
        core.slopes = self.alibi.then(|| {
            let slopes = alibi_slopes(heads, ALIBI_BIAS_MAX);
            slopes.into_iter().map(|slope| slope * core.scale).collect()
        });
        let rotary = || self.rope.rotary(head_size, head_size, self.max_position_embeddings);
        let init = [Init::Normal(0.02); 2];
        let attention = parts.attention(AttentionSpec {
            inputs: InputNames::Grouped("self_attention.query_key_value"),
            output: "self_attention.dense",
            bias: self.bias,
            init,
            clip: None,
            rotary: (!self.alibi).then(rotary),
            core,
        });
        let mlp = parts.mlp(&MlpSpec {
            form: MlpForm::Plain(self.activation.kind()),
            up: "mlp.dense_h_to_4h",
            down: "mlp.dense_4h_to_h",
            inner: self.ffn_hidden_size,
            bias: self.bias,
            init,
        });
        TransformerBlock { residual, attention, mlp }
    }
}

/// What is absent takes the defaults of Transformers' class, those of Falcon 7B.
fn read(text: &Section<'_>, warnings: &mut Vec<String>) -> Result<FalconConfig, KeyError> {
    for key in ["attention_dropout", "hidden_dropout"] {
        text.warn_dropout(key, warnings)?;
    }
    must_turn_whole_heads(text)?;
    if text.flag("apply_residual_connection_post_layernorm")? == Some(true) {
        let expected = "only residual connections around the norms (false) are supported";
        return Err(text.wrong("apply_residual_connection_post_layernorm", &true, expected));
    }
    let size = |keys: [&str; 2]| Ok::<_, KeyError>(text.size(keys[0])?.or(text.size(keys[1])?));
    let default = FalconConfig::falcon_7b();
    let hidden_size = size(["hidden_size", "n_embed"])?.unwrap_or(default.hidden_size);
    let heads = size(["num_attention_heads", "n_head"])?.unwrap_or(default.num_attention_heads);
    let key_heads = size(["num_kv_heads", "n_head_kv"])?;
    // The model's own code of the 40B names its key heads and has no flag for its architecture.
    let grouped = text.flag("new_decoder_architecture")?.unwrap_or(text.value("n_head_kv").is_some());
    let num_kv_heads = match (grouped, text.flag("multi_query")?.unwrap_or(true)) {
        (true, _) => key_heads.unwrap_or(heads),
        (false, true) => 1,
        (false, false) => heads,
    };
    Ok(FalconConfig {
        hidden_size,
        ffn_hidden_size: text.size("ffn_hidden_size")?.unwrap_or(4 * hidden_size),
        num_hidden_layers: size(["num_hidden_layers", "n_layer"])?.unwrap_or(default.num_hidden_layers),
        num_attention_heads: heads,
        num_kv_heads,
        vocab_size: text.size("vocab_size")?.unwrap_or(default.vocab_size),
        max_position_embeddings: text
            .size("max_position_embeddings")?
            .unwrap_or(default.max_position_embeddings),
        block: block_of(text, grouped)?,
        bias: text.flag("bias")?.unwrap_or(default.bias),
        alibi: text.flag("alibi")?.unwrap_or(default.alibi),
        rope: rope(text, "rope_theta")?,
        activation: activation(text, "activation", default.activation)?,
        layer_norm_epsilon: text.real("layer_norm_epsilon")?.unwrap_or(default.layer_norm_epsilon),
        bos_token_id: text.token("bos_token_id")?.or(default.bos_token_id),
        eos_token_id: text.first_token("eos_token_id")?.or(default.eos_token_id),
        pad_token_id: pad_token(text, default.pad_token_id)?,
    })
}

fn block_of(text: &Section<'_>, grouped: bool) -> Result<FalconBlock, KeyError> {
    let norms = text.size("num_ln_in_parallel_attn")?;
    match (text.flag("parallel_attn")?.unwrap_or(true), grouped, norms) {
        (false, false, _) => Ok(FalconBlock::Sequential),
        (false, true, _) => {
            Err(text.wrong("parallel_attn", &false, "the new decoder architecture is always parallel (true)"))
        }
        (true, true, None | Some(2)) => Ok(FalconBlock::ParallelTwoNorms),
        (true, true, Some(1)) | (true, false, None | Some(1)) => Ok(FalconBlock::Parallel),
        (true, _, Some(other)) => {
            let expected = if grouped { "supported: 1, 2" } else { "only 1 is supported here" };
            Err(text.wrong("num_ln_in_parallel_attn", &other, expected))
        }
    }
}

/// In files of llama.cpp.
const GGUF: &[GgufArchitecture] = &[
    GgufArchitecture {
        name: "falcon",
        tensors: &[
            ("token_embd", "transformer.word_embeddings", Moved::No),
            ("output_norm", "transformer.ln_f", Moved::No),
            ("output", "lm_head", Moved::No),
            ("blk.{}.attn_norm", "transformer.h.{}.input_layernorm", Moved::No),
            ("blk.{}.attn_qkv", "transformer.h.{}.self_attention.query_key_value", Moved::Fused),
            ("blk.{}.attn_output", "transformer.h.{}.self_attention.dense", Moved::No),
            ("blk.{}.ffn_up", "transformer.h.{}.mlp.dense_h_to_4h", Moved::No),
            ("blk.{}.ffn_down", "transformer.h.{}.mlp.dense_4h_to_h", Moved::No),
        ],
        dropped: &[],
        computed: &[],
        turns_whole_heads: true,
        config: gguf_config,
    },
    // The 40B and later: one norm before the attention, one before the feed-forward.
    GgufArchitecture {
        name: "falcon",
        tensors: &[
            ("token_embd", "transformer.word_embeddings", Moved::No),
            ("output_norm", "transformer.ln_f", Moved::No),
            ("output", "lm_head", Moved::No),
            ("blk.{}.attn_norm_2", "transformer.h.{}.ln_attn", Moved::No),
            ("blk.{}.attn_norm", "transformer.h.{}.ln_mlp", Moved::No),
            ("blk.{}.attn_qkv", "transformer.h.{}.self_attention.query_key_value", Moved::Fused),
            ("blk.{}.attn_output", "transformer.h.{}.self_attention.dense", Moved::No),
            ("blk.{}.ffn_up", "transformer.h.{}.mlp.dense_h_to_4h", Moved::No),
            ("blk.{}.ffn_down", "transformer.h.{}.mlp.dense_4h_to_h", Moved::No),
        ],
        dropped: &[],
        computed: &[],
        turns_whole_heads: true,
        config: gguf_config,
    },
];

fn gguf_config(file: &dyn GgufMetadata) -> Result<Value, String> {
    let (width, heads) = (file.size("embedding_length")?, file.size("attention.head_count")?);
    let key_heads = file.key_heads()?;
    let newer = file.has("blk.0.attn_norm_2.weight");
    Ok(json!({
        "hidden_size": width,
        "num_hidden_layers": file.size("block_count")?,
        "num_attention_heads": heads,
        "num_kv_heads": newer.then_some(key_heads),
        "multi_query": key_heads == 1,
        "new_decoder_architecture": newer,
        "parallel_attn": true,
        "alibi": false,
        "bias": file.has("blk.0.attn_qkv.bias"),
        "layer_norm_epsilon": file.real("attention.layer_norm_epsilon")?.unwrap_or(1e-5),
        "max_position_embeddings": file.size("context_length")?,
        "rope_theta": file.real("rope.freq_base")?.unwrap_or(10_000.0),
        "tie_word_embeddings": !file.has("output.weight"),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::block::tests::check_layer;

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
