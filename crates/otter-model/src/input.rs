//! What a pass reads: pixels or features with the media they belong to, and rows of tokens.

use std::ops::Range;

use otter_nn::{AttentionMask, MediaRows, Real, Segments, Tensor};

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

/// Token ids of a batch.
#[derive(Clone, Debug)]
pub struct TextInput {
    /// (batch, length).
    pub ids: Vec<u32>,
    /// (batch, length): false for padding.
    pub attention_mask: Vec<bool>,
    /// Rows.
    pub batch: usize,
    /// Tokens of each, padding included.
    pub length: usize,
    /// The sequences in packed rows; `None` when every row is one sequence.
    pub segments: Option<Segments>,
    /// Id of `<image>`.
    pub media_token_id: u32,
}

impl<T: Real> VisionInput<T> {
    /// Whether features stand in the place of the pixels.
    pub fn is_features(&self) -> bool {
        self.pixels.shape().len() == 3
    }
}

impl TextInput {
    /// One sequence without padding.
    pub fn single(ids: Vec<u32>, media_token_id: u32) -> Self {
        let length = ids.len();
        Self { attention_mask: vec![true; length], ids, batch: 1, length, segments: None, media_token_id }
    }

    /// Number of sequences: rows, or segments where rows are packed.
    pub fn sequences(&self) -> usize {
        self.segments.as_ref().map_or(self.batch, |segments| segments.list().len())
    }

    /// Whether the segments are those of these rows and hold exactly what the mask marks as text.
    pub(crate) fn check_segments(&self, segments: &Segments) -> Result<(), ModelError> {
        for (what, found, expected) in [
            ("rows of the segments", segments.rows(), self.batch),
            ("row length of the segments", segments.length(), self.length),
        ] {
            if found != expected {
                return Err(ModelError::Shape { what, found, expected });
            }
        }
        let mut inside = vec![false; self.attention_mask.len()];
        segments.list().iter().for_each(|segment| inside[segments.tokens(segment)].fill(true));
        match inside.iter().zip(&self.attention_mask).position(|(inside, visible)| inside != visible) {
            None => Ok(()),
            Some(index) => {
                let (row, position) = (index / self.length, index % self.length);
                Err(ModelError::SegmentMask { row, position, visible: self.attention_mask[index] })
            }
        }
    }

    /// Whether some sequence has a media token.
    pub fn shows_media(&self) -> bool {
        self.ids.contains(&self.media_token_id)
    }

    /// Position of every token, counting no padding; padding before a sequence stands at `padding`.
    pub(crate) fn positions_without_padding(&self, padding: u32) -> Vec<u32> {
        let mut positions = Vec::with_capacity(self.ids.len());
        for mask in self.attention_mask.chunks(self.length.max(1)) {
            let mut next = 0;
            for &visible in mask {
                positions.push(if visible { next } else { padding });
                next += u32::from(visible);
            }
        }
        positions
    }

    /// What every token attends, given each sequence's media.
    pub fn media_rows(&self, slots: Option<&[Vec<usize>]>) -> MediaRows {
        let media_tokens: Vec<bool> = self.ids.iter().map(|&id| id == self.media_token_id).collect();
        let none = vec![Vec::new(); self.sequences()];
        let items = slots.unwrap_or(&none);
        match &self.segments {
            Some(segments) => MediaRows::in_segments(&media_tokens, segments, items),
            None => MediaRows::from_media_tokens(&media_tokens, self.length, items),
        }
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
        let media_rows = text.media_rows(slots);
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
