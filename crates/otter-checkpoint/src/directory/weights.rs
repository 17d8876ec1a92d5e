//! The tensors of a checkpoint directory or of a single file, whichever of the known forms they have:
//! `model.safetensors`, its shards, `pytorch_model.bin`, its shards, `model.gguf`.

use super::wrappers;
use crate::directory::text_file::{LONGEST_INDEX, read_json};
use crate::error::{CheckpointError, Result};
use crate::gguf;
use memmap2::Mmap;
use otter_formats::Content;
use otter_formats::{TensorEntry, map_file};
use otter_formats::{safetensors, torch};
use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Names listed in one message.
const MOST_LISTED: usize = 10;

/// How the weights of a directory are stored, in the order in which the original looks for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WeightForm {
    /// `model.safetensors`.
    Safetensors,
    /// `model.safetensors.index.json` and its shards.
    ShardedSafetensors,
    /// `pytorch_model.bin`.
    Torch,
    /// `pytorch_model.bin.index.json` and its shards.
    ShardedTorch,
    /// `model.gguf`.
    Gguf,
}

impl WeightForm {
    const ALL: [(Self, &'static str); 5] = [
        (Self::Safetensors, "model.safetensors"),
        (Self::ShardedSafetensors, "model.safetensors.index.json"),
        (Self::Torch, "pytorch_model.bin"),
        (Self::ShardedTorch, "pytorch_model.bin.index.json"),
        (Self::Gguf, gguf::FILE_NAME),
    ];
}

/// What one file is, told by its beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FileKind {
    Safetensors,
    Torch,
    Gguf,
}

impl FileKind {
    /// Safetensors begins with the length of its header, which may be any number, so that its ninth byte is asked first.
    fn sniff(path: &Path, bytes: &[u8]) -> Result<Self> {
        let header_opens = bytes.get(8) == Some(&b'{');
        let pickled = matches!(bytes, [0x80, 0..=5, ..]) && !header_opens;
        if bytes.starts_with(&gguf::MAGIC) {
            Ok(Self::Gguf)
        } else if torch::is_zip(bytes) || pickled {
            Ok(Self::Torch)
        } else if bytes.get(257..262) == Some(b"ustar") && !header_opens {
            Err(CheckpointError::format(
                path,
                "a tar archive, the form of PyTorch before version 0.4, which is not supported. \
                 Load it where it was made and save its state dict again",
            ))
        } else {
            Ok(Self::Safetensors)
        }
    }

    fn read(self, path: &Path, map: &Arc<Mmap>) -> Result<Content> {
        match self {
            Self::Safetensors => Ok((safetensors::read(path, map)?, Vec::new())),
            Self::Torch => Ok(torch::read(path, map)?),
            Self::Gguf => gguf::read(path, map),
        }
    }
}

impl fmt::Display for WeightForm {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Safetensors => "safetensors",
            Self::ShardedSafetensors => "sharded safetensors",
            Self::Torch => "PyTorch pickle",
            Self::ShardedTorch => "sharded PyTorch pickle",
            Self::Gguf => "GGUF",
        })
    }
}

/// Memory-mapped tensors by name. Nothing is copied until a tensor is read.
#[derive(Debug)]
pub struct Weights {
    path: PathBuf,
    form: WeightForm,
    files: Vec<PathBuf>,
    names: Vec<String>,
    entries: HashMap<String, TensorEntry>,
    notes: Vec<String>,
    unwrapped: Option<String>,
}

impl Weights {
    /// Opens a checkpoint directory or a single weight file.
    ///
    /// # Errors
    /// When there are no weights, or any file is missing, truncated, damaged or hostile.
    pub fn open(path: &Path) -> Result<Self> {
        if !path.is_dir() {
            return Self::open_file(path);
        }
        let found = WeightForm::ALL.into_iter().find(|(_, name)| path.join(name).exists());
        let (form, name) = match found {
            Some((form, name)) => (form, name.to_owned()),
            None => under_another_name(path)?,
        };
        let mut weights = match form {
            WeightForm::Safetensors | WeightForm::Torch | WeightForm::Gguf => {
                Self { path: path.to_path_buf(), ..Self::open_file(&path.join(&name))? }
            }
            WeightForm::ShardedSafetensors | WeightForm::ShardedTorch => {
                Self::open_shards(path, &name, form)?
            }
        };
        if found.is_none() {
            weights.notes.push(format!("the weights are read from {name}, the only ones there"));
        }
        Ok(weights)
    }

    /// Opens one file; its beginning says which form it has.
    ///
    /// # Errors
    /// As [`Weights::open`].
    pub fn open_file(path: &Path) -> Result<Self> {
        let map = map_file(path)?;
        let form = match FileKind::sniff(path, &map)? {
            FileKind::Safetensors => WeightForm::Safetensors,
            FileKind::Torch => WeightForm::Torch,
            FileKind::Gguf => WeightForm::Gguf,
        };
        let mut weights = Self::empty(path, form);
        weights.add_file(path, &map)?;
        weights.unwrap_names()?;
        Ok(weights)
    }

    fn empty(path: &Path, form: WeightForm) -> Self {
        let (files, names, notes) = (Vec::new(), Vec::new(), Vec::new());
        let (entries, unwrapped) = (HashMap::new(), None);
        Self { path: path.to_path_buf(), form, files, names, entries, notes, unwrapped }
    }

    fn open_shards(directory: &Path, index_name: &str, form: WeightForm) -> Result<Self> {
        let index_path = directory.join(index_name);
        let index: Index = read_json(&index_path, LONGEST_INDEX)?;
        if index.weight_map.0.is_empty() {
            let problem = "`weight_map` names no tensor; copy the index from where the checkpoint was made";
            return Err(CheckpointError::format(&index_path, problem));
        }
        let mut shards = BTreeSet::new();
        for (name, shard) in &index.weight_map.0 {
            if !is_plain_file_name(shard) {
                let problem = format!(
                    "tensor `{}` is said to be in `{}`; a shard must be a file of the same folder",
                    name.escape_debug(),
                    shard.escape_debug()
                );
                return Err(CheckpointError::format(&index_path, problem));
            }
            shards.insert(shard.as_str());
        }
        let mut weights = Self::empty(directory, form);
        let mut shard_of = HashMap::new();
        for shard in shards {
            let path = directory.join(shard);
            let map = map_file(&path)?;
            let before = weights.names.len();
            weights.add_file(&path, &map)?;
            for name in &weights.names[before..] {
                shard_of.insert(name.clone(), shard);
            }
        }
        let lost =
            index.weight_map.0.iter().filter(|(name, shard)| shard_of.get(name) != Some(&shard.as_str()));
        let lost: Vec<&str> = lost.map(|(name, _)| name.as_str()).collect();
        if !lost.is_empty() {
            let problem = format!("tensors that are not in the shard the index names:{}", list(&lost));
            return Err(CheckpointError::format(&index_path, problem));
        }
        let listed: HashSet<&str> = index.weight_map.0.iter().map(|(name, _)| name.as_str()).collect();
        let unlisted: Vec<&str> =
            weights.names.iter().map(String::as_str).filter(|name| !listed.contains(name)).collect();
        if !unlisted.is_empty() {
            weights
                .notes
                .push(format!("tensors in the shards that the index does not list:{}", list(&unlisted)));
        }
        weights.unwrap_names()?;
        Ok(weights)
    }

    /// Gives every tensor the name that it has without the wrappers of training.
    fn unwrap_names(&mut self) -> Result<()> {
        let clean = wrappers::unwrapped(&self.path, &self.names)?;
        if clean.removed.is_empty() {
            return Ok(());
        }
        let mut entries = std::mem::take(&mut self.entries);
        for (raw, name) in self.names.iter().zip(&clean.names) {
            if let Some(entry) = entries.remove(raw) {
                self.entries.insert(name.clone(), entry);
            }
        }
        self.names = clean.names;
        let removed: Vec<String> = clean.removed.iter().map(|prefix| format!("`{prefix}`")).collect();
        let removed = removed.join(", ");
        self.unwrapped = Some(format!("names are read without the wrappers of training in them: {removed}"));
        Ok(())
    }

    fn add_file(&mut self, path: &Path, map: &Arc<Mmap>) -> Result<()> {
        let (entries, notes) = FileKind::sniff(path, map)?.read(path, map)?;
        for (name, entry) in entries {
            if let Some(other) = self.entries.get(&name) {
                let other = other.location.path.display();
                let problem = format!("tensor `{}` is also in {other}", name.escape_debug());
                return Err(CheckpointError::format(path, problem));
            }
            self.names.push(name.clone());
            self.entries.insert(name, entry);
        }
        self.notes.extend(notes);
        self.files.push(path.to_path_buf());
        Ok(())
    }

    /// The directory or file that was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How the weights are stored.
    pub fn form(&self) -> WeightForm {
        self.form
    }

    /// The weight files.
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// Remarks about content that is not weights.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// A remark where names of the files have wrappers that are not in [`Weights::names`].
    pub fn unwrapped(&self) -> Option<&str> {
        self.unwrapped.as_deref()
    }

    /// Names in file order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(String::as_str)
    }

    /// Number of tensors.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether there are no tensors.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// One tensor's place.
    pub fn get(&self, name: &str) -> Option<&TensorEntry> {
        self.entries.get(name)
    }

    /// The mapped file and byte range of a tensor that is stored as aligned, contiguous 32-bit floats.
    pub fn mapped_f32(&self, name: &str) -> Option<(Arc<Mmap>, Range<usize>)> {
        self.get(name)?.mapped_f32()
    }

    /// All elements of a tensor in row-major order, widened to 32-bit floats.
    ///
    /// # Errors
    /// When there is no such tensor or its elements are not floats.
    pub fn read_f32(&self, name: &str) -> Result<Vec<f32>> {
        match self.get(name) {
            Some(entry) => Ok(entry.read_f32(name)?),
            None => Err(CheckpointError::NoTensor { path: self.path.clone(), name: name.to_owned() }),
        }
    }

    /// Whether two tensors hold the same bytes in the same shape; true also for one stored under two names.
    pub(crate) fn holds_same(&self, one: &str, other: &str) -> bool {
        let (Some(one), Some(other)) = (self.get(one), self.get(other)) else { return false };
        let (from, to) = (&one.location, &other.location);
        (one.dtype, &one.shape, &one.strides) == (other.dtype, &other.shape, &other.strides)
            && from.map.get(from.bytes.clone()) == to.map.get(to.bytes.clone())
    }

    /// Makes `name` the same tensor as the stored `source`.
    pub(crate) fn alias(&mut self, name: &str, source: &str) {
        if let Some(entry) = self.entries.get(source).cloned()
            && self.entries.insert(name.to_owned(), entry).is_none()
        {
            self.names.push(name.to_owned());
        }
    }
}

/// The weights of a directory that has none of the usual names: those of a variant (`model.fp16.safetensors`,
/// `model.safetensors.index.fp16.json`), or with a version in their name.
///
/// # Errors
/// When there are none, several, or shards without an index; files are named.
fn under_another_name(directory: &Path) -> Result<(WeightForm, String)> {
    let listing = fs::read_dir(directory).map_err(CheckpointError::io(directory, "list"))?;
    let mut names = Vec::new();
    for item in listing {
        names.extend(item.map_err(CheckpointError::io(directory, "list"))?.file_name().into_string().ok());
    }
    names.retain(|name| ["model.", "model-", "pytorch_model"].iter().any(|stem| name.starts_with(stem)));
    names.sort();
    let form = |name: &String| {
        let (single, sharded) = match name {
            name if name.contains(".safetensors") => {
                (WeightForm::Safetensors, WeightForm::ShardedSafetensors)
            }
            name if name.contains(".bin") => (WeightForm::Torch, WeightForm::ShardedTorch),
            _ => return None,
        };
        let is_index = name.contains(".index.") && name.ends_with(".json");
        let is_single = name.ends_with(".safetensors") || name.ends_with(".bin");
        Some(if is_index { sharded } else { single }).filter(|_| is_index || is_single)
    };
    let found: Vec<(WeightForm, String)> =
        names.into_iter().filter_map(|name| Some((form(&name)?, name))).collect();
    let is_shard = |name: &str| {
        let stem = name.trim_end_matches(".safetensors").trim_end_matches(".bin");
        stem.rsplit_once("-of-").is_some_and(|(_, count)| count.parse::<u32>().is_ok())
    };
    let whole: Vec<&(WeightForm, String)> = found.iter().filter(|(_, name)| !is_shard(name)).collect();
    match whole[..] {
        [only] => Ok(only.clone()),
        [] if found.is_empty() => Err(CheckpointError::NoWeights { path: directory.to_path_buf() }),
        [] => {
            let shards: Vec<&str> = found.iter().map(|(_, name)| name.as_str()).collect();
            let problem = format!(
                "shards without their index (such as model.safetensors.index.json); copy it from where the checkpoint was \
                 made:{}",
                list(&shards)
            );
            Err(CheckpointError::format(directory, problem))
        }
        _ => {
            let several: Vec<&str> = whole.iter().map(|(_, name)| name.as_str()).collect();
            let problem = format!(
                "several forms of the weights, none under a usual name; rename the one to read to model.safetensors (an \
                 index: model.safetensors.index.json):{}",
                list(&several)
            );
            Err(CheckpointError::format(directory, problem))
        }
    }
}

/// Up to ten names, one a line, and how many more there are.
pub(crate) fn list(names: &[&str]) -> String {
    let mut text = String::new();
    for name in names.iter().take(MOST_LISTED) {
        text.push_str("\n  ");
        text.extend(name.escape_debug());
    }
    if names.len() > MOST_LISTED {
        text.push_str(&format!("\n  … and {} more", names.len() - MOST_LISTED));
    }
    text
}

fn is_plain_file_name(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\\', ':', '\0'])
}

#[derive(Deserialize)]
struct Index {
    weight_map: WeightMap,
}

/// Name and shard, with a name that occurs twice refused.
struct WeightMap(Vec<(String, String)>);

impl<'de> Deserialize<'de> for WeightMap {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = WeightMap;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object that gives each tensor name its shard")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<WeightMap, A::Error> {
                let mut entries = Vec::new();
                let mut seen = HashSet::new();
                while let Some(name) = map.next_key::<String>()? {
                    let shard = map
                        .next_value()
                        .map_err(|error| A::Error::custom(format!("`weight_map.{name}`: {error}")))?;
                    if !seen.insert(name.clone()) {
                        return Err(A::Error::custom(format!("the name `{name}` occurs twice")));
                    }
                    entries.push((name, shard));
                }
                Ok(WeightMap(entries))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}
