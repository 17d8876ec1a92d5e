//! The cache in the layout of the hub's Python tools, so that both find each other's files.
//!
//! ```text
//! <root>/models--org--name/blobs/<checksum>            contents
//!                          refs/<branch or tag>        a commit
//!                          snapshots/<commit>/<file>   links to blobs, and otter-pull.json
//! <root>/.locks/models--org--name/<checksum>.lock
//! ```

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::error::{HubError, Result};
use crate::local::record::{Record, without_byte_order_mark};
use crate::local::whole_file::write_atomically;
use crate::names::repository::{Commit, ModelReference, RepositoryId, Revision};

/// Largest index of shards that is read.
const MOST_INDEX_BYTES: u64 = 64 << 20;

/// The cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cache {
    root: PathBuf,
}

impl Cache {
    /// The cache in a folder, usually `$HF_HOME/hub`.
    pub fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The place of one repository.
    pub(crate) fn repository(&self, id: &RepositoryId) -> CachedRepository {
        CachedRepository {
            folder: self.root.join(id.folder_name()),
            locks: self.root.join(".locks").join(id.folder_name()),
        }
    }

    /// The folder with a complete copy of a model.
    ///
    /// # Errors
    /// When there is none; the message says what is there instead and how to get it.
    pub fn find(&self, reference: &ModelReference) -> Result<PathBuf> {
        let repository = self.repository(&reference.id);
        let not_here = |problem: String| HubError::NotHere {
            what: reference.to_string(),
            problem,
            advice: format!("get it with `{}`", pull_command(reference)),
        };
        let revision = reference.revision_or_default();
        let Some(commit) = repository.commit_of(&revision)? else {
            let problem = format!("no copy of revision {revision} is in the cache {}", self.root.display());
            let known = repository.known_references();
            let hint = match known.first() {
                Some(first) => {
                    format!(" (it has {}; write {}@{first} for that one)", known.join(", "), reference.id)
                }
                None => String::new(),
            };
            return Err(not_here(problem + &hint));
        };
        let snapshot = repository.snapshot(&commit);
        let missing = match Record::read(&snapshot)? {
            Some(record) => record.missing_files(&snapshot)?,
            None => missing_without_record(&snapshot)?,
        };
        if missing.is_empty() {
            return Ok(snapshot);
        }
        let shown = missing.iter().take(3).cloned().collect::<Vec<_>>().join(", ");
        let more = if missing.len() > 3 { format!(" and {} more", missing.len() - 3) } else { String::new() };
        Err(not_here(format!("its copy {} is incomplete: {shown}{more} missing", snapshot.display())))
    }
}

/// The command that gets a model.
pub(crate) fn pull_command(reference: &ModelReference) -> String {
    match &reference.revision {
        None => format!("otter pull {}", reference.id),
        Some(revision) => format!("otter pull {} --revision {revision}", reference.id),
    }
}

/// The place of one repository in the cache.
#[derive(Debug, Clone)]
pub(crate) struct CachedRepository {
    folder: PathBuf,
    locks: PathBuf,
}

impl CachedRepository {
    pub(crate) fn blobs(&self) -> PathBuf {
        self.folder.join("blobs")
    }

    pub(crate) fn locks(&self) -> PathBuf {
        self.locks.clone()
    }

    pub(crate) fn snapshot(&self, commit: &Commit) -> PathBuf {
        self.folder.join("snapshots").join(commit.as_str())
    }

    fn reference(&self, revision: &Revision) -> PathBuf {
        revision.as_str().split('/').fold(self.folder.join("refs"), |path, part| path.join(part))
    }

    /// The commit of a revision, as far as the cache knows.
    pub(crate) fn commit_of(&self, revision: &Revision) -> Result<Option<Commit>> {
        if let Some(commit) = revision.as_commit() {
            return Ok(self.snapshot(&commit).is_dir().then_some(commit));
        }
        let path = self.reference(revision);
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Commit::parse(text.trim()).filter(|commit| self.snapshot(commit).is_dir())),
            Err(error)
                if matches!(
                    error.kind(),
                    std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory
                ) =>
            {
                Ok(None)
            }
            Err(error) => Err(HubError::io(&path, "read")(error)),
        }
    }

    pub(crate) fn write_reference(&self, revision: &Revision, commit: &Commit) -> Result<()> {
        write_atomically(&self.reference(revision), commit.as_str().as_bytes())
    }

    /// Branches and tags that were pulled, then commits, for messages.
    fn known_references(&self) -> Vec<String> {
        let names = |folder: &str| -> Vec<String> {
            let listing = fs::read_dir(self.folder.join(folder)).into_iter().flatten().flatten();
            let mut names: Vec<String> =
                listing.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
            names.sort();
            names.truncate(5);
            names
        };
        let usable = |name: &String| {
            name.parse::<Revision>()
                .ok()
                .and_then(|revision| self.commit_of(&revision).ok().flatten())
                .is_some()
        };
        let mut known: Vec<String> = names("refs").into_iter().filter(usable).collect();
        if known.is_empty() {
            known = names("snapshots").into_iter().filter(usable).collect();
        }
        known
    }
}

#[derive(Deserialize)]
struct ShardIndex {
    weight_map: std::collections::BTreeMap<String, String>,
}

/// What a snapshot that another tool made lacks: a configuration, weights, or shards that an index names.
fn missing_without_record(snapshot: &Path) -> Result<Vec<String>> {
    let mut missing = BTreeSet::new();
    if !snapshot.join("config.json").is_file() {
        missing.insert("config.json".to_string());
    }
    let mut has_weights = false;
    let listing = fs::read_dir(snapshot).map_err(HubError::io(snapshot, "list"))?;
    for item in listing {
        let item = item.map_err(HubError::io(snapshot, "list"))?;
        let name = item.file_name().to_string_lossy().into_owned();
        // Also that of a variant, `model.safetensors.index.fp16.json`.
        if name.contains(".index.") && name.ends_with(".json") {
            for shard in shards(&item.path())? {
                if !snapshot.join(&shard).is_file() {
                    missing.insert(shard);
                }
            }
        }
        let is_weights =
            [".safetensors", ".bin", ".pt", ".pth", ".gguf"].iter().any(|end| name.ends_with(end));
        has_weights |= is_weights && item.path().is_file();
    }
    if !has_weights {
        missing.insert("weights".to_string());
    }
    Ok(missing.into_iter().collect())
}

/// The files that an index of shards names; none if it is no such index.
fn shards(index: &Path) -> Result<BTreeSet<String>> {
    let size = fs::metadata(index).map(|data| data.len()).unwrap_or(u64::MAX);
    if size > MOST_INDEX_BYTES {
        return Ok(BTreeSet::new());
    }
    let text = fs::read(index).map_err(HubError::io(index, "read"))?;
    let parsed: Option<ShardIndex> = serde_json::from_slice(without_byte_order_mark(&text)).ok();
    Ok(parsed.map(|index| index.weight_map.into_values().collect()).unwrap_or_default())
}
