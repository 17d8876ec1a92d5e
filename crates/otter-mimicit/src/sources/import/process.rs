//! The work on one item: its pictures read, checked and prepared.

use std::path::{Path, PathBuf};

use otter_data::ImageNotes;
use otter_data::video::{VideoError, VideoOptions, open_frames};
use serde::{Deserialize, Serialize};

use super::picture::{PictureOptions, prepare_file, prepare_frame};
use crate::sources::error::ImportError;
use crate::sources::item::{Item, Pair, Reason, Skip, Visual};

/// A finished item, as it stands in the journal; the bytes of its images follow it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Where it comes from.
    pub name: String,
    /// Pairs of the item before any was left out: numbers of later pairs do not depend on what is left out.
    pub numbered: usize,
    /// The pairs that are used, with their places among all.
    pub pairs: Vec<(usize, Pair)>,
    /// Its images, in order.
    pub images: Vec<EntryImage>,
    /// What was left out. Nothing of the item is used if one concerns the whole.
    pub skips: Vec<Skip>,
    /// Whether the limit left out frames.
    pub thinned: bool,
}

/// An image of an entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryImage {
    /// Its id.
    pub id: String,
    /// The file it comes from; with the id it says whether two images are the same.
    pub origin: PathBuf,
    /// Number of its bytes.
    pub bytes: u64,
    /// Whether they are those of the file, and not repeated after the entry.
    pub kept: bool,
    /// What it holds beside the pixels that are shown.
    #[serde(default)]
    pub notes: ImageNotes,
}

/// An entry with the bytes of its images that are not those of their files.
#[derive(Debug)]
pub struct Finished {
    /// What is known.
    pub entry: Entry,
    /// Their bytes, in order.
    pub bytes: Vec<Vec<u8>>,
}

/// Works on one item. The error is one that every item would meet.
pub fn process(
    item: Result<Item, Skip>,
    pictures: &PictureOptions,
    video: &VideoOptions,
) -> Result<Finished, ImportError> {
    let item = match item {
        Ok(item) => item,
        Err(skip) => return Ok(failed(String::new(), 0, skip)),
    };
    let numbered = item.pairs.len();
    let mut entry = Entry {
        name: item.name,
        numbered,
        pairs: Vec::with_capacity(numbered),
        images: Vec::new(),
        skips: Vec::new(),
        thinned: false,
    };
    for (place, pair) in item.pairs.into_iter().enumerate() {
        let empty = |text: &str| text.trim().is_empty();
        let what = match (empty(&pair.instruction), empty(&pair.answer)) {
            (false, false) => {
                entry.pairs.push((place, pair));
                continue;
            }
            (true, _) => "instruction",
            (false, true) => "answer",
        };
        let message = format!("{}: the {what} of pair {} is empty", entry.name, place + 1);
        entry.skips.push(Skip::new(Reason::EmptyText, message));
    }
    if entry.pairs.is_empty() {
        let message = format!("{}: no pair with instruction and answer", entry.name);
        entry.skips.push(Skip::new(Reason::NoPairs, message));
        return Ok(Finished { entry, bytes: Vec::new() });
    }
    match read_pictures(&mut entry, &item.visual, pictures, video)? {
        Ok(bytes) => Ok(Finished { entry, bytes }),
        Err(skip) => Ok(failed(entry.name, numbered, skip)),
    }
}

fn failed(name: String, numbered: usize, skip: Skip) -> Finished {
    let entry =
        Entry { name, numbered, pairs: Vec::new(), images: Vec::new(), skips: vec![skip], thinned: false };
    Finished { entry, bytes: Vec::new() }
}

type Pictures = Result<Vec<Vec<u8>>, Skip>;

fn read_pictures(
    entry: &mut Entry,
    visual: &Visual,
    pictures: &PictureOptions,
    video: &VideoOptions,
) -> Result<Pictures, ImportError> {
    match visual {
        Visual::Nothing => Ok(Ok(Vec::new())),
        Visual::Images(files) => {
            let mut changed = Vec::new();
            for file in files {
                let (size, prepared) = match prepare_file(&file.path, pictures) {
                    Ok(prepared) => prepared,
                    Err(skip) => {
                        return Ok(Err(Skip::new(skip.reason, format!("{}: {}", entry.name, skip.message))));
                    }
                };
                entry.images.push(EntryImage {
                    id: file.id.clone(),
                    origin: file.path.clone(),
                    bytes: prepared.bytes.as_ref().map_or(size, |bytes| bytes.len() as u64),
                    kept: prepared.bytes.is_none(),
                    notes: prepared.notes,
                });
                changed.extend(prepared.bytes);
            }
            Ok(Ok(changed))
        }
        Visual::Video { path, prefix, digits, range } => {
            let options = VideoOptions { range: *range, ..video.clone() };
            frames(entry, path, (prefix, *digits), &options, pictures)
        }
    }
}

fn frames(
    entry: &mut Entry,
    path: &Path,
    (prefix, digits): (&str, usize),
    options: &VideoOptions,
    pictures: &PictureOptions,
) -> Result<Pictures, ImportError> {
    let skip = |name: &str, error: VideoError| match reason(&error) {
        Some(reason) => Ok(Err(Skip::new(reason, format!("{name}: {error}")))),
        None => Err(error.into()),
    };
    let frames = match open_frames(path, options) {
        Ok(frames) => frames,
        Err(error) => return skip(&entry.name, error),
    };
    entry.thinned = frames.thinned();
    let mut bytes = Vec::new();
    for frame in frames {
        let frame = match frame {
            Ok(frame) => frame,
            Err(error) => return skip(&entry.name, error),
        };
        let id = format!("{prefix}_{:0digits$}", frame.number);
        let (encoded, notes) = match prepare_frame(frame.picture, pictures, &id) {
            Ok(encoded) => encoded,
            Err(skip) => {
                return Ok(Err(Skip::new(skip.reason, format!("{}: {}", entry.name, skip.message))));
            }
        };
        entry.images.push(EntryImage {
            id,
            origin: path.to_owned(),
            bytes: encoded.len() as u64,
            kept: false,
            notes,
        });
        bytes.push(encoded);
    }
    Ok(Ok(bytes))
}

fn reason(error: &VideoError) -> Option<Reason> {
    match error {
        VideoError::NoFfmpeg { .. } | VideoError::Option(_) => None,
        VideoError::Io { .. } => Some(Reason::UnreadableVideo),
        VideoError::Broken { .. } => Some(Reason::BrokenVideo),
        VideoError::NoFrames { .. } => Some(Reason::NoFrames),
        VideoError::Timeout { .. } => Some(Reason::VideoTimeout),
    }
}
