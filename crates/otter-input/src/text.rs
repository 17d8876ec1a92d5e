//! Rows of token ids.

use std::ops::Range;

use crate::{Segment, Segments};

/// Token ids of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
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

    /// Where a sequence stands, padding left out.
    pub fn segment(&self, sequence: usize) -> Segment {
        match &self.segments {
            Some(segments) => segments.list()[sequence],
            None => {
                let mask = &self.attention_mask[self.row(sequence)];
                let start = mask.iter().position(|&real| real).unwrap_or(0);
                let len = mask.iter().filter(|&&real| real).count();
                Segment { row: sequence, start, len }
            }
        }
    }

    /// Places of a sequence's tokens in `ids` and `attention_mask`, padding left out.
    pub fn tokens_of(&self, sequence: usize) -> Range<usize> {
        let Segment { row, start, len } = self.segment(sequence);
        row * self.length + start..row * self.length + start + len
    }

    /// Places of a row in `ids` and `attention_mask`, padding included.
    pub fn row(&self, row: usize) -> Range<usize> {
        row * self.length..(row + 1) * self.length
    }

    /// Tokens without padding.
    pub fn tokens(&self) -> usize {
        self.attention_mask.iter().filter(|&&real| real).count()
    }

    /// Whether some sequence has a media token.
    pub fn shows_media(&self) -> bool {
        self.ids.contains(&self.media_token_id)
    }

    /// Position of every token, counting no padding; padding before a sequence stands at `padding`.
    pub fn positions_without_padding(&self, padding: u32) -> Vec<u32> {
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
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_sequence_is_found_in_padded_and_in_packed_rows() {
        let padded = TextInput {
            ids: vec![5, 6, 0, 0, 7, 8],
            attention_mask: vec![true, true, false, false, true, true],
            batch: 2,
            length: 3,
            segments: None,
            media_token_id: 7,
        };
        assert_eq!((padded.sequences(), padded.tokens()), (2, 4));
        assert_eq!((padded.tokens_of(0), padded.tokens_of(1)), (0..2, 4..6));
        assert!(padded.shows_media() && !TextInput::single(vec![5], 7).shows_media());
        assert_eq!(padded.positions_without_padding(9), [0, 1, 9, 9, 0, 1]);

        let list = vec![Segment { row: 0, start: 0, len: 1 }, Segment { row: 0, start: 1, len: 2 }];
        let segments = Segments::new(1, 3, list).ok();
        let packed = TextInput { segments, ..TextInput::single(vec![5, 6, 8], 7) };
        assert_eq!((packed.sequences(), packed.tokens_of(1)), (2, 1..3));
        assert_eq!(packed.segment(1), *packed.segments.as_ref().unwrap().list().last().unwrap());
    }
}
