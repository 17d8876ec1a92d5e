//! A source of tensors: a directory or a file, its names without wrappers, and what kind of thing it is.

use crate::convert::elements::same_bytes;
use crate::convert::report::Dropped;
use crate::directory::text_file::{LONGEST_CONFIG, read_object};
use crate::directory::weights::{Weights, list};
use crate::error::{CheckpointError, Result};
use crate::facts::rename::captures;
use crate::gguf::{self, GgufFile};
use crate::inspect::OtherTower;
use otter_formats::TensorEntry;
use otter_model::text::{FAMILIES, Family};
use serde_json::{Map, Value};
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

/// What a source holds, told from its names and its configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceKind {
    /// A whole Otter or Flamingo in the Hugging Face layout.
    Otter,
    /// Some tensors of an Otter: `final_weights.pt`, a trainer checkpoint.
    OtterPart,
    /// An Otter whose language model carries LoRA adapters.
    Adapted,
    /// The trained part of an OpenFlamingo, v1 or v2.
    OpenFlamingo,
    /// A plain language model.
    LanguageModel(&'static Family),
    /// A CLIP model of Hugging Face.
    Clip,
    /// A CLIP model of open_clip.
    OpenClip,
    /// None of these.
    Unknown,
}

impl fmt::Display for SourceKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Otter => formatter.write_str("a whole Otter"),
            Self::OtterPart => formatter.write_str("a part of an Otter"),
            Self::Adapted => formatter.write_str("an Otter with LoRA adapters"),
            Self::OpenFlamingo => formatter.write_str("the trained part of an OpenFlamingo"),
            Self::LanguageModel(model) => write!(formatter, "a plain {} language model", model.name),
            Self::Clip => formatter.write_str("a Hugging Face CLIP model"),
            Self::OpenClip => formatter.write_str("an open_clip model"),
            Self::Unknown => formatter.write_str("no known kind of checkpoint"),
        }
    }
}

/// Tensors by clean name, in file order.
#[derive(Debug)]
pub struct Source {
    /// The directory or file that was given.
    pub path: PathBuf,
    /// `config.json` beside the weights, if there is one.
    pub config: Option<Map<String, Value>>,
    /// What it is.
    pub kind: SourceKind,
    /// Names without wrappers, with the tensors.
    pub tensors: Vec<(String, TensorEntry)>,
    /// Tensors left out on opening, and other content that is not weights.
    pub dropped: Vec<Dropped>,
    /// The GGUF file that holds configuration and tokenizer too.
    pub gguf: Option<GgufFile>,
    by_name: HashMap<String, usize>,
}

impl Source {
    /// Opens a directory or file.
    ///
    /// # Errors
    /// When there are no weights, or a file is damaged.
    pub fn open(path: &Path) -> Result<Self> {
        let weights = open_weights(path)?;
        // A file by itself may lie beside any configuration; only in a directory the two belong together.
        let config_path = path.join("config.json");
        let gguf = gguf::file_of(path).map(|file| GgufFile::open(&file)).transpose()?;
        let config = match &gguf {
            Some(file) if file.is_otter()? => Some(file.config()?),
            Some(file) => file.text_config()?.as_object().cloned(),
            None if config_path.is_file() => Some(read_object(&config_path, LONGEST_CONFIG)?),
            None => None,
        };
        let mut dropped: Vec<Dropped> =
            weights.notes().iter().map(|note| Dropped::new(path, "", note.clone())).collect();
        let mut tensors = Vec::with_capacity(weights.len());
        let mut by_name = HashMap::with_capacity(weights.len());
        for name in weights.names() {
            let Some(entry) = weights.get(name) else { continue };
            by_name.insert(name.to_owned(), tensors.len());
            tensors.push((name.to_owned(), entry.clone()));
        }
        let mut source = Self {
            path: path.to_path_buf(),
            config,
            kind: SourceKind::Unknown,
            tensors,
            dropped: Vec::new(),
            gguf,
            by_name,
        };
        source.resolve_aliases(&mut dropped)?;
        source.kind = source.detect();
        source.dropped = dropped;
        Ok(source)
    }

    /// A tensor by clean name.
    pub fn get(&self, name: &str) -> Option<&TensorEntry> {
        self.by_name.get(name).map(|&at| &self.tensors[at].1)
    }

    /// Clean names in file order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.iter().map(|(name, _)| name.as_str())
    }

    /// The language model that the configuration, or else the names, tell.
    pub fn language_model(&self) -> Option<&'static Family> {
        let config = self.config.as_ref();
        let text = config.and_then(|c| c.get("text_config").and_then(Value::as_object).or(Some(c)));
        let declared = text.and_then(|text| {
            let architecture = match text.get("architectures") {
                Some(Value::Array(names)) => names.first().and_then(Value::as_str),
                other => other.and_then(Value::as_str),
            };
            Family::find(text.get("model_type").and_then(Value::as_str), architecture)
        });
        declared.or_else(|| {
            FAMILIES.into_iter().find(|model| {
                let table = model.wrapped_input_table();
                self.get(model.input_table).is_some() || self.get(&table).is_some()
            })
        })
    }

    /// What can be said of a source of no known kind.
    pub(super) fn unknown_kind(&self) -> String {
        let names: Vec<&str> = self.names().collect();
        match OtherTower::of(self.config.as_ref(), &names) {
            Some(tower) => format!("this is {tower}, a tower that no Otter has"),
            None => "this is no known kind of checkpoint".to_owned(),
        }
    }

    /// What stands in front of the names of a CLIP tower, where this holds one: Transformers 5 leaves `vision_model.` out.
    pub(super) fn clip_prefix(&self) -> Option<&'static str> {
        ["vision_model.", ""]
            .into_iter()
            .find(|prefix| self.get(&format!("{prefix}embeddings.class_embedding")).is_some())
    }

    fn detect(&self) -> SourceKind {
        let any = |test: &dyn Fn(&str) -> bool| self.names().any(test);
        let part = |name: &str| name.starts_with("perceiver.") || name.starts_with("lang_encoder.");
        if any(&|name| name.contains(".lora_A.") || name.contains(".lora_embedding_A.")) && any(&part) {
            return SourceKind::Adapted;
        }
        if any(&|name| {
            name.contains(".gated_cross_attn_layer.ff.")
                || captures("perceiver.layers.#.0.*", name).is_some()
                || captures("perceiver.layers.#.1.*", name).is_some()
        }) {
            return SourceKind::OpenFlamingo;
        }
        if any(&part) {
            let whole = self.get("perceiver.latents").is_some()
                && any(&|name| name.starts_with("vision_encoder."))
                && any(&|name| name.contains(".decoder_layer."));
            return if whole { SourceKind::Otter } else { SourceKind::OtterPart };
        }
        if self.get("visual.conv1.weight").is_some() {
            return SourceKind::OpenClip;
        }
        if self.clip_prefix().is_some() {
            return SourceKind::Clip;
        }
        self.language_model().map_or(SourceKind::Unknown, SourceKind::LanguageModel)
    }

    /// OpenFlamingo keeps its blocks and decoder layers under a second name. Such a name is dropped when the first one is
    /// there with the same content, and becomes the first one when it is not.
    fn resolve_aliases(&mut self, dropped: &mut Vec<Dropped>) -> Result<()> {
        let is_alias = |name: &str| {
            name.starts_with("lang_encoder.gated_cross_attn_layers.")
                || name.starts_with("lang_encoder.old_decoder_blocks.")
        };
        if !self.names().any(is_alias) {
            return Ok(());
        }
        let mut layers = FAMILIES.iter().map(|family| family.wrapped_layers());
        let layers = layers.find(|path| self.names().any(|name| name.starts_with(&format!("{path}."))));
        let stands_for = |name: &str| {
            let lists = [
                ("gated_cross_attn_layers", "gated_cross_attn_layer"),
                ("old_decoder_blocks", "decoder_layer"),
            ];
            lists.into_iter().find_map(|(list, child)| {
                let found = captures(&format!("lang_encoder.{list}.#.*"), name)?;
                Some(format!("{}.{}.{child}.{}", layers.as_deref()?, found[0], found[1]))
            })
        };
        let all = std::mem::take(&mut self.tensors);
        let mut differing = Vec::new();
        for (name, entry) in &all {
            if !is_alias(name) {
                self.tensors.push((name.clone(), entry.clone()));
                continue;
            }
            let Some(first) = stands_for(name) else {
                let reason = "alias of a decoder layer that the file does not hold";
                dropped.push(Dropped::new(&self.path, name, reason));
                continue;
            };
            match self.by_name.get(&first).map(|&at| &all[at].1) {
                None => self.tensors.push((first, entry.clone())),
                Some(original) if same_bytes(original, entry) => {
                    dropped.push(Dropped::new(
                        &self.path,
                        name,
                        format!("alias of {first}, with the same content"),
                    ));
                }
                Some(_) => differing.push(name.as_str()),
            }
        }
        if !differing.is_empty() {
            let problem =
                format!("aliases whose content differs from what they stand for:{}", list(&differing));
            return Err(CheckpointError::format(&self.path, problem));
        }
        self.by_name = self.tensors.iter().enumerate().map(|(at, (name, _))| (name.clone(), at)).collect();
        Ok(())
    }
}

/// File names of open_clip's own directories.
const OPEN_CLIP_FILES: [&str; 2] = ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"];

/// Weights of a directory in a standard form, or open_clip's file there, or its only `.pt` file, or a file.
fn open_weights(path: &Path) -> Result<Weights> {
    match Weights::open(path) {
        Err(CheckpointError::NoWeights { .. }) => {}
        other => return other,
    }
    if let Some(file) = OPEN_CLIP_FILES.iter().map(|name| path.join(name)).find(|file| file.is_file()) {
        return Weights::open_file(&file);
    }
    let listing = fs::read_dir(path).map_err(CheckpointError::io(path, "list"))?;
    let mut found: Vec<PathBuf> = listing.filter_map(|item| Some(item.ok()?.path())).collect();
    found.retain(|file| file.extension().is_some_and(|extension| extension == "pt"));
    found.sort();
    match &found[..] {
        [only] => Weights::open_file(only),
        [] => Err(CheckpointError::NoWeights { path: path.to_path_buf() }),
        several => {
            let names: Vec<String> = several.iter().map(|file| file.display().to_string()).collect();
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            Err(CheckpointError::format(
                path,
                format!("several .pt files; name the one to convert:{}", list(&names)),
            ))
        }
    }
}

/// Fails when a name is in the list twice.
pub(super) fn require_unique(path: &Path, names: impl Iterator<Item = String>) -> Result<()> {
    let mut seen = HashSet::new();
    for name in names {
        if !seen.insert(name.clone()) {
            let problem =
                format!("two tensors would be named `{}`; the file mixes two formats", name.escape_debug());
            return Err(CheckpointError::format(path, problem));
        }
    }
    Ok(())
}
