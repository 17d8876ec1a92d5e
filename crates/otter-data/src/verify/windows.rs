//! Work in parallel, merged in the order of the data.

use std::ops::Range;

use rayon::prelude::*;

use crate::error::Result;

/// Chunks that are worked on between two merges. Bounds what waits in memory.
const CHUNKS_PER_WINDOW: usize = 64;

/// Runs `work` on pieces of `0..total` and hands the results to `merge` in order; `merge` returns whether to go on.
/// `after_window` runs now and then, to let go of what the pieces left behind.
pub(crate) fn in_windows<Out: Send>(
    total: usize,
    chunk: usize,
    work: impl Fn(Range<usize>) -> Result<Out> + Sync,
    after_window: impl Fn(),
    mut merge: impl FnMut(Out, usize) -> bool,
) -> Result<()> {
    let chunks = total.div_ceil(chunk);
    for window in (0..chunks).step_by(CHUNKS_PER_WINDOW) {
        let last = chunks.min(window + CHUNKS_PER_WINDOW);
        let results: Vec<Result<Out>> = (window..last)
            .into_par_iter()
            .map(|number| work(number * chunk..total.min((number + 1) * chunk)))
            .collect();
        for (number, result) in (window..last).zip(results) {
            if !merge(result?, total.min((number + 1) * chunk)) {
                return Ok(());
            }
        }
        after_window();
    }
    Ok(())
}
