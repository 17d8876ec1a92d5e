//! What a conversion did: every tensor of every source is written, or dropped here with a reason.

use crate::gguf::StoredTensor;
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Something of a source that is not in the result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Dropped {
    /// The directory or file it was in.
    pub source: PathBuf,
    /// Name of the tensor; empty for content that is not a tensor.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Why.
    pub reason: String,
}

impl Dropped {
    pub(super) fn new(source: &Path, name: &str, reason: impl Into<String>) -> Self {
        Self { source: source.to_path_buf(), name: name.to_owned(), reason: reason.into() }
    }
}

/// Values that no source holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Created {
    /// Name of the tensor.
    pub name: String,
    /// What was made and how, e.g. `row 387 (<answer>): N(0, 0.02), seed 0`.
    pub how: String,
}

/// The result of a conversion.
#[derive(Debug, Clone, Serialize)]
pub struct ConvertReport {
    /// What was done, in a few words.
    pub conversion: String,
    /// The source.
    pub source: PathBuf,
    /// What the source is.
    pub source_kind: String,
    /// The directory or file written.
    pub out: PathBuf,
    /// Weight files.
    pub weight_files: Vec<String>,
    /// Other files.
    pub other_files: Vec<String>,
    /// Tensors written.
    pub tensors: usize,
    /// Elements written.
    pub parameters: u64,
    /// Bytes of their elements.
    pub bytes: u64,
    /// Tensors and elements by type, e.g. `("F32", 81)`.
    pub dtypes: Vec<(String, usize)>,
    /// Tensors written under another name than in their source.
    pub renamed: usize,
    /// Order in which the special tokens were added, where this conversion added or fixed them.
    pub token_order: Option<String>,
    /// Ids of the added tokens.
    pub special_tokens: Vec<(String, u32)>,
    /// What was left out, and why.
    pub dropped: Vec<Dropped>,
    /// What was made anew.
    pub created: Vec<Created>,
    /// Tensors that became blocks, with what that changed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub quantized: Vec<StoredTensor>,
    /// What a user should know.
    pub warnings: Vec<String>,
}

/// How often each type occurs, in the order of the first of each.
pub(super) fn count_dtypes<'n>(names: impl Iterator<Item = &'n str>) -> Vec<(String, usize)> {
    let mut dtypes: Vec<(String, usize)> = Vec::new();
    for name in names {
        match dtypes.iter_mut().find(|(known, _)| known == name) {
            Some((_, count)) => *count += 1,
            None => dtypes.push((name.to_owned(), 1)),
        }
    }
    dtypes
}

impl ConvertReport {
    /// Takes over how a GGUF file holds the tensors, which is not how their sources did.
    pub(super) fn stored_as(&mut self, stored: Vec<StoredTensor>) {
        if !stored.is_empty() {
            self.bytes = stored.iter().map(|tensor| tensor.bytes).sum();
            self.dtypes = count_dtypes(stored.iter().map(|tensor| tensor.dtype.as_str()));
        }
        self.quantized = stored.into_iter().filter(|tensor| tensor.relative_error.is_some()).collect();
    }

    /// What is kept beside the weights: how they came about, without the folders of the machine they were made on.
    pub(super) fn record(&self) -> Value {
        let dropped: Vec<Value> = self
            .dropped
            .iter()
            .map(|item| json!({ "source": folder_name(&item.source), "name": item.name, "reason": item.reason }))
            .collect();
        json!({
            "conversion": self.conversion,
            "source": folder_name(&self.source),
            "source_kind": self.source_kind,
            "token_order": self.token_order,
            "special_tokens": self.special_tokens.iter().cloned().collect::<BTreeMap<String, u32>>(),
            "created": self.created,
            "dropped": dropped,
            "version": env!("CARGO_PKG_VERSION"),
        })
    }
}

/// The last component of a path: nobody's folders are published.
pub(in crate::convert) fn folder_name(path: &Path) -> String {
    let path = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}
