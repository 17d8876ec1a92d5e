//! Keys and values of one decoder layer for the tokens seen so far.

use std::ops::Range;

use otter_nn::Real;
use otter_nn::layers::attention::KeysValues;

/// Keys and values of one layer for all tokens seen so far: (batch, capacity, key width) each.
#[derive(Clone, Debug)]
pub struct LayerCache<T = f32> {
    keys: Vec<T>,
    values: Vec<T>,
}

impl<T: Real> LayerCache<T> {
    /// Room for `capacity` tokens of `batch` sequences with keys of `key_width` features.
    pub fn new(key_width: usize, batch: usize, capacity: usize) -> Self {
        let len = batch * capacity * key_width;
        Self { keys: vec![T::ZERO; len], values: vec![T::ZERO; len] }
    }

    /// Takes the keys and values of new rows (batch * new, key width) that follow `len` cached ones; gives all of them.
    pub(crate) fn append(
        &mut self,
        k: &[T],
        v: &[T],
        (batch, width): (usize, usize),
        len: usize,
    ) -> KeysValues<'_, T> {
        let capacity = self.keys.len() / (batch * width);
        let new = k.len() / batch;
        let rows = new / width;
        for b in 0..batch {
            let at = (b * capacity + len) * width;
            self.keys[at..at + new].copy_from_slice(&k[b * new..][..new]);
            self.values[at..at + new].copy_from_slice(&v[b * new..][..new]);
        }
        KeysValues { keys: &self.keys, values: &self.values, len: len + rows, capacity }
    }

    /// Makes sequence i of (batch, capacity) what sequence `rows[i]` was at the positions `tokens`. When there are more
    /// sequences than before, the positions before `tokens` are copied too.
    pub(crate) fn reorder(
        &mut self,
        rows: &[usize],
        (batch, capacity): (usize, usize),
        tokens: Range<usize>,
    ) {
        for elements in [&mut self.keys, &mut self.values] {
            let size = elements.len() / batch;
            let width = size / capacity;
            let used = tokens.end * width;
            if rows.len() > batch {
                let mut grown = vec![T::ZERO; rows.len() * size];
                for (to, &from) in grown.chunks_exact_mut(size).zip(rows) {
                    to[..used].copy_from_slice(&elements[from * size..][..used]);
                }
                *elements = grown;
                continue;
            }
            let part = tokens.start * width..used;
            let moved = rows.iter().enumerate().filter(|(to, from)| to != *from);
            let moved: Vec<(usize, Vec<T>)> =
                moved.map(|(to, &from)| (to, elements[from * size..][part.clone()].to_vec())).collect();
            for (to, kept) in moved {
                elements[to * size..][part.clone()].copy_from_slice(&kept);
            }
            elements.truncate(rows.len() * size);
        }
    }
}
