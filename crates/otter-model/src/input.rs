//! What a pass reads: pixels or features with the media they belong to, and rows of tokens.

use std::ops::Range;

pub use otter_input::TextInput;
use otter_input::consecutive;
use otter_nn::{AttentionMask, Float, MediaRows, Tensor};

use crate::ModelError;
use crate::config::TextConfig;
use crate::flamingo::{Context, causal_mask};
use crate::text::Rows;

/// Frames, how they group into media items, and which items each sequence shows.
#[derive(Clone)]
pub struct VisionInput<T = f32> {
    /// On the host: (frames of all items, 3, S, S); or, where the frozen tower has seen them before, what
    /// [`Otter::vision_features`] gives: (frames of all items, patches, width).
    pub pixels: Tensor<T>,
    /// Frames of each media item, in order and without gaps.
    pub media_frames: Vec<Range<usize>>,
    /// Per sequence (in packed rows: per segment): the media item of its first, second, … media token. Items may be
    /// shared.
    pub slots: Vec<Vec<usize>>,
}

impl<T: Float> VisionInput<T> {
    /// Media items of so many `frames` each, one after another in `pixels`; `pixels` and `slots` as in the fields.
    pub fn new(pixels: Tensor<T>, frames: impl IntoIterator<Item = usize>, slots: Vec<Vec<usize>>) -> Self {
        Self { pixels, media_frames: consecutive(frames), slots }
    }

    /// Media items of so many `frames` each, all shown by one sequence in their order.
    pub fn one_sequence(pixels: Tensor<T>, frames: impl IntoIterator<Item = usize>) -> Self {
        let media_frames = consecutive(frames);
        let slots = vec![(0..media_frames.len()).collect()];
        Self { pixels, media_frames, slots }
    }

    /// As many sequences as `pixels` has frames, each of which shows one.
    pub fn a_picture_each(pixels: Tensor<T>) -> Self {
        let pictures = pixels.shape()[0];
        Self::new(pixels, vec![1; pictures], (0..pictures).map(|item| vec![item]).collect())
    }

    /// Whether features stand in the place of the pixels.
    pub fn is_features(&self) -> bool {
        self.pixels.shape().len() == 3
    }
}

/// Whether the segments of packed rows are those of these rows and hold exactly what the mask marks as text.
pub(crate) fn check_segments(text: &TextInput) -> Result<(), ModelError> {
    let Some(segments) = &text.segments else { return Ok(()) };
    for (what, found, expected) in [
        ("rows of the segments", segments.rows(), text.batch),
        ("row length of the segments", segments.length(), text.length),
    ] {
        if found != expected {
            return Err(ModelError::Shape { what, found, expected });
        }
    }
    let mut inside = vec![false; text.attention_mask.len()];
    segments.list().iter().for_each(|segment| inside[segments.tokens(segment)].fill(true));
    match inside.iter().zip(&text.attention_mask).position(|(inside, visible)| inside != visible) {
        None => Ok(()),
        Some(index) => {
            let (row, position) = (index / text.length, index % text.length);
            Err(ModelError::SegmentMask { row, position, visible: text.attention_mask[index] })
        }
    }
}

/// What every token attends, given each sequence's media.
pub(crate) fn media_rows(text: &TextInput, slots: Option<&[Vec<usize>]>) -> MediaRows {
    let media_tokens: Vec<bool> = text.ids.iter().map(|&id| id == text.media_token_id).collect();
    let none = vec![Vec::new(); text.sequences()];
    let items = slots.unwrap_or(&none);
    match &text.segments {
        Some(segments) => MediaRows::in_segments(&media_tokens, segments, items),
        None => MediaRows::from_media_tokens(&media_tokens, text.length, items),
    }
}

/// Positions, mask and media of a plain pass.
pub(crate) struct TextPlan {
    positions: Vec<u32>,
    mask: AttentionMask,
    media_rows: MediaRows,
}

impl TextPlan {
    pub(crate) fn new(text: &TextInput, slots: Option<&[Vec<usize>]>, config: &TextConfig) -> Self {
        let media_rows = media_rows(text, slots);
        if let Some(segments) = &text.segments {
            let mask = AttentionMask::Segments(segments.clone());
            return Self { positions: segments.positions(), mask, media_rows };
        }
        let positions = if config.sizes().positions_skip_padding {
            text.positions_without_padding(0)
        } else {
            (0..text.batch).flat_map(|_| 0..text.length as u32).collect()
        };
        Self { positions, mask: causal_mask(&text.attention_mask, 0), media_rows }
    }

    pub(crate) fn context(&self, text: &TextInput) -> Context<'_> {
        let rows = Rows { batch: text.batch, positions: &self.positions, mask: &self.mask };
        Context { rows, media_rows: &self.media_rows }
    }
}
