//! The activation of a feed-forward by its names in a `config.json`.

use serde_json::{Map, Value, json};

use super::{Result, Section, set};
use crate::text::config::HiddenActivation;

/// The activation of a feed-forward without a gate.
pub(crate) fn activation(
    text: &Section<'_>,
    key: &str,
    default: HiddenActivation,
) -> Result<HiddenActivation> {
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
pub(crate) fn write_activation(map: &mut Map<String, Value>, key: &str, activation: HiddenActivation) {
    if map.get(key).and_then(Value::as_str).and_then(activation_of) != Some(activation) {
        let name = match activation {
            HiddenActivation::Gelu => "gelu",
            HiddenActivation::GeluTanh => "gelu_new",
            HiddenActivation::Relu => "relu",
        };
        set(map, key, json!(name));
    }
}
