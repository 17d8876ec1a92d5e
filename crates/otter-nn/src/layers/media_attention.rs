//! Attention of text rows over the latents of one media item each: the core of masked gated cross-attention, without its
//! projections.
//!
//! A row sees the latents of one media item, or nothing, or, when its sequence has more media tokens than media, the
//! plain mean of all of the sequence's latents. Rows are grouped into runs with the same item, so the scores against
//! other items' latents are never computed.

use crate::backend::{Attended, AttentionInputGradients, AttentionInputs, HeadStrides, Heads, Span};
use crate::{Float, Segments, Tensor};

/// What one text row attends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MediaTarget {
    /// Nothing: the output is exactly zero (text before the first media token).
    Nothing,
    /// The latents of this media item.
    Item(usize),
    /// The mean over all latents of this sequence, whatever the query: what the reference's arithmetic gives after a
    /// media token without media.
    Uniform(usize),
}

/// The targets of all text rows of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MediaRows {
    /// (rows * length) targets.
    pub targets: Vec<MediaTarget>,
    /// Text tokens of a row.
    pub length: usize,
    /// Media items of each sequence, in order (its time axis). A sequence is a row or, in packed rows, a segment.
    pub items: Vec<Vec<usize>>,
}

impl MediaRows {
    /// Targets from media-token positions: row i attends the item of the latest media token at or before it.
    ///
    /// `media_tokens` is (batch, length) with true at media tokens; `items[b]` are the media of sequence b.
    pub fn from_media_tokens(media_tokens: &[bool], length: usize, items: &[Vec<usize>]) -> Self {
        let mut targets = vec![MediaTarget::Nothing; media_tokens.len()];
        let rows = targets.chunks_mut(length.max(1)).zip(media_tokens.chunks(length.max(1)));
        for (sequence, ((targets, media_tokens), items)) in rows.zip(items).enumerate() {
            Self::follow(targets, media_tokens, sequence, items);
        }
        Self { targets, length, items: items.to_vec() }
    }

    /// The same in packed rows: a token attends media of its own segment only, padding attends nothing. `items[s]` are
    /// the media of segment s.
    pub fn in_segments(media_tokens: &[bool], segments: &Segments, items: &[Vec<usize>]) -> Self {
        let mut targets = vec![MediaTarget::Nothing; media_tokens.len()];
        for (sequence, (segment, items)) in segments.list().iter().zip(items).enumerate() {
            let tokens = segments.tokens(segment);
            Self::follow(&mut targets[tokens.clone()], &media_tokens[tokens], sequence, items);
        }
        Self { targets, length: segments.length(), items: items.to_vec() }
    }

    /// Targets of the tokens of one sequence.
    fn follow(targets: &mut [MediaTarget], media_tokens: &[bool], sequence: usize, items: &[usize]) {
        let mut time = 0;
        for (target, &is_media) in targets.iter_mut().zip(media_tokens) {
            time += usize::from(is_media);
            *target = Self::target(time, sequence, items);
        }
    }

    /// Target of a token that comes after `time` media tokens of a sequence with these items.
    pub fn target(time: usize, sequence: usize, items: &[usize]) -> MediaTarget {
        let Some(index) = time.checked_sub(1) else { return MediaTarget::Nothing };
        items.get(index).map_or(MediaTarget::Uniform(sequence), |&item| MediaTarget::Item(item))
    }

    fn spans(&self, latents: usize) -> Vec<Span> {
        let length = self.length.max(1);
        let mut spans: Vec<Span> = Vec::new();
        for (index, target) in self.targets.iter().enumerate() {
            let (batch, row) = (index / length, index % length);
            let MediaTarget::Item(item) = *target else { continue };
            match spans.last_mut() {
                Some(last)
                    if last.batch == batch && last.key_batch == item && last.row + last.rows == row =>
                {
                    last.rows += 1;
                }
                _ => {
                    let key_batch = item;
                    let (key_row, keys) = (0, latents);
                    spans.push(Span { batch, row, rows: 1, key_batch, key_row, keys, causal_offset: None });
                }
            }
        }
        spans
    }

    /// Rows with a uniform target and the items they average.
    fn uniform_rows(&self) -> impl Iterator<Item = (usize, &[usize])> {
        self.targets.iter().enumerate().filter_map(|(row, target)| match target {
            MediaTarget::Uniform(sequence) => Some((row, self.items[*sequence].as_slice())),
            MediaTarget::Nothing | MediaTarget::Item(_) => None,
        })
    }
}

/// Head count, head size and latents per media item.
#[derive(Clone, Copy, Debug)]
pub struct MediaAttention {
    /// Heads.
    pub heads: usize,
    /// Features of one head.
    pub head_size: usize,
    /// Latents of one media item.
    pub latents: usize,
}

/// Output and what the backward pass needs.
#[derive(Clone)]
pub struct MediaAttentionOutput<T> {
    /// (rows, heads * head size).
    pub out: Tensor<T>,
    log_sum_exp: Tensor<T>,
}

impl MediaAttention {
    fn sizes(&self) -> Heads<'static> {
        let scale = 1.0 / (self.head_size as f64).sqrt();
        Heads { heads: self.heads, key_heads: self.heads, scale, slopes: None }
    }

    /// Layouts of the queries, and of the keys and values.
    fn strides(&self, length: usize) -> (HeadStrides, HeadStrides) {
        let width = self.heads * self.head_size;
        let strides = |rows: usize| HeadStrides::new(rows, width, self.head_size);
        (strides(length), strides(self.latents))
    }

    fn inputs<'a, T: Float>(
        &self,
        q: &'a Tensor<T>,
        k: &'a Tensor<T>,
        v: &'a Tensor<T>,
        length: usize,
    ) -> AttentionInputs<'a, T> {
        let (q_strides, kv_strides) = self.strides(length);
        AttentionInputs { q, q_strides, k, v, kv_strides, visible: None }
    }

    /// Rows with a uniform target become the mean of their items' values.
    fn uniform_targets<T: Float>(&self, v: &Tensor<T>, rows: &MediaRows, out: &mut Tensor<T>) {
        v.backend().mean_latents(out, v, &mut rows.uniform_rows(), self.latents, v.width());
    }

    /// q (rows, width), k and v (items * latents, width).
    pub fn forward_saved<T: Float>(
        &self,
        q: &Tensor<T>,
        k: &Tensor<T>,
        v: &Tensor<T>,
        rows: &MediaRows,
    ) -> MediaAttentionOutput<T> {
        let mut log_sum_exp = Tensor::zeros(&[q.rows() * self.heads], q.device());
        // Rows of no item stay zero.
        let mut out = q.zeros_like();
        let (inputs, spans) = (self.inputs(q, k, v, rows.length), rows.spans(self.latents));
        let sums = Some((&mut log_sum_exp, rows.length));
        q.backend().attention(&mut out, self.sizes(), inputs, &spans, sums);
        self.uniform_targets(v, rows, &mut out);
        MediaAttentionOutput { out, log_sum_exp }
    }

    /// As [`MediaAttention::forward_saved`], keeping nothing.
    pub fn forward<T: Float>(
        &self,
        q: &Tensor<T>,
        k: &Tensor<T>,
        v: &Tensor<T>,
        rows: &MediaRows,
    ) -> Tensor<T> {
        self.forward_saved(q, k, v, rows).out
    }

    /// As [`MediaAttention::forward`], to rows that are there. With one text token a row the host allocates nothing:
    /// `scores` then has room for (rows, heads, latents), whatever is in it.
    pub fn forward_into<T: Float>(
        &self,
        q: &Tensor<T>,
        k: &Tensor<T>,
        v: &Tensor<T>,
        rows: &MediaRows,
        scores: &mut Tensor<T>,
        out: &mut Tensor<T>,
    ) {
        let (backend, heads, inputs) = (q.backend(), self.sizes(), self.inputs(q, k, v, rows.length));
        if rows.length == 1 {
            let count = rows.targets.len();
            let span = |batch: usize| match rows.targets[batch] {
                MediaTarget::Item(key_batch) => {
                    let (row, key_row, keys, causal_offset) = (0, 0, self.latents, None);
                    Some(Span { batch, row, rows: 1, key_batch, key_row, keys, causal_offset })
                }
                MediaTarget::Nothing | MediaTarget::Uniform(_) => None,
            };
            backend.attention_of_single_rows(out, heads, inputs, count, &span, scores);
        } else {
            backend.clear(out);
            backend.attention(out, heads, inputs, &rows.spans(self.latents), None);
        }
        self.uniform_targets(v, rows, out);
    }

    /// Gradients of q, k and v.
    pub fn backward<T: Float>(
        &self,
        q: &Tensor<T>,
        k: &Tensor<T>,
        v: &Tensor<T>,
        rows: &MediaRows,
        saved: &MediaAttentionOutput<T>,
        d_out: &Tensor<T>,
    ) -> (Tensor<T>, Tensor<T>, Tensor<T>) {
        let (mut dq, mut dk, mut dv) = (q.zeros_like(), k.zeros_like(), v.zeros_like());
        let (backend, inputs) = (q.backend(), self.inputs(q, k, v, rows.length));
        let MediaAttentionOutput { out, log_sum_exp } = saved;
        let attended = Attended { out, d_out, log_sum_exp, rows_per_batch: rows.length };
        let kv_strides = inputs.kv_strides;
        let gradients = AttentionInputGradients { dq: &mut dq, dk: &mut dk, dv: &mut dv, kv_strides };
        backend.attention_backward(self.sizes(), inputs, &rows.spans(self.latents), attended, gradients);
        backend.mean_latents_backward(&mut dv, d_out, &mut rows.uniform_rows(), self.latents, v.width());
        (dq, dk, dv)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::ParameterSpecs;
    use crate::testing::gradient_check::{check, random_tensor};
    use MediaTarget::{Item, Nothing, Uniform};

    fn tokens(pattern: &[u8]) -> Vec<bool> {
        pattern.iter().map(|&t| t == 1).collect()
    }

    #[test]
    fn targets_follow_the_table_of_the_specification() {
        let targets = |pattern: &[u8], media: usize| {
            let items = vec![(0..media).collect::<Vec<_>>()];
            MediaRows::from_media_tokens(&tokens(pattern), pattern.len(), &items).targets
        };
        assert_eq!(targets(&[0, 1, 0, 0], 1), [Nothing, Item(0), Item(0), Item(0)]);
        assert_eq!(targets(&[0, 1, 0, 1, 0], 2), [Nothing, Item(0), Item(0), Item(1), Item(1)]);
        assert_eq!(
            targets(&[1, 0, 1, 0, 1, 0], 2),
            [Item(0), Item(0), Item(1), Item(1), Uniform(0), Uniform(0)]
        );
        assert_eq!(targets(&[0, 0, 0], 2), [Nothing, Nothing, Nothing]);
        assert_eq!(targets(&[0, 1, 0], 2), [Nothing, Item(0), Item(0)]);
    }

    #[test]
    fn media_stay_in_their_segment() {
        let segment = |row, start, len| crate::Segment { row, start, len };
        let list = vec![segment(0, 0, 3), segment(0, 3, 3), segment(1, 0, 2), segment(1, 2, 3)];
        let segments = Segments::new(2, 6, list).unwrap();
        let pattern = tokens(&[0, 1, 0, 0, 1, 1, 0, 0, 1, 1, 0, 0]);
        let items = [vec![2], vec![0], vec![], vec![2, 1]];
        let rows = MediaRows::in_segments(&pattern, &segments, &items);
        let expected = [
            [Nothing, Item(2), Item(2), Nothing, Item(0), Uniform(1)],
            [Nothing, Nothing, Item(2), Item(1), Item(1), Nothing],
        ];
        assert_eq!(rows.targets, expected.concat());
        assert_eq!((rows.length, rows.items.len()), (6, 4));
    }

    #[test]
    fn a_uniform_row_is_the_mean_of_all_latents_and_a_row_without_media_is_zero() {
        let core = MediaAttention { heads: 2, head_size: 3, latents: 2 };
        let (q, k) = (random_tensor("q", &[3, 6]), random_tensor("k", &[4, 6]));
        let v = random_tensor("v", &[4, 6]);
        let targets = vec![Nothing, Item(1), Uniform(0)];
        let rows = MediaRows { targets, length: 3, items: vec![vec![0, 1]] };
        let out = core.forward(&q, &k, &v, &rows);
        assert!(out.data()[..6].iter().all(|&x| x == 0.0));
        for d in 0..6 {
            let mean = (0..4).map(|r| v.data()[r * 6 + d]).sum::<f64>() / 4.0;
            assert!((out.data()[12 + d] - mean).abs() < 1e-12);
        }
    }

    #[test]
    fn gradients_match_finite_differences_with_shared_items() {
        let core = MediaAttention { heads: 2, head_size: 4, latents: 3 };
        let pattern = tokens(&[0, 1, 0, 1, 0, 1, 1, 0, 1, 0, 0, 0]);
        let rows = MediaRows::from_media_tokens(&pattern, 6, &[vec![1, 2], vec![2, 0]]);
        assert!(rows.targets.contains(&Uniform(0)) && rows.targets.contains(&Nothing));
        check(
            &ParameterSpecs::default(),
            &[random_tensor("q", &[12, 8]), random_tensor("k", &[9, 8]), random_tensor("v", &[9, 8])],
            |_, x| core.forward(&x[0], &x[1], &x[2], &rows),
            |_, x, dy, _| {
                let saved = core.forward_saved(&x[0], &x[1], &x[2], &rows);
                let (dq, dk, dv) = core.backward(&x[0], &x[1], &x[2], &rows, &saved, dy);
                vec![dq, dk, dv]
            },
        );
    }
}
