//! Tiled softmax attention on strided heads, forward and backward.
//!
//! A tile is [`QUERY_TILE`] query rows of one head against the keys that they may see; the scores of a whole sequence
//! are never stored. The backward pass recomputes a tile's probabilities from the row's log-sum-exp.

pub mod row;

use ::gemm::Parallelism;
use rayon::prelude::*;

use super::gemm::{Layout, product};
use super::{max_of, sum_pairs};
use crate::{Float, vectorized};

/// Scores below which the heads are computed on one thread. A single query against a hundred keys is worth sharing: its
/// keys and values come from memory.
pub(super) const PARALLEL_SCORES: usize = 1 << 9;

/// Query rows handled together.
pub const QUERY_TILE: usize = 64;

/// Heads inside a slice: element (batch b, row r, head h, feature d) is at
/// `offset + b * batch_stride + r * row_stride + h * head_stride + d`.
#[derive(Clone, Copy, Debug)]
pub struct HeadStrides {
    /// Offset of the first element.
    pub offset: usize,
    /// Distance between batch entries.
    pub batch_stride: usize,
    /// Distance between rows of one batch entry.
    pub row_stride: usize,
    /// Distance between heads of one row.
    pub head_stride: usize,
    /// Features of one head.
    pub head_size: usize,
}

impl HeadStrides {
    /// Heads side by side in rows of `width` features, `rows` rows a batch entry.
    pub fn new(rows: usize, width: usize, head_size: usize) -> Self {
        Self { offset: 0, batch_stride: rows * width, row_stride: width, head_stride: head_size, head_size }
    }

    /// Heads one after the other, `rows` rows each: what a single query reads of a head is one stretch of memory.
    pub fn by_head(rows: usize, width: usize, head_size: usize) -> Self {
        let head_stride = rows * head_size;
        Self { offset: 0, batch_stride: rows * width, row_stride: head_size, head_stride, head_size }
    }

    /// The same strides starting `offset` elements later.
    pub fn at(self, offset: usize) -> Self {
        Self { offset, ..self }
    }

    pub(super) fn head(&self, batch: usize, row: usize, head: usize) -> Layout {
        Layout {
            offset: self.offset + batch * self.batch_stride + row * self.row_stride + head * self.head_stride,
            row_stride: self.row_stride,
            column_stride: 1,
        }
    }

    fn head_transposed(&self, batch: usize, row: usize, head: usize) -> Layout {
        let Layout { offset, row_stride, column_stride } = self.head(batch, row, head);
        Layout { offset, row_stride: column_stride, column_stride: row_stride }
    }

    /// One past the last element of all heads, for bounds checks.
    pub(super) fn end(&self, batch: usize, rows: usize, heads: usize) -> usize {
        if batch == 0 || rows == 0 || heads == 0 {
            return 0;
        }
        let last_row = (batch - 1) * self.batch_stride + (rows - 1) * self.row_stride;
        self.offset + last_row + (heads - 1) * self.head_stride + self.head_size
    }
}

/// Rows of one batch entry that attend one contiguous block of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Batch entry of the queries.
    pub batch: usize,
    /// First query row.
    pub row: usize,
    /// Number of query rows.
    pub rows: usize,
    /// Batch entry of the keys and values.
    pub key_batch: usize,
    /// First key, a row of `key_batch`.
    pub key_row: usize,
    /// Number of keys from there.
    pub keys: usize,
    /// Query row i of the entry (not of the span) sees keys up to row i + offset of `key_batch`; `None` sees all.
    pub causal_offset: Option<usize>,
}

/// Sizes shared by the kernels of one attention.
#[derive(Clone, Copy, Debug)]
pub struct Heads<'a> {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; query head h uses key head `h * key_heads / heads`.
    pub key_heads: usize,
    /// Factor on the scores.
    pub scale: f64,
    /// ALiBi slope of every query head: adds `slope * (key - own position)` to the scaled scores.
    pub slopes: Option<&'a [f64]>,
}

/// Queries, keys and values with their strides.
#[derive(Clone, Copy)]
pub struct Inputs<'a, T> {
    /// Query elements.
    pub q: &'a [T],
    /// Where the query heads are.
    pub q_strides: HeadStrides,
    /// Key elements.
    pub k: &'a [T],
    /// Where the key heads are.
    pub k_strides: HeadStrides,
    /// Value elements.
    pub v: &'a [T],
    /// Where the value heads are.
    pub v_strides: HeadStrides,
    /// Per key row of each batch entry, whether it may be seen: `visible[batch * keys + key]`.
    pub visible: Option<(&'a [bool], usize)>,
}

/// A pointer to an output that several tasks write disjoint parts of.
pub(super) struct Disjoint<T>(*mut T, usize);
// SAFETY: tasks write disjoint elements, see the uses below.
unsafe impl<T: Send> Send for Disjoint<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Disjoint<T> {}

impl<T> Disjoint<T> {
    pub(super) fn new(slice: &mut [T]) -> Self {
        Self(slice.as_mut_ptr(), slice.len())
    }

    /// The whole slice.
    ///
    /// # Safety
    /// No element may be accessed by two tasks.
    #[expect(clippy::mut_from_ref, reason = "disjointness is the caller's proof")]
    pub(super) unsafe fn slice(&self) -> &mut [T] {
        // SAFETY: pointer and length come from a live mutable slice; disjointness is the caller's duty.
        unsafe { std::slice::from_raw_parts_mut(self.0, self.1) }
    }
}

/// Number of keys that some row of a tile sees.
pub(super) fn visible_keys(span: &Span, last_row: usize) -> usize {
    span.causal_offset.map_or(span.keys, |offset| (last_row + offset + 1 - span.key_row).min(span.keys))
}

/// Turns the scores of one row into probabilities in place; returns the log of the sum of exponentials (0 with all
/// probabilities 0 when no key is visible). All are NaN where a score of a visible key is.
#[inline(always)]
fn softmax_row<T: Float>(scores: &mut [T], seen: usize, visible: Option<&[bool]>) -> T {
    let (seen_scores, hidden) = scores.split_at_mut(seen);
    hidden.fill(T::ZERO);
    if let Some(visible) = visible {
        for (s, &v) in seen_scores.iter_mut().zip(visible) {
            if !v {
                *s = T::NEG_INFINITY;
            }
        }
    }
    let max = max_of(seen_scores);
    if max == T::NEG_INFINITY {
        // The maximum passes over NaN: either nothing is visible, or no visible score is a number.
        let visible = visible.map_or(!seen_scores.is_empty(), |visible| visible[..seen].contains(&true));
        let value = if visible { T::NAN } else { T::ZERO };
        seen_scores.fill(value);
        return value;
    }
    for s in seen_scores.iter_mut() {
        *s = (*s - max).exp();
    }
    if let Some(visible) = visible {
        for (s, &v) in seen_scores.iter_mut().zip(visible) {
            if !v {
                *s = T::ZERO;
            }
        }
    }
    let sum = super::sum_of(seen_scores, |v| v);
    let inverse = T::ONE / sum;
    for s in seen_scores.iter_mut() {
        *s *= inverse;
    }
    max + sum.ln()
}

/// Turns scores into probabilities with a known log-sum-exp.
#[inline(always)]
fn probabilities_row<T: Float>(scores: &mut [T], seen: usize, visible: Option<&[bool]>, log_sum: T) {
    let (seen_scores, hidden) = scores.split_at_mut(seen);
    hidden.fill(T::ZERO);
    for s in seen_scores.iter_mut() {
        *s = (*s - log_sum).exp();
    }
    if let Some(visible) = visible {
        for (s, &v) in seen_scores.iter_mut().zip(visible) {
            if !v {
                *s = T::ZERO;
            }
        }
    }
}

vectorized! {
    /// [`softmax_row`] of the rows of a tile that starts at query row `row`.
    fn softmax_tile<T: Float>(
        scores: &mut [T],
        keys: usize,
        span: &Span,
        row: usize,
        visible: Option<&[bool]>,
        log_sum_exp: Option<&mut [T]>,
    ) {
        let mut log_sum_exp = log_sum_exp;
        for (i, scores) in scores.chunks_exact_mut(keys).enumerate() {
            let log_sum = softmax_row(scores, visible_keys(span, row + i), visible);
            if let Some(sums) = &mut log_sum_exp {
                sums[i] = log_sum;
            }
        }
    }
}

vectorized! {
    /// [`probabilities_row`] of the rows of a tile that starts at query row `row`.
    fn probabilities_tile<T: Float>(
        scores: &mut [T],
        keys: usize,
        span: &Span,
        row: usize,
        visible: Option<&[bool]>,
        log_sum_exp: &[T],
    ) {
        for (i, scores) in scores.chunks_exact_mut(keys).enumerate() {
            probabilities_row(scores, visible_keys(span, row + i), visible, log_sum_exp[i]);
        }
    }
}

vectorized! {
    /// Turns the gradients of a tile's probabilities `p` into those of its scores: p * (ds - rowsum(d_out * out)).
    /// `first` is where the tile's first row lies in `d_out` and `out`.
    fn score_gradients<T: Float>(
        ds: &mut [T],
        p: &[T],
        keys: usize,
        result: &ForwardResult<'_, T>,
        first: usize,
        size: usize,
    ) {
        for (i, (ds, p)) in ds.chunks_exact_mut(keys).zip(p.chunks_exact(keys)).enumerate() {
            let at = first + i * result.strides.row_stride;
            let dot = sum_pairs(&result.d_out[at..at + size], &result.out[at..at + size], |a, b| a * b);
            for (d, &p) in ds.iter_mut().zip(p) {
                *d = p * (*d - dot);
            }
        }
    }
}

vectorized! {
    /// Adds the ALiBi bias to the scores of a tile whose first row stands at the span's key `position`. Relative to each
    /// row's own position, which the softmax cannot tell from any other origin, the numbers stay small.
    fn add_slope<T: Float>(scores: &mut [T], keys: usize, slope: T, position: usize) {
        for (i, scores) in scores.chunks_exact_mut(keys).enumerate() {
            let own = T::from_f64((position + i) as f64);
            for (key, score) in scores.iter_mut().enumerate() {
                *score += slope * (T::from_f64(key as f64) - own);
            }
        }
    }
}

vectorized! {
    /// Scaled products of one query with keys that lie `stride` apart.
    fn query_scores<T: Float>(scores: &mut [T], q: &[T], k: &[T], stride: usize, scale: T) {
        for (key, score) in scores.iter_mut().enumerate() {
            *score = sum_pairs(q, &k[key * stride..][..q.len()], |a, b| a * b) * scale;
        }
    }
}

vectorized! {
    /// Sum of values that lie `stride` apart, weighted by `p`.
    fn weighted_values<T: Float>(out: &mut [T], p: &[T], v: &[T], stride: usize) {
        out.fill(T::ZERO);
        for (key, &p) in p.iter().enumerate() {
            for (o, &v) in out.iter_mut().zip(&v[key * stride..]) {
                *o += p * v;
            }
        }
    }
}

/// Attention of every span: `out` (in `out_strides`, query heads) is written for the spans' rows only. `log_sum_exp`, if
/// given, receives one value per (batch, head, row) with `rows_per_batch` rows, for [`backward`].
pub fn forward<T: Float>(
    heads: Heads<'_>,
    inputs: Inputs<'_, T>,
    spans: &[Span],
    out: &mut [T],
    out_strides: HeadStrides,
    log_sum_exp: Option<(&mut [T], usize)>,
) {
    check(&heads, &inputs, spans);
    let batches = spans.iter().map(|s| s.batch + 1).max().unwrap_or(0);
    let last = spans.iter().map(|s| s.row + s.rows).max().unwrap_or(0);
    assert!(out_strides.end(batches, last, heads.heads) <= out.len(), "output is too short");
    let rows_per_batch = log_sum_exp.as_ref().map_or(0, |(_, rows)| *rows);
    if let Some((sums, rows)) = &log_sum_exp {
        assert!(*rows >= last && sums.len() >= batches * heads.heads * rows, "log_sum_exp is too short");
    }
    let log_sum_exp = log_sum_exp.map(|(sums, _)| Disjoint::new(sums));
    let out = Disjoint::new(out);
    let tasks: Vec<(usize, usize, usize)> = spans
        .iter()
        .enumerate()
        .flat_map(|(i, span)| {
            (0..span.rows)
                .step_by(QUERY_TILE)
                .flat_map(move |tile| (0..heads.heads).map(move |head| (i, tile, head)))
        })
        .collect();
    let run = |&(index, tile, head): &(usize, usize, usize)| {
        let span = &spans[index];
        let rows = QUERY_TILE.min(span.rows - tile);
        let row = span.row + tile;
        // SAFETY: each (batch, head, row) belongs to exactly one task: spans of a call do not overlap.
        let out = unsafe { out.slice() };
        // SAFETY: as above.
        let log_sum_exp = log_sum_exp.as_ref().map(|sums| unsafe { sums.slice() });
        let log_sum_exp =
            log_sum_exp.map(|s| &mut s[(span.batch * heads.heads + head) * rows_per_batch + row..][..rows]);
        forward_tile(&heads, &inputs, span, (row, rows, head), out, out_strides, log_sum_exp);
    };
    if tasks.len() == 1 || rayon::current_num_threads() == 1 || work(spans, heads.heads) < PARALLEL_SCORES {
        tasks.iter().for_each(run);
    } else {
        tasks.par_iter().for_each(run);
    }
}

/// Score elements of all spans.
fn work(spans: &[Span], heads: usize) -> usize {
    spans.iter().map(|s| s.rows * s.keys * heads).sum()
}

pub(super) fn check<T>(heads: &Heads<'_>, inputs: &Inputs<'_, T>, spans: &[Span]) {
    for span in spans {
        let q_end = inputs.q_strides.end(span.batch + 1, span.row + span.rows, heads.heads);
        assert!(q_end <= inputs.q.len(), "queries are too short");
        let sees_a_key = span.causal_offset.is_none_or(|offset| span.row + offset >= span.key_row);
        assert!(sees_a_key, "the first query stands before all keys");
        for (data, strides) in [(inputs.k, inputs.k_strides), (inputs.v, inputs.v_strides)] {
            let end = strides.end(span.key_batch + 1, span.key_row + span.keys, heads.key_heads);
            assert!(end <= data.len(), "keys or values are too short");
        }
    }
}

fn forward_tile<T: Float>(
    heads: &Heads<'_>,
    inputs: &Inputs<'_, T>,
    span: &Span,
    (row, rows, head): (usize, usize, usize),
    out: &mut [T],
    out_strides: HeadStrides,
    log_sum_exp: Option<&mut [T]>,
) {
    let size = inputs.q_strides.head_size;
    let keys = visible_keys(span, row + rows - 1);
    let mut scores = vec![T::ZERO; rows * keys];
    let key_head = head * heads.key_heads / heads.heads;
    if rows == 1 {
        one_query(heads, inputs, span, (row, head, key_head), &mut scores, out, out_strides, log_sum_exp);
        return;
    }
    tile_scores(heads, inputs, span, (row, rows, keys, head, key_head), &mut scores);
    softmax_tile(&mut scores, keys, span, row, visible_row(inputs, span), log_sum_exp);
    let v = inputs.v_strides.head(span.key_batch, span.key_row, key_head);
    let o = out_strides.head(span.batch, row, head);
    let sizes = (rows, keys, size);
    product(out, o, &scores, Layout::rows(keys), inputs.v, v, sizes, T::ONE, false, Parallelism::None);
}

/// A single query row, as in decoding: two passes over keys and values without packing.
#[expect(clippy::too_many_arguments, reason = "the tile's coordinates and its outputs")]
pub(super) fn one_query<T: Float>(
    heads: &Heads<'_>,
    inputs: &Inputs<'_, T>,
    span: &Span,
    (row, head, key_head): (usize, usize, usize),
    scores: &mut [T],
    out: &mut [T],
    out_strides: HeadStrides,
    log_sum_exp: Option<&mut [T]>,
) {
    let size = inputs.q_strides.head_size;
    let q = &inputs.q[inputs.q_strides.head(span.batch, row, head).offset..][..size];
    let out = &mut out[out_strides.head(span.batch, row, head).offset..][..size];
    let (k, v) = (
        inputs.k_strides.head(span.key_batch, span.key_row, key_head),
        inputs.v_strides.head(span.key_batch, span.key_row, key_head),
    );
    query_scores(scores, q, &inputs.k[k.offset..], k.row_stride, T::from_f64(heads.scale));
    let keys = scores.len();
    add_bias(heads, span, row, head, keys, scores);
    softmax_tile(scores, keys, span, row, visible_row(inputs, span), log_sum_exp);
    weighted_values(out, scores, &inputs.v[v.offset..], v.row_stride);
}

fn visible_row<'a, T>(inputs: &Inputs<'a, T>, span: &Span) -> Option<&'a [bool]> {
    inputs.visible.map(|(visible, keys)| &visible[span.key_batch * keys + span.key_row..][..span.keys])
}

fn tile_scores<T: Float>(
    heads: &Heads<'_>,
    inputs: &Inputs<'_, T>,
    span: &Span,
    (row, rows, keys, head, key_head): (usize, usize, usize, usize, usize),
    scores: &mut [T],
) {
    let q = inputs.q_strides.head(span.batch, row, head);
    let k = inputs.k_strides.head_transposed(span.key_batch, span.key_row, key_head);
    let sizes = (rows, inputs.q_strides.head_size, keys);
    let scale = T::from_f64(heads.scale);
    product(scores, Layout::rows(keys), inputs.q, q, inputs.k, k, sizes, scale, false, Parallelism::None);
    add_bias(heads, span, row, head, keys, scores);
}

/// The position bias of a tile that starts at query row `row`, if the attention has one.
fn add_bias<T: Float>(
    heads: &Heads<'_>,
    span: &Span,
    row: usize,
    head: usize,
    keys: usize,
    scores: &mut [T],
) {
    if let Some(slopes) = heads.slopes {
        let position = row + span.causal_offset.unwrap_or(0) - span.key_row;
        add_slope(scores, keys, T::from_f64(slopes[head]), position);
    }
}

/// What the forward pass left for the backward pass.
#[derive(Clone, Copy)]
pub struct ForwardResult<'a, T> {
    /// Output of [`forward`].
    pub out: &'a [T],
    /// Gradient of the output, same strides.
    pub d_out: &'a [T],
    /// Layout of both.
    pub strides: HeadStrides,
    /// Log-sum-exp per (batch, head, row).
    pub log_sum_exp: &'a [T],
    /// Rows per batch entry in `log_sum_exp`.
    pub rows_per_batch: usize,
}

/// Gradients of the inputs, to add to, in the inputs' strides.
pub struct InputGradients<'a, T> {
    /// Gradient of the queries.
    pub dq: &'a mut [T],
    /// Gradient of the keys.
    pub dk: &'a mut [T],
    /// Layout of `dk`.
    pub dk_strides: HeadStrides,
    /// Gradient of the values.
    pub dv: &'a mut [T],
    /// Layout of `dv`.
    pub dv_strides: HeadStrides,
}

/// Backward pass of [`forward`]: adds to the gradients of queries, keys and values.
///
/// Tasks are (key head, block of keys) pairs, so that several spans may share keys. Blocks of one `key_batch` that begin
/// at different rows must not overlap.
pub fn backward<T: Float>(
    heads: Heads<'_>,
    inputs: Inputs<'_, T>,
    spans: &[Span],
    result: ForwardResult<'_, T>,
    gradients: InputGradients<'_, T>,
) {
    check(&heads, &inputs, spans);
    assert_eq!(gradients.dq.len(), inputs.q.len(), "query gradient has another length");
    for span in spans {
        for (data, strides) in
            [(&*gradients.dk, gradients.dk_strides), (&*gradients.dv, gradients.dv_strides)]
        {
            let end = strides.end(span.key_batch + 1, span.key_row + span.keys, heads.key_heads);
            assert!(end <= data.len(), "key or value gradient is too short");
        }
    }
    let by_keys = blocks_of_keys(spans);
    let tasks: Vec<(usize, usize)> =
        (0..by_keys.len()).flat_map(|i| (0..heads.key_heads).map(move |head| (i, head))).collect();
    let group = heads.heads / heads.key_heads;
    let (dk_strides, dv_strides) = (gradients.dk_strides, gradients.dv_strides);
    let (dq, dk, dv) =
        (Disjoint::new(gradients.dq), Disjoint::new(gradients.dk), Disjoint::new(gradients.dv));
    let run = |&(index, key_head): &(usize, usize)| {
        // SAFETY: a task touches only the keys and values of its own block and key head, blocks are disjoint (checked
        // above), and each query row of a head belongs to one span, hence to one task.
        let (dq, dk, dv) = unsafe { (dq.slice(), dk.slice(), dv.slice()) };
        let mut gradients = InputGradients { dq, dk, dk_strides, dv, dv_strides };
        for span in &by_keys[index] {
            for head in key_head * group..(key_head + 1) * group {
                for tile in (0..span.rows).step_by(QUERY_TILE) {
                    let rows = QUERY_TILE.min(span.rows - tile);
                    let place = (span.row + tile, rows, head, key_head);
                    backward_tile(&heads, &inputs, span, place, &result, &mut gradients);
                }
            }
        }
    };
    if tasks.len() == 1 || rayon::current_num_threads() == 1 || work(spans, heads.heads) < 1 << 12 {
        tasks.iter().for_each(run);
    } else {
        tasks.par_iter().for_each(run);
    }
}

/// Spans by the block of keys that they attend, in their own order within a block.
fn blocks_of_keys(spans: &[Span]) -> Vec<Vec<Span>> {
    let place = |span: &Span| (span.key_batch, span.key_row);
    let mut sorted = spans.to_vec();
    sorted.sort_by_key(place);
    let blocks: Vec<Vec<Span>> = sorted.chunk_by(|a, b| place(a) == place(b)).map(<[Span]>::to_vec).collect();
    for pair in blocks.windows(2) {
        let (batch, row) = place(&pair[1][0]);
        let end = pair[0].iter().map(|span| span.key_row + span.keys).max().unwrap_or(0);
        assert!(pair[0][0].key_batch != batch || end <= row, "blocks of keys overlap");
    }
    blocks
}

fn backward_tile<T: Float>(
    heads: &Heads<'_>,
    inputs: &Inputs<'_, T>,
    span: &Span,
    (row, rows, head, key_head): (usize, usize, usize, usize),
    result: &ForwardResult<'_, T>,
    gradients: &mut InputGradients<'_, T>,
) {
    let size = inputs.q_strides.head_size;
    let keys = visible_keys(span, row + rows - 1);
    let tile = Layout::rows(keys);
    let single = Parallelism::None;
    let mut p = vec![T::ZERO; rows * keys];
    tile_scores(heads, inputs, span, (row, rows, keys, head, key_head), &mut p);
    let log_sum_exp =
        &result.log_sum_exp[(span.batch * heads.heads + head) * result.rows_per_batch + row..][..rows];
    let visible = visible_row(inputs, span);
    probabilities_tile(&mut p, keys, span, row, visible, log_sum_exp);
    let d_out = result.strides.head(span.batch, row, head);
    let tile_transposed = Layout::columns(keys);
    let dv = gradients.dv_strides.head(span.key_batch, span.key_row, key_head);
    let by_keys = (keys, rows, size);
    product(gradients.dv, dv, &p, tile_transposed, result.d_out, d_out, by_keys, T::ONE, true, single);
    // dp = d_out v^T, then ds = p * (dp - rowsum(d_out * out)), the gradient of the scaled scores
    let mut ds = vec![T::ZERO; rows * keys];
    let v = inputs.v_strides.head_transposed(span.key_batch, span.key_row, key_head);
    product(&mut ds, tile, result.d_out, d_out, inputs.v, v, (rows, size, keys), T::ONE, false, single);
    score_gradients(&mut ds, &p, keys, result, d_out.offset, size);
    let scale = T::from_f64(heads.scale);
    let q = inputs.q_strides.head(span.batch, row, head);
    let k = inputs.k_strides.head(span.key_batch, span.key_row, key_head);
    product(gradients.dq, q, &ds, tile, inputs.k, k, (rows, keys, size), scale, true, single);
    let dk = gradients.dk_strides.head(span.key_batch, span.key_row, key_head);
    product(gradients.dk, dk, &ds, tile_transposed, inputs.q, q, by_keys, scale, true, single);
}
