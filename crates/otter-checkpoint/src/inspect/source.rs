//! What lies at a path, opened as far as it can be: shards may be missing, the configuration may be of an unknown kind.

use crate::atomic;
use crate::directory::text_file::{LONGEST_CONFIG, LONGEST_INDEX, read_json, read_object};
use crate::directory::weights::{WeightForm, Weights};
use crate::error::{CheckpointError, Result};
use crate::gguf::{self, GgufFile};
use otter_formats::FormatError;
use otter_formats::TensorEntry;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Endings of weight files with names of their own.
const ENDINGS: [&str; 5] = ["pt", "pth", "bin", "safetensors", "gguf"];
/// Lists of shards.
const INDICES: [(&str, WeightForm); 2] = [
    ("model.safetensors.index.json", WeightForm::ShardedSafetensors),
    ("pytorch_model.bin.index.json", WeightForm::ShardedTorch),
];

/// A weight file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileSummary {
    /// The file.
    pub path: PathBuf,
    /// Its length; `None` where it is missing.
    pub bytes: Option<u64>,
    /// Tensors that it holds, or should hold by the index.
    pub tensors: usize,
}

/// Configuration and tensors at a path.
pub(crate) struct Source {
    /// `config.json` as it is.
    pub config: Option<Map<String, Value>>,
    /// Tensors in file order.
    pub tensors: Vec<(String, TensorEntry)>,
    pub form: Option<WeightForm>,
    pub files: Vec<FileSummary>,
    pub notes: Vec<String>,
}

impl Source {
    /// Opens a directory or a file.
    ///
    /// # Errors
    /// When there is neither a configuration nor a weight file, or a file is damaged or hostile.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        if !path.exists() {
            atomic::recover(path)?;
        }
        if let Some(file) = gguf::file_of(path) {
            let own = GgufFile::open(&file)?;
            let config = if own.is_otter()? { own.config()? } else { language_config(&own)? };
            let mut source = Self { config: Some(config), ..Self::empty() };
            source.add(&Weights::open(path)?);
            return Ok(source);
        }
        if path.is_file() {
            let beside = path.parent().map(|folder| folder.join("config.json")).filter(|file| file.is_file());
            let config = beside.as_deref().map(|file| read_object(file, LONGEST_CONFIG)).transpose()?;
            let mut source = Self { config, ..Self::empty() };
            source.add(&Weights::open_file(path)?);
            return Ok(source);
        }
        let config = path.join("config.json");
        let config = config.is_file().then(|| read_object(&config, LONGEST_CONFIG)).transpose()?;
        let mut source = Self { config, ..Self::empty() };
        match Weights::open(path) {
            Ok(weights) => source.add(&weights),
            Err(error) => match &error {
                CheckpointError::NoWeights { .. } => source.open_lone_file(path, error)?,
                CheckpointError::File(FormatError::Io { .. }) if !source.open_some_shards(path)? => {
                    return Err(error);
                }
                CheckpointError::File(FormatError::Io { .. }) => {}
                _ => return Err(error),
            },
        }
        Ok(source)
    }

    fn empty() -> Self {
        Self { config: None, tensors: Vec::new(), form: None, files: Vec::new(), notes: Vec::new() }
    }

    fn add(&mut self, weights: &Weights) {
        let mut counts: BTreeMap<PathBuf, usize> = BTreeMap::new();
        for name in weights.names() {
            let Some(entry) = weights.get(name) else { continue };
            *counts.entry(entry.location.path.to_path_buf()).or_default() += 1;
            self.tensors.push((name.to_owned(), entry.clone()));
        }
        for path in weights.files() {
            let bytes = fs::metadata(path).ok().map(|metadata| metadata.len());
            let tensors = counts.get(path).copied().unwrap_or(0);
            self.files.push(FileSummary { path: path.clone(), bytes, tensors });
        }
        self.form.get_or_insert(weights.form());
        self.notes.extend(weights.notes().iter().cloned());
        self.notes.extend(weights.unwrapped().map(str::to_owned));
    }

    /// A directory with a trainer's file and nothing else. Of several the one with the highest number counts.
    fn open_lone_file(&mut self, directory: &Path, none: CheckpointError) -> Result<()> {
        let mut found = Vec::new();
        let listing = fs::read_dir(directory).map_err(CheckpointError::io(directory, "list"))?;
        for item in listing {
            let path = item.map_err(CheckpointError::io(directory, "list"))?.path();
            let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
            if path.is_file() && ENDINGS.contains(&ending) {
                found.push(path);
            }
        }
        found.sort_by_key(|path| {
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let digits: String = name.chars().filter(char::is_ascii_digit).collect();
            (name == "final_weights", digits.parse::<u64>().unwrap_or(0), name)
        });
        match found.pop() {
            Some(newest) => {
                self.add(&Weights::open_file(&newest)?);
                let others: Vec<String> = found.iter().map(|path| file_name(path)).collect();
                if !others.is_empty() {
                    let newest = file_name(&newest);
                    self.notes.push(format!(
                        "{newest} is looked at; the directory also holds {}",
                        others.join(", ")
                    ));
                }
                Ok(())
            }
            // Sizes and tokens can still be told.
            None if self.config.is_some() => {
                self.notes.push(none.to_string());
                Ok(())
            }
            None => Err(nothing_there(directory).unwrap_or(none)),
        }
    }

    /// Opens the shards that are there; false where there is no index.
    fn open_some_shards(&mut self, directory: &Path) -> Result<bool> {
        let Some((index, form)) = INDICES.iter().find(|(name, _)| directory.join(name).is_file()) else {
            return Ok(false);
        };
        let path = directory.join(index);
        let value: Value = read_json(&path, LONGEST_INDEX)?;
        let mut shards: BTreeMap<&str, usize> = BTreeMap::new();
        for shard in value["weight_map"].as_object().into_iter().flat_map(Map::values) {
            // The loader refuses any other name; so nothing outside the folder is touched here.
            let plain = |name: &&str| {
                !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\\', ':', '\0'])
            };
            let shard = shard
                .as_str()
                .filter(plain)
                .ok_or_else(|| CheckpointError::format(&path, "a shard must be a file of the same folder"))?;
            *shards.entry(shard).or_default() += 1;
        }
        self.form = Some(*form);
        for (shard, tensors) in shards {
            let path = directory.join(shard);
            if path.is_file() {
                self.add(&Weights::open_file(&path)?);
            } else {
                self.files.push(FileSummary { path, bytes: None, tensors });
            }
        }
        Ok(true)
    }
}

/// The configuration of llama.cpp's language models, in the words of Hugging Face; empty where it has none.
fn language_config(file: &GgufFile) -> Result<Map<String, Value>> {
    match file.text_config()? {
        Value::Object(object) => Ok(object),
        _ => Ok(Map::new()),
    }
}

/// Points from the directory of a run to the checkpoint inside it.
fn nothing_there(directory: &Path) -> Option<CheckpointError> {
    let inside = |folder: PathBuf| {
        let mut names: Vec<PathBuf> =
            fs::read_dir(folder).ok()?.filter_map(|item| Some(item.ok()?.path())).collect();
        names.sort();
        names.into_iter().rev().find_map(|path| {
            [path.join("model"), path].into_iter().find(|model| model.join("config.json").is_file())
        })
    };
    let found = inside(directory.join("checkpoints")).or_else(|| inside(directory.to_path_buf()))?;
    let problem = format!("holds no checkpoint itself; there is one in {}", found.display());
    Some(CheckpointError::format(directory, problem))
}

/// The last component of a path.
pub(crate) fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
