//! Where instruction records and contexts come from, whatever the form of the files.

use std::borrow::Cow;
use std::path::Path;

use crate::error::Result;
use crate::files::json_index::{JsonIndex, Section};
use crate::otter_dataset::{
    ContextColumn, InstructionColumns, OtterDatasetContexts, OtterDatasetInstructions, OtterDatasetTable,
    dataset_directory,
};
use crate::sample::record::{Record, parse_context};

/// Entries by id, in file order: the values of a JSON object, or the rows of a table of the format otter-dataset.
pub enum EntryTable<C> {
    /// An object `{id: value}`.
    Json(JsonIndex),
    /// A table of an otter-dataset directory.
    OtterDataset(Box<OtterDatasetTable<C>>),
}

/// Instruction records by id: `{"data": {id: record}}`, or records of an otter-dataset directory.
pub type InstructionTable = EntryTable<InstructionColumns>;

/// Which ids are samples, each with the ids of its context: `{id: [id, …]}`, or the contexts of an otter-dataset directory.
pub type ContextTable = EntryTable<ContextColumn>;

impl<C> EntryTable<C> {
    /// The file or folder.
    pub fn path(&self) -> &Path {
        match self {
            Self::Json(index) => index.path(),
            Self::OtterDataset(table) => table.path(),
        }
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        match self {
            Self::Json(index) => index.len(),
            Self::OtterDataset(table) => table.len(),
        }
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many entries were left out because a later one has the same id.
    pub fn repeated_ids(&self) -> usize {
        match self {
            Self::Json(index) => index.repeated_keys(),
            // Refused when it is opened.
            Self::OtterDataset(_) => 0,
        }
    }

    /// Id of an entry.
    pub fn id(&self, entry: usize) -> Result<Cow<'_, str>> {
        match self {
            Self::Json(index) => index.key(entry),
            Self::OtterDataset(table) => table.id(entry).map(Cow::Owned),
        }
    }

    /// The entry with this id.
    pub fn find(&self, id: &str) -> Option<usize> {
        match self {
            Self::Json(index) => index.find(id),
            Self::OtterDataset(table) => table.find(id),
        }
    }

    /// Lets go of mapped pages read so far; see [`JsonIndex::release_pages`].
    pub fn release_pages(&self) {
        if let Self::Json(index) = self {
            index.release_pages();
        }
    }
}

impl InstructionTable {
    /// Opens an instruction file, or the records of an otter-dataset directory.
    pub fn open(path: &Path) -> Result<Self> {
        if let Some(directory) = dataset_directory(path) {
            return OtterDatasetInstructions::open(&directory)
                .map(|table| Self::OtterDataset(Box::new(table)));
        }
        JsonIndex::open(path, Section::Named("data")).map(Self::Json)
    }

    /// The record of an entry; the inner error says why this one record cannot be used.
    pub fn record(&self, entry: usize) -> Result<Record, String> {
        match self {
            Self::Json(index) => {
                index.value(entry).map_err(|error| error.to_string()).and_then(Record::parse)
            }
            Self::OtterDataset(table) => table.record(entry),
        }
    }
}

impl ContextTable {
    /// Opens a train file, or the contexts of an otter-dataset directory.
    pub fn open(path: &Path) -> Result<Self> {
        if let Some(directory) = dataset_directory(path) {
            return OtterDatasetContexts::open(&directory).map(|table| Self::OtterDataset(Box::new(table)));
        }
        JsonIndex::open(path, Section::Root).map(Self::Json)
    }

    /// Ids of the context of an entry; the inner error says why this one entry cannot be used.
    pub fn context(&self, entry: usize) -> Result<Vec<String>, String> {
        match self {
            Self::Json(index) => {
                index.value(entry).map_err(|error| error.to_string()).and_then(parse_context)
            }
            Self::OtterDataset(table) => table.context(entry),
        }
    }
}
