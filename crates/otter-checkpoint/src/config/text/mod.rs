//! `text_config` of a `config.json`: which language model it describes, read into and written from [`TextConfig`].

mod falcon;
mod gpt_neox;
mod opt;
mod rope;

use otter_model::config::{HiddenActivation, LlamaConfig, MptConfig, MptStyle, NormKind, TextConfig};
use serde_json::{Map, Value, json};

use self::rope::{must_turn_whole_heads, rope, write_rope};
use crate::config::checkpoint_config::UNQUANTIZED;
use crate::config::foreign;
use crate::config::keys::{FALCON, GENERIC, GPT_NEOX, LLAMA, MOSAIC_GPT, MPT, MPT_ATTENTION, OPT, ROPE};
use crate::config::section::Section;
use crate::config::write::set;
use crate::error::Result;

/// A language model that this project knows, by the name of its class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TextKind {
    /// `LlamaForCausalLM`.
    Llama,
    /// `MPTForCausalLM`, MosaicML's own class, which the original ships.
    Mpt,
    /// `MptForCausalLM`, the class of Transformers, with other defaults.
    TransformersMpt,
    /// `MosaicGPT`.
    MosaicGpt,
    /// `GPTNeoXForCausalLM`.
    GptNeox,
    /// `OPTForCausalLM`.
    Opt,
    /// `FalconForCausalLM`, or `RWForCausalLM`, the class in the model's own code.
    Falcon,
}

/// Class, its `model_type`, kind.
const KINDS: &[(&str, &str, TextKind)] = &[
    ("LlamaForCausalLM", "llama", TextKind::Llama),
    // As Transformers' first files spelled it.
    ("LLaMAForCausalLM", "llama", TextKind::Llama),
    ("MPTForCausalLM", "mpt", TextKind::Mpt),
    ("MptForCausalLM", "mpt", TextKind::TransformersMpt),
    ("MosaicGPT", "mosaic_gpt", TextKind::MosaicGpt),
    ("GPTNeoXForCausalLM", "gpt_neox", TextKind::GptNeox),
    ("OPTForCausalLM", "opt", TextKind::Opt),
    ("FalconForCausalLM", "falcon", TextKind::Falcon),
    ("RWForCausalLM", "RefinedWebModel", TextKind::Falcon),
    ("RWForCausalLM", "RefinedWeb", TextKind::Falcon),
];

impl TextKind {
    /// The kind that `architectures` names, or else `model_type`.
    pub(crate) fn of(text: &Section<'_>) -> Result<Self> {
        let list = |name: fn(&(&'static str, &'static str, Self)) -> &'static str| {
            let mut names: Vec<&str> = KINDS.iter().map(name).collect();
            names.dedup();
            format!("supported: {}", names.join(", "))
        };
        let model_type = text.text("model_type")?;
        if let Some(class) = text.first_architecture()? {
            let own = || KINDS.iter().filter(|(name, ..)| *name == class);
            let Some((_, own_type, kind)) = own().next() else {
                return Err(text.wrong("architectures", &class, &list(|kind| kind.0)));
            };
            return match model_type {
                Some(other) if own().all(|(_, own_type, _)| *own_type != other) => {
                    let expected = format!("{class} has the type {own_type}");
                    Err(text.wrong("model_type", &other, &expected))
                }
                _ => Ok(*kind),
            };
        }
        let found = model_type.unwrap_or("missing");
        match KINDS.iter().find(|(_, name, _)| *name == found) {
            Some((.., kind)) => Ok(*kind),
            None => Err(text.wrong("model_type", &found, &list(|kind| kind.1))),
        }
    }

    /// Whether the class has one table for input and output.
    pub(crate) fn is_tied(self) -> bool {
        matches!(self, Self::Mpt | Self::TransformersMpt | Self::MosaicGpt)
    }

    /// Whether the class makes its two tables one when the file does not say.
    pub(crate) fn ties_by_default(self) -> bool {
        self.is_tied() || matches!(self, Self::Opt | Self::Falcon)
    }

    /// Whether the original decodes with a cache when the file does not say.
    pub(crate) fn default_use_cache(self) -> bool {
        !self.is_tied()
    }
}

impl TextKind {
    /// The keys that describe such a model.
    fn keys(self) -> &'static [&'static str] {
        match self {
            Self::Llama => LLAMA,
            Self::Mpt | Self::TransformersMpt => MPT,
            Self::MosaicGpt => MOSAIC_GPT,
            Self::GptNeox => GPT_NEOX,
            Self::Opt => OPT,
            Self::Falcon => FALCON,
        }
    }
}

/// Keys of the section and of those inside it that nothing here knows.
pub(crate) fn unknown_text_keys(kind: TextKind, text: &Section<'_>) -> Result<Vec<String>> {
    let foreign = foreign::names();
    let mut unknown = text.unknown_keys(&[kind.keys(), GENERIC, &foreign]);
    if let Some(attention) = text.optional_section("attn_config")? {
        unknown.extend(attention.unknown_keys(&[MPT_ATTENTION, &foreign]));
    }
    for name in ["rope_scaling", "rope_parameters"] {
        if let Some(rope) = text.optional_section(name)? {
            unknown.extend(rope.unknown_keys(&[ROPE]));
        }
    }
    Ok(unknown)
}

/// Reads the sizes of a language model. What would change numbers in a way that is not computed is an error.
pub(crate) fn text_config(
    kind: TextKind,
    text: &Section<'_>,
    warnings: &mut Vec<String>,
) -> Result<TextConfig> {
    foreign::refuse(text, kind.keys())?;
    text.must_be_absent("quantization_config", UNQUANTIZED)?;
    Ok(match kind {
        TextKind::Llama => llama(text, warnings)?.into(),
        TextKind::Mpt | TextKind::TransformersMpt => mpt(text, kind, warnings)?.into(),
        TextKind::MosaicGpt => mosaic_gpt(text, warnings)?.into(),
        TextKind::GptNeox => gpt_neox::read(text, warnings)?.into(),
        TextKind::Opt => opt::read(text, warnings)?.into(),
        TextKind::Falcon => falcon::read(text, warnings)?.into(),
    })
}

fn llama(text: &Section<'_>, warnings: &mut Vec<String>) -> Result<LlamaConfig> {
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

/// The activation of a feed-forward without a gate.
fn activation(text: &Section<'_>, key: &str, default: HiddenActivation) -> Result<HiddenActivation> {
    match text.text(key)? {
        None => Ok(default),
        Some(name) => activation_of(name).ok_or_else(|| {
            let expected = "supported: gelu, gelu_new, gelu_fast, gelu_pytorch_tanh, relu";
            text.wrong(key, &name, expected)
        }),
    }
}

fn activation_of(name: &str) -> Option<HiddenActivation> {
    match name {
        "gelu" => Some(HiddenActivation::Gelu),
        "gelu_new" | "gelu_fast" | "gelu_pytorch_tanh" => Some(HiddenActivation::GeluTanh),
        "relu" => Some(HiddenActivation::Relu),
        _ => None,
    }
}

/// Sets an activation, unless the file names the same one already.
fn write_activation(map: &mut Map<String, Value>, key: &str, activation: HiddenActivation) {
    if map.get(key).and_then(Value::as_str).and_then(activation_of) != Some(activation) {
        let name = match activation {
            HiddenActivation::Gelu => "gelu",
            HiddenActivation::GeluTanh => "gelu_new",
            HiddenActivation::Relu => "relu",
        };
        set(map, key, json!(name));
    }
}

fn pad_token(text: &Section<'_>, default: Option<u32>) -> Result<Option<u32>> {
    match text.map.get("pad_token_id") {
        None => Ok(default),
        Some(_) => text.token("pad_token_id"),
    }
}

/// Defaults are those of MosaicML's configuration class, or of Transformers'.
fn mpt(text: &Section<'_>, kind: TextKind, warnings: &mut Vec<String>) -> Result<MptConfig> {
    let transformers = kind == TextKind::TransformersMpt;
    let norm = match text.text("norm_type")? {
        None | Some("layernorm" | "low_precision_layernorm") => NormKind::Layer,
        Some("rmsnorm" | "low_precision_rmsnorm") => NormKind::Rms,
        Some(other) => {
            let expected = "supported: layernorm, low_precision_layernorm, rmsnorm, low_precision_rmsnorm";
            return Err(text.wrong("norm_type", &other, expected));
        }
    };
    for key in ["layer_norm_epsilon", "norm_eps"] {
        if let Some(epsilon) = text.real(key)?
            && epsilon != 1e-5
        {
            return Err(text.wrong(key, &epsilon, "only 1e-5 is supported"));
        }
    }
    let empty = Map::new();
    let attention = text.optional_section("attn_config")?;
    let attention =
        attention.unwrap_or(Section { path: text.path, name: "text_config.attn_config", map: &empty });
    foreign::refuse(&attention, MPT_ATTENTION)?;
    refuse_other_masks(&attention, warnings)?;
    if attention.flag("fused_qkv")? == Some(false) {
        return Err(attention.wrong(
            "fused_qkv",
            &false,
            "only query, key and value in one matrix (true) are supported",
        ));
    }
    if let Some(window) = attention.value("sliding_window_size")
        && window.as_i64() != Some(-1)
    {
        return Err(attention.wrong("sliding_window_size", window, "only the whole text (-1) is supported"));
    }
    let config = MptConfig {
        style: MptStyle::Mpt,
        expansion_ratio: text.size("expansion_ratio")?.unwrap_or(4),
        alibi: attention.flag("alibi")?.unwrap_or(transformers),
        alibi_bias_max: attention.real("alibi_bias_max")?.unwrap_or(8.0),
        qk_ln: attention.flag("qk_ln")?.unwrap_or(false),
        clip_qkv: attention.real("clip_qkv")?,
        softmax_scale: attention.real("softmax_scale")?,
        no_bias: text.flag("no_bias")?.unwrap_or(transformers),
        norm,
        ..mpt_sizes(text, warnings)?
    };
    let key_heads = match attention.text("attn_type")? {
        None | Some("multihead_attention") => config.n_heads,
        Some("multiquery_attention") => 1,
        Some("grouped_query_attention") => match attention.size("kv_n_heads")? {
            Some(heads) => heads,
            None => {
                return Err(attention.wrong("kv_n_heads", &"missing", "grouped_query_attention needs it"));
            }
        },
        Some(other) => {
            let expected = "supported: multihead_attention, multiquery_attention, grouped_query_attention";
            return Err(attention.wrong("attn_type", &other, expected));
        }
    };
    let alone = !config.alibi && text.flag("learned_pos_emb")? == Some(false);
    if alone {
        let expected = "without alibi only learned positions (true) are supported";
        return Err(text.wrong("learned_pos_emb", &false, expected));
    }
    refuse_other_feed_forward(text, &config)?;
    Ok(MptConfig { key_heads, ..config })
}

/// `ffn_config` of later releases of MosaicML's class, whose defaults are those of the earlier ones.
fn refuse_other_feed_forward(text: &Section<'_>, config: &MptConfig) -> Result<()> {
    let Some(inner) = text.optional_section("ffn_config")? else { return Ok(()) };
    if let Some(kind) = inner.text("ffn_type")?
        && kind != "mptmlp"
    {
        return Err(inner.wrong("ffn_type", &kind, "only mptmlp is supported"));
    }
    if let Some(size) = inner.size("ffn_hidden_size")?
        && size != config.expansion_ratio * config.d_model
    {
        let expected =
            format!("expected expansion_ratio * d_model = {}", config.expansion_ratio * config.d_model);
        return Err(inner.wrong("ffn_hidden_size", &size, &expected));
    }
    match inner.value("ffn_act_fn") {
        Some(function)
            if function["name"] != "gelu" || function.get("approximate").is_some_and(|a| a != "none") =>
        {
            Err(inner.wrong("ffn_act_fn", function, "only gelu is supported"))
        }
        _ => Ok(()),
    }
}

fn mosaic_gpt(text: &Section<'_>, warnings: &mut Vec<String>) -> Result<MptConfig> {
    refuse_other_masks(text, warnings)?;
    Ok(MptConfig {
        style: MptStyle::MosaicGpt,
        expansion_ratio: text.size("mlp_ratio")?.unwrap_or(4),
        alibi: text.flag("alibi")?.unwrap_or(false),
        alibi_bias_max: text.real("alibi_bias_max")?.unwrap_or(8.0),
        qk_ln: text.flag("attn_qk_ln")?.unwrap_or(false),
        clip_qkv: text.real("attn_clip_qkv")?,
        softmax_scale: text.real("softmax_scale")?,
        no_bias: text.flag("no_bias")?.unwrap_or(false),
        norm: NormKind::Layer,
        ..mpt_sizes(text, warnings)?
    })
}

/// What both generations of MPT call by the same names.
fn mpt_sizes(text: &Section<'_>, warnings: &mut Vec<String>) -> Result<MptConfig> {
    for key in ["emb_pdrop", "resid_pdrop"] {
        text.warn_dropout(key, warnings)?;
    }
    let n_heads = text.size("n_heads")?.unwrap_or(16);
    let config = MptConfig {
        d_model: text.size("d_model")?.unwrap_or(2048),
        n_heads,
        key_heads: n_heads,
        n_layers: text.size("n_layers")?.unwrap_or(24),
        max_seq_len: text.size("max_seq_len")?.unwrap_or(2048),
        vocab_size: text.size("vocab_size")?.unwrap_or(50368),
        embedding_fraction: text.real("embedding_fraction")?.unwrap_or(1.0),
        bos_token_id: text.token("bos_token_id")?,
        eos_token_id: text.first_token("eos_token_id")?,
        pad_token_id: pad_token(text, None)?,
        ..MptConfig::mpt_7b()
    };
    if let Some(width) = text.size("hidden_size")?
        && width != config.d_model
    {
        let expected = format!("expected d_model = {}", config.d_model);
        return Err(text.wrong("hidden_size", &width, &expected));
    }
    let logit_scale = match text.value("logit_scale") {
        Some(Value::String(name)) if name == "inv_sqrt_d_model" => Some(1.0 / (config.d_model as f64).sqrt()),
        Some(value) if !value.is_number() => {
            return Err(text.wrong("logit_scale", value, "expected a number, inv_sqrt_d_model or null"));
        }
        _ => text.real("logit_scale")?,
    };
    Ok(MptConfig { logit_scale, ..config })
}

/// Attention that is not plainly causal is another model.
fn refuse_other_masks(attention: &Section<'_>, warnings: &mut Vec<String>) -> Result<()> {
    for key in ["prefix_lm", "attn_uses_sequence_id"] {
        if attention.flag(key)? == Some(true) {
            return Err(attention.wrong(key, &true, "only plain causal attention (false) is supported"));
        }
    }
    attention.warn_dropout("attn_pdrop", warnings)
}

/// Sets the keys that describe the language model; other keys stay.
pub(crate) fn write_text_config(map: &mut Map<String, Value>, text: &TextConfig, use_cache: bool) {
    set(map, "bos_token_id", json!(text.bos_token_id()));
    // A list of end tokens stays: the sizes know its first only.
    let first = map.get("eos_token_id").and_then(|ids| ids.as_array()?.first()?.as_u64());
    if first.is_none() || first != text.eos_token_id().map(u64::from) {
        set(map, "eos_token_id", json!(text.eos_token_id()));
    }
    set(map, "pad_token_id", json!(text.pad_token_id()));
    set(map, "use_cache", json!(use_cache));
    set(map, "vocab_size", json!(text.vocab_size()));
    set(map, "hidden_size", json!(text.hidden_size()));
    match text {
        TextConfig::Llama(sizes) => {
            set(map, "intermediate_size", json!(sizes.intermediate_size));
            set(map, "max_position_embeddings", json!(sizes.max_position_embeddings));
            set(map, "num_attention_heads", json!(sizes.num_attention_heads));
            set(map, "num_hidden_layers", json!(sizes.num_hidden_layers));
            set(map, "num_key_value_heads", json!(sizes.num_key_value_heads));
            set(map, "rms_norm_eps", json!(sizes.rms_norm_eps));
            set(map, "attention_bias", json!(sizes.attention_bias));
            if sizes.mlp_bias || map.contains_key("mlp_bias") {
                set(map, "mlp_bias", json!(sizes.mlp_bias));
            }
            if sizes.head_dim_override.is_some() || map.contains_key("head_dim") {
                set(map, "head_dim", json!(sizes.head_dim()));
            }
            write_rope(map, &sizes.rope(), "rope_theta", None);
        }
        TextConfig::Mpt(sizes) => {
            set(map, "d_model", json!(sizes.d_model));
            set(map, "n_heads", json!(sizes.n_heads));
            set(map, "n_layers", json!(sizes.n_layers));
            set(map, "max_seq_len", json!(sizes.max_seq_len));
            set(map, "no_bias", json!(sizes.no_bias));
            set(map, "logit_scale", json!(sizes.logit_scale));
            set(map, "embedding_fraction", json!(sizes.embedding_fraction));
            match sizes.style {
                MptStyle::Mpt => write_mpt(map, sizes),
                MptStyle::MosaicGpt => write_mosaic_gpt(map, sizes),
            }
        }
        TextConfig::GptNeox(sizes) => gpt_neox::write(map, sizes),
        TextConfig::Opt(sizes) => opt::write(map, sizes),
        TextConfig::Falcon(sizes) => falcon::write(map, sizes),
    }
}

fn write_mpt(map: &mut Map<String, Value>, sizes: &MptConfig) {
    set(map, "expansion_ratio", json!(sizes.expansion_ratio));
    let kept = map.get("norm_type").and_then(Value::as_str);
    if kept.is_none_or(|kept| kept.ends_with("rmsnorm") != (sizes.norm == NormKind::Rms)) {
        let name = match sizes.norm {
            NormKind::Layer => "low_precision_layernorm",
            NormKind::Rms => "low_precision_rmsnorm",
        };
        set(map, "norm_type", json!(name));
    }
    if !map.get("attn_config").is_some_and(Value::is_object) {
        set(map, "attn_config", json!({}));
    }
    let Some(Value::Object(attention)) = map.get_mut("attn_config") else { return };
    set(attention, "alibi", json!(sizes.alibi));
    set(attention, "alibi_bias_max", whole(sizes.alibi_bias_max));
    set(attention, "qk_ln", json!(sizes.qk_ln));
    set(attention, "clip_qkv", json!(sizes.clip_qkv));
    set(attention, "softmax_scale", json!(sizes.softmax_scale));
    let kind = match sizes.key_heads {
        heads if heads == sizes.n_heads => "multihead_attention",
        1 => "multiquery_attention",
        heads => {
            set(attention, "kv_n_heads", json!(heads));
            "grouped_query_attention"
        }
    };
    set(attention, "attn_type", json!(kind));
}

fn write_mosaic_gpt(map: &mut Map<String, Value>, sizes: &MptConfig) {
    set(map, "mlp_ratio", json!(sizes.expansion_ratio));
    set(map, "alibi", json!(sizes.alibi));
    set(map, "alibi_bias_max", whole(sizes.alibi_bias_max));
    set(map, "attn_qk_ln", json!(sizes.qk_ln));
    set(map, "attn_clip_qkv", json!(sizes.clip_qkv));
    set(map, "softmax_scale", json!(sizes.softmax_scale));
}

/// A number as the original writes it: whole ones without a fraction.
fn whole(value: f64) -> Value {
    if value.fract() == 0.0 && value.abs() < 1e9 { json!(value as i64) } else { json!(value) }
}

/// What the original writes around the sizes of a new model.
pub(crate) fn text_template(text: &TextConfig, tied: bool) -> Value {
    let class = text.names().class;
    match text {
        TextConfig::Llama(_) => json!({
            "_name_or_path": "luodian/llama-7b-hf",
            "architectures": [class],
            "attention_bias": false,
            "hidden_act": "silu",
            "initializer_range": 0.02,
            "model_type": "llama",
            "pretraining_tp": 1,
            "rope_scaling": null,
            "tie_word_embeddings": tied,
        }),
        TextConfig::Mpt(sizes) if sizes.style == MptStyle::Mpt => json!({
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
        TextConfig::Mpt(_) => json!({
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
        TextConfig::GptNeox(_) => gpt_neox::template(class, tied),
        TextConfig::Opt(_) => opt::template(class, tied),
        TextConfig::Falcon(_) => falcon::template(class, tied),
    }
}
