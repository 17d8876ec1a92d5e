//! Where instruction records and contexts come from, whatever the form of the files.

use std::borrow::Cow;
use std::path::Path;

use crate::error::Result;
use crate::files::json_index::{JsonIndex, Section};
use crate::layout::{
    ContextColumn, InstructionColumns, LayoutContexts, LayoutInstructions, LayoutTable, layout_directory,
};
use crate::sample::record::{Record, parse_context};

/// Entries by id, in file order: the values of a JSON object, or the rows of a table of our own layout.
pub enum EntryTable<C> {
    /// An object `{id: value}`.
    Json(JsonIndex),
    /// Our own layout.
    Layout(Box<LayoutTable<C>>),
}

/// Instruction records by id: `{"data": {id: record}}`, or the records of our own layout.
pub type InstructionTable = EntryTable<InstructionColumns>;

/// Which ids are samples, each with the ids of its context: `{id: [id, …]}`, or the contexts of our own layout.
pub type ContextTable = EntryTable<ContextColumn>;

impl<C> EntryTable<C> {
    /// The file or folder.
    pub fn path(&self) -> &Path {
        match self {
            Self::Json(index) => index.path(),
            Self::Layout(table) => table.path(),
        }
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        match self {
            Self::Json(index) => index.len(),
            Self::Layout(table) => table.len(),
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
            Self::Layout(_) => 0,
        }
    }

    /// Id of an entry.
    pub fn id(&self, entry: usize) -> Result<Cow<'_, str>> {
        match self {
            Self::Json(index) => index.key(entry),
            Self::Layout(table) => table.id(entry).map(Cow::Owned),
        }
    }

    /// The entry with this id.
    pub fn find(&self, id: &str) -> Option<usize> {
        match self {
            Self::Json(index) => index.find(id),
            Self::Layout(table) => table.find(id),
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
    /// Opens an instruction file, or the records of a layout directory.
    pub fn open(path: &Path) -> Result<Self> {
        if let Some(directory) = layout_directory(path) {
            return LayoutInstructions::open(&directory).map(|table| Self::Layout(Box::new(table)));
        }
        JsonIndex::open(path, Section::Named("data")).map(Self::Json)
    }

    /// The record of an entry; the inner error says why this one record cannot be used.
    pub fn record(&self, entry: usize) -> Result<Record, String> {
        match self {
            Self::Json(index) => {
                index.value(entry).map_err(|error| error.to_string()).and_then(Record::parse)
            }
            Self::Layout(table) => table.record(entry),
        }
    }
}

impl ContextTable {
    /// Opens a train file, or the contexts of a layout directory.
    pub fn open(path: &Path) -> Result<Self> {
        if let Some(directory) = layout_directory(path) {
            return LayoutContexts::open(&directory).map(|table| Self::Layout(Box::new(table)));
        }
        JsonIndex::open(path, Section::Root).map(Self::Json)
    }

    /// Ids of the context of an entry; the inner error says why this one entry cannot be used.
    pub fn context(&self, entry: usize) -> Result<Vec<String>, String> {
        match self {
            Self::Json(index) => {
                index.value(entry).map_err(|error| error.to_string()).and_then(parse_context)
            }
            Self::Layout(table) => table.context(entry),
        }
    }
}
