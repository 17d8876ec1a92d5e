//! A repaired copy: what cannot be used is left out, and nothing refers to it any more.
//!
//! Every set becomes a data set in a folder of its own, and `data.yaml` beside them is the list of all. Images that
//! several sets share are written once, with the first of these sets.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use otter_io::Progress;
use serde::{Deserialize, Serialize};

use crate::config::{DataConfig, Group};
use crate::error::{DataError, Result};
use crate::sample::record::Record;
use crate::text::tokenizer::TextTokenizer;
use crate::write::{DatasetWriter, OutputForm, WriterOptions, create_writer, output_paths};

use super::finding::Reason;
use super::id_table::id_hash;
use super::records::Copy;
use super::report::VerifyReport;
use super::source::{OpenedSet, flag};
use super::{Verifier, VerifyOptions};

/// Name of the list in the folder of the repaired copy.
pub const FIXED_LIST: &str = "data.yaml";

/// How a repaired copy is made.
#[derive(Debug, Clone, Copy)]
pub struct FixOptions {
    /// The form of its data sets.
    pub form: OutputForm,
    /// Merge images of equal pixels and records of equal content, within a file each.
    pub dedupe: bool,
}

/// What a repaired copy holds, and what was left out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FixReport {
    /// The list of the repaired sets.
    pub list: PathBuf,
    /// Records in it.
    pub records: u64,
    /// Records left out because they cannot be used.
    pub records_dropped: u64,
    /// Records left out because an equal one stays.
    pub records_merged: u64,
    /// Entries of train files in it.
    pub contexts: u64,
    /// Entries left out because their query is.
    pub contexts_dropped: u64,
    /// Ids removed from contexts.
    pub context_ids_removed: u64,
    /// Ids removed from `rel_ins_ids`.
    pub related_ids_removed: u64,
    /// Images in it.
    pub images: u64,
    /// Images left out because they cannot be decoded.
    pub images_dropped: u64,
    /// Images left out because an equal one stays.
    pub images_merged: u64,
    /// Images left out because no record that stays needs them.
    pub images_unused: u64,
}

/// Looks at everything as [`super::verify`] does, and writes a repaired copy into a new folder.
///
/// # Errors
/// As [`super::verify`]; when a file cannot be read at all, as nothing can be said about what is in it; when the
/// folder is not empty or cannot be written; when no sample is left, as nobody shall train on an empty copy.
pub fn verify_and_fix(
    config: &DataConfig,
    tokenizer: Option<&Arc<TextTokenizer>>,
    options: &VerifyOptions,
    fix: &FixOptions,
    out: &Path,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<(VerifyReport, FixReport)> {
    let options = VerifyOptions { strict: false, ..options.clone() };
    if std::fs::read_dir(out).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(DataError::format(
            out,
            "the folder is not empty; choose a new one for the repaired copy",
        ));
    }
    let mut verifier = Verifier::open(config, tokenizer, &options, progress)?;
    if let Some((Reason::UnreadableFile, example)) = verifier.findings.first_error() {
        return Err(DataError::format(
            &example.file,
            format!("{}; fetch it again or take it out of the list, then repair the rest", example.message),
        ));
    }
    verifier.run(progress)?;
    let mut repair = Repair::plan(&verifier, fix, out)?;
    repair.write(progress)?;
    let report = repair.report;
    Ok((verifier.into_report(), report))
}

/// What stays, and under which id.
struct Repair<'a, 'b> {
    verifier: &'a Verifier<'b>,
    form: OutputForm,
    out: &'a Path,
    /// Folder and name of each set.
    names: Vec<String>,
    /// Ids of the images that stand for equal ones: (table, entry) to the id that stays.
    merged_images: HashMap<(u32, u32), String>,
    /// The same for records: (set, entry).
    merged_records: HashMap<(u32, u32), String>,
    /// Sets whose train file would be empty: without one, all their records would become samples.
    without_samples: Vec<bool>,
    /// Sets of which a record stays; the others are not written.
    kept: Vec<bool>,
    /// Images that stay, for each entry of each table.
    needed: Vec<Vec<bool>>,
    /// Images that stay though no set of their table does: (set with which they are written, table, entry).
    adopted: BTreeSet<(usize, usize, u32)>,
    report: FixReport,
}

impl<'a, 'b> Repair<'a, 'b> {
    fn plan(verifier: &'a Verifier<'b>, fix: &FixOptions, out: &'a Path) -> Result<Self> {
        let sources = &verifier.sources;
        let mut repair = Self {
            verifier,
            form: fix.form,
            out,
            names: folder_names(&sources.sets),
            merged_images: HashMap::new(),
            merged_records: HashMap::new(),
            without_samples: vec![false; sources.sets.len()],
            kept: vec![false; sources.sets.len()],
            needed: sources.tables.iter().map(|opened| vec![false; opened.table.len()]).collect(),
            adopted: BTreeSet::new(),
            report: FixReport { list: out.join(FIXED_LIST), ..FixReport::default() },
        };
        if fix.dedupe {
            repair.merge_images()?;
            repair.merge_records()?;
        }
        for (number, opened) in sources.sets.iter().enumerate() {
            let Some(train) = &opened.set.train else { continue };
            let mut has_samples = false;
            for entry in 0..train.len() {
                let found = sources.find_record(number, id_hash(&train.id(entry)?));
                if found.is_some_and(|(set, record)| repair.stays(set, record))
                    && train.context(entry).is_ok()
                {
                    has_samples = true;
                    break;
                }
            }
            repair.without_samples[number] = !has_samples;
        }
        let mut any_sample = false;
        for (number, opened) in sources.sets.iter().enumerate() {
            let staying =
                || (0..opened.set.instructions.len() as u32).filter(|&entry| repair.stays(number, entry));
            let is_sample =
                |entry: u32| opened.set.train.is_some() || opened.flags(entry) & flag::EXAMPLE_ONLY == 0;
            any_sample |= staying().any(is_sample);
            let kept = staying().next().is_some();
            repair.kept[number] = kept;
        }
        if !any_sample {
            return Err(DataError::Config(format!(
                "no sample can be used, so no repaired copy was written; found: {}",
                verifier.findings.in_words()
            )));
        }
        Ok(repair)
    }

    fn merge_images(&mut self) -> Result<()> {
        let pairs = within_one_file(&self.verifier.image_copies);
        for (place, first) in pairs {
            let table = &self.verifier.sources.tables[first.0 as usize].table;
            self.merged_images.insert(place, table.id(first.1 as usize)?.into_owned());
        }
        Ok(())
    }

    fn merge_records(&mut self) -> Result<()> {
        // With a train file a record may give way only to one that is a sample, too.
        let mut samples: BTreeMap<u32, HashSet<u64>> = BTreeMap::new();
        for (number, opened) in self.verifier.sources.sets.iter().enumerate() {
            if let Some(train) = &opened.set.train {
                let ids = (0..train.len()).map(|entry| Ok(id_hash(&train.id(entry)?)));
                samples.insert(number as u32, ids.collect::<Result<_>>()?);
            }
        }
        for (place, first) in within_one_file(&self.verifier.record_copies) {
            let opened = &self.verifier.sources.sets[place.0 as usize];
            let id = |entry: u32| opened.set.instructions.id(entry as usize);
            let (own, other) = (id(place.1)?, id(first.1)?);
            let is_sample =
                |id: &str| samples.get(&place.0).is_none_or(|samples| samples.contains(&id_hash(id)));
            let usable = |entry: u32| opened.flags(entry) & flag::UNUSABLE == 0;
            if usable(place.1) && usable(first.1) && (is_sample(&other) || !is_sample(&own)) {
                self.merged_records.insert(place, other.into_owned());
            }
        }
        Ok(())
    }

    fn stays(&self, set: usize, entry: u32) -> bool {
        self.verifier.sources.sets[set].flags(entry) & flag::UNUSABLE == 0
            && !self.merged_records.contains_key(&(set as u32, entry))
            && !self.without_samples[set]
    }

    /// The id under which a record of the repaired copy finds an image; `None` if it is not there.
    fn image(&self, set: usize, id: &str) -> Result<Option<(String, (usize, u32))>> {
        let sources = &self.verifier.sources;
        let Some((table, entry)) = sources.find_image(set, id) else { return Ok(None) };
        if let Some(other) = self.merged_images.get(&(table as u32, entry))
            && let Some((other_table, other_entry)) = sources.find_image(set, other)
            // Another file may have an image of that name in front of it.
            && other_table == table
        {
            return Ok(Some((other.clone(), (other_table, other_entry))));
        }
        // The record may have used another name of it.
        let own = sources.tables[table].table.id(entry as usize)?.into_owned();
        Ok(Some((own, (table, entry))))
    }

    /// The id under which a context finds a record that stays.
    fn related(&self, set: usize, id: &str) -> Option<String> {
        let sources = &self.verifier.sources;
        let (found, entry) = sources.find_record(set, id_hash(id))?;
        if let Some(other) = self.merged_records.get(&(found as u32, entry)) {
            let (other_set, other_entry) = sources.find_record(set, id_hash(other))?;
            return (other_set == found && self.stays(other_set, other_entry)).then(|| other.clone());
        }
        self.stays(found, entry).then(|| id.to_owned())
    }

    fn write(&mut self, progress: &mut dyn FnMut(Progress<'_>)) -> Result<()> {
        self.mark_images()?;
        std::fs::create_dir_all(self.out).map_err(|error| DataError::io(self.out, error))?;
        let verifier = self.verifier;
        for (number, opened) in verifier.sources.tables.iter().enumerate() {
            if self.owner(number) == usize::MAX {
                self.report.images_dropped += opened.bad.len() as u64;
                let adopted: HashSet<u32> =
                    self.adopted.iter().filter(|image| image.1 == number).map(|image| image.2).collect();
                self.report.images_unused += (opened.table.len() - opened.bad.len() - adopted.len()) as u64;
            }
        }
        let total = self.verifier.sources.sets.len();
        for number in 0..total {
            progress(Progress::of_items("repaired", number, total));
            self.write_set(number)?;
        }
        let list = self.list();
        otter_io::write_whole(&self.report.list, list.as_bytes())
            .map_err(|error| DataError::io(&self.report.list, error))
    }

    /// Notes which images the records that stay need.
    fn mark_images(&mut self) -> Result<()> {
        for number in 0..self.verifier.sources.sets.len() {
            let opened = &self.verifier.sources.sets[number];
            if opened.set.group == Group::TextOnly {
                continue;
            }
            for entry in 0..opened.set.instructions.len() {
                if !self.stays(number, entry as u32) {
                    continue;
                }
                for id in self.record(number, entry)?.image_ids {
                    let Some((_, (table, entry))) = self.image(number, &id)? else { continue };
                    if let Some(adopter) = self.adopter(number, table) {
                        self.adopted.insert((adopter, table, entry));
                    } else if let Some(needed) = self.needed[table].get_mut(entry as usize) {
                        *needed = true;
                    }
                }
            }
        }
        self.check_adopted()
    }

    /// The set with which the images are written that set `of` finds in a table of which no set of its group stays.
    fn adopter(&self, of: usize, table: usize) -> Option<usize> {
        let group = self.verifier.sources.sets[of].set.group;
        let sets = self.verifier.sources.sets.iter().map(|opened| &opened.set).enumerate();
        let mut kept = sets.filter(|(number, set)| self.kept[*number] && set.group == group);
        if kept.clone().any(|(_, set)| set.table == Some(table)) {
            return None;
        }
        // A set of the group without images of its own would be no set of an image group.
        kept.find_map(|(_, set)| set.table).map(|table| self.owner(table))
    }

    /// In another file an image must not hide one of the same id.
    fn check_adopted(&self) -> Result<()> {
        let tables = &self.verifier.sources.tables;
        for &(set, table, entry) in &self.adopted {
            let id = tables[table].table.id(entry as usize)?;
            for other in self.verifier.sources.table_order(set).filter(|other| *other != table) {
                let Some(same) = tables[other].table.find(&id)? else { continue };
                if self.needed[other][same] || self.adopted.contains(&(set, other, same as u32)) {
                    let other = tables[other].table.path().display();
                    let message = format!(
                        "no set that lists this file is left, so its image {id} would move to another file, but {other} has an \
                         image of that id, too; rename one of them"
                    );
                    return Err(DataError::format(tables[table].table.path(), message));
                }
            }
        }
        Ok(())
    }

    fn record(&self, set: usize, entry: usize) -> Result<Record> {
        let instructions = &self.verifier.sources.sets[set].set.instructions;
        instructions.record(entry).map_err(|message| DataError::format(instructions.path(), message))
    }

    fn write_set(&mut self, number: usize) -> Result<()> {
        let opened = &self.verifier.sources.sets[number];
        if !self.kept[number] {
            for entry in 0..opened.set.instructions.len() as u32 {
                self.count_dropped(number, entry);
            }
            self.report.contexts_dropped += opened.set.train.as_ref().map_or(0, |train| train.len() as u64);
            return Ok(());
        }
        let options = WriterOptions { group: Some(opened.set.group), ..WriterOptions::default() };
        let mut writer =
            create_writer(self.form, &self.out.join(&self.names[number]), &self.names[number], &options)?;
        if let Some(table) = opened.set.table.filter(|table| self.owner(*table) == number) {
            self.write_images(table, writer.as_mut())?;
        }
        for &(_, table, entry) in self.adopted.range((number, 0, 0)..(number + 1, 0, 0)) {
            let table = &self.verifier.sources.tables[table].table;
            writer.image(&table.id(entry as usize)?, &table.encoded_entry(entry as usize)?)?;
            self.report.images += 1;
        }
        for entry in 0..opened.set.instructions.len() {
            if !self.stays(number, entry as u32) {
                self.count_dropped(number, entry as u32);
                continue;
            }
            let id = opened.set.instructions.id(entry)?;
            let mut record = self.record(number, entry)?;
            if opened.set.group != Group::TextOnly {
                for image in &mut record.image_ids {
                    if let Some((other, _)) = self.image(number, image)? {
                        *image = other;
                    }
                }
            }
            let before = record.rel_ins_ids.len();
            record.rel_ins_ids = self.context(number, &id, &record.rel_ins_ids);
            self.report.related_ids_removed += (before - record.rel_ins_ids.len()) as u64;
            writer.record(&id, &record)?;
            self.report.records += 1;
        }
        if let Some(train) = &opened.set.train {
            for entry in 0..train.len() {
                let id = train.id(entry)?;
                let context = train.context(entry);
                let found = self.verifier.sources.find_record(number, id_hash(&id));
                match (context, found) {
                    (Ok(context), Some((set, record))) if self.stays(set, record) => {
                        let kept = self.context(number, &id, &context);
                        self.report.context_ids_removed += (context.len() - kept.len()) as u64;
                        writer.context(&id, &kept)?;
                        self.report.contexts += 1;
                    }
                    _ => self.report.contexts_dropped += 1,
                }
            }
        }
        writer.finish().map(drop)
    }

    fn count_dropped(&mut self, set: usize, entry: u32) {
        let merged = self.merged_records.contains_key(&(set as u32, entry));
        *(if merged { &mut self.report.records_merged } else { &mut self.report.records_dropped }) += 1;
    }

    /// What stays of a list of related ids: each once, and never the record itself.
    fn context(&self, set: usize, own: &str, ids: &[String]) -> Vec<String> {
        let mut kept: Vec<String> = Vec::with_capacity(ids.len());
        for id in ids.iter().filter_map(|id| self.related(set, id)) {
            if id != own && !kept.contains(&id) {
                kept.push(id);
            }
        }
        kept
    }

    /// The set with which the images of a table are written.
    fn owner(&self, table: usize) -> usize {
        let mut sets = self.verifier.sources.sets.iter().zip(&self.kept);
        sets.position(|(opened, kept)| *kept && opened.set.table == Some(table)).unwrap_or(usize::MAX)
    }

    fn write_images(&mut self, number: usize, writer: &mut dyn DatasetWriter) -> Result<()> {
        let opened = &self.verifier.sources.tables[number];
        for (entry, &needed) in self.needed[number].iter().enumerate() {
            if opened.bad.contains(&(entry as u32)) {
                self.report.images_dropped += 1;
            } else if needed {
                writer.image(&opened.table.id(entry)?, &opened.table.encoded_entry(entry)?)?;
                self.report.images += 1;
            } else if self.merged_images.contains_key(&(number as u32, entry as u32)) {
                self.report.images_merged += 1;
            } else {
                self.report.images_unused += 1;
            }
        }
        Ok(())
    }

    /// The original's form of a data list; strings are quoted as in JSON, which YAML reads as well.
    fn list(&self) -> String {
        let sources = &self.verifier.sources;
        let mut text = String::new();
        for group in Group::ALL {
            let mut heading = Some(group.name());
            for (number, opened) in
                sources.sets.iter().enumerate().filter(|(_, opened)| opened.set.group == group)
            {
                let paths = self.paths(number);
                if !self.kept[number] {
                    continue;
                }
                if let Some(heading) = heading.take() {
                    let _ = writeln!(text, "{heading}:");
                }
                let _ = writeln!(text, "  {}:", quoted(&self.names[number]));
                let _ = writeln!(text, "    mimicit_path: {}", quoted(&paths.instructions));
                if let Some(images) = opened.set.table.map(|table| self.paths(self.owner(table)).images) {
                    let _ = writeln!(text, "    images_path: {}", quoted(&images));
                }
                if let Some(train) = paths.train.filter(|_| opened.set.train.is_some()) {
                    let _ = writeln!(text, "    train_config_path: {}", quoted(&train));
                }
                if opened.config.num_samples > 0 {
                    let _ = writeln!(text, "    num_samples: {}", opened.config.num_samples);
                }
                if let Some(weight) = opened.config.weight {
                    let _ = writeln!(text, "    weight: {weight}");
                }
                if !opened.set.task_descriptions.is_empty() {
                    let descriptions: Vec<String> =
                        opened.set.task_descriptions.iter().map(|description| quoted(description)).collect();
                    let _ = writeln!(text, "    task_description: [{}]", descriptions.join(", "));
                }
                if !opened.config.languages.is_empty() {
                    let codes: Vec<String> =
                        opened.config.languages.iter().map(|code| quoted(code)).collect();
                    let _ = writeln!(text, "    languages: [{}]", codes.join(", "));
                }
            }
        }
        text
    }

    fn paths(&self, number: usize) -> SetPaths {
        let name = &self.names[number];
        match output_paths(self.form, Path::new(name), name).as_slice() {
            [instructions, images, train] => SetPaths {
                instructions: instructions.display().to_string(),
                images: images.display().to_string(),
                train: Some(train.display().to_string()),
            },
            // One directory holds all.
            _ => SetPaths { instructions: name.clone(), images: name.clone(), train: None },
        }
    }
}

/// Paths of a set below the folder of the copy.
struct SetPaths {
    instructions: String,
    images: String,
    train: Option<String>,
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Folder names: what is plain of the sets' names, each once.
fn folder_names(sets: &[OpenedSet]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for opened in sets {
        let plain: String = opened
            .set
            .name
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() || matches!(c, '_' | '-') { c } else { '_' })
            .take(100)
            .collect();
        let plain = if plain.is_empty() { "set".to_owned() } else { plain };
        let mut name = plain.clone();
        let mut number = 2;
        while names.iter().any(|known| known.eq_ignore_ascii_case(&name)) {
            name = format!("{plain}_{number}");
            number += 1;
        }
        names.push(name);
    }
    names
}

/// Copies with the first equal item of their own file; the first ones of each file stay.
fn within_one_file(copies: &[Copy]) -> BTreeMap<(u32, u32), (u32, u32)> {
    let mut first_in_file: HashMap<((u32, u32), u32), (u32, u32)> = HashMap::new();
    let mut pairs = BTreeMap::new();
    for copy in copies {
        if copy.place.0 == copy.first.0 {
            pairs.insert(copy.place, copy.first);
            continue;
        }
        let first = *first_in_file.entry((copy.first, copy.place.0)).or_insert(copy.place);
        if first != copy.place {
            pairs.insert(copy.place, first);
        }
    }
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_are_merged_within_a_file() {
        let copy = |place, first| Copy { place, first };
        let copies = [copy((0, 5), (0, 1)), copy((1, 2), (0, 1)), copy((1, 7), (0, 1)), copy((1, 9), (0, 1))];
        let expected = [((0, 5), (0, 1)), ((1, 7), (1, 2)), ((1, 9), (1, 2))];
        assert_eq!(within_one_file(&copies), expected.into_iter().collect());
    }

    #[test]
    fn strings_of_the_list_are_read_back() {
        for text in ["plain", "a: b # c", "\"\\\n\t", "é 中 \u{0}", "- x", "yes"] {
            let read: String = serde_saphyr::from_str(&quoted(text)).expect("valid");
            assert_eq!(read, text);
        }
    }
}
