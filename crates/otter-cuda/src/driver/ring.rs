//! Places in a stretch of memory that is used over and over, in turn: who gets a place waits until the last use of it ended.

use std::collections::VecDeque;
use std::ops::Range;

/// Most places in use at once.
const MOST: usize = 1 << 12;

/// Places in use, the oldest first, with what tells that a use ended.
pub(crate) struct Ring<E> {
    size: usize,
    next: usize,
    used: VecDeque<(Range<usize>, E)>,
}

impl<E> Ring<E> {
    /// A stretch of `size` bytes.
    pub(crate) fn new(size: usize) -> Self {
        Self { size, next: 0, used: VecDeque::new() }
    }

    /// A place of `len` bytes, and what told the ends of those uses that it takes the room of: they must have ended before it is
    /// written.
    ///
    /// # Panics
    /// When the stretch is shorter.
    pub(crate) fn place(&mut self, len: usize) -> (Range<usize>, Vec<E>) {
        assert!(len <= self.size, "{len} bytes of {}", self.size);
        if self.next + len > self.size {
            self.next = 0;
        }
        let place = self.next..self.next + len;
        let mut ended = Vec::new();
        let overlaps = |used: &Range<usize>| used.start < place.end && place.start < used.end;
        while self.used.len() >= MOST || self.used.iter().any(|(used, _)| overlaps(used)) {
            ended.extend(self.used.pop_front().map(|(_, end)| end));
        }
        (place, ended)
    }

    /// Marks the place that was given last as used, and says what tells the end of it.
    pub(crate) fn take(&mut self, place: Range<usize>, end: E) {
        // Places begin where any element may.
        self.next = place.end.next_multiple_of(16);
        self.used.push_back((place, end));
    }

    /// What tells the ends of all uses.
    pub(crate) fn into_ends(self) -> impl Iterator<Item = E> {
        self.used.into_iter().map(|(_, end)| end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is written never lies where a use has not ended, whatever the lengths.
    #[test]
    fn places_in_use_are_waited_for() {
        let mut ring = Ring::new(1000);
        let mut in_use: Vec<(Range<usize>, usize)> = Vec::new();
        let mut waits = 0;
        for number in 0..5000 {
            let len = 1 + number * 7919 % if number % 10 == 0 { 1000 } else { 90 };
            let (place, ended) = ring.place(len);
            assert!(place.len() == len && place.end <= 1000 && place.start.is_multiple_of(16));
            waits += ended.len();
            in_use.retain(|(_, end)| !ended.contains(end));
            let free = in_use.iter().all(|(used, _)| used.end <= place.start || place.end <= used.start);
            assert!(free, "{place:?} in use: {in_use:?}");
            ring.take(place.clone(), number);
            in_use.push((place, number));
        }
        assert!(waits > 4000 && ring.into_ends().count() == in_use.len());
    }
}
