//! The base vision tower of a conversion: a CLIP model of Hugging Face or of open_clip, or that inside an Otter.

use crate::convert::elements::rows;
use crate::convert::plan::PlannedTensor;
use crate::convert::report::{Dropped, folder_name};
use crate::convert::source::{Source, SourceKind};
use crate::directory::account::reason_to_ignore;
use crate::directory::text_file::{LONGEST_CONFIG, read_object};
use crate::directory::weights::list;
use crate::error::{CheckpointError, Result};
use crate::facts::rename::captures;
use crate::facts::tables::{CLIP, OPEN_CLIP, OPEN_CLIP_FUSED};
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};

/// Parts of a whole CLIP model that an Otter has no use for.
const TEXT_SIDE: &[&str] = &[
    "text_model.",
    "text_projection",
    "visual_projection",
    "logit_scale",
    "logit_bias",
    "transformer.",
    "token_embedding.",
    "positional_embedding",
    "ln_final.",
    "visual.proj",
    "attn_mask",
    "text.",
];

/// A vision tower whose tensors have the names they get inside an Otter.
#[derive(Debug)]
pub(in crate::convert) struct Vision {
    pub path: PathBuf,
    /// To become `vision_config`.
    pub config: Map<String, Value>,
    pub tensors: Vec<PlannedTensor>,
    /// Width of its features.
    pub width: usize,
    pub warnings: Vec<String>,
}

impl Vision {
    /// Opens a directory, or an open_clip file.
    ///
    /// # Errors
    /// When it holds no CLIP tower, has no configuration, or has tensors that are not known.
    pub fn open(path: &Path, dropped: &mut Vec<Dropped>) -> Result<Self> {
        let source = Source::open(path)?;
        dropped.extend(source.dropped.iter().cloned());
        let mut warnings = Vec::new();
        let (tensors, config) = match source.kind {
            SourceKind::Clip => (hugging_face(&source, dropped)?, hugging_face_config(&source)?),
            SourceKind::OpenClip => {
                let tensors = open_clip(&source, dropped)?;
                let config = open_clip_config(&source, &tensors, &mut warnings)?;
                (tensors, config)
            }
            SourceKind::Otter => (inside_otter(&source, dropped), hugging_face_config(&source)?),
            other => {
                let found = if other == SourceKind::Unknown {
                    source.unknown_kind()
                } else {
                    format!("this is {other}")
                };
                let problem = format!("{found}; expected a CLIP model (--base-vision)");
                return Err(CheckpointError::format(path, problem));
            }
        };
        let class = "vision_encoder.vision_model.embeddings.class_embedding";
        let width = tensors.iter().find(|tensor| tensor.name == class).and_then(|t| t.shape.first().copied());
        let Some(width) = width else {
            return Err(CheckpointError::format(
                path,
                format!("no `{class}`: the tower is not a CLIP transformer"),
            ));
        };
        Ok(Self { path: path.to_path_buf(), config, tensors, width, warnings })
    }
}

fn hugging_face(source: &Source, dropped: &mut Vec<Dropped>) -> Result<Vec<PlannedTensor>> {
    let mut tensors = Vec::new();
    let mut unknown = Vec::new();
    // The names that other releases write begin with `vision_model.`.
    let lacking = if source.clip_prefix() == Some("") { "vision_model." } else { "" };
    for (name, entry) in &source.tensors {
        if let Some(reason) = reason_to_ignore(name).or_else(|| text_side(name)) {
            dropped.push(Dropped::new(&source.path, name, reason));
        } else if let Some(renamed) = CLIP.forward(&format!("{lacking}{name}")) {
            tensors.push(PlannedTensor::copy(renamed, name, entry));
        } else {
            unknown.push(name.as_str());
        }
    }
    known(&source.path, &unknown)?;
    Ok(tensors)
}

fn inside_otter(source: &Source, dropped: &mut Vec<Dropped>) -> Vec<PlannedTensor> {
    let mut tensors = Vec::new();
    for (name, entry) in &source.tensors {
        match reason_to_ignore(name) {
            _ if !name.starts_with("vision_encoder.") => {
                dropped.push(Dropped::new(&source.path, name, "only the vision tower is taken from here"));
            }
            Some(reason) => dropped.push(Dropped::new(&source.path, name, reason)),
            None => tensors.push(PlannedTensor::copy(name.clone(), name, entry)),
        }
    }
    tensors
}

fn open_clip(source: &Source, dropped: &mut Vec<Dropped>) -> Result<Vec<PlannedTensor>> {
    let mut tensors = Vec::new();
    let mut unknown = Vec::new();
    for (name, entry) in &source.tensors {
        if let Some(reason) = text_side(name) {
            dropped.push(Dropped::new(&source.path, name, reason));
            continue;
        }
        let fused =
            OPEN_CLIP_FUSED.iter().find_map(|(pattern, parts)| Some((captures(pattern, name)?[0], parts)));
        if let Some((layer, parts)) = fused {
            let height = entry.shape.first().copied().unwrap_or(0);
            if !height.is_multiple_of(parts.len()) {
                let problem = format!("{height} rows cannot be query, key and value");
                return Err(CheckpointError::tensor(&source.path, name, problem));
            }
            let height = height / parts.len();
            for (at, part) in parts.iter().enumerate() {
                let part_entry = rows(entry, name, at * height..(at + 1) * height)?;
                let renamed = CLIP.forward(&part.replace('#', layer)).unwrap_or_default();
                tensors.push(PlannedTensor::copy(renamed, name, &part_entry));
            }
        } else if let Some(renamed) = OPEN_CLIP.forward(name).and_then(|renamed| CLIP.forward(&renamed)) {
            tensors.push(PlannedTensor::copy(renamed, name, entry));
        } else {
            unknown.push(name.as_str());
        }
    }
    known(&source.path, &unknown)?;
    Ok(tensors)
}

fn text_side(name: &str) -> Option<&'static str> {
    let outside = TEXT_SIDE.iter().any(|part| name == *part || part.ends_with('.') && name.starts_with(part))
        || ["text_projection.", "visual_projection."].iter().any(|part| name.starts_with(part));
    outside.then_some("not part of the vision tower")
}

fn known(path: &Path, unknown: &[&str]) -> Result<()> {
    if unknown.is_empty() {
        return Ok(());
    }
    let problem = format!("tensors that no CLIP vision transformer has:{}", list(unknown));
    Err(CheckpointError::format(path, problem))
}

/// The configuration of the tower: the file itself, or a section of it.
fn hugging_face_config(source: &Source) -> Result<Map<String, Value>> {
    let config = source.config.as_ref().ok_or_else(|| {
        let problem = "no configuration of the vision tower; expected config.json beside its weights";
        CheckpointError::format(&source.path, problem)
    })?;
    let section = config.get("vision_config").and_then(Value::as_object).unwrap_or(config);
    let mut vision = section.clone();
    for key in ["auto_map", "_commit_hash", "architectures", "transformers_version"] {
        vision.shift_remove(key);
    }
    vision.insert("model_type".to_owned(), json!("clip_vision_model"));
    let named = vision.get("_name_or_path").and_then(Value::as_str).is_some_and(|name| !name.is_empty());
    if !named {
        vision.insert("_name_or_path".to_owned(), json!(folder_name(&source.path)));
    }
    Ok(vision)
}

/// open_clip files carry no configuration: the sizes follow from the tensors, and the rest from `open_clip_config.json`
/// where it lies beside them.
fn open_clip_config(
    source: &Source,
    tensors: &[PlannedTensor],
    warnings: &mut Vec<String>,
) -> Result<Map<String, Value>> {
    let shape = |name: &str| {
        let name = format!("vision_encoder.vision_model.{name}");
        let tensor = tensors.iter().find(|tensor| tensor.name == name);
        tensor.map(|tensor| tensor.shape.clone()).ok_or_else(|| {
            CheckpointError::format(
                &source.path,
                format!("the tower has no `{name}` (as Hugging Face names it)"),
            )
        })
    };
    let patch = shape("embeddings.patch_embedding.weight")?;
    let positions = shape("embeddings.position_embedding.weight")?;
    let inner = shape("encoder.layers.0.mlp.fc1.weight")?;
    let (&[width, channels, patch_size, _], &[positions, _], &[inner, _]) =
        (&patch[..], &positions[..], &inner[..])
    else {
        return Err(CheckpointError::format(
            &source.path,
            "the tensors of the tower have other shapes than CLIP's",
        ));
    };
    let side = positions.saturating_sub(1).isqrt();
    if side * side + 1 != positions {
        let problem = format!("{positions} positions are not a square of patches and a class token");
        return Err(CheckpointError::format(&source.path, problem));
    }
    let pattern = "vision_encoder.vision_model.encoder.layers.#.*";
    let layer =
        |t: &PlannedTensor| captures(pattern, &t.name).and_then(|found| found[0].parse::<usize>().ok());
    let layers = tensors.iter().filter_map(layer).max().map_or(0, |last| last + 1);
    let beside = source.path.join("open_clip_config.json");
    let model = match source.path.is_dir() && beside.is_file() {
        true => read_object(&beside, LONGEST_CONFIG)?.get("model_cfg").cloned(),
        false => None,
    };
    let head_width = model.as_ref().and_then(|m| m.pointer("/vision_cfg/head_width")?.as_u64()).unwrap_or(64);
    let quick = match &model {
        Some(model) => model.get("quick_gelu").and_then(Value::as_bool).unwrap_or(false),
        None => {
            warnings.push(format!(
                "{}: an open_clip file does not say its activation; quick_gelu is written, as OpenAI's weights have it, \
                 and heads of {head_width}",
                source.path.display()
            ));
            true
        }
    };
    let heads = (width as u64) / head_width.max(1);
    let config = json!({
        "_name_or_path": folder_name(&source.path),
        "attention_dropout": 0.0,
        "hidden_act": if quick { "quick_gelu" } else { "gelu" },
        "hidden_size": width,
        "image_size": side * patch_size,
        "intermediate_size": inner,
        "layer_norm_eps": 1e-5,
        "model_type": "clip_vision_model",
        "num_attention_heads": heads,
        "num_channels": channels,
        "num_hidden_layers": layers,
        "patch_size": patch_size,
    });
    match config {
        Value::Object(map) => Ok(map),
        _ => Ok(Map::new()),
    }
}
