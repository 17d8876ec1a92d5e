//! Buffers that a pass takes and gives back, so that a token in steady state allocates nothing, and a layer of many rows
//! writes memory that the layer before has already touched.

use otter_nn::Real;

/// Buffers that are free at the moment.
#[derive(Clone, Debug, Default)]
pub struct Scratch<T = f32> {
    free: Vec<Vec<T>>,
}

impl<T: Real> Scratch<T> {
    /// No buffers yet.
    pub fn new() -> Self {
        Self { free: Vec::new() }
    }

    /// A buffer of `len` elements, whatever they are: the smallest free one that is large enough, or the largest grown.
    pub fn take(&mut self, len: usize) -> Vec<T> {
        let smallest = |(_, buffer): &(usize, &Vec<T>)| match buffer.capacity() {
            enough if enough >= len => (false, enough),
            short => (true, usize::MAX - short),
        };
        let best = self.free.iter().enumerate().min_by_key(smallest).map(|(at, _)| at);
        let mut buffer = best.map_or_else(Vec::new, |at| self.free.swap_remove(at));
        if buffer.capacity() < len {
            // Fresh zeros cost nothing until they are written; growing would copy.
            buffer = vec![T::ZERO; len];
        }
        buffer.resize(len, T::ZERO);
        buffer
    }

    /// Gives a buffer back.
    pub fn give(&mut self, buffer: Vec<T>) {
        self.free.push(buffer);
    }

    /// Frees all memory.
    pub fn clear(&mut self) {
        self.free.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_come_back() {
        let mut scratch = Scratch::<f32>::new();
        let (small, large) = (scratch.take(10), scratch.take(1000));
        let addresses = (small.as_ptr(), large.as_ptr());
        scratch.give(small);
        scratch.give(large);
        let large = scratch.take(900);
        assert_eq!((large.as_ptr(), large.len()), (addresses.1, 900));
        let small = scratch.take(8);
        assert_eq!((small.as_ptr(), small.len()), (addresses.0, 8));
        scratch.give(small);
        assert_eq!(scratch.take(20), [0.0; 20]);
        assert!(scratch.free.is_empty());
    }
}
