//! Rotary positions in a `text_config`: `rope_parameters` of Transformers 5, or a base and `rope_scaling` before it.

use otter_model::config::{RopeConfig, RopeScaling};
use serde_json::{Map, Value, json};

use crate::config_keys::ROPE;
use crate::config_section::Section;
use crate::config_write::set;
use crate::error::Result;

/// Key of the object that Transformers 5 writes.
const PARAMETERS: &str = "rope_parameters";
/// Share of each head that is turned, inside that object.
const PARTIAL: &str = "partial_rotary_factor";

/// Base and scaling; `base` is the key of the base outside of `rope_parameters`.
pub(super) fn rope(text: &Section<'_>, base: &str) -> Result<RopeConfig> {
    let plain = RopeConfig::plain();
    let outer = text.real(base)?;
    let Some(rope) = section(text)? else {
        return Ok(RopeConfig { theta: outer.unwrap_or(plain.theta), ..plain });
    };
    rope.check_keys(ROPE, false)?;
    let theta = rope.real("rope_theta")?.or(outer).unwrap_or(plain.theta);
    let required = |key: &str| {
        rope.real(key)?.ok_or_else(|| rope.wrong(key, &"missing", "this kind of scaling needs it"))
    };
    let kind = rope.text("rope_type")?.or(rope.text("type")?).unwrap_or("default");
    let scaling = match kind {
        "default" => RopeScaling::None,
        "linear" => RopeScaling::Linear { factor: required("factor")? },
        "dynamic" => RopeScaling::Dynamic { factor: required("factor")? },
        "llama3" => RopeScaling::Llama3 {
            factor: required("factor")?,
            low_freq_factor: required("low_freq_factor")?,
            high_freq_factor: required("high_freq_factor")?,
            original_max_position_embeddings: rope.size("original_max_position_embeddings")?.ok_or_else(
                || rope.wrong("original_max_position_embeddings", &"missing", "llama3 needs it"),
            )?,
        },
        other => {
            return Err(rope.wrong("rope_type", &other, "supported: default, linear, dynamic, llama3"));
        }
    };
    Ok(RopeConfig { theta, scaling })
}

/// Share of each head's features that is turned; `outer` is its key outside of `rope_parameters`.
pub(super) fn rotated_share(text: &Section<'_>, outer: &str) -> Result<Option<f64>> {
    let inner = section(text)?.map_or(Ok(None), |rope| rope.real(PARTIAL))?;
    Ok(inner.or(text.real(outer)?).or(text.real(PARTIAL)?))
}

fn section<'a>(text: &Section<'a>) -> Result<Option<Section<'a>>> {
    Ok(text.optional_section("rope_scaling")?.or(text.optional_section(PARAMETERS)?))
}

/// Sets the keys of [`rope`] in the form that the file has, by default the older one; `share` is the key and value of
/// [`rotated_share`].
pub(super) fn write_rope(
    map: &mut Map<String, Value>,
    rope: &RopeConfig,
    base: &str,
    share: Option<(&str, f64)>,
) {
    let mut scaling = match rope.scaling {
        RopeScaling::None => json!({ "rope_type": "default" }),
        RopeScaling::Linear { factor } => json!({ "rope_type": "linear", "factor": factor }),
        RopeScaling::Dynamic { factor } => json!({ "rope_type": "dynamic", "factor": factor }),
        RopeScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_max_position_embeddings,
        } => json!({
            "rope_type": "llama3",
            "factor": factor,
            "low_freq_factor": low_freq_factor,
            "high_freq_factor": high_freq_factor,
            "original_max_position_embeddings": original_max_position_embeddings,
        }),
    };
    if map.get(PARAMETERS).is_some_and(Value::is_object) {
        scaling["rope_theta"] = json!(rope.theta);
        if let Some((_, share)) = share {
            scaling[PARTIAL] = json!(share);
        }
        set(map, PARAMETERS, scaling);
        map.shift_remove("rope_scaling");
        return;
    }
    set(map, base, json!(rope.theta));
    if let Some((key, share)) = share {
        set(map, key, json!(share));
    }
    // Transformers before 4.43 know the kind as `type`.
    if let Some(object) = scaling.as_object_mut() {
        object.insert("type".to_owned(), object["rope_type"].clone());
    }
    let unscaled = rope.scaling == RopeScaling::None;
    set(map, "rope_scaling", if unscaled { Value::Null } else { scaling });
}
