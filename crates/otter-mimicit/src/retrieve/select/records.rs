//! What retrieval keeps of every instruction record in memory, and which records stand for the same item.
//!
//! An *item* is what is embedded once and searched: an instruction text (without outer white space), or the picture of a
//! record. About 20 bytes a record and 8 an image id are held; texts stay in the file.

use std::collections::HashMap;

use otter_data::{ImageTable, InstructionTable, Record};
use otter_io::text::hex;
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use crate::retrieve::error::{Result, RetrieveError};
use crate::retrieve::hash;
use crate::retrieve::search::ivf::buckets;

/// Marks a record that stands for no item.
pub const NO_ITEM: u32 = u32::MAX;
/// Records parsed at once.
const CHUNK: usize = 1 << 14;

/// What an item is.
#[derive(Clone, Copy)]
pub enum ItemKind<'a> {
    /// The instruction's text.
    Text,
    /// The record's first picture, by its encoded bytes.
    Image(&'a [ImageTable]),
    /// The record's first image id, for embeddings that were made elsewhere.
    ImageId,
    /// None: nothing is searched.
    Nothing,
}

/// Why a record can neither ask nor be an example.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unusable {
    /// It is no object with instruction and answer.
    BadRecord,
    /// Its instruction is empty.
    EmptyInstruction,
    /// It lists no image.
    NoImages,
    /// Its image is in no image table.
    MissingImage,
    /// Its image cannot be read.
    BadImage,
}

impl Unusable {
    /// The name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::BadRecord => "bad_record",
            Self::EmptyInstruction => "empty_instruction",
            Self::NoImages => "no_images",
            Self::MissingImage => "missing_image",
            Self::BadImage => "bad_image",
        }
    }
}

/// The records of a set.
pub struct Records {
    /// Item of each record, or [`NO_ITEM`].
    pub item: Vec<u32>,
    /// Hash of instruction and answer.
    pub pair: Vec<u64>,
    /// A record of each item.
    pub representative: Vec<u32>,
    /// Why records are left out.
    pub unusable: Vec<(u32, Unusable)>,
    /// Records marked as examples in the context of others, sorted.
    pub example_only: Vec<u32>,
    /// SHA-256 over the contents of the items.
    pub content: String,
    image_starts: Vec<usize>,
    images: Vec<u64>,
    member_starts: Vec<usize>,
    members: Vec<u32>,
}

struct Parsed {
    item: Result<u128, Unusable>,
    pair: u64,
    images: Vec<u64>,
    example_only: bool,
}

impl Records {
    /// Reads all records once, on all threads. `progress` is told how many are done and says whether to go on.
    ///
    /// # Errors
    /// When there are too many records; `None` when `progress` says so.
    pub fn read(
        table: &InstructionTable,
        kind: ItemKind<'_>,
        progress: &mut dyn FnMut(usize) -> bool,
    ) -> Result<Option<Self>> {
        if u32::try_from(table.len()).is_err() {
            let problem = format!("{} records; at most 4294967294 are supported", table.len());
            return Err(RetrieveError::format(table.path(), problem));
        }
        let mut records = Self {
            item: Vec::with_capacity(table.len()),
            pair: Vec::with_capacity(table.len()),
            representative: Vec::new(),
            unusable: Vec::new(),
            example_only: Vec::new(),
            content: String::new(),
            image_starts: vec![0],
            images: Vec::new(),
            member_starts: Vec::new(),
            members: Vec::new(),
        };
        let mut item_of: HashMap<u128, u32> = HashMap::new();
        let mut content = Sha256::new();
        for first in (0..table.len()).step_by(CHUNK) {
            let entries = first..(first + CHUNK).min(table.len());
            let parsed: Vec<Parsed> =
                entries.into_par_iter().map(|entry| parse(table, entry, kind)).collect();
            for parsed in parsed {
                let entry = records.item.len() as u32;
                let item = match parsed.item {
                    Ok(key) => {
                        let fresh = records.representative.len() as u32;
                        let alone = matches!(kind, ItemKind::Nothing);
                        let item = if alone { fresh } else { *item_of.entry(key).or_insert(fresh) };
                        if item == fresh {
                            records.representative.push(entry);
                            content.update(key.to_le_bytes());
                        }
                        item
                    }
                    Err(reason) => {
                        records.unusable.push((entry, reason));
                        NO_ITEM
                    }
                };
                if parsed.example_only {
                    records.example_only.push(entry);
                }
                records.item.push(item);
                records.pair.push(parsed.pair);
                records.images.extend(parsed.images);
                records.image_starts.push(records.images.len());
            }
            if !progress(records.item.len()) {
                return Ok(None);
            }
        }
        records.content = hex(&content.finalize());
        let items = records.representative.len();
        // Records without an item come last and belong to none.
        let of: Vec<usize> = records.item.iter().map(|&item| (item as usize).min(items)).collect();
        (records.member_starts, records.members) = buckets(items + 1, &of);
        Ok(Some(records))
    }

    /// Number of records.
    pub fn len(&self) -> usize {
        self.item.len()
    }

    /// Number of items.
    pub fn items(&self) -> usize {
        self.representative.len()
    }

    /// Records of an item, in file order.
    pub fn members(&self, item: usize) -> &[u32] {
        &self.members[self.member_starts[item]..self.member_starts[item + 1]]
    }

    /// Hashes of a record's image ids, in its order.
    pub fn images(&self, entry: usize) -> &[u64] {
        &self.images[self.image_starts[entry]..self.image_starts[entry + 1]]
    }

    /// Whether two records show an image with the same id.
    pub fn share_image(&self, one: usize, other: usize) -> bool {
        let (one, other) = (self.images(one), self.images(other));
        one.iter().any(|image| other.contains(image))
    }
}

fn parse(table: &InstructionTable, entry: usize, kind: ItemKind<'_>) -> Parsed {
    let Ok(record) = table.record(entry) else {
        return Parsed { item: Err(Unusable::BadRecord), pair: 0, images: Vec::new(), example_only: false };
    };
    let text = record.instruction.trim();
    let answer = record.answer.trim();
    let mut both = Vec::with_capacity(text.len() + answer.len() + 1);
    both.extend_from_slice(text.as_bytes());
    both.push(0);
    both.extend_from_slice(answer.as_bytes());
    let item = match kind {
        ItemKind::Nothing => Ok(entry as u128),
        ItemKind::Text if text.is_empty() => Err(Unusable::EmptyInstruction),
        ItemKind::Text => Ok(hash::content(text.as_bytes())),
        ItemKind::ImageId => first_image(&record).map(|id| hash::content(id.as_bytes())),
        ItemKind::Image(tables) => {
            first_image(&record).and_then(|id| encoded(tables, id)).map(|bytes| hash::content(&bytes))
        }
    };
    let images = record.image_ids.iter().map(|id| hash::id(id)).collect();
    Parsed { item, pair: hash::content(&both) as u64, images, example_only: record.example_only }
}

/// Id of the picture that stands for a record.
pub fn first_image(record: &Record) -> Result<&str, Unusable> {
    record.image_ids.first().map(String::as_str).ok_or(Unusable::NoImages)
}

/// The encoded bytes of an image.
pub fn encoded(tables: &[ImageTable], id: &str) -> Result<Vec<u8>, Unusable> {
    for table in tables {
        match table.encoded(id) {
            Ok(Some(bytes)) => return Ok(bytes),
            Ok(None) => {}
            Err(_) => return Err(Unusable::BadImage),
        }
    }
    Err(Unusable::MissingImage)
}
