//! Several sequences in one row of a batch ("packing"): where each of them lies. A token sees tokens of its own
//! sequence only, and positions count from the sequence's own start, so that each is computed as if it stood alone.

use std::fmt;
use std::ops::Range;

/// One sequence: tokens `start..start + len` of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Row of the batch.
    pub row: usize,
    /// First token in the row.
    pub start: usize,
    /// Tokens.
    pub len: usize,
}

/// All sequences of a batch of rows. Tokens of no segment are padding: they see nothing and nothing sees them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segments {
    rows: usize,
    length: usize,
    list: Vec<Segment>,
}

/// A segment that cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentError {
    /// Its place in the list.
    pub index: usize,
    /// The segment.
    pub segment: Segment,
    /// What is wrong with it.
    pub problem: SegmentProblem,
}

/// What is wrong with a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SegmentProblem {
    /// It has no token.
    Empty,
    /// It leaves the batch of so many rows and tokens a row.
    Outside {
        /// Rows.
        rows: usize,
        /// Tokens of a row.
        length: usize,
    },
    /// It begins before the end of the one before it in the list.
    OutOfOrder,
}

impl fmt::Display for SegmentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Segment { row, start, len } = self.segment;
        write!(f, "segment {} (row {row}, {len} tokens from {start} on) ", self.index)?;
        match self.problem {
            SegmentProblem::Empty => write!(f, "is empty; every segment needs a token"),
            SegmentProblem::Outside { rows, length } => {
                write!(f, "leaves the batch of {rows} rows of {length} tokens")
            }
            SegmentProblem::OutOfOrder => {
                write!(
                    f,
                    "begins before the end of the segment before it; list them in order, without overlap"
                )
            }
        }
    }
}

impl std::error::Error for SegmentError {}

impl Segment {
    /// One past its last token in the row.
    pub fn end(&self) -> usize {
        self.start + self.len
    }
}

impl Segments {
    /// Segments of `rows` rows of `length` tokens, in the order of the tokens.
    ///
    /// # Errors
    /// A segment that is empty, leaves the rows, or overlaps or precedes the one before it.
    pub fn new(rows: usize, length: usize, list: Vec<Segment>) -> Result<Self, SegmentError> {
        let mut free = (0, 0);
        for (index, &segment) in list.iter().enumerate() {
            let end = segment.start.checked_add(segment.len);
            let problem = if segment.len == 0 {
                Some(SegmentProblem::Empty)
            } else if segment.row >= rows || end.is_none_or(|end| end > length) {
                Some(SegmentProblem::Outside { rows, length })
            } else if (segment.row, segment.start) < free {
                Some(SegmentProblem::OutOfOrder)
            } else {
                None
            };
            if let Some(problem) = problem {
                return Err(SegmentError { index, segment, problem });
            }
            free = (segment.row, segment.end());
        }
        Ok(Self { rows, length, list })
    }

    /// Rows of the batch.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Tokens of a row, padding included.
    pub fn length(&self) -> usize {
        self.length
    }

    /// The segments in the order of the tokens.
    pub fn list(&self) -> &[Segment] {
        &self.list
    }

    /// The tokens of a segment, counted through all rows.
    pub fn tokens(&self, segment: &Segment) -> Range<usize> {
        let first = segment.row * self.length + segment.start;
        first..first + segment.len
    }

    /// Position of every token (rows * length) in its own segment; 0 for padding.
    pub fn positions(&self) -> Vec<u32> {
        let mut positions = vec![0; self.rows * self.length];
        for segment in &self.list {
            for (position, slot) in positions[self.tokens(segment)].iter_mut().enumerate() {
                *slot = position as u32;
            }
        }
        positions
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn segment(row: usize, start: usize, len: usize) -> Segment {
        Segment { row, start, len }
    }

    #[test]
    fn positions_restart_in_every_segment() {
        let list = vec![segment(0, 0, 2), segment(0, 2, 3), segment(1, 1, 2)];
        let segments = Segments::new(2, 5, list).unwrap();
        assert_eq!(segments.positions(), [0, 1, 0, 1, 2, 0, 0, 1, 0, 0]);
        assert_eq!(segments.tokens(&segments.list()[2]), 6..8);
    }

    #[test]
    fn impossible_segments_are_named() {
        let problem = |list: Vec<Segment>| Segments::new(2, 5, list).unwrap_err();
        assert_eq!(problem(vec![segment(0, 0, 0)]).problem, SegmentProblem::Empty);
        let outside = SegmentProblem::Outside { rows: 2, length: 5 };
        for wrong in [segment(2, 0, 1), segment(0, 3, 3), segment(0, usize::MAX, 2)] {
            assert_eq!(problem(vec![wrong]).problem, outside);
        }
        for second in [segment(0, 1, 2), segment(0, 0, 1)] {
            let error = problem(vec![segment(0, 0, 2), second]);
            assert_eq!((error.index, error.problem), (1, SegmentProblem::OutOfOrder));
        }
        assert_eq!(problem(vec![segment(1, 0, 2), segment(0, 2, 1)]).problem, SegmentProblem::OutOfOrder);
        let message = problem(vec![segment(0, 3, 3)]).to_string();
        assert!(
            message.contains("row 0, 3 tokens from 3 on") && message.contains("2 rows of 5"),
            "{message}"
        );
    }
}
