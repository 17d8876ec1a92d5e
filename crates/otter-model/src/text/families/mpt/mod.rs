//! MPT (MosaicML): norms before each part, a fused projection, ALiBi or learned positions, a plain GELU feed-forward.
//! `MosaicGPT`, its first generation, has other names.

mod config_json;
mod gguf;

use otter_nn::{ActivationKind, Init, SelfAttentionCore};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::config::{ConfigError, LARGEST_DEPTH, LARGEST_TABLE, LARGEST_WIDTH, bounded, divides, positive};
use crate::text::attention::{AttentionSpec, InputNames};
use crate::text::block::{BlockParts, NormSpec, Residual, TransformerBlock};
use crate::text::config::{TextNames, TextSizes};
use crate::text::config_json::set;
use crate::text::family::{Family, TextFamily};
use crate::text::mlp::{MlpForm, MlpSpec};

/// MPT in the class of MosaicML, which the original ships.
pub const MPT: Family = Family {
    name: "MPT",
    classes: &[("MPTForCausalLM", "mpt")],
    keys: config_json::MPT_KEYS,
    inner_keys: &[("attn_config", config_json::ATTENTION_KEYS)],
    has_one_table: true,
    ties_by_default: true,
    uses_cache: false,
    read: |text, warnings| Ok(config_json::read(text, false, warnings)?.into()),
    prefix: "transformer.",
    layers: "transformer.blocks",
    input_table: "transformer.wte.weight",
    output_table: None,
    width_keys: &["d_model", "hidden_size"],
    gguf: gguf::GGUF,
    depth_keys: &["n_layers", "num_hidden_layers"],
};

/// MPT in the class of Transformers, which has other defaults.
pub static TRANSFORMERS_MPT: Family = Family {
    classes: &[("MptForCausalLM", "mpt")],
    inner_keys: &[],
    gguf: &[],
    read: |text, warnings| Ok(config_json::read(text, true, warnings)?.into()),
    ..MPT
};

/// The first generation.
pub static MOSAIC_GPT: Family = Family {
    name: "MosaicGPT",
    classes: &[("MosaicGPT", "mosaic_gpt")],
    keys: config_json::MOSAIC_GPT_KEYS,
    inner_keys: &[],
    gguf: &[],
    read: |text, warnings| Ok(config_json::mosaic_gpt(text, warnings)?.into()),
    ..MPT
};

/// Which of MosaicML's classes a model belongs to: they differ in names and in the slopes of ALiBi.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum MptStyle {
    /// `MPTForCausalLM` (7B, 30B).
    Mpt,
    /// `MosaicGPT` (1B RedPajama).
    MosaicGpt,
}

/// Kind of a norm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum NormKind {
    /// Mean and deviation.
    Layer,
    /// Root mean square.
    Rms,
}

/// MPT language model: fused query-key-value projection, exact GELU, ALiBi or learned positions, tied tables.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MptConfig {
    /// Class.
    pub style: MptStyle,
    /// Width of the residual stream.
    pub d_model: usize,
    /// Query heads per layer.
    pub n_heads: usize,
    /// Key and value heads per layer: as many as query heads, or one (multi-query attention).
    pub key_heads: usize,
    /// Number of decoder layers.
    pub n_layers: usize,
    /// Inner width of the feed-forward part, as a multiple of the width.
    pub expansion_ratio: usize,
    /// Longest sequence the model was trained for; rows of the position table where there is one.
    pub max_seq_len: usize,
    /// Rows of the table.
    pub vocab_size: usize,
    /// ALiBi instead of learned positions.
    pub alibi: bool,
    /// Exponent of the smallest slope of ALiBi: 2^-alibi_bias_max.
    pub alibi_bias_max: f64,
    /// Norms over the whole width of queries and keys.
    pub qk_ln: bool,
    /// Largest absolute value of queries, keys and values.
    pub clip_qkv: Option<f64>,
    /// Factor on the scores; by default one over the square root of the head size.
    pub softmax_scale: Option<f64>,
    /// Whether the linear layers and the norms have no biases.
    pub no_bias: bool,
    /// Kind of the norms (those of queries and keys are always layer norms in `MosaicGPT`).
    pub norm: NormKind,
    /// Factor on the logits.
    pub logit_scale: Option<f64>,
    /// Share of the gradient that reaches the embedding.
    pub embedding_fraction: f64,
    /// Beginning-of-sequence token.
    pub bos_token_id: Option<u32>,
    /// End-of-sequence token of the language model.
    pub eos_token_id: Option<u32>,
    /// Fills finished rows in generation.
    pub pad_token_id: Option<u32>,
}

/// ALiBi's slope of every head: a geometric sequence that ends at 2^-`bias_max`. For a number of heads that is no power
/// of two, every second slope of the next power comes first.
pub fn alibi_slopes(heads: usize, bias_max: f64) -> Vec<f64> {
    let all: Vec<f64> = even_slopes(heads.next_power_of_two(), bias_max).collect();
    if heads.is_power_of_two() {
        return all;
    }
    let odd = all.iter().skip(1).step_by(2);
    odd.chain(all.iter().step_by(2)).take(heads).copied().collect()
}

fn even_slopes(heads: usize, bias_max: f64) -> impl Iterator<Item = f64> {
    (1..=heads).map(move |k| (-bias_max * k as f64 / heads as f64).exp2())
}

impl MptConfig {
    /// MPT 7B.
    pub fn mpt_7b() -> Self {
        Self {
            style: MptStyle::Mpt,
            d_model: 4096,
            n_heads: 32,
            key_heads: 32,
            n_layers: 32,
            expansion_ratio: 4,
            max_seq_len: 2048,
            vocab_size: 50432,
            alibi: true,
            alibi_bias_max: 8.0,
            qk_ln: false,
            clip_qkv: None,
            softmax_scale: None,
            no_bias: true,
            norm: NormKind::Layer,
            logit_scale: None,
            embedding_fraction: 1.0,
            bos_token_id: None,
            eos_token_id: None,
            pad_token_id: None,
        }
    }

    /// MPT 30B.
    pub fn mpt_30b() -> Self {
        Self { d_model: 7168, n_heads: 64, key_heads: 64, n_layers: 48, max_seq_len: 8192, ..Self::mpt_7b() }
    }

    /// MPT-1B RedPajama.
    pub fn mpt_1b_redpajama() -> Self {
        Self {
            style: MptStyle::MosaicGpt,
            d_model: 2048,
            n_heads: 16,
            key_heads: 16,
            n_layers: 24,
            qk_ln: true,
            ..Self::mpt_7b()
        }
    }

    /// Width of one attention head.
    pub fn head_dim(&self) -> usize {
        self.d_model / self.n_heads.max(1)
    }

    /// Width of the keys, and of the values.
    pub fn key_width(&self) -> usize {
        self.key_heads * self.head_dim()
    }

    /// Slope of every head. `MosaicGPT` divides the exponents evenly, whatever the number of heads.
    pub fn alibi_slopes(&self) -> Vec<f64> {
        match self.style {
            MptStyle::MosaicGpt => even_slopes(self.n_heads, self.alibi_bias_max).collect(),
            MptStyle::Mpt => alibi_slopes(self.n_heads, self.alibi_bias_max),
        }
    }

    /// Every norm of the family has the same epsilon.
    fn norm_spec(&self) -> NormSpec {
        match self.norm {
            NormKind::Layer => NormSpec::Layer { eps: 1e-5, bias: !self.no_bias },
            NormKind::Rms => NormSpec::Rms { eps: 1e-5 },
        }
    }
}

impl TextFamily for MptConfig {
    fn sizes(&self) -> TextSizes {
        let names = TextNames {
            class: "MPTForCausalLM",
            embedding: "transformer.wte",
            positions: "transformer.wpe",
            layers: "transformer.blocks",
            norm: "transformer.norm_f",
            ..TextSizes::COMMON.names
        };
        let names = match self.style {
            MptStyle::Mpt => names,
            MptStyle::MosaicGpt => TextNames { class: "MosaicGPT", norm: "transformer.ln_f", ..names },
        };
        TextSizes {
            names,
            hidden_size: self.d_model,
            num_hidden_layers: self.n_layers,
            num_attention_heads: self.n_heads,
            key_heads: (self.key_heads, self.head_dim()),
            feed_forward_width: self.expansion_ratio * self.d_model,
            vocab_size: self.vocab_size,
            embedding_width: self.d_model,
            max_positions: self.max_seq_len,
            learned_positions: (!self.alibi).then_some(self.max_seq_len),
            positions_skip_padding: true,
            final_norm: Some(self.norm_spec()),
            must_be_tied: true,
            logit_scale: self.logit_scale.unwrap_or(1.0),
            embedding_fraction: self.embedding_fraction,
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
        bounded("text.d_model", self.d_model, LARGEST_WIDTH)?;
        bounded("text.n_heads", self.n_heads, LARGEST_WIDTH)?;
        bounded("text.key_heads", self.key_heads, LARGEST_WIDTH)?;
        bounded("text.n_layers", self.n_layers, LARGEST_DEPTH)?;
        bounded("text.expansion_ratio", self.expansion_ratio, 256)?;
        bounded("text.max_seq_len", self.max_seq_len, LARGEST_TABLE)?;
        bounded("text.vocab_size", self.vocab_size, LARGEST_TABLE)?;
        divides(("text.d_model", self.d_model), ("text.n_heads", self.n_heads))?;
        divides(("text.n_heads", self.n_heads), ("text.key_heads", self.key_heads))?;
        let reals = [
            ("text.alibi_bias_max", Some(self.alibi_bias_max)),
            ("text.clip_qkv", self.clip_qkv),
            ("text.softmax_scale", self.softmax_scale),
            ("text.logit_scale", self.logit_scale),
            ("text.embedding_fraction", Some(self.embedding_fraction)),
        ];
        reals.into_iter().try_for_each(|(name, value)| value.map_or(Ok(()), |value| positive(name, value)))
    }

    fn write(&self, map: &mut Map<String, Value>) {
        set(map, "d_model", json!(self.d_model));
        set(map, "n_heads", json!(self.n_heads));
        set(map, "n_layers", json!(self.n_layers));
        set(map, "max_seq_len", json!(self.max_seq_len));
        set(map, "no_bias", json!(self.no_bias));
        set(map, "logit_scale", json!(self.logit_scale));
        set(map, "embedding_fraction", json!(self.embedding_fraction));
        match self.style {
            MptStyle::Mpt => config_json::write_mpt(map, self),
            MptStyle::MosaicGpt => config_json::write_mosaic_gpt(map, self),
        }
    }

    fn template(&self, _tied: bool) -> Value {
        let class = self.sizes().names.class;
        match self.style {
            MptStyle::Mpt => json!({
                "_name_or_path": "",
                "architectures": [class],
                "attn_config": {
                    "attn_impl": "torch", "attn_pdrop": 0, "attn_uses_sequence_id": false, "prefix_lm": false,
                },
                "emb_pdrop": 0,
                "init_device": "cpu",
                "learned_pos_emb": true,
                "model_type": "mpt",
                "resid_pdrop": 0,
                "tie_word_embeddings": true,
                "tokenizer_name": "EleutherAI/gpt-neox-20b",
                "verbose": 0,
            }),
            MptStyle::MosaicGpt => json!({
                "_name_or_path": "",
                "architectures": [class],
                "attn_impl": "torch",
                "attn_pdrop": 0,
                "attn_uses_sequence_id": false,
                "emb_pdrop": 0,
                "init_device": "cpu",
                "low_precision_layernorm": true,
                "model_type": "mosaic_gpt",
                "prefix_lm": false,
                "resid_pdrop": 0,
                "tie_word_embeddings": true,
                "tokenizer_name": "EleutherAI/gpt-neox-20b",
                "verbose": 0,
            }),
        }
    }

    fn block(&self, mut parts: BlockParts<'_>) -> TransformerBlock {
        let (norm_1, norm_2, up, down) = match self.style {
            MptStyle::Mpt => ("norm_1", "norm_2", "ffn.up_proj", "ffn.down_proj"),
            MptStyle::MosaicGpt => ("ln_1", "ln_2", "mlp.mlp_up", "mlp.mlp_down"),
        };
        let inner = self.expansion_ratio * self.d_model;
        // Kaiming normal; outputs into the residual stream are divided by the root of their number.
        let spread = |fan_in: usize| (2.0 / fan_in as f64).sqrt();
        let residual = |fan_in: usize| spread(fan_in) / (2.0 * self.n_layers as f64).sqrt();
        let init = |fan_in| [Init::Normal(spread(self.d_model)), Init::Normal(residual(fan_in))];
        let mut core = SelfAttentionCore::new(self.n_heads, self.key_heads, self.head_dim());
        core.scale = self.softmax_scale.unwrap_or(core.scale);
        core.slopes = self.alibi.then(|| self.alibi_slopes());
        let mut attention = parts.attention(AttentionSpec {
            inputs: InputNames::Fused("attn.Wqkv"),
            output: "attn.out_proj",
            bias: !self.no_bias,
            init: init(self.d_model),
            clip: self.clip_qkv,
            rotary: None,
            core,
        });
        let form = MlpForm::Plain(ActivationKind::Gelu);
        let mlp = parts.mlp(&MlpSpec { form, up, down, inner, bias: !self.no_bias, init: init(inner) });
        let spec = self.norm_spec();
        let residual = Residual::PreNorm(parts.norm(norm_1, spec), parts.norm(norm_2, spec));
        if self.qk_ln {
            let queries = parts.norm("attn.q_ln", spec);
            let keys = parts.norm_of("attn.k_ln", spec, self.key_width());
            attention = attention.with_norms(queries, keys);
        }
        TransformerBlock { residual, attention, mlp }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::block::tests::check_layer;

    fn slopes(style: MptStyle, heads: usize) -> Vec<f64> {
        MptConfig { style, n_heads: heads, ..MptConfig::mpt_7b() }.alibi_slopes()
    }

    #[test]
    fn slopes_are_those_of_the_original() {
        assert_eq!(slopes(MptStyle::Mpt, 4), [0.25, 0.0625, 0.015625, 0.00390625]);
        assert_eq!(slopes(MptStyle::Mpt, 6), [0.25, 0.0625, 0.015625, 0.00390625, 0.5, 0.125]);
        let many = slopes(MptStyle::Mpt, 32);
        for (found, expected) in many.iter().zip([0.840_896_427_6, 0.707_106_769_1, 0.594_603_538_5, 0.5]) {
            assert!((found - expected).abs() < 1e-7);
        }
        let uneven = slopes(MptStyle::MosaicGpt, 6);
        assert!((uneven[0] - 2f64.powf(-8.0 / 6.0)).abs() < 1e-15 && (uneven[5] - 1.0 / 256.0).abs() < 1e-15);
    }

    fn config() -> MptConfig {
        MptConfig {
            d_model: 8,
            n_heads: 4,
            key_heads: 4,
            n_layers: 2,
            expansion_ratio: 2,
            ..MptConfig::mpt_7b()
        }
    }

    /// Every variant of the family: as published, with norms of queries and keys, with biases and learned positions, with
    /// limited projections and one key head, with root-mean-square norms, in the names of the first generation.
    fn variants() -> Vec<MptConfig> {
        vec![
            config(),
            MptConfig { qk_ln: true, n_heads: 2, key_heads: 2, ..config() },
            MptConfig { no_bias: false, alibi: false, qk_ln: true, softmax_scale: Some(0.4), ..config() },
            MptConfig { clip_qkv: Some(0.6), key_heads: 1, qk_ln: true, ..config() },
            MptConfig { clip_qkv: Some(0.6), norm: NormKind::Rms, ..config() },
            MptConfig { style: MptStyle::MosaicGpt, qk_ln: true, ..config() },
        ]
    }

    #[test]
    fn layers_pass_every_check() {
        for config in variants() {
            check_layer(&config.into(), 8);
        }
    }
}
