//! Sizes of a model as names, shapes and configuration show them, for any language model, loadable or not.

use crate::directory::account::reason_to_ignore;
use crate::facts::part::{is_input_table, is_output_table, language_name, layer_of};
use crate::facts::tower::OtherTower;
use otter_formats::TensorEntry;
use otter_model::text::families::LLAMA;
use otter_model::text::{FAMILIES, Family};
use serde_json::{Map, Value};
use std::collections::BTreeSet;
use std::fmt;

/// The language model of a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Language {
    /// One of a family that this project knows.
    Known(&'static Family),
    /// Another one, see [`Facts::model_type`].
    Other,
}

impl Language {
    /// By class or `model_type`.
    fn of_type(name: &str) -> Self {
        Family::find(Some(name), Some(name)).map_or(Self::Other, Self::Known)
    }

    /// Told by the path of a decoder layer.
    fn of_path(path: &str) -> Option<Self> {
        let path = path.strip_prefix("lang_encoder.").unwrap_or(path).strip_suffix('.')?;
        FAMILIES.into_iter().find(|family| family.layers == path).map(Self::Known)
    }
}

impl fmt::Display for Language {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Known(family) => family.name,
            Self::Other => "another language model",
        })
    }
}

/// What could be told without building the model.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// The language model's family.
    pub language: Option<Language>,
    /// Its `model_type` or class by the configuration.
    pub model_type: Option<String>,
    /// Width of the language model.
    pub width: Option<usize>,
    /// Decoder layers.
    pub layers: Option<usize>,
    /// Attention heads, and those of keys and values.
    pub heads: Option<(usize, usize)>,
    /// Rows of the input table, in the file or else by the configuration.
    pub rows: Option<usize>,
    /// Gated cross-attention blocks in the file.
    pub blocks: usize,
    /// A block stands before every so many layers.
    pub every: Option<usize>,
    /// Frames of a video at most.
    pub frames: Option<usize>,
    /// Width of the vision tower.
    pub vision_width: Option<usize>,
    /// Side of the image and of a patch, and the layers of the tower.
    pub image: Option<(usize, usize, usize)>,
    /// Latents of the Perceiver.
    pub latents: Option<usize>,
}

impl Facts {
    pub(crate) fn of(config: Option<&Map<String, Value>>, tensors: &[(String, TensorEntry)]) -> Self {
        let mut facts = Self::default();
        if let Some(config) = config {
            facts.read_config(config);
        }
        let (mut blocks, mut paths, mut deepest) = (BTreeSet::new(), BTreeSet::new(), None);
        for (name, entry) in tensors {
            if reason_to_ignore(name).is_some() {
                continue;
            }
            let first = entry.shape.first().copied();
            let last = entry.shape.last().copied();
            match name.as_str() {
                "perceiver.latents" => (facts.latents, facts.vision_width) = (first, last),
                "perceiver.frame_embs" => facts.frames = first,
                _ if is_input_table(name) => {
                    (facts.rows, facts.width) = (first, last);
                }
                _ if is_output_table(name) => facts.width = facts.width.or(last),
                _ => {}
            }
            let inner = language_name(name).unwrap_or_default();
            if let Some((path, layer)) = layer_of(inner) {
                paths.insert(path.to_owned());
                deepest = deepest.max(Some(layer));
                if inner.ends_with(".gated_cross_attn_layer.attn_gate") {
                    blocks.insert(layer);
                }
            }
        }
        facts.blocks = blocks.len();
        facts.every = facts.every.or(blocks.first().map(|first| first + 1));
        facts.layers = facts.layers.or(deepest.map(|deepest| deepest + 1));
        facts.language = facts.language.or_else(|| paths.iter().find_map(|path| Language::of_path(path)));
        facts
    }

    fn read_config(&mut self, config: &Map<String, Value>) {
        let top = Value::Object(config.clone());
        // The configuration of a plain language model or tower is the section itself.
        let section = |name: &str| if top[name].is_object() { &top[name] } else { &top };
        let (text, vision) = (section("text_config"), section("vision_config"));
        let number = |value: &Value, keys: &[&str]| {
            keys.iter().find_map(|key| value[*key].as_u64()).and_then(|number| usize::try_from(number).ok())
        };
        let class = match &text["architectures"] {
            Value::Array(list) => list.first().and_then(Value::as_str),
            other => other.as_str(),
        };
        let kind = text["model_type"].as_str().or(class);
        let of_class = class.map(Language::of_type).filter(|language| *language != Language::Other);
        let tower = kind.is_some_and(|kind| kind.starts_with("clip") || OtherTower::of_type(kind).is_some());
        if !tower {
            self.model_type = kind.map(str::to_owned);
            self.language = of_class.or(kind.map(Language::of_type));
            self.width = number(text, &["hidden_size", "d_model"]);
            self.layers = number(text, &["num_hidden_layers", "n_layers", "n_layer"]);
            let heads = number(text, &["num_attention_heads", "n_heads", "n_head"]);
            self.heads = heads.map(|heads| (heads, number(text, &["num_key_value_heads"]).unwrap_or(heads)));
            self.rows = number(text, &["vocab_size"]);
            // The first release leaves everything to the library's defaults.
            if self.language == Some(Language::Known(&LLAMA)) && top["text_config"].is_object() {
                self.width = self.width.or(Some(4096));
                self.layers = self.layers.or(Some(32));
                self.heads = self.heads.or(Some((32, 32)));
            }
        }
        self.every = number(&top, &["cross_attn_every_n_layers"]);
        self.frames = number(&top, &["max_num_frames"]);
        if tower || top["vision_config"].is_object() {
            self.vision_width = number(vision, &["hidden_size"]);
            let sizes = ["image_size", "patch_size", "num_hidden_layers"].map(|key| number(vision, &[key]));
            if let [Some(image), Some(patch), Some(layers)] = sizes {
                self.image = Some((image, patch, layers));
            }
        }
    }
}
