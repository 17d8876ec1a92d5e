//! Samples put together: rows padded on the right, of one sample or of several, and each distinct media item once.

pub(crate) mod epoch_order;
pub(crate) mod loader;
pub(crate) mod packing;
pub(crate) mod report;

use std::ops::Range;
use std::sync::Arc;

use otter_input::{IGNORE_INDEX, Segment, Segments, TextInput, consecutive};

use crate::batch::packing::best_fit;
use crate::config::Group;
use crate::sample::{MediaItem, Sample};
use crate::text::tokenizer::SpecialTokens;

/// A batch: what a model is shown, its labels, and what the samples are called. Numbers of media items and frames may
/// differ between samples.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// Instruction ids, one per sample.
    pub sample_ids: Vec<String>,
    /// Task groups, one per sample.
    pub groups: Vec<Group>,
    /// Prompt texts, one per sample.
    pub texts: Vec<String>,
    /// The rows, padded on the right. Its sequences are the samples, listed in the order of the tokens everywhere.
    pub text: TextInput,
    /// (batch, length), -100 where nothing is trained.
    pub labels: Vec<i64>,
    /// (frames of all media items, 3, image_size, image_size)
    pub pixels: Arc<Vec<f32>>,
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
    pub fn collate(samples: Vec<Sample>, special: &SpecialTokens, image_size: usize) -> Self {
        let rows = samples.into_iter().map(|sample| vec![sample]).collect();
        Self::of_rows(rows, special, image_size)
    }

    /// The same samples one after another in rows of at most `pack_length` tokens, as [`best_fit`] says; a longer sample
    /// has a longer row to itself. Without a limit all of them stand in one row, which needs no padding at all.
    pub fn collate_packed(
        samples: Vec<Sample>,
        pack_length: Option<usize>,
        special: &SpecialTokens,
        image_size: usize,
    ) -> Self {
        let lengths: Vec<usize> = samples.iter().map(|sample| sample.input_ids.len()).collect();
        let mut samples: Vec<Option<Sample>> = samples.into_iter().map(Some).collect();
        let rows = best_fit(&lengths, pack_length.unwrap_or(usize::MAX));
        let rows = rows.iter().map(|row| row.iter().filter_map(|&item| samples[item].take()).collect());
        Self::of_rows(rows.collect(), special, image_size)
    }

    fn of_rows(rows: Vec<Vec<Sample>>, special: &SpecialTokens, image_size: usize) -> Self {
        let tokens = |row: &Vec<Sample>| row.iter().map(|sample| sample.input_ids.len()).sum();
        let length = rows.iter().map(tokens).max().unwrap_or(0);
        let (batch, cells) = (rows.len(), rows.len() * length);
        let (mut ids, mut attention_mask) = (vec![special.pad; cells], vec![false; cells]);
        let mut labels = vec![IGNORE_INDEX; cells];
        let mut segments: Vec<Segment> = Vec::new();
        let (mut sample_ids, mut groups, mut texts) = (Vec::new(), Vec::new(), Vec::new());
        let (mut distinct, mut media_slots): (Vec<MediaItem>, _) = (Vec::new(), Vec::new());
        let label_tokens = rows.iter().flatten().map(Sample::label_tokens).sum();
        let samples = rows.into_iter().enumerate().flat_map(|(row, samples)| {
            let place = move |sample: Sample| (row, sample);
            samples.into_iter().map(place)
        });
        for (row, sample) in samples {
            let len = sample.input_ids.len();
            let start = segments.last().filter(|last| last.row == row).map_or(0, Segment::end);
            let place = row * length + start..row * length + start + len;
            attention_mask[place.clone()].fill(true);
            ids[place.clone()].copy_from_slice(&sample.input_ids);
            labels[place].copy_from_slice(&sample.labels);
            segments.push(Segment { row, start, len });
            let slots = sample.media.into_iter().map(|item| {
                distinct.iter().position(|known| known.same_pictures(&item)).unwrap_or_else(|| {
                    distinct.push(item);
                    distinct.len() - 1
                })
            });
            media_slots.push(slots.collect());
            sample_ids.push(sample.id);
            groups.push(sample.group);
            texts.push(sample.text);
        }
        let frames: usize = distinct.iter().map(|item| item.frames.len()).sum();
        let mut pixels = Vec::with_capacity(frames * 3 * image_size * image_size);
        for frame in distinct.iter().flat_map(|item| &item.frames) {
            pixels.extend_from_slice(&frame.pixels);
        }
        let packed = segments.iter().any(|segment| segment.start > 0);
        // Samples have tokens and follow each other, which is all that is asked of segments.
        let segments = packed.then(|| Segments::new(batch, length, segments).ok()).flatten();
        Self {
            sample_ids,
            groups,
            texts,
            text: TextInput { ids, attention_mask, batch, length, segments, media_token_id: special.image },
            labels,
            pixels: Arc::new(pixels),
            image_size,
            media_frames: consecutive(distinct.iter().map(|item| item.frames.len())),
            media_slots,
            label_tokens,
        }
    }

    /// Number of samples.
    pub fn samples(&self) -> usize {
        self.text.sequences()
    }

    /// Whether some row holds several samples.
    pub fn is_packed(&self) -> bool {
        self.text.segments.is_some()
    }

    /// Tokens, padding included, of the same samples one a row.
    pub fn unpacked_cells(&self) -> usize {
        let lengths = (0..self.samples()).map(|sample| self.text.segment(sample).len);
        self.samples() * lengths.max().unwrap_or(0)
    }

    /// Number of frames of all media items.
    pub fn frames(&self) -> usize {
        self.media_frames.last().map_or(0, |range| range.end)
    }
}
