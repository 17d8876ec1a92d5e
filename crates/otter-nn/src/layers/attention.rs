//! Softmax attention of one sequence over itself or over a cache, without its projections.

use crate::backend::{Attended, AttentionInputGradients, AttentionInputs, HeadStrides, Heads, Span};
use crate::{Float, Segment, Segments, Tensor};

/// Which keys a query row may see.
#[derive(Clone, Debug)]
pub enum AttentionMask {
    /// All keys.
    Full,
    /// Keys up to the query's own position; query row i stands at key position `i + offset`.
    Causal {
        /// Keys that precede the first query row (the length of a cache).
        offset: usize,
        /// (batch, keys): false for padding. `None` when nothing is padded.
        visible: Option<Vec<bool>>,
    },
    /// Keys of the query's own segment up to its own position; what lies in no segment sees nothing and gives zero.
    /// Queries and keys are the same rows.
    Segments(Segments),
}

/// Keys and values of (batch, keys) rows; a batch entry may have room for more rows than are used. Rows hold all heads, or
/// heads all rows.
#[derive(Clone, Copy)]
pub struct KeysValues<'a, T> {
    /// (batch, capacity, key heads, head size), or (batch, key heads, capacity, head size).
    pub keys: &'a Tensor<T>,
    /// As `keys`.
    pub values: &'a Tensor<T>,
    /// Rows in use of each batch entry.
    pub len: usize,
    /// Rows a batch entry has room for.
    pub capacity: usize,
    /// Whether heads come before rows.
    pub by_head: bool,
}

impl<'a, T: Float> KeysValues<'a, T> {
    /// Keys and values without spare room.
    pub fn exact(keys: &'a Tensor<T>, values: &'a Tensor<T>, len: usize) -> Self {
        Self { keys, values, len, capacity: len, by_head: false }
    }
}

/// Head counts, scale and position bias of an attention.
#[derive(Clone, Debug)]
pub struct SelfAttentionCore {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads (fewer for grouped-query attention).
    pub key_heads: usize,
    /// Features of one head.
    pub head_size: usize,
    /// Factor on the products of queries and keys.
    pub scale: f64,
    /// ALiBi (Press et al., arXiv 2108.12409): a slope for every query head, by which keys fade with distance.
    pub slopes: Option<Vec<f64>>,
}

/// Output of the attention and what its backward pass needs.
#[derive(Clone)]
pub struct AttentionOutput<T> {
    /// (batch * rows, heads * head size).
    pub out: Tensor<T>,
    log_sum_exp: Tensor<T>,
}

/// Gradients of queries, keys and values.
#[derive(Clone)]
pub struct AttentionGradients<T> {
    /// Shape of the queries.
    pub dq: Tensor<T>,
    /// (batch * keys, key heads * head size).
    pub dk: Tensor<T>,
    /// As `dk`.
    pub dv: Tensor<T>,
}

impl SelfAttentionCore {
    /// The usual attention: scores divided by the square root of the head size, no position bias.
    pub fn new(heads: usize, key_heads: usize, head_size: usize) -> Self {
        Self { heads, key_heads, head_size, scale: 1.0 / (head_size as f64).sqrt(), slopes: None }
    }

    fn sizes(&self) -> Heads<'_> {
        let slopes = self.slopes.as_deref();
        Heads { heads: self.heads, key_heads: self.key_heads, scale: self.scale, slopes }
    }

    fn spans<T>(&self, batch: usize, rows: usize, kv: &KeysValues<'_, T>, mask: &AttentionMask) -> Vec<Span> {
        let whole = |causal_offset: Option<usize>| {
            let span =
                |b| Span { batch: b, row: 0, rows, key_batch: b, key_row: 0, keys: kv.len, causal_offset };
            (0..batch).map(span).collect()
        };
        match mask {
            AttentionMask::Full => whole(None),
            AttentionMask::Causal { offset, .. } => whole(Some(*offset)),
            AttentionMask::Segments(segments) => {
                assert_eq!((segments.rows(), segments.length()), (batch, rows), "segments of other rows");
                assert_eq!(kv.len, rows, "segments have no cache");
                let span = |segment: &Segment| {
                    let Segment { row: batch, start, len } = *segment;
                    let (row, rows, key_row, keys) = (start, len, start, len);
                    Span { batch, row, rows, key_batch: batch, key_row, keys, causal_offset: Some(0) }
                };
                segments.list().iter().map(span).collect()
            }
        }
    }

    /// Layouts of the queries, and of the keys and values.
    fn strides<T>(&self, rows: usize, kv: &KeysValues<'_, T>) -> (HeadStrides, HeadStrides) {
        let strides_of = if kv.by_head { HeadStrides::by_head } else { HeadStrides::new };
        let keys = strides_of(kv.capacity, self.key_heads * self.head_size, self.head_size);
        (HeadStrides::new(rows, self.heads * self.head_size, self.head_size), keys)
    }

    fn inputs<'a, T: Float>(
        &self,
        q: &'a Tensor<T>,
        rows: usize,
        kv: &KeysValues<'a, T>,
        mask: &'a AttentionMask,
    ) -> AttentionInputs<'a, T> {
        let (q_strides, kv_strides) = self.strides(rows, kv);
        AttentionInputs { q, q_strides, k: kv.keys, v: kv.values, kv_strides, visible: visible(mask, kv.len) }
    }

    fn forward_with<T: Float>(
        &self,
        q: &Tensor<T>,
        batch: usize,
        kv: &KeysValues<'_, T>,
        mask: &AttentionMask,
        log_sum_exp: Option<&mut Tensor<T>>,
    ) -> Tensor<T> {
        let rows = q.rows() / batch;
        let mut out = match mask {
            // Rows of no segment stay zero.
            AttentionMask::Segments(_) => q.zeros_like(),
            AttentionMask::Full | AttentionMask::Causal { .. } => Tensor::empty(q.shape(), q.device()),
        };
        let (inputs, spans) = (self.inputs(q, rows, kv, mask), self.spans(batch, rows, kv, mask));
        let log_sum_exp = log_sum_exp.map(|sums| (sums, rows));
        q.backend().attention(&mut out, self.sizes(), inputs, &spans, log_sum_exp);
        out
    }

    /// Attention of q (batch * rows, heads * head size) over `kv`, with what the backward pass needs.
    pub fn forward_saved<T: Float>(
        &self,
        q: &Tensor<T>,
        batch: usize,
        kv: KeysValues<'_, T>,
        mask: &AttentionMask,
    ) -> AttentionOutput<T> {
        let mut log_sum_exp = Tensor::zeros(&[self.heads * q.rows()], q.device());
        let out = self.forward_with(q, batch, &kv, mask, Some(&mut log_sum_exp));
        AttentionOutput { out, log_sum_exp }
    }

    /// As [`SelfAttentionCore::forward_saved`], keeping nothing.
    pub fn forward<T: Float>(
        &self,
        q: &Tensor<T>,
        batch: usize,
        kv: KeysValues<'_, T>,
        mask: &AttentionMask,
    ) -> Tensor<T> {
        self.forward_with(q, batch, &kv, mask, None)
    }

    /// As [`SelfAttentionCore::forward`], written to `out`. With one query row a batch entry the host allocates nothing:
    /// `scores` then has room for (batch, heads, keys), whatever is in it.
    pub fn forward_into<T: Float>(
        &self,
        q: &Tensor<T>,
        batch: usize,
        kv: KeysValues<'_, T>,
        mask: &AttentionMask,
        scores: &mut Tensor<T>,
        out: &mut Tensor<T>,
    ) {
        let rows = q.len() / (batch * self.heads * self.head_size);
        let (heads, backend, inputs) = (self.sizes(), q.backend(), self.inputs(q, rows, &kv, mask));
        let causal_offset = match mask {
            AttentionMask::Full => None,
            AttentionMask::Causal { offset, .. } => Some(*offset),
            AttentionMask::Segments(_) => {
                backend.clear(out);
                return backend.attention(out, heads, inputs, &self.spans(batch, rows, &kv, mask), None);
            }
        };
        if rows > 1 {
            return backend.attention(out, heads, inputs, &self.spans(batch, rows, &kv, mask), None);
        }
        let keys = kv.len;
        let span =
            |b| Some(Span { batch: b, row: 0, rows: 1, key_batch: b, key_row: 0, keys, causal_offset });
        backend.attention_of_single_rows(out, heads, inputs, batch, &span, scores);
    }

    /// Gradients of queries, keys and values from the output's gradient.
    pub fn backward<T: Float>(
        &self,
        q: &Tensor<T>,
        batch: usize,
        kv: KeysValues<'_, T>,
        mask: &AttentionMask,
        saved: &AttentionOutput<T>,
        d_out: &Tensor<T>,
    ) -> AttentionGradients<T> {
        let rows = q.rows() / batch;
        let mut dq = q.zeros_like();
        let key_shape = [batch * kv.len, self.key_heads * self.head_size];
        let mut dk = Tensor::zeros(&key_shape, q.device());
        let mut dv = Tensor::zeros(&key_shape, q.device());
        let kv_strides = HeadStrides::new(kv.len, key_shape[1], self.head_size);
        let (inputs, spans) = (self.inputs(q, rows, &kv, mask), self.spans(batch, rows, &kv, mask));
        let attended =
            Attended { out: &saved.out, d_out, log_sum_exp: &saved.log_sum_exp, rows_per_batch: rows };
        let gradients = AttentionInputGradients { dq: &mut dq, dk: &mut dk, dv: &mut dv, kv_strides };
        q.backend().attention_backward(self.sizes(), inputs, &spans, attended, gradients);
        AttentionGradients { dq, dk, dv }
    }
}

/// Which keys are padding, and the keys of a batch entry.
fn visible(mask: &AttentionMask, keys: usize) -> Option<(&[bool], usize)> {
    match mask {
        AttentionMask::Causal { visible: Some(visible), .. } => Some((visible.as_slice(), keys)),
        _ => None,
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::ParameterSpecs;
    use crate::testing::gradient_check::{check, random_tensor};

    fn masks(batch: usize, keys: usize) -> Vec<AttentionMask> {
        let mut visible = vec![true; batch * keys];
        visible[0] = false;
        visible[1] = false;
        visible[batch * keys - 1] = false;
        vec![
            AttentionMask::Full,
            AttentionMask::Causal { offset: 0, visible: None },
            AttentionMask::Causal { offset: 0, visible: Some(visible) },
        ]
    }

    /// Two rows: one that ends with padding, and one with padding before, between and after its segments.
    fn segments(length: usize) -> AttentionMask {
        let third = length / 3;
        let list = vec![
            Segment { row: 0, start: 0, len: third + 1 },
            Segment { row: 0, start: third + 1, len: length - third - 3 },
            Segment { row: 1, start: 1, len: third },
            Segment { row: 1, start: third + 2, len: length - third - 3 },
        ];
        AttentionMask::Segments(Segments::new(2, length, list).unwrap())
    }

    /// Attention written directly from its definition.
    fn plain(
        core: &SelfAttentionCore,
        q: &Tensor<f64>,
        batch: usize,
        kv: KeysValues<'_, f64>,
        mask: &AttentionMask,
    ) -> Vec<f64> {
        let (rows, size) = (q.rows() / batch, core.head_size);
        let (width, key_width) = (core.heads * size, core.key_heads * size);
        let mut out = vec![0.0; q.len()];
        for b in 0..batch {
            for h in 0..core.heads {
                let kh = h * core.key_heads / core.heads;
                for i in 0..rows {
                    let seen = |j: usize| match mask {
                        AttentionMask::Full => true,
                        AttentionMask::Causal { offset, visible } => {
                            j <= i + offset && visible.as_ref().is_none_or(|v| v[b * kv.len + j])
                        }
                        AttentionMask::Segments(segments) => segments.list().iter().any(|s| {
                            let within = |at: usize| s.row == b && (s.start..s.end()).contains(&at);
                            j <= i && within(i) && within(j)
                        }),
                    };
                    let key = |j: usize, d: usize| (b * kv.capacity + j) * key_width + kh * size + d;
                    let at = (b * rows + i) * width + h * size;
                    let weights: Vec<f64> = (0..kv.len)
                        .map(|j| {
                            let s: f64 =
                                (0..size).map(|d| q.data()[at + d] * kv.keys.data()[key(j, d)]).sum();
                            let bias = core.slopes.as_ref().map_or(0.0, |s| s[h] * j as f64);
                            if seen(j) { (s * core.scale + bias).exp() } else { 0.0 }
                        })
                        .collect();
                    let total: f64 = weights.iter().sum();
                    for d in 0..size {
                        let sum: f64 =
                            weights.iter().enumerate().map(|(j, w)| w * kv.values.data()[key(j, d)]).sum();
                        out[at + d] = if total > 0.0 { sum / total } else { 0.0 };
                    }
                }
            }
        }
        out
    }

    #[test]
    fn forward_equals_the_definition_across_tile_borders() {
        for (rows, keys) in [(1, 5), (3, 3), (70, 70), (130, 130)] {
            for slopes in [None, Some(vec![0.25, 0.5, 0.0625, 0.125])] {
                let core = SelfAttentionCore { slopes, scale: 0.3, ..SelfAttentionCore::new(4, 2, 6) };
                let q = random_tensor("q", &[2 * rows, 24]);
                let (k, v) = (random_tensor("k", &[2 * keys, 12]), random_tensor("v", &[2 * keys, 12]));
                let kv = KeysValues::exact(&k, &v, keys);
                let mut all = masks(2, keys);
                if rows < keys {
                    all.push(AttentionMask::Causal { offset: keys - rows, visible: None });
                } else if rows > 3 {
                    all.push(segments(rows));
                }
                for mask in all {
                    let out = core.forward(&q, 2, kv, &mask);
                    let expected = plain(&core, &q, 2, kv, &mask);
                    for (a, b) in out.data().iter().zip(&expected) {
                        assert!((a - b).abs() < 1e-12, "{a} {b} rows {rows} mask {mask:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn gradients_match_finite_differences() {
        for (rows, heads, key_heads) in [(6, 2, 2), (67, 4, 2)] {
            let slopes = (heads == 4).then(|| vec![0.25, 0.5, 0.0625, 0.125]);
            let core = SelfAttentionCore { slopes, ..SelfAttentionCore::new(heads, key_heads, 4) };
            for mask in masks(2, rows).into_iter().chain([segments(rows)]) {
                check(
                    &ParameterSpecs::default(),
                    &[
                        random_tensor("q", &[2 * rows, heads * 4]),
                        random_tensor("k", &[2 * rows, key_heads * 4]),
                        random_tensor("v", &[2 * rows, key_heads * 4]),
                    ],
                    |_, x| core.forward(&x[0], 2, KeysValues::exact(&x[1], &x[2], rows), &mask),
                    |_, x, dy, _| {
                        let kv = KeysValues::exact(&x[1], &x[2], rows);
                        let saved = core.forward_saved(&x[0], 2, kv, &mask);
                        let g = core.backward(&x[0], 2, kv, &mask, &saved, dy);
                        vec![g.dq, g.dk, g.dv]
                    },
                );
            }
        }
    }
}
