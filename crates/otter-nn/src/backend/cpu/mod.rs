//! The host: [`Cpu`] is a [`Backend`](crate::backend::Backend) by kernels on plain slices. Each is written once for every [`crate::Float`] and compiled for several instruction
//! sets by [`vectorized!`](crate::vectorized); the widest one the processor has is chosen at run time.

mod adamw;
pub mod adamw_eight_bit;
pub mod attention;
pub mod cross_entropy;
pub mod elementwise;
pub mod gemm;
pub mod half;
pub mod media;
pub mod norm;
#[cfg(test)]
mod not_finite_tests;
mod operations;
pub mod quantized;
pub mod rotary;
pub mod rows;
pub mod vectorized;

pub use operations::Cpu;
use rayon::prelude::*;

/// Runs `body` compiled for the widest vector instructions of this processor. Everything `body` calls must be
/// inlined to profit.
#[inline(always)]
pub fn simd<R>(body: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(body)
}

/// Work (in elements touched) below which a loop stays on one thread: waking the pool costs some microseconds.
const PARALLEL_WORK: usize = 1 << 15;

/// Blocks that rows are cut into for each thread, when they are large enough.
const BLOCKS_PER_THREAD: usize = 8;

/// Calls `body(first_row, rows)` on consecutive blocks of rows of `data`, in parallel when there is enough work.
/// `work_per_element` weighs elements against simple ones (an addition is 1).
pub fn for_row_blocks<T: Send>(
    data: &mut [T],
    width: usize,
    work_per_element: usize,
    body: impl Fn(usize, &mut [T]) + Sync,
) {
    if data.is_empty() {
        return;
    }
    // One call site, so that `body` is inlined into the vectorized frame.
    let run = |first: usize, rows: &mut [T]| simd(|| body(first, rows));
    let rows = data.len() / width;
    let threads = rayon::current_num_threads();
    if threads == 1 || data.len() * work_per_element < PARALLEL_WORK {
        run(0, data);
        return;
    }
    // Small blocks, because a thread that had to be woken comes late; whole vectors of single elements.
    let smallest = (PARALLEL_WORK / 2).div_ceil(width * work_per_element);
    let block = rows.div_ceil(threads * BLOCKS_PER_THREAD).max(smallest);
    let block = if width == 1 { block.next_multiple_of(LANES) } else { block };
    data.par_chunks_mut(block * width).enumerate().for_each(|(i, rows)| run(i * block, rows));
}

/// Elements from which a buffer is cleared on all threads: one alone does not fill the memory bus.
const PARALLEL_ZEROS: usize = 1 << 18;

/// A buffer of zeros, its memory made now on all threads. Where fresh pages are first read and then written, as in adding to
/// them, the system makes each twice and stops every core for it.
pub fn zeros<T: crate::Float>(len: usize) -> Vec<T> {
    if len < PARALLEL_ZEROS || rayon::current_num_threads() == 1 {
        return vec![T::ZERO; len];
    }
    let mut zeros = Vec::with_capacity(len);
    let block = PARALLEL_ZEROS / BLOCKS_PER_THREAD;
    zeros.spare_capacity_mut()[..len]
        .par_chunks_mut(block)
        .for_each(|block| block.fill(std::mem::MaybeUninit::new(T::ZERO)));
    // SAFETY: the first `len` elements have just been written.
    unsafe { zeros.set_len(len) };
    zeros
}

/// Number of lanes partial sums are kept in, so that sums vectorize and do not depend on the instruction set.
const LANES: usize = 16;

/// Sum of `f` over paired elements, in a fixed order of `LANES` partial sums.
#[inline(always)]
pub fn sum_pairs<T: crate::Float>(a: &[T], b: &[T], f: impl Fn(T, T) -> T) -> T {
    let mut lanes = [T::ZERO; LANES];
    let whole = a.len() / LANES * LANES;
    let (a_head, a_tail) = a.split_at(whole);
    let (b_head, b_tail) = b[..a.len()].split_at(whole);
    for (x, y) in a_head.chunks_exact(LANES).zip(b_head.chunks_exact(LANES)) {
        for lane in 0..LANES {
            lanes[lane] += f(x[lane], y[lane]);
        }
    }
    for (lane, (&x, &y)) in a_tail.iter().zip(b_tail).enumerate() {
        lanes[lane] += f(x, y);
    }
    fold_lanes(lanes)
}

/// Sum of the partial sums, halving them.
#[inline(always)]
fn fold_lanes<T: crate::Float>(mut lanes: [T; LANES]) -> T {
    let mut half = LANES / 2;
    while half > 0 {
        for lane in 0..half {
            let upper = lanes[lane + half];
            lanes[lane] += upper;
        }
        half /= 2;
    }
    lanes[0]
}

/// Sum of `f` over elements; see [`sum_pairs`].
#[inline(always)]
pub fn sum_of<T: crate::Float>(a: &[T], f: impl Fn(T) -> T) -> T {
    sum_pairs(a, a, |x, _| f(x))
}

/// Largest element that is a number (negative infinity where there is none).
#[inline(always)]
pub fn max_of<T: crate::Float>(a: &[T]) -> T {
    let mut lanes = [T::NEG_INFINITY; LANES];
    let whole = a.len() / LANES * LANES;
    for x in a[..whole].chunks_exact(LANES) {
        for lane in 0..LANES {
            lanes[lane] = x[lane].maximum(lanes[lane]);
        }
    }
    for (lane, &x) in a[whole..].iter().enumerate() {
        lanes[lane] = x.maximum(lanes[lane]);
    }
    lanes.into_iter().fold(T::NEG_INFINITY, |m, x| x.maximum(m))
}
