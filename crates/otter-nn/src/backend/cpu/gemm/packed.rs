//! Products of f32 matrices from packed panels, after Goto and van de Geijn, "Anatomy of High-Performance Matrix
//! Multiplication" (2008), for processors with AVX2 or AVX-512.
//!
//! The smaller operand is packed once and shared; tasks take groups of panels of the other one, pack them for themselves
//! and go along the shared panels, so that a group stays in the near caches. Every element of the result is a sum over
//! blocks of [`BLOCK`] products, each in order and with fused multiply-add. It does not depend on the other rows and
//! columns, on the number of threads, or on which of the two instruction sets is used.

use std::cell::Cell;
use std::ops::Range;
use std::thread::LocalKey;

use rayon::prelude::*;

use super::packed_tile::{self, BLOCK, COLUMNS, ROWS, Tile};
use super::{Finish, Layout};

/// Largest number of products of a sum whose operands are packed at once; a multiple of [`BLOCK`].
const DEPTH: usize = 4 * BLOCK;
/// Elements of the shared operand packed at once: they stay in the last-level cache.
const SHARED: usize = 1 << 21;
/// Elements of a group of panels: they stay in the second-level cache.
const GROUP: usize = 1 << 17;
/// Groups for each thread, where there are enough panels: a thread that was disturbed leaves the rest to the others.
const GROUPS_PER_THREAD: usize = 8;
/// Elements below which packing the shared operand is not worth waking another thread.
const PARALLEL_PACK: usize = 1 << 15;

/// Sixteen elements, aligned like a cache line: a vector load that crosses lines costs twice.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; 16]);

thread_local! {
    static SHARED_PANELS: Cell<Vec<Line>> = const { Cell::new(Vec::new()) };
    static GROUP_PANELS: Cell<Vec<Line>> = const { Cell::new(Vec::new()) };
}

/// Calls `body` with a buffer of `len` elements that this thread keeps between calls. Its content is arbitrary.
fn with_buffer<R>(
    key: &'static LocalKey<Cell<Vec<Line>>>,
    len: usize,
    body: impl FnOnce(&mut [f32]) -> R,
) -> R {
    // Taken out, so that a task of another product that runs on this thread meanwhile gets a buffer of its own.
    let mut lines = key.take();
    let count = len.div_ceil(16);
    if lines.len() < count {
        lines.resize(count, Line([0.0; 16]));
    }
    // SAFETY: a line is sixteen f32 and nothing else, so the vector's elements are `16 * lines.len()` initialized f32.
    let elements =
        unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast::<f32>(), 16 * lines.len()) };
    let result = body(&mut elements[..len]);
    key.set(lines);
    result
}

/// A matrix seen as lanes (rows of the left operand, columns of the right one) along the summed dimension.
#[derive(Clone, Copy)]
struct Operand<'a> {
    data: &'a [f32],
    offset: usize,
    lane_stride: usize,
    depth_stride: usize,
    lanes: usize,
    /// Lanes of a panel.
    width: usize,
}

impl Operand<'_> {
    fn panels(&self) -> usize {
        self.lanes.div_ceil(self.width)
    }

    /// Panels of `depth` sums from `first_depth` on.
    fn pack(&self, out: &mut [f32], panels: Range<usize>, depth: Range<usize>) {
        let first = panels.start * self.width;
        let source = packed_tile::Source {
            data: self.data,
            offset: self.offset + first * self.lane_stride + depth.start * self.depth_stride,
            lane_stride: self.lane_stride,
            depth_stride: self.depth_stride,
            lanes: (self.lanes - first).min(panels.len() * self.width),
        };
        if self.width == ROWS {
            packed_tile::pack::<ROWS>(out, &source, depth.len());
        } else {
            packed_tile::pack::<COLUMNS>(out, &source, depth.len());
        }
    }
}

/// The result, of which every task writes tiles of its own.
struct Output {
    pointer: *mut f32,
    row_stride: usize,
    rows: usize,
    columns: usize,
}

// SAFETY: tasks write disjoint tiles, see `Job::multiply`.
unsafe impl Sync for Output {}

/// Packed panels of an operand: which, and their elements.
#[derive(Clone)]
struct Panels<'a> {
    range: Range<usize>,
    data: &'a [f32],
}

struct Job<'a> {
    tile: Tile,
    depth: usize,
    output: Output,
    left: Operand<'a>,
    right: Operand<'a>,
    alpha: f32,
    finish: Finish<'a, f32>,
}

impl Job<'_> {
    /// Multiplies all given panels: the elements of the result at their rows and columns are written or added to.
    ///
    /// # Safety
    /// No other thread may access those elements.
    unsafe fn multiply(&self, left: &Panels<'_>, right: &Panels<'_>, depth: usize, add: bool) {
        let tile = |left_panel: usize, right_panel: usize, block: Range<usize>| {
            let (row, column) =
                ((left.range.start + left_panel) * ROWS, (right.range.start + right_panel) * COLUMNS);
            let a = &left.data[(left_panel * depth + block.start) * ROWS..][..block.len() * ROWS];
            let b = &right.data[(right_panel * depth + block.start) * COLUMNS..][..block.len() * COLUMNS];
            let rows = ROWS.min(self.output.rows - row);
            let columns = COLUMNS.min(self.output.columns - column);
            // SAFETY: (row, column) is inside the result, whose layout was checked by the caller of `product`; nobody
            // else accesses the tile, as promised by the caller.
            unsafe {
                let c = self.output.pointer.add(row * self.output.row_stride + column);
                let add = add || block.start > 0;
                (self.tile)(a, b, c, self.output.row_stride, (rows, columns), self.alpha, add);
            }
        };
        for start in (0..depth).step_by(BLOCK) {
            let block = start..depth.min(start + BLOCK);
            // Row by row: the result may lie in far memory, which likes long pieces.
            for l in 0..left.range.len() {
                (0..right.range.len()).for_each(|r| tile(l, r, block.clone()));
            }
        }
    }

    /// Hands the rows of the given panels' elements of the result, which are complete, to [`Job::finish`].
    ///
    /// # Safety
    /// As [`Job::multiply`].
    unsafe fn finish(&self, left: &Panels<'_>, right: &Panels<'_>) {
        let Some(finish) = self.finish else { return };
        let first = right.range.start * COLUMNS;
        let columns = (right.range.end * COLUMNS).min(self.output.columns) - first;
        for row in left.range.start * ROWS..(left.range.end * ROWS).min(self.output.rows) {
            // SAFETY: these elements are inside the result and belong to this task, see `multiply`.
            let part = unsafe {
                let start = self.output.pointer.add(row * self.output.row_stride + first);
                std::slice::from_raw_parts_mut(start, columns)
            };
            finish(row, first, part);
        }
    }

    /// Adds the products of a range of the summed dimension.
    fn run(&self, depth: Range<usize>, add: bool, parallel: bool) {
        let left_is_shared = self.left.lanes <= self.right.lanes;
        let (shared, grouped) =
            if left_is_shared { (self.left, self.right) } else { (self.right, self.left) };
        let threads = if parallel { rayon::current_num_threads() } else { 1 };
        let at_once = (SHARED / (shared.width * depth.len())).max(1);
        let group = (GROUP / (grouped.width * depth.len()))
            .min(grouped.panels() / (threads * GROUPS_PER_THREAD))
            .max(1);
        let groups = grouped.panels().div_ceil(group);
        for first in (0..shared.panels()).step_by(at_once) {
            let range = first..shared.panels().min(first + at_once);
            with_buffer(&SHARED_PANELS, range.len() * shared.width * depth.len(), |buffer| {
                let size = shared.width * depth.len();
                if threads > 1 && buffer.len() >= PARALLEL_PACK {
                    let pieces = range.len().div_ceil(threads * GROUPS_PER_THREAD);
                    buffer.par_chunks_mut(pieces * size).enumerate().for_each(|(i, out)| {
                        let first = range.start + i * pieces;
                        shared.pack(out, first..first + out.len() / size, depth.clone());
                    });
                } else {
                    shared.pack(buffer, range.clone(), depth.clone());
                }
                let shared_panels = Panels { range: range.clone(), data: buffer };
                let task = |index: usize| {
                    let range = index * group..grouped.panels().min((index + 1) * group);
                    with_buffer(&GROUP_PANELS, range.len() * grouped.width * depth.len(), |buffer| {
                        grouped.pack(buffer, range.clone(), depth.clone());
                        let own = Panels { range, data: buffer };
                        let (left, right) =
                            if left_is_shared { (&shared_panels, &own) } else { (&own, &shared_panels) };
                        // SAFETY: a task has panels of its own of one operand, so its tiles are its own.
                        unsafe {
                            self.multiply(left, right, depth.len(), add);
                            if depth.end == self.depth {
                                self.finish(left, right);
                            }
                        }
                    });
                };
                if threads > 1 && groups > 1 {
                    (0..groups).into_par_iter().with_max_len(1).for_each(task);
                } else {
                    (0..groups).for_each(task);
                }
            });
        }
    }
}

/// `c = alpha * a b`, added to c with `accumulate`; a (m, k), b (k, n), c (m, n). What is complete goes through `finish`.
/// Gives `false` and does nothing where this processor or these sizes and layouts are not what the kernel is for.
pub(crate) fn product(
    (c, c_layout): (&mut [f32], Layout),
    (a, a_layout): (&[f32], Layout),
    (b, b_layout): (&[f32], Layout),
    (m, k, n): (usize, usize, usize),
    alpha: f32,
    accumulate: bool,
    parallel: bool,
    finish: Finish<'_, f32>,
) -> bool {
    let Some(tile) = packed_tile::tile() else { return false };
    // For the smallest products packing costs more than it saves.
    if c_layout.column_stride != 1 || m < ROWS / 2 || n < COLUMNS / 2 || k == 0 {
        return false;
    }
    assert!(c_layout.end(m, n) <= c.len(), "c is too short");
    let job = Job {
        tile,
        depth: k,
        output: Output {
            pointer: c[c_layout.offset..].as_mut_ptr(),
            row_stride: c_layout.row_stride,
            rows: m,
            columns: n,
        },
        left: Operand {
            data: a,
            offset: a_layout.offset,
            lane_stride: a_layout.row_stride,
            depth_stride: a_layout.column_stride,
            lanes: m,
            width: ROWS,
        },
        right: Operand {
            data: b,
            offset: b_layout.offset,
            lane_stride: b_layout.column_stride,
            depth_stride: b_layout.row_stride,
            lanes: n,
            width: COLUMNS,
        },
        alpha,
        finish,
    };
    for first in (0..k).step_by(DEPTH) {
        job.run(first..k.min(first + DEPTH), accumulate || first > 0, parallel);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(count: usize, factor: usize) -> Vec<f32> {
        (0..count).map(|i| (i * factor % 2003) as f32 / 1001.5 - 1.0).collect()
    }

    const SIZES: [(usize, usize, usize); 9] = [
        (6, 1, 16),
        (12, 256, 32),
        (13, 257, 33),
        (37, 19, 65),
        (64, 64, 50),
        (25, 700, 31),
        (100, 513, 16),
        (7, 4100, 40),
        (150, 30, 300),
    ];

    /// All layouts, written and added, in the middle of larger matrices, against sums in f64.
    #[test]
    fn products_are_those_of_the_definition() {
        if packed_tile::tile().is_none() {
            crate::skip::skipped("avx2", "this processor has no packed products");
            return;
        }
        for (m, k, n) in SIZES {
            for (left, right) in [(false, false), (false, true), (true, false), (true, true)] {
                let a_layout = if left { Layout::columns(m + 3) } else { Layout::rows(k + 3) }.at(5);
                let b_layout = if right { Layout::columns(k + 2) } else { Layout::rows(n + 2) }.at(1);
                let a = numbers(a_layout.end(m, k), 7919);
                let b = numbers(b_layout.end(k, n), 104_729);
                let c_layout = Layout::rows(n + 1).at(2);
                for accumulate in [false, true] {
                    let before = numbers(c_layout.end(m, n) + 4, 31);
                    let mut c = before.clone();
                    let sizes = (m, k, n);
                    let (to, a_in, b_in) = ((&mut c[..], c_layout), (&a[..], a_layout), (&b[..], b_layout));
                    let done = product(to, a_in, b_in, sizes, 0.5, accumulate, true, None);
                    assert!(done);
                    let at = |layout: Layout, row: usize, column: usize| {
                        layout.offset + row * layout.row_stride + column * layout.column_stride
                    };
                    let mut untouched = before.clone();
                    for row in 0..m {
                        for column in 0..n {
                            let sum: f64 = (0..k)
                                .map(|i| {
                                    f64::from(a[at(a_layout, row, i)]) * f64::from(b[at(b_layout, i, column)])
                                })
                                .sum();
                            let index = at(c_layout, row, column);
                            let expected =
                                0.5 * sum + if accumulate { f64::from(before[index]) } else { 0.0 };
                            let difference = (f64::from(c[index]) - expected).abs();
                            assert!(difference < 1e-5 * k as f64, "{sizes:?} {left} {right} {accumulate}");
                            untouched[index] = c[index];
                        }
                    }
                    assert_eq!(c, untouched, "elements outside the result changed");
                }
            }
        }
    }

    /// Both instruction sets, one to three threads, and rows alone or together.
    #[test]
    fn bits_depend_on_nothing_but_the_operands() {
        for (m, k, n) in SIZES {
            let (a, b) = (numbers(m * k, 7919), numbers(k * n, 104_729));
            let run = |rows: usize, threads: usize| {
                let mut c = vec![0.0; rows * n];
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
                let (a, b) = ((&a[..], Layout::rows(k)), (&b[..], Layout::rows(n)));
                let done = pool.install(|| {
                    product((&mut c, Layout::rows(n)), a, b, (rows, k, n), 1.0, false, true, None)
                });
                done.then_some(c)
            };
            let Some(one) = run(m, 1) else { continue };
            assert_eq!(Some(&one), run(m, 2).as_ref());
            assert_eq!(Some(&one), run(m, 3).as_ref());
            let fewer = m / 2 + 3;
            assert_eq!(Some(&one[..fewer * n]), run(fewer, 2).as_deref());
        }
    }
}
