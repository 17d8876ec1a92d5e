//! From the journal to the data set: ids, siblings, contexts, each image once.

use std::collections::hash_map::{DefaultHasher, Entry as Slot};
use std::collections::{HashMap, HashSet};
use std::hash::{Hash, Hasher};
use std::path::Path;

use otter_data::{DatasetWriter, Group, Record};

use super::process::{EntryImage, Finished};
use super::report::ImportReport;
use crate::sources::error::ImportError;
use crate::sources::item::{Pair, Reason, Skip, Source};

/// Most siblings that a pair names: with all of them the lists of n pairs about one image would take n² ids.
const MOST_SIBLINGS: usize = 100;

/// The ids next to the one at `place`, without itself, in order.
fn siblings(ids: &[String], place: usize) -> Vec<String> {
    let last_start = ids.len().saturating_sub(MOST_SIBLINGS + 1);
    let start = place.saturating_sub(MOST_SIBLINGS / 2).min(last_start);
    let near = ids.iter().enumerate().skip(start).take(MOST_SIBLINGS + 1);
    near.filter(|(other, _)| *other != place).map(|(_, id)| id.clone()).collect()
}

/// Writes entries one after the other.
pub struct Replay<'s> {
    code: &'s str,
    id_digits: usize,
    /// Write a context of every record: what the source says, or else its siblings.
    contexts: bool,
    /// The source says contexts itself; they may name what is not there.
    contexts_of_source: bool,
    /// Pairs without a context of their own get their siblings.
    siblings_as_context: bool,
    /// Hashes of ids that contexts name, with the first pair that does so.
    named: HashMap<u128, (String, String)>,
    /// Hashes of the ids of pairs that are only examples.
    examples: Vec<u128>,
    /// Pairs that are samples, and pairs that show no image.
    samples: u64,
    without_images: u64,
    /// Numbers of samples with hashes of what their contexts name and no pair had by then.
    open: Vec<(u64, u128)>,
    group: Group,
    strict: bool,
    numbered: usize,
    /// Hashes of the ids written: what hundred bytes an id would need is sixteen here.
    records: HashSet<u128>,
    /// And of images with a hash of where they come from.
    images: HashMap<u128, u64>,
    /// The account so far.
    pub report: ImportReport,
}

impl<'s> Replay<'s> {
    /// For the entries of a source.
    pub fn new(source: &'s dyn Source, contexts: bool, strict: bool) -> Self {
        Self {
            code: source.code(),
            id_digits: source.id_digits(),
            contexts: contexts || source.has_contexts(),
            contexts_of_source: source.has_contexts(),
            siblings_as_context: contexts,
            named: HashMap::new(),
            examples: Vec::new(),
            samples: 0,
            without_images: 0,
            open: Vec::new(),
            group: source.group(),
            strict,
            numbered: 0,
            records: HashSet::new(),
            images: HashMap::new(),
            report: ImportReport::default(),
        }
    }

    fn skip(&mut self, skip: Skip) -> Result<(), ImportError> {
        if self.strict {
            return Err(ImportError::Strict(skip));
        }
        self.report.skip(&skip);
        Ok(())
    }

    /// Writes what an entry holds.
    pub fn write(&mut self, item: Finished, writer: &mut dyn DatasetWriter) -> Result<(), ImportError> {
        let entry = item.entry;
        let first_number = self.numbered + 1;
        self.numbered += entry.numbered;
        self.report.items += 1;
        // An item without pairs tells one reason for itself, not one for every empty pair.
        if entry.pairs.is_empty() {
            return match entry.skips.into_iter().next_back() {
                Some(skip) => self.skip(skip),
                None => Ok(()),
            };
        }
        for skip in entry.skips {
            self.skip(skip)?;
        }
        let other_in_item = |place: usize, image: &EntryImage| {
            entry.images[..place].iter().any(|other| other.id == image.id && other.origin != image.origin)
        };
        let mut images = entry.images.iter().enumerate();
        let conflict = images.find(|(place, image)| self.conflicts(image) || other_in_item(*place, image));
        if let Some((_, image)) = conflict {
            return self.skip(Skip::new(
                Reason::IdConflict,
                format!(
                    "{}: {} would have the id {}, which another file has; give the files different names",
                    entry.name,
                    image.origin.display(),
                    image.id
                ),
            ));
        }
        let pairs = self.with_ids(&entry.name, first_number, entry.pairs)?;
        if pairs.is_empty() {
            return Ok(());
        }
        self.report.used += 1;
        self.report.thinned += u64::from(entry.thinned);
        self.write_images(&entry.images, item.bytes, writer)?;
        let ids: Vec<String> = pairs.iter().map(|(id, _)| id.clone()).collect();
        let image_ids: Vec<String> = entry.images.into_iter().map(|image| image.id).collect();
        for (place, (id, pair)) in pairs.into_iter().enumerate() {
            let siblings = siblings(&ids, place);
            if let Some(code) = &pair.language {
                *self.report.languages.entry(code.clone()).or_default() += 1;
            }
            let shown = pair.images.map_or(image_ids.len(), |images| images.min(image_ids.len()));
            self.without_images += u64::from(shown == 0);
            let record = Record {
                instruction: pair.instruction,
                answer: pair.answer,
                image_ids: image_ids[..shown].to_vec(),
                rel_ins_ids: siblings,
                language: pair.language,
                example_only: pair.example_only,
            };
            writer.record(&id, &record)?;
            self.samples += u64::from(!pair.example_only);
            if pair.example_only {
                self.report.example_only += 1;
                self.examples.push(hash128(&id));
            } else if self.contexts {
                // Earlier turns only: a conversation goes forward.
                let context = if !pair.context.is_empty() {
                    pair.context
                } else if self.siblings_as_context {
                    ids[place.saturating_sub(MOST_SIBLINGS)..place].to_vec()
                } else {
                    Vec::new()
                };
                writer.context(&id, &context)?;
                if self.contexts_of_source {
                    self.note_context(self.samples, &id, &context);
                }
            }
        }
        Ok(())
    }

    fn note_context(&mut self, sample: u64, id: &str, context: &[String]) {
        for named in context {
            let hash = hash128(named);
            if !self.records.contains(&hash) {
                self.open.push((sample, hash));
            }
            self.named.entry(hash).or_insert_with(|| (id.to_owned(), named.clone()));
        }
    }

    /// The account, with what is odd about the whole, and the number of samples that can be built.
    pub fn finish(mut self) -> (ImportReport, u64) {
        // Those of one sample stand next to each other.
        self.open.retain(|(_, hash)| !self.records.contains(hash));
        self.open.dedup_by_key(|(sample, _)| *sample);
        let unusable = self.open.len() as u64;
        let gone =
            || self.named.iter().filter(|(hash, _)| !self.records.contains(*hash)).map(|(_, pair)| pair);
        if let Some((id, named)) = gone().min() {
            self.report.warnings.push(format!(
                "{unusable} of {} samples cannot be built: their contexts name {} ids that no pair has, e.g. {named} in the \
                 context of {id}; add the rows, or take the ids out",
                self.samples,
                gone().count()
            ));
        }
        let idle = self.examples.iter().filter(|hash| !self.named.contains_key(*hash)).count();
        if idle > 0 {
            self.report.warnings.push(format!(
                "{idle} pairs have no context and stand in nobody's context: they are neither samples nor examples \
                 (--all-rows makes every row a sample)"
            ));
        }
        let shows_images = self.group != Group::TextOnly;
        if shows_images && self.without_images > 0 {
            self.report.warnings.push(format!(
                "{} pairs have no image, which a set of group {} refuses in training: import them as a set of their own",
                self.without_images,
                self.group.name()
            ));
        }
        (self.report, self.samples - unusable)
    }

    fn conflicts(&self, image: &EntryImage) -> bool {
        self.images.get(&hash128(&image.id)).is_some_and(|origin| *origin != hash64(&image.origin))
    }

    fn with_ids(
        &mut self,
        name: &str,
        first_number: usize,
        pairs: Vec<(usize, Pair)>,
    ) -> Result<Vec<(String, Pair)>, ImportError> {
        let mut with_ids = Vec::with_capacity(pairs.len());
        for (place, mut pair) in pairs {
            let digits = self.id_digits;
            let id = pair
                .id
                .take()
                .unwrap_or_else(|| format!("{}_INS_{:0digits$}", self.code, first_number + place));
            if self.records.insert(hash128(&id)) {
                with_ids.push((id, pair));
            } else {
                let message = format!("{name}: the id {id} was there before; ids must be unique");
                self.skip(Skip::new(Reason::DuplicateId, message))?;
            }
        }
        Ok(with_ids)
    }

    fn write_images(
        &mut self,
        images: &[EntryImage],
        bytes: Vec<Vec<u8>>,
        writer: &mut dyn DatasetWriter,
    ) -> Result<(), ImportError> {
        let mut bytes = bytes.into_iter();
        for image in images {
            let stored = if image.kept { None } else { bytes.next() };
            match self.images.entry(hash128(&image.id)) {
                Slot::Occupied(_) => {
                    self.report.shared_images += 1;
                    continue;
                }
                Slot::Vacant(slot) => {
                    slot.insert(hash64(&image.origin));
                }
            }
            let name = || format!("{} of {}", image.id, image.origin.display());
            self.report.image_notes.add(image.notes, name);
            match stored {
                Some(stored) => writer.image(&image.id, &stored)?,
                None => writer.image(&image.id, &unchanged(&image.origin, image.bytes)?)?,
            }
        }
        Ok(())
    }
}

/// A file that was checked when its item was worked on.
fn unchanged(path: &Path, bytes: u64) -> Result<Vec<u8>, ImportError> {
    let read = std::fs::read(path).map_err(|error| ImportError::io(path, error))?;
    if read.len() as u64 != bytes {
        return Err(ImportError::format(
            path,
            format!(
                "{} bytes, but {bytes} when it was checked; it changed during the import. Begin anew with --restart",
                read.len()
            ),
        ));
    }
    Ok(read)
}

fn hash64(value: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

fn hash128(text: &str) -> u128 {
    u128::from(hash64(text)) << 64 | u128::from(hash64((1_u8, text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn siblings_are_all_others_or_the_nearest_hundred() {
        let ids: Vec<String> = (0..300).map(|id| id.to_string()).collect();
        assert_eq!(siblings(&ids[..3], 1), ["0", "2"]);
        assert_eq!(siblings(&ids[..1], 0), [""; 0]);
        for (place, first, last) in [(0, "1", "100"), (299, "199", "298"), (150, "100", "200")] {
            let near = siblings(&ids, place);
            assert_eq!((near.len(), near[0].as_str(), near[99].as_str()), (100, first, last));
        }
    }
}
