//! Keys and values of one decoder layer for the tokens seen so far.

use std::ops::Range;

use otter_nn::layers::attention::KeysValues;
use otter_nn::layers::rows::{self, RowStrides};
use otter_nn::{Device, Float, Tensor};

/// Keys and values of one layer for all tokens seen so far: (batch, key heads, capacity, head size) each, so that what a new
/// token reads of a head is one stretch of memory.
#[derive(Clone)]
pub struct LayerCache<T = f32> {
    key_heads: usize,
    head_size: usize,
    capacity: usize,
    keys: Tensor<T>,
    values: Tensor<T>,
}

impl<T: Float> LayerCache<T> {
    /// Room for `capacity` tokens of `batch` sequences.
    pub fn new(
        (key_heads, head_size): (usize, usize),
        batch: usize,
        capacity: usize,
        device: Device,
    ) -> Self {
        // Rows that are never written take no memory of the host.
        let empty = || Tensor::fresh_zeros(&[batch, key_heads, capacity, head_size], device);
        Self { key_heads, head_size, capacity, keys: empty(), values: empty() }
    }

    /// Takes the keys and values of new rows (batch * new, key heads * head size) that follow `len` cached ones; gives all
    /// of them.
    pub(crate) fn append(
        &mut self,
        k: &Tensor<T>,
        v: &Tensor<T>,
        batch: usize,
        len: usize,
    ) -> KeysValues<'_, T> {
        let (heads, size, capacity) = (self.key_heads, self.head_size, self.capacity);
        let rows = k.len() / (batch * heads * size);
        let to = RowStrides { offset: len * size, strides: [heads * capacity * size, size, capacity * size] };
        let from = RowStrides { offset: 0, strides: [rows * heads * size, heads * size, size] };
        for (cached, new) in [(&mut self.keys, k), (&mut self.values, v)] {
            rows::copy((cached, to), (new, from), [batch, rows, heads], size);
        }
        let (keys, values) = (&self.keys, &self.values);
        KeysValues { keys, values, len: len + rows, capacity, by_head: true }
    }

    /// Makes sequence i of (batch, capacity) what sequence `rows[i]` was at the positions `tokens`. When there are more
    /// sequences than before, the positions before `tokens` are copied too.
    pub(crate) fn reorder(&mut self, rows: &[usize], batch: usize, tokens: Range<usize>) {
        let (heads, capacity, head_size) = (self.key_heads, self.capacity, self.head_size);
        let size = heads * capacity * head_size;
        // Where a sequence's heads have the tokens from `first` on.
        let place = |sequence: usize, first: usize| RowStrides {
            offset: sequence * size + first * head_size,
            strides: [0, 0, capacity * head_size],
        };
        for elements in [&mut self.keys, &mut self.values] {
            if rows.len() > batch {
                let shape = [rows.len(), heads, capacity, head_size];
                let mut grown = Tensor::zeros(&shape, elements.device());
                for (to, &from) in rows.iter().enumerate() {
                    let (to, from) = ((&mut grown, place(to, 0)), (&*elements, place(from, 0)));
                    rows::copy(to, from, [1, 1, heads], tokens.end * head_size);
                }
                *elements = grown;
                continue;
            }
            let len = tokens.len() * head_size;
            let apart = RowStrides::every(0, len);
            let moved = rows.iter().enumerate().filter(|(to, from)| to != *from);
            let kept = |(to, &from): (usize, &usize)| {
                let mut kept = Tensor::empty(&[heads, len], elements.device());
                let from = (&*elements, place(from, tokens.start));
                rows::copy((&mut kept, apart), from, [1, 1, heads], len);
                (to, kept)
            };
            for (to, kept) in moved.map(kept).collect::<Vec<_>>() {
                let to = (&mut *elements, place(to, tokens.start));
                rows::copy(to, (&kept, apart), [1, 1, heads], len);
            }
        }
    }
}
