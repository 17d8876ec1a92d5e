//! `text_config` of a `config.json`: what every language model has there. The rest is in the file of its family.

use otter_model::config::TextConfig;
use otter_model::text::config_json::{ROPE_KEYS, foreign, set};
use otter_model::text::{FAMILIES, Family};
use serde_json::{Map, Value, json};

use crate::config::keys::GENERIC;
use crate::config::section::{Section, UnknownKeys};
use crate::error::Result;

/// What to do about weights that were quantized by another program.
pub(crate) const UNQUANTIZED: &str =
    "quantized checkpoints are not supported; use the f32, f16 or bf16 one, or llama.cpp's GGUF file";

/// Keys of the section and of those inside it that nothing here knows.
pub(crate) fn unknown_text_keys(family: &Family, text: &Section<'_>) -> Result<Vec<String>> {
    let foreign = foreign::names();
    let mut unknown = text.unknown_keys(&[family.keys, GENERIC, &foreign]);
    for (name, keys) in FAMILIES.iter().flat_map(|family| family.inner_keys) {
        if let Some(inner) = text.optional_section(name)? {
            unknown.extend(inner.unknown_keys(&[keys, &foreign]));
        }
    }
    for name in ["rope_scaling", "rope_parameters"] {
        if let Some(rope) = text.optional_section(name)? {
            unknown.extend(rope.unknown_keys(&[ROPE_KEYS]));
        }
    }
    Ok(unknown)
}

/// Reads the sizes of a language model. What would change numbers in a way that is not computed is an error.
pub(crate) fn text_config(
    family: &Family,
    text: &Section<'_>,
    warnings: &mut Vec<String>,
) -> Result<TextConfig> {
    foreign::refuse(text, family.keys)?;
    text.must_be_absent("quantization_config", UNQUANTIZED)?;
    Ok((family.read)(text, warnings)?)
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
    text.write(map);
}
