//! The records: do their ids lead somewhere, do their texts say something, are they there twice?

use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;

use crate::config::{DataConfig, Group, RecordsWithoutImages};
use crate::error::Result;
use crate::sample::record::Record;
use crate::text::prompt::{ANSWER_TOKEN, END_OF_CHUNK_TOKEN, IMAGE_TOKEN};
use crate::text::tokenizer::TextTokenizer;

use super::finding::{Findings, Reason};
use super::histogram::Histogram;
use super::id_table::id_hash;
use super::source::{OpenedSet, Sources, flag};

/// An answer with more bytes for each token of `max_seq_len` cannot be meant to fit.
const LONG_ANSWER_BYTES_PER_TOKEN: usize = 8;

/// What was found in some records of one set.
pub(super) struct RecordsChecked {
    pub(super) findings: Findings,
    pub(super) instruction_characters: Histogram,
    pub(super) answer_characters: Histogram,
    pub(super) images: Histogram,
    /// Records that are only examples.
    pub(super) example_only: u64,
    /// (hash of the content, entry) of each readable record; empty with `ids_only`.
    pub(super) contents: Vec<(u64, u32)>,
}

/// Checks records; needs the ids of all files and, for `bad_image`, the images to have been looked at.
pub(super) struct RecordCheck<'a> {
    pub(super) config: &'a DataConfig,
    pub(super) tokenizer: Option<&'a TextTokenizer>,
    pub(super) sources: &'a Sources,
    pub(super) ids_only: bool,
    pub(super) max_examples: usize,
}

impl RecordCheck<'_> {
    pub(super) fn run(&self, set: usize, entries: Range<usize>) -> Result<RecordsChecked> {
        let mut checked = RecordsChecked {
            findings: Findings::new(self.max_examples),
            instruction_characters: Histogram::default(),
            answer_characters: Histogram::default(),
            images: Histogram::default(),
            example_only: 0,
            contents: Vec::new(),
        };
        for entry in entries {
            self.record(set, entry, &mut checked)?;
        }
        Ok(checked)
    }

    fn record(&self, number: usize, entry: usize, checked: &mut RecordsChecked) -> Result<()> {
        let opened = &self.sources.sets[number];
        let id = opened.set.instructions.id(entry)?;
        let mut found = Found { opened, sources: self.sources, id: &id, findings: &mut checked.findings };
        let record = match opened.set.instructions.record(entry) {
            Ok(record) => record,
            Err(message) => {
                opened.add_flags(entry as u32, flag::UNREADABLE);
                found.add(Reason::BadRecord, || message);
                return Ok(());
            }
        };
        let mut flags = self.images(number, &record, &mut found);
        self.related(number, &record, &mut found);
        if !self.ids_only {
            flags |= self.texts(&record, &mut found);
            checked.instruction_characters.add(record.instruction.chars().count() as u64);
            checked.answer_characters.add(record.answer.chars().count() as u64);
            checked.contents.push((content_hash(&record), entry as u32));
        }
        checked.images.add(record.image_ids.len() as u64);
        if record.example_only {
            flags |= flag::EXAMPLE_ONLY;
            checked.example_only += 1;
        }
        if flags != 0 {
            opened.add_flags(entry as u32, flags);
        }
        Ok(())
    }

    fn images(&self, number: usize, record: &Record, found: &mut Found<'_>) -> u8 {
        let group = found.opened.set.group;
        if group == Group::TextOnly {
            return 0;
        }
        let may_be_empty = self.config.switches().records_without_images == RecordsWithoutImages::Empty;
        if record.image_ids.is_empty() && !may_be_empty {
            found
                .add(Reason::NoImages, || format!("`image_ids` is empty in a set of group {}", group.name()));
            return flag::IMAGES;
        }
        let mut flags = 0;
        for image in &record.image_ids {
            match self.sources.find_image(number, image) {
                Some((table, entry)) => {
                    let table = &self.sources.tables[table];
                    table.ids.mark_used(entry);
                    if table.bad.contains(&entry) {
                        flags = flag::IMAGES;
                        found.add(Reason::BadImage, || {
                            format!("image {image} of {} cannot be decoded", table.table.path().display())
                        });
                    }
                }
                None if !self.sources.images_complete(group) => {}
                None => {
                    flags = flag::IMAGES;
                    found.add(Reason::MissingImage, || {
                        let similar = self.sources.similar_image(number, image);
                        let hint = similar.map(|id| format!("; there is {id}")).unwrap_or_default();
                        format!("image {image} is in no image table of its group{hint}")
                    });
                }
            }
        }
        flags
    }

    fn related(&self, number: usize, record: &Record, found: &mut Found<'_>) {
        let set = &found.opened.set;
        // Then they are the context of its sample, and checked as such.
        if self.config.populate_rel_ins && set.train.is_none() {
            return;
        }
        let complete = self.sources.records_complete(set.group);
        let own = id_hash(found.id);
        for related in &record.rel_ins_ids {
            let hash = id_hash(related);
            if hash == own {
                found.add(Reason::SelfReference, || "`rel_ins_ids` names the record itself".into());
            } else if complete && self.sources.find_record(number, hash).is_none() {
                found.add(Reason::DanglingRelated, || {
                    format!("`rel_ins_ids` names {related}, which no instruction file of its group has")
                });
            }
        }
    }

    fn texts(&self, record: &Record, found: &mut Found<'_>) -> u8 {
        if record.instruction.trim().is_empty() {
            found.add(Reason::EmptyInstruction, || "the instruction is empty".into());
        }
        for (name, text) in [("instruction", &record.instruction), ("answer", &record.answer)] {
            if self.holds_special(text) {
                found.add(Reason::SpecialTokenText, || {
                    format!("the {name} holds the text of a special token: {text}")
                });
            }
        }
        let limit = self.config.max_seq_len.saturating_mul(LONG_ANSWER_BYTES_PER_TOKEN);
        if record.answer.len() > limit {
            found.add(Reason::LongAnswer, || {
                format!(
                    "the answer has {} bytes; max_seq_len is {} tokens",
                    record.answer.len(),
                    self.config.max_seq_len
                )
            });
        }
        if record.answer.trim().is_empty() {
            found.add(Reason::EmptyAnswer, || "the answer is empty".into());
            return flag::EMPTY_ANSWER;
        }
        0
    }

    fn holds_special(&self, text: &str) -> bool {
        [IMAGE_TOKEN, ANSWER_TOKEN, END_OF_CHUNK_TOKEN].iter().any(|token| text.contains(token))
            || self.tokenizer.is_some_and(|tokenizer| tokenizer.contains_special(text))
    }
}

/// Adds findings about one record.
struct Found<'a> {
    opened: &'a OpenedSet,
    sources: &'a Sources,
    id: &'a str,
    findings: &'a mut Findings,
}

impl Found<'_> {
    fn add(&mut self, reason: Reason, message: impl FnOnce() -> String) {
        let (file, sources) = (self.opened.file, self.sources);
        self.findings.add(reason, file, self.id, || (sources.file_name(file), message()));
    }
}

/// Equal for records with the same instruction, answer, images, language and use.
fn content_hash(record: &Record) -> u64 {
    let mut hasher = DefaultHasher::new();
    (&record.instruction, &record.answer, &record.image_ids).hash(&mut hasher);
    (&record.language, record.example_only).hash(&mut hasher);
    hasher.finish()
}

/// An item that has the content of an earlier one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Copy {
    /// Number of its set or table, and entry.
    pub(super) place: (u32, u32),
    /// The first item with this content.
    pub(super) first: (u32, u32),
}

/// The copies among (hash of the content, place), in the order of the data.
pub(super) fn copies(mut contents: Vec<(u64, (u32, u32))>) -> Vec<Copy> {
    use rayon::slice::ParallelSliceMut;
    contents.par_sort_unstable();
    let mut copies: Vec<Copy> = contents
        .chunk_by(|a, b| a.0 == b.0)
        .flat_map(|run| run[1..].iter().map(|item| Copy { place: item.1, first: run[0].1 }))
        .collect();
    copies.sort_unstable();
    copies
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_point_to_the_first_in_order() {
        let contents = vec![(7, (1, 0)), (5, (0, 2)), (7, (0, 3)), (9, (0, 0)), (7, (0, 1))];
        let expected = [Copy { place: (0, 3), first: (0, 1) }, Copy { place: (1, 0), first: (0, 1) }];
        assert_eq!(copies(contents), expected);
    }
}
