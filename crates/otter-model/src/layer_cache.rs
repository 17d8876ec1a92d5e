//! Keys and values of one decoder layer for the tokens seen so far.

use std::ops::Range;

use otter_nn::Real;
use otter_nn::layers::attention::KeysValues;

/// Keys and values of one layer for all tokens seen so far: (batch, key heads, capacity, head size) each, so that what a new
/// token reads of a head is one stretch of memory.
#[derive(Clone, Debug)]
pub struct LayerCache<T = f32> {
    key_heads: usize,
    head_size: usize,
    keys: Vec<T>,
    values: Vec<T>,
}

impl<T: Real> LayerCache<T> {
    /// Room for `capacity` tokens of `batch` sequences.
    pub fn new((key_heads, head_size): (usize, usize), batch: usize, capacity: usize) -> Self {
        let len = batch * capacity * key_heads * head_size;
        Self { key_heads, head_size, keys: vec![T::ZERO; len], values: vec![T::ZERO; len] }
    }

    /// Takes the keys and values of new rows (batch * new, key heads * head size) that follow `len` cached ones; gives all
    /// of them.
    pub(crate) fn append(&mut self, k: &[T], v: &[T], batch: usize, len: usize) -> KeysValues<'_, T> {
        let (heads, size) = (self.key_heads, self.head_size);
        let capacity = self.keys.len() / (batch * heads * size);
        let rows = k.len() / (batch * heads * size);
        for (cached, new) in [(&mut self.keys, k), (&mut self.values, v)] {
            for (at, features) in new.chunks_exact(size).enumerate() {
                let (row, head) = (at / heads, at % heads);
                let sequence = row / rows * heads + head;
                let at = (sequence * capacity + len + row % rows) * size;
                cached[at..at + size].copy_from_slice(features);
            }
        }
        let (keys, values) = (&self.keys, &self.values);
        KeysValues { keys, values, len: len + rows, capacity, by_head: true }
    }

    /// Makes sequence i of (batch, capacity) what sequence `rows[i]` was at the positions `tokens`. When there are more
    /// sequences than before, the positions before `tokens` are copied too.
    pub(crate) fn reorder(&mut self, rows: &[usize], batch: usize, tokens: Range<usize>) {
        let (heads, head_size) = (self.key_heads, self.head_size);
        for elements in [&mut self.keys, &mut self.values] {
            let size = elements.len() / batch;
            // Elements of a sequence at tokens `first` to `end`, head by head.
            let parts = move |sequence: usize, first: usize, end: usize| {
                let starts = (0..heads).map(move |head| sequence * size + head * (size / heads));
                starts.map(move |start| start + first * head_size..start + end * head_size)
            };
            if rows.len() > batch {
                let mut grown = vec![T::ZERO; rows.len() * size];
                for (to, &from) in rows.iter().enumerate() {
                    for (to, from) in parts(to, 0, tokens.end).zip(parts(from, 0, tokens.end)) {
                        grown[to].copy_from_slice(&elements[from]);
                    }
                }
                *elements = grown;
                continue;
            }
            let (first, end) = (tokens.start, tokens.end);
            let parts = move |sequence: usize| parts(sequence, first, end);
            let moved = rows.iter().enumerate().filter(|(to, from)| to != *from);
            let kept = |&from: &usize| parts(from).map(|part| elements[part].to_vec()).collect::<Vec<_>>();
            let moved: Vec<_> = moved.map(|(to, from)| (to, kept(from))).collect();
            for (to, kept) in moved {
                parts(to).zip(kept).for_each(|(part, kept)| elements[part].copy_from_slice(&kept));
            }
            elements.truncate(rows.len() * size);
        }
    }
}
