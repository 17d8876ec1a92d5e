//! Attention of single query rows, as in decoding: no list of tasks and no scores of their own, so that a token allocates
//! nothing. The numbers are those of [`attention::forward`](super::forward).

use rayon::prelude::*;

use super::{Disjoint, HeadStrides, Heads, Inputs, PARALLEL_SCORES, Span, check, one_query, visible_keys};
use crate::Float;

/// Attention of the first query row of `batches` batch entries. `span` gives the keys of an entry, of which it must be the
/// only row; where it gives none, the output is zero. `scores` is room for (batches, heads, most keys of a span).
///
/// # Panics
/// When a slice is shorter than the spans say.
pub fn forward_rows<T: Float>(
    heads: Heads<'_>,
    inputs: Inputs<'_, T>,
    batches: usize,
    span: impl Fn(usize) -> Option<Span> + Sync,
    scores: &mut [T],
    out: &mut [T],
    out_strides: HeadStrides,
) {
    assert!(out_strides.end(batches, 1, heads.heads) <= out.len(), "output is too short");
    let room = scores.len() / (batches * heads.heads).max(1);
    let mut work = 0;
    for (index, span) in (0..batches).filter_map(|index| Some((index, span(index)?))) {
        assert_eq!((span.batch, span.row, span.rows), (index, 0, 1), "a span of another row");
        check(&heads, &inputs, &[span]);
        assert!(visible_keys(&span, 0) <= room, "room for {room} scores");
        work += span.keys * heads.heads;
    }
    let (scores, out) = (Disjoint::new(scores), Disjoint::new(out));
    let run = |task: usize| {
        let (index, head) = (task / heads.heads, task % heads.heads);
        // SAFETY: each (entry, head) belongs to exactly one task, and so do its features of the output and its scores.
        let (scores, out) = unsafe { (scores.slice(), out.slice()) };
        let Some(span) = span(index) else {
            let at = out_strides.head(index, 0, head).offset;
            return out[at..at + out_strides.head_size].fill(T::ZERO);
        };
        let scores = &mut scores[task * room..][..visible_keys(&span, 0)];
        let key_head = head * heads.key_heads / heads.heads;
        one_query(&heads, &inputs, &span, (0, head, key_head), scores, out, out_strides, None);
    };
    let tasks = batches * heads.heads;
    if rayon::current_num_threads() == 1 || work < PARALLEL_SCORES {
        (0..tasks).for_each(run);
    } else {
        (0..tasks).into_par_iter().for_each(run);
    }
}
