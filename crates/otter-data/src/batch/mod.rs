//! Samples put together: rows padded on the right, of one sample or of several, and each distinct media item once.

pub(crate) mod epoch_order;
pub(crate) mod loader;
pub(crate) mod packing;

use std::ops::Range;

use crate::batch::packing::{Segment, best_fit};
use crate::config::Group;
use crate::sample::{MediaItem, Sample};
use crate::text::labels::IGNORE_INDEX;

/// A batch, free of any model. Numbers of media items and frames may differ between samples.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// Instruction ids, one per sample.
    pub sample_ids: Vec<String>,
    /// Task groups, one per sample.
    pub groups: Vec<Group>,
    /// Prompt texts, one per sample.
    pub texts: Vec<String>,
    /// (batch, length) row-major, padded on the right.
    pub input_ids: Vec<u32>,
    /// (batch, length), false at padding.
    pub attention_mask: Vec<bool>,
    /// (batch, length), -100 where nothing is trained.
    pub labels: Vec<i64>,
    /// Number of rows.
    pub batch: usize,
    /// Length of the rows.
    pub length: usize,
    /// Where each sample stands, in the order of the tokens; samples are listed in this order everywhere.
    pub segments: Vec<Segment>,
    /// (frames of all media items, 3, image_size, image_size)
    pub pixels: Vec<f32>,
    /// Side length of the images.
    pub image_size: usize,
    /// Per media item: its frames as a range of the first axis of `pixels`.
    pub media_frames: Vec<Range<usize>>,
    /// Per sample: the media item of its 1st, 2nd, … image placeholder.
    pub media_slots: Vec<Vec<usize>>,
    /// Number of trained positions of the whole batch.
    pub label_tokens: usize,
}

impl Batch {
    /// Puts samples together, one a row. Media items with the same pictures are stored once.
    pub fn collate(samples: Vec<Sample>, pad: u32, image_size: usize) -> Self {
        let rows = samples.into_iter().map(|sample| vec![sample]).collect();
        Self::of_rows(rows, pad, image_size)
    }

    /// The same samples one after another in rows of at most `pack_length` tokens, as [`best_fit`] says; a longer sample
    /// has a longer row to itself. Without a limit all of them stand in one row, which needs no padding at all.
    pub fn collate_packed(
        samples: Vec<Sample>,
        pack_length: Option<usize>,
        pad: u32,
        image_size: usize,
    ) -> Self {
        let lengths: Vec<usize> = samples.iter().map(|sample| sample.input_ids.len()).collect();
        let mut samples: Vec<Option<Sample>> = samples.into_iter().map(Some).collect();
        let rows = best_fit(&lengths, pack_length.unwrap_or(usize::MAX));
        let rows = rows.iter().map(|row| row.iter().filter_map(|&item| samples[item].take()).collect());
        Self::of_rows(rows.collect(), pad, image_size)
    }

    fn of_rows(rows: Vec<Vec<Sample>>, pad: u32, image_size: usize) -> Self {
        let tokens = |row: &Vec<Sample>| row.iter().map(|sample| sample.input_ids.len()).sum();
        let length = rows.iter().map(tokens).max().unwrap_or(0);
        let cells = rows.len() * length;
        let mut batch = Self {
            sample_ids: Vec::new(),
            groups: Vec::new(),
            texts: Vec::new(),
            input_ids: vec![pad; cells],
            attention_mask: vec![false; cells],
            labels: vec![IGNORE_INDEX; cells],
            batch: rows.len(),
            length,
            segments: Vec::new(),
            pixels: Vec::new(),
            image_size,
            media_frames: Vec::new(),
            media_slots: Vec::new(),
            label_tokens: rows.iter().flatten().map(Sample::label_tokens).sum(),
        };
        let mut distinct: Vec<MediaItem> = Vec::new();
        let samples = rows.into_iter().enumerate().flat_map(|(row, samples)| {
            let place = move |sample: Sample| (row, sample);
            samples.into_iter().map(place)
        });
        for (row, sample) in samples {
            let len = sample.input_ids.len();
            let start = batch.segments.last().filter(|last| last.row == row).map_or(0, Segment::end);
            let place = row * length + start..row * length + start + len;
            batch.attention_mask[place.clone()].fill(true);
            batch.input_ids[place.clone()].copy_from_slice(&sample.input_ids);
            batch.labels[place].copy_from_slice(&sample.labels);
            batch.segments.push(Segment { row, start, len });
            let slots = sample.media.into_iter().map(|item| {
                distinct.iter().position(|known| known.same_pictures(&item)).unwrap_or_else(|| {
                    distinct.push(item);
                    distinct.len() - 1
                })
            });
            batch.media_slots.push(slots.collect());
            batch.sample_ids.push(sample.id);
            batch.groups.push(sample.group);
            batch.texts.push(sample.text);
        }
        let mut frames = 0;
        for item in &distinct {
            batch.media_frames.push(frames..frames + item.frames.len());
            frames += item.frames.len();
        }
        batch.pixels.reserve_exact(frames * 3 * image_size * image_size);
        for frame in distinct.iter().flat_map(|item| &item.frames) {
            batch.pixels.extend_from_slice(&frame.pixels);
        }
        batch
    }

    /// Deletes every occurrence of a token from ids, labels and mask and pads the rows anew, as
    /// the original does on request with `<answer>` and `<|endofchunk|>`.
    pub fn remove_token(&mut self, token: u32, pad: u32) {
        let kept: Vec<Vec<usize>> = (0..self.batch)
            .map(|row| {
                (row * self.length..(row + 1) * self.length)
                    .filter(|&at| self.input_ids[at] != token)
                    .collect()
            })
            .collect();
        let old_length = self.length;
        self.length = kept.iter().map(Vec::len).max().unwrap_or(0);
        for segment in &mut self.segments {
            let before = |end: usize| {
                kept[segment.row].iter().filter(|&&at| at < segment.row * old_length + end).count()
            };
            let (start, end) = (before(segment.start), before(segment.end()));
            (segment.start, segment.len) = (start, end - start);
        }
        let mut rebuilt = (Vec::new(), Vec::new(), Vec::new());
        for row in kept {
            for slot in 0..self.length {
                let at = row.get(slot).copied();
                rebuilt.0.push(at.map_or(pad, |at| self.input_ids[at]));
                rebuilt.1.push(at.is_some_and(|at| self.attention_mask[at]));
                rebuilt.2.push(at.map_or(IGNORE_INDEX, |at| self.labels[at]));
            }
        }
        (self.input_ids, self.attention_mask, self.labels) = rebuilt;
        self.label_tokens = self.labels.iter().filter(|&&label| label != IGNORE_INDEX).count();
    }

    /// Number of samples.
    pub fn samples(&self) -> usize {
        self.segments.len()
    }

    /// Whether some row holds several samples.
    pub fn is_packed(&self) -> bool {
        self.segments.iter().any(|segment| segment.start > 0)
    }

    /// Tokens without padding.
    pub fn tokens(&self) -> usize {
        self.attention_mask.iter().filter(|&&real| real).count()
    }

    /// Tokens, padding included, of the same samples one a row.
    pub fn unpacked_cells(&self) -> usize {
        self.samples() * self.segments.iter().map(|segment| segment.len).max().unwrap_or(0)
    }

    /// Places of a sample's tokens in `input_ids`, `attention_mask` and `labels`.
    pub fn sample_range(&self, sample: usize) -> Range<usize> {
        let Segment { row, start, len } = self.segments[sample];
        row * self.length + start..row * self.length + start + len
    }

    /// Number of frames of all media items.
    pub fn frames(&self) -> usize {
        self.media_frames.last().map_or(0, |range| range.end)
    }

    /// Ids of one row, padding included.
    pub fn row(&self, row: usize) -> &[u32] {
        &self.input_ids[row * self.length..(row + 1) * self.length]
    }

    /// Labels of one row, padding included.
    pub fn label_row(&self, row: usize) -> &[i64] {
        &self.labels[row * self.length..(row + 1) * self.length]
    }
}
