//! Samples put together: right-padded rows, and each distinct media item once.

use std::ops::Range;

use crate::config::Group;
use crate::labels::IGNORE_INDEX;
use crate::sample::{MediaItem, Sample};

/// A batch, free of any model. Numbers of media items and frames may differ between samples.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// Instruction ids, one per row.
    pub sample_ids: Vec<String>,
    /// Task groups, one per row.
    pub groups: Vec<Group>,
    /// Prompt texts, one per row.
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
    /// (frames of all media items, 3, image_size, image_size)
    pub pixels: Vec<f32>,
    /// Side length of the images.
    pub image_size: usize,
    /// Per media item: its frames as a range of the first axis of `pixels`.
    pub media_frames: Vec<Range<usize>>,
    /// Per row: the media item of its 1st, 2nd, … image placeholder.
    pub media_slots: Vec<Vec<usize>>,
    /// Number of trained positions of the whole batch.
    pub label_tokens: usize,
}

impl Batch {
    /// Puts samples together. Media items with the same pictures are stored once.
    pub fn collate(samples: Vec<Sample>, pad: u32, image_size: usize) -> Self {
        let length = samples.iter().map(|sample| sample.input_ids.len()).max().unwrap_or(0);
        let rows = samples.len();
        let mut batch = Self {
            sample_ids: Vec::with_capacity(rows),
            groups: Vec::with_capacity(rows),
            texts: Vec::with_capacity(rows),
            input_ids: Vec::with_capacity(rows * length),
            attention_mask: Vec::with_capacity(rows * length),
            labels: Vec::with_capacity(rows * length),
            batch: rows,
            length,
            pixels: Vec::new(),
            image_size,
            media_frames: Vec::new(),
            media_slots: Vec::with_capacity(rows),
            label_tokens: samples.iter().map(Sample::label_tokens).sum(),
        };
        let mut distinct: Vec<MediaItem> = Vec::new();
        for sample in samples {
            let padding = length - sample.input_ids.len();
            batch.attention_mask.extend(std::iter::repeat_n(true, sample.input_ids.len()));
            batch.attention_mask.extend(std::iter::repeat_n(false, padding));
            batch.input_ids.extend(sample.input_ids);
            batch.input_ids.extend(std::iter::repeat_n(pad, padding));
            batch.labels.extend(sample.labels);
            batch.labels.extend(std::iter::repeat_n(IGNORE_INDEX, padding));
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
        self.length = kept.iter().map(Vec::len).max().unwrap_or(0);
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
