//! The files of a configuration, opened so that one damaged file does not hide what is wrong with the others.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};

use crate::config::{DataConfig, Group, SetConfig};
use crate::error::{DataError, Result};
use crate::otter_dataset::MANIFEST_NAME as MANIFEST;
use crate::sample::set::Set;
use crate::tables::image_table::ImageTable;
use crate::tables::instruction_table::{ContextTable, InstructionTable};

use super::finding::{Findings, Reason};
use super::id_table::{IdTable, id_hash};

/// Why a record cannot be used, as bits.
pub(super) mod flag {
    pub(crate) const UNREADABLE: u8 = 1;
    pub(crate) const IMAGES: u8 = 2;
    pub(crate) const EMPTY_ANSWER: u8 = 4;
    /// As a query it does not fit or trains nothing.
    pub(crate) const TOKENS: u8 = 8;
    /// A copy of an earlier record. Usable all the same.
    pub(crate) const COPY: u8 = 16;
    /// Marked as an example in the context of others. Usable all the same.
    pub(crate) const EXAMPLE_ONLY: u8 = 32;
    /// All that make a record unusable.
    pub(crate) const UNUSABLE: u8 = UNREADABLE | IMAGES | EMPTY_ANSWER | TOKENS;
}

/// Mapped pages are let go of after so many ids.
const RELEASE_EVERY: usize = 1 << 14;

/// One set with the ids of its records.
pub(super) struct OpenedSet {
    pub(super) config: SetConfig,
    pub(super) set: Set,
    pub(super) ids: IdTable,
    /// One of [`flag`] a record.
    flags: Vec<AtomicU8>,
    /// Numbers of its files in [`Sources::files`].
    pub(super) file: u32,
    pub(super) train_file: u32,
    /// Its train file could not be opened: nothing is known about its samples.
    pub(super) train_unreadable: bool,
    /// Records marked as examples only, counted when the records are looked at.
    pub(super) example_only: u64,
}

impl OpenedSet {
    pub(super) fn flags(&self, entry: u32) -> u8 {
        self.flags.get(entry as usize).map_or(0, |flags| flags.load(Ordering::Relaxed))
    }

    pub(super) fn add_flags(&self, entry: u32, bits: u8) {
        if let Some(flags) = self.flags.get(entry as usize) {
            flags.fetch_or(bits, Ordering::Relaxed);
        }
    }

    /// Number of samples among the [`Self::candidates`].
    pub(super) fn samples(&self) -> u64 {
        let candidates = self.candidates() as u64;
        if self.set.train.is_some() { candidates } else { candidates.saturating_sub(self.example_only) }
    }

    /// What may be a sample: entries of the train file if there is one, otherwise records, also those that are only
    /// examples.
    pub(super) fn candidates(&self) -> usize {
        match &self.set.train {
            _ if self.train_unreadable => 0,
            Some(train) => train.len(),
            None => self.set.instructions.len(),
        }
    }
}

/// One image table with its ids.
pub(super) struct OpenedTable {
    pub(super) table: ImageTable,
    pub(super) ids: IdTable,
    pub(super) file: u32,
    /// Entries whose images cannot be decoded.
    pub(super) bad: HashSet<u32>,
}

impl OpenedTable {
    fn find(&self, id: &str, hash: u64) -> Option<u32> {
        // A picture can be named with and without its extension, and in another Unicode normal form.
        self.ids.find(hash).or_else(|| {
            (self.table.has_several_names() || !id.is_ascii())
                .then(|| self.table.find(id).ok()?.map(|entry| entry as u32))
                .flatten()
        })
    }
}

/// What the sets of one group share: ids are looked up in the own file first, then in the others.
#[derive(Default)]
struct GroupFiles {
    sets: Vec<usize>,
    tables: Vec<usize>,
    /// An instruction file could not be opened, so an id that is not found may be in there.
    records_incomplete: bool,
    /// The same for images.
    images_incomplete: bool,
}

/// Everything that could be opened.
pub(super) struct Sources {
    pub(super) sets: Vec<OpenedSet>,
    pub(super) tables: Vec<OpenedTable>,
    pub(super) files: Vec<String>,
    groups: [GroupFiles; Group::ALL.len()],
}

impl Sources {
    /// Opens the files; those that cannot be opened become findings.
    pub(super) fn open(config: &DataConfig, findings: &mut Findings) -> Result<Self> {
        let mut sources =
            Self { sets: Vec::new(), tables: Vec::new(), files: Vec::new(), groups: Default::default() };
        let mut table_paths: Vec<(PathBuf, Option<usize>)> = Vec::new();
        for set in config.resolved_sets()? {
            let group = set.group as usize;
            let mut table = None;
            if let Some(path) = set.images.as_ref().filter(|_| set.group != Group::TextOnly) {
                table = match table_paths.iter().find(|(known, _)| known == path) {
                    Some((_, table)) => *table,
                    None => {
                        let opened = sources.open_table(path, config.parquet_cache_mib << 20, findings);
                        table_paths.push((path.clone(), opened));
                        opened
                    }
                };
                match table {
                    None => sources.groups[group].images_incomplete = true,
                    Some(table) if !sources.groups[group].tables.contains(&table) => {
                        sources.groups[group].tables.push(table);
                    }
                    Some(_) => {}
                }
            }
            sources.open_set(set, table, findings);
        }
        Ok(sources)
    }

    fn open_table(&mut self, path: &Path, cache_bytes: usize, findings: &mut Findings) -> Option<usize> {
        let file = self.file(path);
        let opened = ImageTable::open(path, cache_bytes).and_then(|table| {
            let ids = table_ids(&table, file, findings)?;
            Ok(OpenedTable { table, ids, file, bad: HashSet::new() })
        });
        let opened = report_unreadable(opened, path, file, findings)?;
        self.tables.push(opened);
        Some(self.tables.len() - 1)
    }

    fn open_set(&mut self, config: SetConfig, table: Option<usize>, findings: &mut Findings) {
        let group = config.group as usize;
        let file = self.file(&config.instructions);
        let opened = InstructionTable::open(&config.instructions).and_then(|instructions| {
            let ids = record_ids(&instructions, file, findings)?;
            Ok((instructions, ids))
        });
        let Some((instructions, ids)) = report_unreadable(opened, &config.instructions, file, findings)
        else {
            self.groups[group].records_incomplete = true;
            return;
        };
        let mut train_file = file;
        let mut train_unreadable = false;
        let mut train = None;
        if let Some(path) = &config.train {
            train_file = self.file(path);
            train = report_unreadable(ContextTable::open(path), path, train_file, findings);
            train_unreadable = train.is_none();
            if let Some(count) = train.as_ref().map(ContextTable::repeated_ids).filter(|count| *count > 0) {
                repeated(findings, train_file, path, count);
            }
        }
        let flags = (0..instructions.len()).map(|_| AtomicU8::new(0)).collect();
        let set = Set {
            name: config.name.clone(),
            group: config.group,
            instructions,
            train,
            table,
            task_descriptions: config.task_description.clone(),
        };
        self.groups[group].sets.push(self.sets.len());
        self.sets.push(OpenedSet {
            config,
            set,
            ids,
            flags,
            file,
            train_file,
            train_unreadable,
            example_only: 0,
        });
    }

    /// The number of a file.
    fn file(&mut self, path: &Path) -> u32 {
        let name = path.display().to_string();
        let known = self.files.iter().position(|file| *file == name);
        known.unwrap_or_else(|| {
            self.files.push(name);
            self.files.len() - 1
        }) as u32
    }

    /// Directories of the format otter-dataset, each once, with the numbers of their files.
    pub(super) fn otter_datasets(&self) -> Vec<(PathBuf, u32)> {
        let named = (0u32..).zip(self.files.iter().map(PathBuf::from));
        named.filter(|(_, path)| path.join(MANIFEST).is_file()).map(|(file, path)| (path, file)).collect()
    }

    /// Lets go of mapped pages of the instruction and train files.
    pub(super) fn release_records(&self) {
        for opened in &self.sets {
            opened.set.instructions.release_pages();
            opened.set.train.iter().for_each(ContextTable::release_pages);
        }
    }

    pub(super) fn file_name(&self, file: u32) -> String {
        self.files.get(file as usize).cloned().unwrap_or_default()
    }

    /// The record with this id as a sample of set `from` would find it.
    pub(super) fn find_record(&self, from: usize, hash: u64) -> Option<(usize, u32)> {
        let others = self.groups[self.sets[from].set.group as usize].sets.iter().copied();
        std::iter::once(from)
            .chain(others)
            .find_map(|set| self.sets[set].ids.find(hash).map(|entry| (set, entry)))
    }

    /// The image with this id as a record of set `from` would find it: table and entry.
    pub(super) fn find_image(&self, from: usize, id: &str) -> Option<(usize, u32)> {
        let hash = id_hash(id);
        self.table_order(from).find_map(|table| self.tables[table].find(id, hash).map(|entry| (table, entry)))
    }

    /// An image whose id is equal but for capitals, for a hint.
    pub(super) fn similar_image(&self, from: usize, id: &str) -> Option<String> {
        self.table_order(from).find_map(|table| self.tables[table].table.similar_id(id))
    }

    /// Tables in which a set looks for images, in order.
    pub(super) fn table_order(&self, from: usize) -> impl Iterator<Item = usize> {
        let set = &self.sets[from].set;
        let others = self.groups[set.group as usize].tables.iter().copied();
        set.table.into_iter().chain(others.filter(move |table| Some(*table) != set.table))
    }

    /// Whether an id of this group that is not found is certainly missing.
    pub(super) fn records_complete(&self, group: Group) -> bool {
        !self.groups[group as usize].records_incomplete
    }

    /// The same for images.
    pub(super) fn images_complete(&self, group: Group) -> bool {
        !self.groups[group as usize].images_incomplete
    }
}

fn report_unreadable<T>(opened: Result<T>, path: &Path, file: u32, findings: &mut Findings) -> Option<T> {
    match opened {
        Ok(opened) => Some(opened),
        Err(error) => {
            findings
                .add(Reason::UnreadableFile, file, "", || (path.display().to_string(), message_of(&error)));
            None
        }
    }
}

/// What an error says, without the path that stands beside it.
pub(super) fn message_of(error: &DataError) -> String {
    match error {
        DataError::Io { message, .. } | DataError::Format { message, .. } => message.clone(),
        other => other.to_string(),
    }
}

fn check_id(id: &str, file: u32, path: &Path, findings: &mut Findings) {
    if id.is_empty() || id.chars().any(char::is_control) {
        findings.add(Reason::ControlCharacterInId, file, id, || {
            let found = if id.is_empty() { "the id is empty" } else { "the id holds a control character" };
            (path.display().to_string(), found.to_owned())
        });
    }
}

fn repeated(findings: &mut Findings, file: u32, path: &Path, count: usize) {
    for _ in 0..count {
        findings.add(Reason::RepeatedId, file, "", || {
            (
                path.display().to_string(),
                format!("{count} entries repeat the id of another one; the last one counts"),
            )
        });
    }
}

fn record_ids(instructions: &InstructionTable, file: u32, findings: &mut Findings) -> Result<IdTable> {
    let mut ids = IdTable::new(instructions.len());
    for entry in 0..instructions.len() {
        let id = instructions.id(entry)?;
        check_id(&id, file, instructions.path(), findings);
        if ids.insert(id_hash(&id), entry as u32).is_some() {
            findings.add(Reason::RepeatedId, file, &id, || {
                (instructions.path().display().to_string(), "the id stands more than once".to_owned())
            });
        }
        if entry % RELEASE_EVERY == 0 {
            instructions.release_pages();
        }
    }
    repeated(findings, file, instructions.path(), instructions.repeated_ids());
    Ok(ids)
}

fn table_ids(table: &ImageTable, file: u32, findings: &mut Findings) -> Result<IdTable> {
    let mut ids = IdTable::new(table.len());
    for entry in 0..table.len() {
        let id = table.id(entry)?;
        check_id(&id, file, table.path(), findings);
        ids.insert(id_hash(&id), entry as u32);
        if entry % RELEASE_EVERY == 0 {
            table.release_pages();
        }
    }
    repeated(findings, file, table.path(), table.repeated_ids());
    Ok(ids)
}
