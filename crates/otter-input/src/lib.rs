//! What a model is shown, as plain numbers of the host: rows of tokens, several sequences in a row, frames of media.
//!
//! A leaf below data and layers: `otter-data` puts these together and knows no model, `otter-nn` and `otter-model` read
//! them and know no data, and nothing has to be converted between the two.

mod segments;
mod text;

use std::ops::Range;

pub use segments::{Segment, SegmentError, SegmentProblem, Segments};
pub use text::TextInput;

/// The label of a position that is not trained.
pub const IGNORE_INDEX: i64 = -100;

/// Ranges of these lengths, one after another from 0: which frames are those of the 1st, 2nd, … media item.
pub fn consecutive(lengths: impl IntoIterator<Item = usize>) -> Vec<Range<usize>> {
    let mut end = 0;
    let next = |length| {
        let start = end;
        end += length;
        start..end
    };
    lengths.into_iter().map(next).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_follow_each_other() {
        assert_eq!(consecutive([2, 0, 3]), [0..2, 2..2, 2..5]);
        assert_eq!(consecutive([]), []);
    }
}
