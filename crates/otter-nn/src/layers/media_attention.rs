//! Attention of text rows over the latents of one media item each: the core of masked gated cross-attention
//! (`spec/model.md` 4.1, 4.2), without its projections.
//!
//! A row sees the latents of one media item, or nothing, or, when its sequence has more media tokens than media, the
//! plain mean of all of the sequence's latents. Rows are grouped into runs with the same item, so the scores against
//! other items' latents are never computed.

use crate::backend::card::{Card, CardAttended, CardInputGradients, CardInputs};
use crate::backend::cpu::attention::row::forward_rows;
use crate::backend::cpu::attention::{
    self as kernel, ForwardResult, HeadLayout, Heads, InputGradients, Inputs, Span,
};
use crate::{Device, Real, Segments, Tensor};

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

/// Output and what the reverse pass needs.
#[derive(Clone)]
pub struct MediaAttentionOutput<T> {
    /// (rows, heads * head size).
    pub out: Tensor<T>,
    log_sums: Tensor<T>,
}

impl MediaAttention {
    fn sizes(&self) -> Heads<'static> {
        let scale = 1.0 / (self.head_size as f64).sqrt();
        Heads { heads: self.heads, key_heads: self.heads, scale, slopes: None }
    }

    /// Layouts of the queries, and of the keys and values.
    fn layouts(&self, length: usize) -> (HeadLayout, HeadLayout) {
        let width = self.heads * self.head_size;
        let layout = |rows: usize| HeadLayout::new(rows, width, self.head_size);
        (layout(length), layout(self.latents))
    }

    fn inputs<'a, T: Real>(
        &self,
        q: &'a Tensor<T>,
        k: &'a Tensor<T>,
        v: &'a Tensor<T>,
        length: usize,
    ) -> Inputs<'a, T> {
        let (q_layout, k_layout) = self.layouts(length);
        let (q, k, v) = (q.data(), k.data(), v.data());
        Inputs { q, q_layout, k, k_layout, v, v_layout: k_layout, visible: None }
    }

    fn card_inputs<'a, T: Real>(
        &self,
        q: &'a Tensor<T>,
        k: &'a Tensor<T>,
        v: &'a Tensor<T>,
        length: usize,
    ) -> CardInputs<'a> {
        let (q_layout, kv_layout) = self.layouts(length);
        CardInputs { q: q.on_card(), q_layout, k: k.on_card(), v: v.on_card(), kv_layout, visible: None }
    }

    /// Output of every row, on a card.
    fn forward_there<T: Real>(
        &self,
        card: Card,
        (q, k, v): (&Tensor<T>, &Tensor<T>, &Tensor<T>),
        rows: &MediaRows,
        log_sums: Option<&mut Tensor<T>>,
    ) -> Tensor<T> {
        // Rows of no item stay zero.
        let mut out = q.zeros_like();
        let inputs = self.card_inputs(q, k, v, rows.length);
        let log_sums = log_sums.map(|sums| (sums.on_card_mut(), rows.length));
        card.attend(self.sizes(), inputs, &rows.spans(self.latents), out.on_card_mut(), log_sums);
        let uniform: Vec<_> = rows.uniform_rows().collect();
        if !uniform.is_empty() {
            card.mean_latents(out.on_card_mut(), v.on_card(), &uniform, self.latents, v.width());
        }
        out
    }

    /// q (rows, width), k and v (items * latents, width).
    pub fn forward_saved<T: Real>(
        &self,
        q: &Tensor<T>,
        k: &Tensor<T>,
        v: &Tensor<T>,
        rows: &MediaRows,
    ) -> MediaAttentionOutput<T> {
        let length = rows.length;
        let mut log_sums = Tensor::zeros(&[q.rows() * self.heads], q.device());
        if let Device::Card(card) = q.device() {
            let out = self.forward_there(card, (q, k, v), rows, Some(&mut log_sums));
            return MediaAttentionOutput { out, log_sums };
        }
        let mut out = q.zeros_like();
        let inputs = self.inputs(q, k, v, length);
        let spans = rows.spans(self.latents);
        let layout = inputs.q_layout;
        let sums = Some((log_sums.data_mut(), length));
        kernel::forward(self.sizes(), inputs, &spans, out.data_mut(), layout, sums);
        let width = q.width();
        for (row, items) in rows.uniform_rows() {
            self.mean_value(v, items, &mut out.data_mut()[row * width..][..width]);
        }
        MediaAttentionOutput { out, log_sums }
    }

    /// As [`MediaAttention::forward_saved`], keeping nothing.
    pub fn forward<T: Real>(
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
    pub fn forward_into<T: Real>(
        &self,
        q: &Tensor<T>,
        k: &Tensor<T>,
        v: &Tensor<T>,
        rows: &MediaRows,
        scores: &mut Tensor<T>,
        out: &mut Tensor<T>,
    ) {
        if let Device::Card(card) = q.device() {
            *out = self.forward_there(card, (q, k, v), rows, None);
            return;
        }
        let out = out.data_mut();
        let inputs = self.inputs(q, k, v, rows.length);
        let layout = inputs.q_layout;
        if rows.length == 1 {
            let count = rows.targets.len();
            let span = |batch: usize| match rows.targets[batch] {
                MediaTarget::Item(key_batch) => {
                    let (row, key_row, keys, causal_offset) = (0, 0, self.latents, None);
                    Some(Span { batch, row, rows: 1, key_batch, key_row, keys, causal_offset })
                }
                MediaTarget::Nothing | MediaTarget::Uniform(_) => None,
            };
            forward_rows(self.sizes(), inputs, count, span, scores.data_mut(), out, layout);
        } else {
            out.fill(T::ZERO);
            kernel::forward(self.sizes(), inputs, &rows.spans(self.latents), out, layout, None);
        }
        let width = self.heads * self.head_size;
        for (row, items) in rows.uniform_rows() {
            self.mean_value(v, items, &mut out[row * width..][..width]);
        }
    }

    /// Writes the mean over all latents of these items.
    fn mean_value<T: Real>(&self, v: &Tensor<T>, items: &[usize], mean: &mut [T]) {
        let width = v.width();
        mean.fill(T::ZERO);
        let count = items.len() * self.latents;
        if count == 0 {
            return;
        }
        for &item in items {
            for row in v.data()[item * self.latents * width..][..self.latents * width].chunks_exact(width) {
                for (m, &v) in mean.iter_mut().zip(row) {
                    *m += v;
                }
            }
        }
        let factor = T::from_f64(1.0 / count as f64);
        mean.iter_mut().for_each(|m| *m *= factor);
    }

    /// Gradients of q, k and v.
    pub fn backward<T: Real>(
        &self,
        q: &Tensor<T>,
        k: &Tensor<T>,
        v: &Tensor<T>,
        rows: &MediaRows,
        saved: &MediaAttentionOutput<T>,
        d_out: &Tensor<T>,
    ) -> (Tensor<T>, Tensor<T>, Tensor<T>) {
        let length = rows.length;
        let (mut dq, mut dk, mut dv) = (q.zeros_like(), k.zeros_like(), v.zeros_like());
        if let Device::Card(card) = q.device() {
            let (out, log_sums) = (saved.out.on_card(), saved.log_sums.on_card());
            let attended = CardAttended { out, d_out: d_out.on_card(), log_sums, rows_per_batch: length };
            let inputs = self.card_inputs(q, k, v, length);
            let gradients = CardInputGradients {
                dq: dq.on_card_mut(),
                dk: dk.on_card_mut(),
                dv: dv.on_card_mut(),
                kv_layout: inputs.kv_layout,
            };
            card.attend_back(self.sizes(), inputs, &rows.spans(self.latents), attended, gradients);
            let uniform: Vec<_> = rows.uniform_rows().collect();
            if !uniform.is_empty() {
                let (latents, width) = (self.latents, v.width());
                card.mean_latents_back(dv.on_card_mut(), d_out.on_card(), &uniform, latents, width);
            }
            return (dq, dk, dv);
        }
        let inputs = self.inputs(q, k, v, length);
        let result = ForwardResult {
            out: saved.out.data(),
            d_out: d_out.data(),
            layout: inputs.q_layout,
            log_sums: saved.log_sums.data(),
            rows_per_batch: length,
        };
        let gradients = InputGradients {
            dq: dq.data_mut(),
            dk: dk.data_mut(),
            dk_layout: inputs.k_layout,
            dv: dv.data_mut(),
            dv_layout: inputs.v_layout,
        };
        kernel::backward(self.sizes(), inputs, &rows.spans(self.latents), result, gradients);
        let width = q.width();
        for (row, items) in rows.uniform_rows() {
            let factor = T::from_f64(1.0 / (items.len() * self.latents).max(1) as f64);
            let d_row = &d_out.data()[row * width..][..width];
            for &item in items {
                let block = &mut dv.data_mut()[item * self.latents * width..][..self.latents * width];
                for latent in block.chunks_exact_mut(width) {
                    for (g, &d) in latent.iter_mut().zip(d_row) {
                        *g += factor * d;
                    }
                }
            }
        }
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
