//! Examples about the same scene: the same video, album, pair of pictures or conversation.
//!
//! In this order, until there are enough:
//! 1. the records that `rel_ins_ids` of the query lists, in its order;
//! 2. records that show one of its images, the nearest in the file first;
//! 3. records of the same sequence, the nearest frame first, then the nearest in the file.
//!
//! The sequence of a record is the name of its first image without the frame number: see [`frame_of`].

use std::cmp::Reverse;

use otter_data::{InstructionTable, Record};

use super::records::Records;
use super::rules::Picked;
use crate::retrieve::hash;

/// Records with the same image or sequence that are looked at for one query, the nearest in the file.
const MOST_NEAR: usize = 1024;

/// Who shares an image or a sequence with whom.
pub struct Scenes {
    /// (hash of the image id, record), sorted.
    by_image: Vec<(u64, u32)>,
    /// (hash of the sequence, record, frame number), sorted.
    by_sequence: Vec<(u64, u32, u64)>,
}

impl Scenes {
    /// Reads the image ids of all records again.
    pub fn new(table: &InstructionTable, records: &Records) -> Self {
        let mut by_image = Vec::new();
        let mut by_sequence = Vec::new();
        for entry in 0..records.len() {
            by_image.extend(records.images(entry).iter().map(|&image| (image, entry as u32)));
            if let Some((sequence, frame)) = table.record(entry).ok().as_ref().and_then(sequence) {
                by_sequence.push((sequence, entry as u32, frame));
            }
        }
        by_image.sort_unstable();
        by_image.dedup();
        by_sequence.sort_unstable();
        Self { by_image, by_sequence }
    }

    /// Offers the records of the query's scene.
    pub fn offer(&self, table: &InstructionTable, records: &Records, query: usize, picked: &mut Picked<'_>) {
        let Ok(record) = table.record(query) else { return };
        for id in &record.rel_ins_ids {
            // Another file may hold a listed record; it cannot be checked against the rules, so it is left out.
            if let Some(entry) = table.find(id).filter(|&entry| entry < records.len()) {
                picked.offer(entry);
            }
        }
        let mut near: Vec<u32> = Vec::new();
        for &image in records.images(query) {
            let same = &self.by_image[self.by_image.partition_point(|&(other, _)| other < image)..];
            let same = &same[..same.partition_point(|&(other, _)| other == image)];
            let middle = same.partition_point(|&(_, entry)| (entry as usize) < query);
            near.extend(around(same, middle).iter().map(|&(_, entry)| entry));
        }
        near.sort_by_key(|&entry| (query.abs_diff(entry as usize), Reverse(entry)));
        near.dedup();
        for entry in near {
            if picked.is_full() {
                return;
            }
            picked.offer(entry as usize);
        }
        let Some((own, frame)) = sequence(&record) else { return };
        let same = &self.by_sequence[self.by_sequence.partition_point(|&(other, ..)| other < own)..];
        let same = &same[..same.partition_point(|&(other, ..)| other == own)];
        let middle = same.partition_point(|&(_, entry, _)| (entry as usize) < query);
        let mut near = around(same, middle).to_vec();
        near.sort_by_key(|&(_, entry, other)| {
            (frame.abs_diff(other), query.abs_diff(entry as usize), Reverse(entry))
        });
        for (_, entry, _) in near {
            if picked.is_full() {
                return;
            }
            picked.offer(entry as usize);
        }
    }
}

/// At most [`MOST_NEAR`] elements around a position.
fn around<T>(all: &[T], middle: usize) -> &[T] {
    let first = middle.saturating_sub(MOST_NEAR / 2);
    &all[first..all.len().min(first + MOST_NEAR)]
}

fn sequence(record: &Record) -> Option<(u64, u64)> {
    let (sequence, frame) = frame_of(record.image_ids.first()?)?;
    Some((hash::id(sequence), frame))
}

/// The sequence and the frame number of an image id: what stands before and after the last `_`, `-` or `/`, if what
/// stands after it is a number (also `frame12`, `img12`; an extension is dropped), and the sequence is more than a data
/// set's code. `SN_IMG_scene0000_00_color_120` is frame 120 of `SN_IMG_scene0000_00_color`; `LA_IMG_000000123456` is
/// a picture of its own, because `LA_IMG` is no sequence.
pub fn frame_of(id: &str) -> Option<(&str, u64)> {
    let stem = match id.rsplit_once('.') {
        Some((stem, extension)) if extension.len() <= 4 && extension.chars().all(char::is_alphanumeric) => {
            stem
        }
        _ => id,
    };
    let at = stem.rfind(['_', '-', '/'])?;
    let (sequence, last) = (&stem[..at], &stem[at + 1..]);
    let digits = ["frame", "img", "f", ""].into_iter().find_map(|prefix| last.strip_prefix(prefix))?;
    let digits = if digits.starts_with(|c: char| c.is_ascii_digit()) { digits } else { last };
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let frame = digits.parse().ok()?;
    let code = sequence.is_empty() || sequence == "IMG" || sequence.ends_with("_IMG");
    (!code).then_some((sequence, frame))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_of_the_sets_of_mimic_it() {
        for (id, expected) in [
            ("DC_IMG_v_abc_0007", Some(("DC_IMG_v_abc", 7))),
            ("TVC_IMG_house_s01e02_seg3_clip_04_00012", Some(("TVC_IMG_house_s01e02_seg3_clip_04", 12))),
            ("SN_IMG_scene0000_00_color_120", Some(("SN_IMG_scene0000_00_color", 120))),
            ("E4D_IMG_a1b2_00000000", Some(("E4D_IMG_a1b2", 0))),
            ("SD_IMG_00001_2", Some(("SD_IMG_00001", 2))),
            ("clips/dog/frame0012.jpg", Some(("clips/dog", 12))),
            ("LA_IMG_000000123456", None),
            ("VST_IMG_123", None),
            ("IMG_00", None),
            ("cat", None),
            ("cat_x", None),
            ("a_frame", None),
        ] {
            assert_eq!(frame_of(id), expected, "{id}");
        }
    }
}
