//! `preprocessor_config.json`: how an image becomes the pixels of this model, in the words of Hugging Face's
//! `CLIPImageProcessor`.
//!
//! Images are always prepared as CLIP was trained. A file that asks for something else is refused by the key, because the
//! tower would see other pixels than it was trained on.

use crate::config::section::{Section, UnknownKeys, unknown_keys_warning};
use crate::directory::text_file::{LONGEST_CONFIG, read_object};
use crate::error::Result;
use serde_json::{Map, Value, json};
use std::path::Path;

/// Name of the file.
pub(crate) const PREPROCESSOR_CONFIG: &str = "preprocessor_config.json";
/// Bicubic, as Pillow numbers its filters.
const BICUBIC: u32 = 3;
/// Where Transformers 5 writes the same object under `image_processor`.
const PROCESSOR_CONFIG: &str = "processor_config.json";
const MEAN: [f64; 3] = [0.48145466, 0.4578275, 0.40821073];
const DEVIATION: [f64; 3] = [0.26862954, 0.26130258, 0.27577711];

/// Keys that are compared with what is computed.
const COMPARED: &[&str] = &[
    "crop_pct",
    "crop_size",
    "do_align_long_axis",
    "do_center_crop",
    "do_convert_rgb",
    "do_flip_channel_order",
    "do_normalize",
    "do_pad",
    "do_reduce_labels",
    "do_rescale",
    "do_resize",
    "do_thumbnail",
    "image_mean",
    "image_std",
    "offset",
    "resample",
    "rescale_factor",
    "rescale_offset",
    "size",
];

/// Keys that change no pixel.
const WITHOUT_EFFECT: &[&str] = &[
    "_processor_class",
    "_valid_processor_keys",
    "auto_map",
    "data_format",
    "default_to_square",
    "device",
    "disable_grouping",
    "feature_extractor_type",
    "image_processor_type",
    "image_seq_length",
    "input_data_format",
    "pad_size",
    "processor_class",
    "return_tensors",
    "size_divisor",
];

/// The processor of a model that takes square images of `image_size` pixels: short side to that size, center crop, and
/// the constants that CLIP was trained with. `otter` prepares images in the same way.
pub fn preprocessor_json(image_size: usize) -> Value {
    json!({
        "crop_size": { "height": image_size, "width": image_size },
        "do_center_crop": true,
        "do_convert_rgb": true,
        "do_normalize": true,
        "do_rescale": true,
        "do_resize": true,
        "feature_extractor_type": "CLIPFeatureExtractor",
        "image_mean": MEAN,
        "image_processor_type": "CLIPImageProcessor",
        "image_std": DEVIATION,
        "resample": BICUBIC,
        "rescale_factor": 0.00392156862745098,
        "size": { "shortest_edge": image_size },
    })
}

/// Compares the file beside a model, if there is one, with what is computed; returns warnings.
///
/// # Errors
/// When the file is damaged, or asks for other pixels than those of [`preprocessor_json`].
pub(crate) fn check_preprocessor(directory: &Path, image_size: usize) -> Result<Vec<String>> {
    let mut warnings = Vec::new();
    for (name, inner) in [(PREPROCESSOR_CONFIG, None), (PROCESSOR_CONFIG, Some("image_processor"))] {
        let path = directory.join(name);
        if !path.is_file() {
            continue;
        }
        let map = read_object(&path, LONGEST_CONFIG)?;
        let top = Section { path: &path, name: "", map: &map };
        let section = match inner {
            None => Some(top),
            Some(inner) => top.optional_section(inner)?,
        };
        if let Some(section) = section {
            check(&section, image_size)?;
            warnings.extend(unknown_keys_warning(&path, &section.unknown_keys(&[COMPARED, WITHOUT_EFFECT])));
        }
    }
    Ok(warnings)
}

fn check(section: &Section<'_>, image_size: usize) -> Result<()> {
    for key in ["do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_convert_rgb"] {
        if section.flag(key)? == Some(false) {
            return Err(section.wrong(key, &false, "images are always prepared with it (true)").into());
        }
    }
    for key in [
        "crop_pct",
        "do_align_long_axis",
        "do_flip_channel_order",
        "do_pad",
        "do_reduce_labels",
        "do_thumbnail",
        "offset",
        "rescale_offset",
    ] {
        section
            .must_be_inactive(key, "this changes pixels and is not computed here; only off is supported")?;
    }
    for (key, expected) in [("image_mean", MEAN), ("image_std", DEVIATION)] {
        let Some(value) = section.value(key) else { continue };
        let close =
            |(found, expected): (&Value, &f64)| found.as_f64().is_some_and(|x| (x - expected).abs() < 1e-6);
        let same =
            value.as_array().is_some_and(|list| list.len() == 3 && list.iter().zip(&expected).all(close));
        if !same {
            return Err(section
                .wrong(key, value, &format!("images are prepared with CLIP's, {expected:?}"))
                .into());
        }
    }
    if let Some(factor) = section.real("rescale_factor")?
        && (factor * 255.0 - 1.0).abs() > 1e-6
    {
        return Err(section.wrong("rescale_factor", &factor, "only 1/255 is supported").into());
    }
    if let Some(filter) = section.value("resample")
        && filter.as_u64() != Some(u64::from(BICUBIC))
        && filter.as_str().is_none_or(|name| !name.eq_ignore_ascii_case("bicubic"))
    {
        return Err(section.wrong("resample", filter, "only bicubic (3) is supported").into());
    }
    let is_size = |value: Option<&Value>| value.and_then(Value::as_u64) == Some(image_size as u64);
    let both = |map: &Map<String, Value>| is_size(map.get("height")) && is_size(map.get("width"));
    if let Some(size) = section.value("size") {
        let short_side =
            size.as_object().map_or(is_size(Some(size)), |map| is_size(map.get("shortest_edge")));
        if !short_side {
            let expected = format!(
                "the short side is resized to the {image_size} of vision_config ({{\"shortest_edge\": {image_size}}})"
            );
            return Err(section.wrong("size", size, &expected).into());
        }
    }
    if let Some(size) = section.value("crop_size")
        && !size.as_object().map_or(is_size(Some(size)), both)
    {
        return Err(section
            .wrong("crop_size", size, &format!("vision_config takes images of {image_size}"))
            .into());
    }
    Ok(())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn checked(name: &str, value: &Value) -> Result<Vec<String>> {
        let place = tempfile::tempdir().unwrap();
        std::fs::write(place.path().join(name), value.to_string()).unwrap();
        check_preprocessor(place.path(), 28)
    }

    #[test]
    fn what_clip_computes_passes_in_every_spelling() {
        let own = preprocessor_json(28);
        assert!(checked(PREPROCESSOR_CONFIG, &own).unwrap().is_empty());
        let older =
            json!({ "size": 28, "crop_size": 28, "resample": 3, "do_normalize": true, "do_pad": null });
        assert!(checked(PREPROCESSOR_CONFIG, &older).unwrap().is_empty());
        assert!(checked(PROCESSOR_CONFIG, &json!({ "image_processor": own })).unwrap().is_empty());
        let warnings =
            checked(PREPROCESSOR_CONFIG, &json!({ "do_normalise": false, "tomorrow": 1 })).unwrap();
        assert!(
            warnings[0].contains("did you mean `do_normalize`") && warnings[0].contains("tomorrow"),
            "{warnings:?}"
        );
    }

    #[test]
    fn other_pixels_are_refused_by_the_key() {
        for (key, value) in [
            ("image_mean", json!([0.5, 0.5, 0.5])),
            ("image_std", json!(0.5)),
            ("do_normalize", json!(false)),
            ("do_center_crop", json!(false)),
            ("resample", json!(2)),
            ("rescale_factor", json!(0.0078)),
            ("size", json!({ "height": 28, "width": 28 })),
            ("size", json!({ "shortest_edge": 30 })),
            ("crop_size", json!({ "height": 28, "width": 30 })),
            ("do_pad", json!(true)),
        ] {
            let mut file = preprocessor_json(28);
            file[key] = value;
            for (name, file) in
                [(PREPROCESSOR_CONFIG, file.clone()), (PROCESSOR_CONFIG, json!({ "image_processor": file }))]
            {
                let text = checked(name, &file).unwrap_err().to_string();
                assert!(text.contains(key) && text.contains(name), "{text}");
            }
        }
    }
}
