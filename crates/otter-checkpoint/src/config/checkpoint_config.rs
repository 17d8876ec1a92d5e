//! `config.json` of an Otter or Flamingo checkpoint, read into [`OtterConfig`].
//!
//! Known keys that do not change the model are tolerated, keys that would change it in a way that is not
//! supported are errors. Others, which the next release of a writer may add, are warned of. In the objects of this project
//! (`perceiver_config`, `cross_attention_config`) they are errors.

use crate::config::generation::{check_id, warn_of_settings};
use crate::config::input_rules::InputRules;
use crate::config::keys::{CROSS_ATTENTION, GENERIC, PERCEIVER, TOP, VISION};
use crate::config::section::{Section, UnknownKeys, unknown_keys_warning};
use crate::config::text::{UNQUANTIZED, text_config, unknown_text_keys};
use crate::directory::text_file::{LONGEST_CONFIG, read_object};
use crate::error::{CheckpointError, Result};
use otter_model::config::{CrossAttentionConfig, OtterConfig, PerceiverConfig, VisionConfig};
use otter_model::text::Family;
use otter_model::text::config_json::foreign;
use serde_json::{Map, Value};
use std::path::Path;

/// Class of the original that a checkpoint belongs to. Both compute the same thing here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModelFamily {
    /// `OtterForConditionalGeneration`.
    Otter,
    /// `FlamingoForConditionalGeneration`.
    Flamingo,
}

impl ModelFamily {
    /// The `model_type` string.
    pub fn model_type(self) -> &'static str {
        match self {
            Self::Otter => "otter",
            Self::Flamingo => "flamingo",
        }
    }

    /// The class name written under `architectures`.
    pub fn architecture(self) -> &'static str {
        match self {
            Self::Otter => "OtterForConditionalGeneration",
            Self::Flamingo => "FlamingoForConditionalGeneration",
        }
    }
}

/// A parsed `config.json`.
#[derive(Debug, Clone)]
pub struct CheckpointConfig {
    /// Sizes and training rule. `tie_word_embeddings` is what holds for the tables in memory, see
    /// [`CheckpointConfig::declared_tie`].
    pub model: OtterConfig,
    /// Otter or Flamingo.
    pub family: ModelFamily,
    /// `text_config.use_cache`: whether the original decodes with a key/value cache, which decides where
    /// it stops attending to images. Absent means true.
    pub use_cache: bool,
    /// Every `eos_token_id` that the file gives, of which the language model's sizes know the first.
    pub end_tokens: Vec<u32>,
    /// The file's top-level `tie_word_embeddings`. The original ties when this is absent or true, with
    /// the output table's values winning, even though it stores both tables.
    pub declared_tie: Option<bool>,
    /// Whether the language model's own configuration makes its two tables one.
    pub(crate) text_ties: bool,
    /// How inputs are prepared, where the file says so.
    pub input: InputRules,
    /// What a reader should know about this file.
    pub warnings: Vec<String>,
    /// The file as it was, with keys that are kept but not used; empty for a new model.
    pub(crate) original: Map<String, Value>,
}

impl CheckpointConfig {
    /// Configuration of a new model, with no file behind it.
    pub fn new(model: OtterConfig) -> Self {
        Self {
            declared_tie: Some(model.tie_word_embeddings),
            text_ties: model.tie_word_embeddings,
            model,
            family: ModelFamily::Otter,
            use_cache: true,
            input: InputRules::default(),
            end_tokens: Vec::new(),
            warnings: Vec::new(),
            original: Map::new(),
        }
    }

    /// Reads `config.json`.
    ///
    /// # Errors
    /// When the file is missing or not JSON, or describes an unsupported model.
    pub fn read(path: &Path) -> Result<Self> {
        Self::parse(path, read_object(path, LONGEST_CONFIG)?)
    }

    pub(crate) fn parse(path: &Path, original: Map<String, Value>) -> Result<Self> {
        let mut warnings = Vec::new();
        let top = Section { path, name: "", map: &original };
        // What kind of model this is comes first: another kind has other keys, which are not misspellings.
        let family = family(&top)?;
        let text = top.section("text_config")?;
        let language = Family::of(&text)?;
        let merge = "the adapters stand apart from the weights; merge them: otter convert DIR --merge-lora --out NEW_DIR";
        top.must_be_absent("lora_config", merge)?;
        top.must_be_absent("quantization_config", UNQUANTIZED)?;
        let vision = top.section("vision_config")?;
        for section in [&top, &vision] {
            foreign::refuse(section, &[])?;
        }
        let foreign = foreign::names();
        let mut unknown = top.unknown_keys(&[TOP, GENERIC, &foreign]);
        unknown.extend(unknown_text_keys(language, &text)?);
        unknown.extend(vision.unknown_keys(&[VISION, GENERIC, &foreign]));
        warnings.extend(unknown_keys_warning(path, &unknown));
        let declared_tie = top.flag("tie_word_embeddings")?;
        let model = OtterConfig {
            vision: vision_config(&vision, &mut warnings)?,
            perceiver: perceiver_config(&top)?,
            cross_attention: cross_attention_config(&top)?,
            text: text_config(language, &text, &mut warnings)?,
            tie_word_embeddings: language.has_one_table,
            train_vision_encoder: top.flag("train_vision_encoder")?.unwrap_or(false),
            train_lang_encoder: top.flag("train_lang_encoder")?.unwrap_or(false),
            train_full_model: top.flag("train_full_model")?.unwrap_or(false),
        };
        if family == ModelFamily::Flamingo && top.flag("use_media_placement_augmentation")?.unwrap_or(true) {
            warnings.push(
                "use_media_placement_augmentation is on: the original's Flamingo class then attends to the \
                 previous or the next image by chance; here every token attends to the previous image"
                    .to_owned(),
            );
        }
        model.validate().map_err(|source| CheckpointError::Sizes { path: path.to_path_buf(), source })?;
        let mut end_tokens = Vec::new();
        for section in [&text, &top] {
            warn_of_settings(section, &mut warnings);
            for id in section.tokens("eos_token_id")? {
                check_id(section, "eos_token_id", id, model.text.vocab_size())?;
                if !end_tokens.contains(&id) {
                    end_tokens.push(id);
                }
            }
        }
        let use_cache = text.flag("use_cache")?.unwrap_or(language.uses_cache);
        let text_ties = text.flag("tie_word_embeddings")?.unwrap_or(language.ties_by_default);
        let input = InputRules::read(&top, &mut warnings)?;
        Ok(Self { model, family, use_cache, end_tokens, declared_tie, text_ties, input, warnings, original })
    }
}

fn family(top: &Section<'_>) -> Result<ModelFamily> {
    let named = match top.first_architecture()? {
        None => None,
        Some("OtterForConditionalGeneration" | "OtterModel") => Some(ModelFamily::Otter),
        Some("FlamingoForConditionalGeneration" | "FlamingoModel") => Some(ModelFamily::Flamingo),
        Some(other) => {
            let supported = "supported: OtterForConditionalGeneration, OtterModel, \
                             FlamingoForConditionalGeneration, FlamingoModel";
            return Err(top.wrong("architectures", &other, supported).into());
        }
    };
    match top.text("model_type")? {
        Some("otter") => Ok(ModelFamily::Otter),
        Some("flamingo") => Ok(ModelFamily::Flamingo),
        Some(other) => {
            let expected = "supported: otter, flamingo; `otter inspect` says what this is, and which command makes an Otter \
                            of it";
            Err(top.wrong("model_type", &other, expected).into())
        }
        None => named.ok_or_else(|| top.wrong("model_type", &"missing", "expected otter or flamingo").into()),
    }
}

fn vision_config(vision: &Section<'_>, warnings: &mut Vec<String>) -> Result<VisionConfig> {
    if let Some(kind) = vision.text("model_type")?
        && kind != "clip_vision_model"
    {
        return Err(vision.wrong("model_type", &kind, "only clip_vision_model is supported").into());
    }
    vision.must_equal("hidden_act", "quick_gelu")?;
    vision.must_be_absent("quantization_config", UNQUANTIZED)?;
    for key in ["attention_dropout", "dropout"] {
        vision.warn_dropout(key, warnings)?;
    }
    // What is absent takes the library's defaults, those of CLIP ViT-B/32.
    Ok(VisionConfig {
        hidden_size: vision.size("hidden_size")?.unwrap_or(768),
        intermediate_size: vision.size("intermediate_size")?.unwrap_or(3072),
        num_hidden_layers: vision.size("num_hidden_layers")?.unwrap_or(12),
        num_attention_heads: vision.size("num_attention_heads")?.unwrap_or(12),
        image_size: vision.size("image_size")?.unwrap_or(224),
        patch_size: vision.size("patch_size")?.unwrap_or(32),
        num_channels: vision.size("num_channels")?.unwrap_or(3),
        layer_norm_eps: vision.real("layer_norm_eps")?.unwrap_or(1e-5),
    })
}

fn perceiver_config(top: &Section<'_>) -> Result<PerceiverConfig> {
    let mut config =
        PerceiverConfig { max_num_frames: top.size("max_num_frames")?, ..PerceiverConfig::default() };
    if let Some(section) = top.optional_section("perceiver_config")? {
        section.check_keys(PERCEIVER)?;
        section.size("depth")?.into_iter().for_each(|value| config.depth = value);
        section.size("heads")?.into_iter().for_each(|value| config.heads = value);
        section.size("dim_head")?.into_iter().for_each(|value| config.dim_head = value);
        section.size("num_latents")?.into_iter().for_each(|value| config.num_latents = value);
        section.size("ff_mult")?.into_iter().for_each(|value| config.ff_mult = value);
        config.max_num_frames = config.max_num_frames.or(section.size("max_num_frames")?);
        config.max_num_media = section.size("max_num_media")?;
    }
    Ok(config)
}

fn cross_attention_config(top: &Section<'_>) -> Result<CrossAttentionConfig> {
    let mut config = CrossAttentionConfig::default();
    top.size("cross_attn_every_n_layers")?.into_iter().for_each(|value| config.every_n_layers = value);
    if let Some(section) = top.optional_section("cross_attention_config")? {
        section.check_keys(CROSS_ATTENTION)?;
        section.size("heads")?.into_iter().for_each(|value| config.heads = value);
        section.size("dim_head")?.into_iter().for_each(|value| config.dim_head = value);
        section.size("ff_mult")?.into_iter().for_each(|value| config.ff_mult = value);
    }
    Ok(config)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use otter_model::config::LlamaConfig;
    use serde_json::json;

    /// The smallest file of the first release: everything else is default.
    fn first_release() -> Value {
        json!({
            "model_type": "otter",
            "architectures": null,
            "cross_attn_every_n_layers": 4,
            "tie_word_embeddings": false,
            "use_media_placement_augmentation": true,
            "only_attend_previous": true,
            "text_config": { "_name_or_path": "luodian/llama-7b-hf", "model_type": "llama" },
            "vision_config": {
                "_name_or_path": "openai/clip-vit-large-patch14", "model_type": "clip_vision_model",
                "hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16,
                "num_hidden_layers": 24, "image_size": 224, "patch_size": 14
            }
        })
    }

    fn parse(value: Value) -> Result<CheckpointConfig> {
        let Value::Object(map) = value else { panic!("no object") };
        CheckpointConfig::parse(Path::new("config.json"), map)
    }

    fn refusal(pointer: &str, key: &str, new: Value) -> String {
        let mut value = first_release();
        value.pointer_mut(pointer).unwrap()[key] = new;
        parse(value).unwrap_err().to_string()
    }

    #[test]
    fn absent_keys_take_the_defaults_of_llama_7b() {
        let config = parse(first_release()).unwrap();
        let expected = OtterConfig { text: LlamaConfig::llama_7b(32000).into(), ..OtterConfig::otter_9b() };
        assert_eq!(config.model, expected);
        assert_eq!(config.family, ModelFamily::Otter);
        assert_eq!(config.declared_tie, Some(false));
        assert!(config.use_cache && config.warnings.is_empty());
    }

    #[test]
    fn architectures_may_take_every_known_form() {
        for (value, family) in [
            (json!("OtterModel"), ModelFamily::Otter),
            (json!([]), ModelFamily::Otter),
            (json!(["OtterForConditionalGeneration"]), ModelFamily::Otter),
            (json!(["FlamingoForConditionalGeneration"]), ModelFamily::Otter),
        ] {
            let mut config = first_release();
            config["architectures"] = value;
            assert_eq!(parse(config).unwrap().family, family);
        }
        let mut config = first_release();
        config["architectures"] = json!(["FlamingoModel"]);
        config.as_object_mut().unwrap().remove("model_type");
        let config = parse(config).unwrap();
        assert_eq!(config.family, ModelFamily::Flamingo);
        assert!(config.warnings[0].contains("use_media_placement_augmentation"));
    }

    #[test]
    fn end_tokens_may_be_lists_and_settings_of_answers_are_told() {
        let mut config = first_release();
        config["text_config"]["eos_token_id"] = json!([2, 7, 2]);
        config["text_config"]["bos_token_id"] = json!([5]);
        config["eos_token_id"] = json!(9);
        for (key, value) in [("top_k", json!(50)), ("max_length", json!(20)), ("bad_words_ids", json!(null))]
        {
            config["text_config"][key] = value;
        }
        let parsed = parse(config.clone()).unwrap();
        assert_eq!(parsed.end_tokens, [2, 7, 9]);
        assert_eq!((parsed.model.text.bos_token_id(), parsed.model.text.eos_token_id()), (Some(5), Some(2)));
        assert!(parsed.warnings.is_empty(), "{:?}", parsed.warnings);
        // The list is written again, and so is that beside it.
        assert_eq!(parsed.to_json()["text_config"]["eos_token_id"], json!([2, 7, 2]));
        assert_eq!(parsed.generation_json()["eos_token_id"], json!([2, 7, 9]));
        // Older files write -1 for "none".
        for (ids, expected) in [(json!(-1), vec![9]), (json!([2, -1]), vec![2, 9])] {
            let mut none = config.clone();
            none["text_config"]["eos_token_id"] = ids;
            none["text_config"]["bos_token_id"] = json!(-1);
            assert_eq!(parse(none).unwrap().end_tokens, expected);
        }
        config["text_config"]["repetition_penalty"] = json!(1.3);
        let warnings = parse(config).unwrap().warnings;
        assert!(warnings.len() == 1 && warnings[0].starts_with("text_config.repetition_penalty is 1.3, "));
        for (key, value) in [
            ("eos_token_id", json!([2, 32000])),
            ("eos_token_id", json!([])),
            ("eos_token_id", json!(["</s>"])),
            ("bos_token_id", json!([1, 2])),
        ] {
            let text = refusal("/text_config", key, value);
            assert!(text.starts_with("config.json: `text_config.") && text.contains(key), "{text}");
        }
    }

    #[test]
    fn own_sizes_are_read() {
        let mut config = first_release();
        config["perceiver_config"] = json!({ "depth": 2, "num_latents": 8, "max_num_media": 3 });
        config["cross_attention_config"] = json!({ "heads": 2, "dim_head": 16 });
        config["max_num_frames"] = json!(128);
        let model = parse(config).unwrap().model;
        assert_eq!((model.perceiver.depth, model.perceiver.num_latents, model.perceiver.heads), (2, 8, 8));
        assert_eq!((model.perceiver.max_num_frames, model.perceiver.max_num_media), (Some(128), Some(3)));
        assert_eq!((model.cross_attention.inner_dim(), model.cross_attention.ff_mult), (32, 4));
    }

    /// Files that others write may have keys of tomorrow: one warning lists them, with what a misspelling may have meant.
    #[test]
    fn unknown_keys_are_warned_of_in_one_sentence() {
        let mut config = first_release();
        config["of_tomorrow"] = json!({ "deep": 1 });
        config["max_num_frame"] = json!(1);
        config["text_config"]["num_hidden_layer"] = json!(2);
        config["text_config"]["rope_thetaa"] = json!(5e5);
        config["text_config"]["rope_scaling"] =
            json!({ "rope_type": "linear", "factor": 2.0, "attention_factor": 1.0 });
        config["vision_config"]["patchsize"] = json!(1);
        let warnings = parse(config).unwrap().warnings;
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        for part in [
            "`of_tomorrow`,",
            "`max_num_frame` (did you mean `max_num_frames`?)",
            "`text_config.num_hidden_layer` (did you mean `text_config.num_hidden_layers`?)",
            "`text_config.rope_thetaa` (did you mean `text_config.rope_theta`?)",
            "`rope_scaling.attention_factor`",
            "`vision_config.patchsize` (did you mean `vision_config.patch_size`?)",
        ] {
            assert!(warnings[0].contains(part), "no {part} in {warnings:?}");
        }
        // Objects of this project are no others' to extend.
        let text = refusal("", "perceiver_config", json!({ "num_latent": 1 }));
        assert!(
            text.starts_with("config.json:") && text.contains("`perceiver_config.num_latents`"),
            "{text}"
        );
    }

    /// A setting that changes the numbers of another model is refused by name where it is on, and known where it is off.
    #[test]
    fn settings_that_change_numbers_are_obeyed_or_refused() {
        let text = "/text_config";
        for (pointer, key, off, on) in [
            (text, "attention_multiplier", json!(null), json!(0.0078)),
            (text, "embedding_multiplier", json!(1.0), json!(12.0)),
            (text, "residual_multiplier", json!(1), json!(0.22)),
            (text, "logits_scaling", json!(1.0), json!(8.0)),
            (text, "logit_scale", json!(1), json!(0.0625)),
            (text, "final_logit_softcapping", json!(null), json!(30.0)),
            (text, "attn_logit_softcapping", json!(0), json!(50.0)),
            (text, "query_pre_attn_scalar", json!(null), json!(256)),
            (text, "partial_rotary_factor", json!(1.0), json!(0.5)),
            (text, "qk_layernorm", json!(false), json!(true)),
            (text, "use_qk_norm", json!(false), json!(true)),
            (text, "clip_qkv", json!(null), json!(8.0)),
            (text, "sliding_window", json!(null), json!(1024)),
            (text, "sliding_window", json!(4096), json!(512)),
            (text, "layer_types", json!(["full_attention"]), json!(["full_attention", "sliding_attention"])),
            (text, "no_rope_layers", json!([1, 1]), json!([1, 0])),
            (text, "num_local_experts", json!(0), json!(8)),
            (text, "hidden_activation", json!("silu"), json!("gelu_pytorch_tanh")),
            (text, "is_causal", json!(true), json!(false)),
            (text, "pruned_heads", json!({}), json!({ "0": [1] })),
            (
                text,
                "rope_parameters",
                json!({ "partial_rotary_factor": 1.0 }),
                json!({ "partial_rotary_factor": 0.25 }),
            ),
            (
                text,
                "rope_parameters",
                json!({ "rope_type": "default", "rope_theta": 1e4 }),
                json!({ "full_attention": { "rope_type": "default" } }),
            ),
            (
                text,
                "rope_scaling",
                json!({ "type": "dynamic", "factor": 2.0, "original_max_position_embeddings": 2048 }),
                json!({ "type": "dynamic", "factor": 2.0, "original_max_position_embeddings": 512 }),
            ),
            ("/vision_config", "qkv_bias", json!(false), json!(true)),
            ("", "is_encoder_decoder", json!(false), json!(true)),
        ] {
            let mut config = first_release();
            config["text_config"]["max_position_embeddings"] = json!(2048);
            config.pointer_mut(pointer).unwrap()[key] = off.clone();
            let parsed = parse(config.clone()).unwrap_or_else(|error| panic!("{key} {off}: {error}"));
            assert!(parsed.warnings.is_empty(), "{key} {off}: {:?}", parsed.warnings);
            config.pointer_mut(pointer).unwrap()[key] = on;
            let message = parse(config).unwrap_err().to_string();
            assert!(message.contains(key) && message.starts_with("config.json: "), "{message}");
        }
        for (key, value) in [
            ("attn_config", json!({ "rope": true })),
            ("attn_config", json!({ "qk_gn": true })),
            ("attn_config", json!({ "sliding_window_size": 512 })),
            ("attn_config", json!({ "alibi": false, "fused_qkv": false })),
            ("ffn_config", json!({ "ffn_type": "mptglu" })),
            ("ffn_config", json!({ "ffn_act_fn": { "name": "silu" } })),
            ("norm_eps", json!(1e-6)),
            ("learned_pos_emb", json!(false)),
            ("block_overrides", json!({ "order": [] })),
        ] {
            let mut config = first_release();
            let inner = value.as_object().and_then(|map| map.keys().next_back().cloned()).unwrap_or_default();
            config["text_config"] = json!({ "model_type": "mpt", key: value });
            let message = parse(config).unwrap_err().to_string();
            assert!(message.contains(key) && message.contains(&inner), "{key}: {message}");
        }
        // Two objects that disagree.
        let mut config = first_release();
        config["text_config"]["rope_parameters"] = json!({ "rope_type": "default" });
        config["text_config"]["rope_scaling"] = json!({ "rope_type": "linear", "factor": 2.0 });
        assert!(parse(config).unwrap_err().to_string().contains("rope_parameters says otherwise"));
    }

    #[test]
    fn unsupported_models_say_what_is_supported() {
        let cases = [
            ("", "architectures", json!(["LlavaForConditionalGeneration"]), "OtterForConditionalGeneration"),
            ("", "model_type", json!("llava"), "otter, flamingo"),
            ("", "lora_config", json!({ "r": 16 }), "merge them"),
            ("/text_config", "architectures", json!(["BloomForCausalLM"]), "supported: LlamaForCausalLM"),
            ("/text_config", "model_type", json!("bloom"), "supported: llama"),
            (
                "",
                "text_config",
                json!({ "model_type": "mpt", "attn_config": { "prefix_lm": true } }),
                "causal",
            ),
            (
                "",
                "text_config",
                json!({ "model_type": "mpt", "norm_type": "batchnorm" }),
                "low_precision_layernorm",
            ),
            ("", "text_config", json!({ "model_type": "mosaic_gpt", "hidden_size": 8 }), "d_model = 2048"),
            ("/text_config", "hidden_act", json!("gelu"), "only silu"),
            ("/text_config", "rope_scaling", json!({ "type": "linear" }), "`rope_scaling.factor`"),
            ("/text_config", "rope_scaling", json!({ "type": "yarn", "factor": 2.0 }), "dynamic, llama3"),
            (
                "/text_config",
                "rope_scaling",
                json!({ "type": "linear", "factr": 2.0 }),
                "`rope_scaling.factor`",
            ),
            ("/text_config", "rope_scaling", json!({ "type": "linear", "factor": 0.5 }), "at least 1"),
            ("/text_config", "rope_parameters", json!({ "rope_type": "llama3", "factor": 8.0 }), "low_freq"),
            ("/text_config", "head_dim", json!(63), "must be even"),
            ("/text_config", "hidden_size", json!(-1), "whole number"),
            ("/text_config", "hidden_size", json!(4096.5), "whole number"),
            ("/text_config", "num_attention_heads", json!(0), "at least 1"),
            ("/text_config", "vocab_size", json!(u64::MAX), "text.vocab_size"),
            ("/vision_config", "hidden_act", json!("gelu"), "only quick_gelu"),
            ("/vision_config", "image_size", json!(225), "does not divide"),
            ("/vision_config", "model_type", json!("siglip_vision_model"), "only clip_vision_model"),
        ];
        for (pointer, key, value, expected) in cases {
            let text = refusal(pointer, key, value);
            assert!(text.contains(expected), "{text}");
        }
    }
}
