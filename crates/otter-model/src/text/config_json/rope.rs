//! Rotary positions in a `text_config`: `rope_parameters` of Transformers 5, or a base and `rope_scaling` before it.

use serde_json::{Map, Value, json};

use super::{Result, Section, set};
use crate::text::rope::{RopeConfig, RopeScaling};

/// Keys of `rope_scaling` and `rope_parameters`.
pub const ROPE_KEYS: &[&str] = &[
    "factor",
    "high_freq_factor",
    "low_freq_factor",
    "original_max_position_embeddings",
    "partial_rotary_factor",
    "rope_theta",
    "rope_type",
    "type",
];

/// Key of the object that Transformers 5 writes.
const PARAMETERS: &str = "rope_parameters";
/// Share of each head that is turned, inside that object.
const PARTIAL: &str = "partial_rotary_factor";

/// Context before the scaling, inside that object.
const ORIGINAL_CONTEXT: &str = "original_max_position_embeddings";

/// Base and scaling; `base` is the key of the base outside of `rope_parameters`.
pub(crate) fn rope(text: &Section<'_>, base: &str) -> Result<RopeConfig> {
    let plain = RopeConfig::plain();
    let outer = text.real(base)?;
    let Some(rope) = section(text)? else {
        return Ok(RopeConfig { theta: outer.unwrap_or(plain.theta), ..plain });
    };
    if let Some((key, value)) = rope.map.iter().find(|(_, value)| value.is_object()) {
        return Err(rope.wrong(key, value, "only the same rotary positions in every layer are supported"));
    }
    rope.must_be_inactive("mrope_section", "only one position a token is supported")?;
    let theta = rope.real("rope_theta")?.or(outer).unwrap_or(plain.theta);
    let required = |key: &str| {
        rope.real(key)?.ok_or_else(|| rope.wrong(key, &"missing", "this kind of scaling needs it"))
    };
    let kind = rope.text("rope_type")?.or(rope.text("type")?).unwrap_or("default");
    let scaling = match kind {
        "default" => RopeScaling::None,
        "linear" => RopeScaling::Linear { factor: required("factor")? },
        "dynamic" => {
            // Transformers scales from the context of the model, whatever this key says.
            let context = text.size("max_position_embeddings")?;
            if let Some(original) = rope.size(ORIGINAL_CONTEXT)?
                && context.is_some_and(|context| context != original)
            {
                let expected = "expected max_position_embeddings, or no such key";
                return Err(rope.wrong(ORIGINAL_CONTEXT, &original, expected));
            }
            RopeScaling::Dynamic { factor: required("factor")? }
        }
        "llama3" => RopeScaling::Llama3 {
            factor: required("factor")?,
            low_freq_factor: required("low_freq_factor")?,
            high_freq_factor: required("high_freq_factor")?,
            original_max_position_embeddings: rope
                .size(ORIGINAL_CONTEXT)?
                .ok_or_else(|| rope.wrong(ORIGINAL_CONTEXT, &"missing", "llama3 needs it"))?,
        },
        other => {
            return Err(rope.wrong("rope_type", &other, "supported: default, linear, dynamic, llama3"));
        }
    };
    Ok(RopeConfig { theta, scaling })
}

/// Share of each head's features that is turned; `outer` is its key outside of `rope_parameters`.
pub(crate) fn rotated_share(text: &Section<'_>, outer: &str) -> Result<Option<f64>> {
    let inner = section(text)?.map_or(Ok(None), |rope| rope.real(PARTIAL))?;
    Ok(inner.or(text.real(outer)?).or(text.real(PARTIAL)?))
}

/// For models that turn all features of a head.
pub(crate) fn must_turn_whole_heads(text: &Section<'_>) -> Result<()> {
    for section in [section(text)?, Some(Section { ..*text })].into_iter().flatten() {
        if let Some(share) = section.real(PARTIAL)?
            && share != 1.0
        {
            return Err(section.wrong(PARTIAL, &share, "only whole heads are turned in this model (1)"));
        }
    }
    Ok(())
}

/// Of two objects that do not say the same, neither can be trusted.
fn section<'a>(text: &Section<'a>) -> Result<Option<Section<'a>>> {
    let (older, newer) = (text.optional_section("rope_scaling")?, text.optional_section(PARAMETERS)?);
    match (older, newer) {
        (Some(older), Some(newer)) if older.map != newer.map => {
            let found = Value::Object(older.map.clone());
            Err(text.wrong(
                "rope_scaling",
                &found,
                &format!("{PARAMETERS} says otherwise; remove one of the two"),
            ))
        }
        (older, newer) => Ok(older.or(newer)),
    }
}

/// Sets the keys of [`rope`] in the form that the file has, by default the older one; `share` is the key and value of
/// [`rotated_share`].
pub(crate) fn write_rope(
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
