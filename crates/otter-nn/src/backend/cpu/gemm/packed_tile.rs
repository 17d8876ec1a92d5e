//! What [`packed`](super::packed) does with vector instructions: packing panels, and multiplying two of them.

/// Rows of a tile and lanes of a panel of the left operand.
pub(super) const ROWS: usize = 12;
/// Columns of a tile and lanes of a panel of the right operand.
pub(super) const COLUMNS: usize = 32;
/// Products of a tile summed in registers before they join the result; a right panel of them fits the first-level cache.
pub(super) const BLOCK: usize = 256;

/// Multiplies a left panel (depth, [`ROWS`]) with a right one (depth, [`COLUMNS`]) and writes or adds `alpha` times the
/// first (rows, columns) sums to `c`, whose rows are `stride` apart.
///
/// # Safety
/// The elements of `c` must be valid and accessed by nobody else.
pub(super) type Tile = unsafe fn(&[f32], &[f32], *mut f32, usize, (usize, usize), f32, bool);

/// Lanes of an operand to be packed: element `depth` of `lane` is `data[offset + lane * lane_stride + depth * depth_stride]`.
pub(super) struct Source<'a> {
    pub(super) data: &'a [f32],
    pub(super) offset: usize,
    pub(super) lane_stride: usize,
    pub(super) depth_stride: usize,
    pub(super) lanes: usize,
}

/// The version for this processor; `None` without AVX2.
pub(super) fn tile() -> Option<Tile> {
    #[cfg(target_arch = "x86_64")]
    {
        use crate::backend::cpu::vectorized::{InstructionSet, instruction_set};
        match instruction_set() {
            InstructionSet::Avx512 => return Some(x86::tile_avx512),
            InstructionSet::Avx2 => return Some(x86::tile_avx2),
            InstructionSet::Baseline => {}
        }
    }
    None
}

/// Writes panels of `WIDTH` lanes, each (depth, `WIDTH`), to `out`. Lanes that are not there become zero.
pub(super) fn pack<const WIDTH: usize>(out: &mut [f32], source: &Source<'_>, depth: usize) {
    if source.lane_stride == 1 {
        return copy::<WIDTH>(out, source, depth);
    }
    for (panel, out) in out.chunks_exact_mut(depth * WIDTH).enumerate() {
        let first = panel * WIDTH;
        let part = Source {
            data: source.data,
            offset: source.offset + first * source.lane_stride,
            lanes: WIDTH.min(source.lanes - first),
            ..*source
        };
        if part.lanes < WIDTH || part.depth_stride != 1 {
            gather::<WIDTH>(out, &part, 0);
            continue;
        }
        #[cfg(target_arch = "x86_64")]
        {
            use crate::backend::cpu::vectorized::{InstructionSet, instruction_set};
            if instruction_set() != InstructionSet::Baseline {
                // SAFETY: the processor was just asked for these instructions.
                unsafe { x86::transpose::<WIDTH>(out, &part) };
                continue;
            }
        }
        gather::<WIDTH>(out, &part, 0);
    }
}

/// Lanes side by side: pieces of rows are copied, along all panels at once, so that each row is read once.
fn copy<const WIDTH: usize>(out: &mut [f32], source: &Source<'_>, depth: usize) {
    let size = depth * WIDTH;
    for at in 0..depth {
        let row = &source.data[source.offset + at * source.depth_stride..][..source.lanes];
        let (whole, rest) = row.as_chunks::<WIDTH>();
        for (panel, piece) in whole.iter().enumerate() {
            out[panel * size + at * WIDTH..][..WIDTH].copy_from_slice(piece);
        }
        if !rest.is_empty() {
            let out = &mut out[whole.len() * size + at * WIDTH..][..WIDTH];
            out[..rest.len()].copy_from_slice(rest);
            out[rest.len()..].fill(0.0);
        }
    }
}

/// One panel element by element, from depth `first` on.
fn gather<const WIDTH: usize>(out: &mut [f32], source: &Source<'_>, first: usize) {
    for (at, out) in out.chunks_exact_mut(WIDTH).enumerate().skip(first) {
        for (lane, out) in out.iter_mut().enumerate() {
            let index = source.offset + lane * source.lane_stride + at * source.depth_stride;
            *out = if lane < source.lanes { source.data[index] } else { 0.0 };
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{BLOCK, COLUMNS, ROWS, Source, gather};

    /// One whole panel from lanes that are contiguous along the depth.
    #[target_feature(enable = "avx2,fma")]
    pub(super) fn transpose<const WIDTH: usize>(out: &mut [f32], source: &Source<'_>) {
        const { assert!(WIDTH.is_multiple_of(4)) }
        let depth = out.len() / WIDTH;
        let whole = depth / 4 * 4;
        assert!(source.lanes == WIDTH && source.depth_stride == 1);
        assert!(source.offset + (WIDTH - 1) * source.lane_stride + depth <= source.data.len());
        // SAFETY: loads read depths `at..at + 4` of lanes below WIDTH, inside the slice as just checked; stores write
        // WIDTH lanes of depths below `depth`, all of `out`.
        unsafe {
            let from = source.data.as_ptr().add(source.offset);
            let to = out.as_mut_ptr();
            for at in (0..whole).step_by(4) {
                let load = |lane: usize| _mm_loadu_ps(from.add(lane * source.lane_stride + at));
                let mut lane = 0;
                while lane + 8 <= WIDTH {
                    // Lanes i and i + 4 in the halves of a vector, then a transposition inside the halves.
                    let pair = |i: usize| _mm256_set_m128(load(lane + i + 4), load(lane + i));
                    let (x0, x1, x2, x3) = (pair(0), pair(1), pair(2), pair(3));
                    let (low01, high01) = (_mm256_unpacklo_ps(x0, x1), _mm256_unpackhi_ps(x0, x1));
                    let (low23, high23) = (_mm256_unpacklo_ps(x2, x3), _mm256_unpackhi_ps(x2, x3));
                    let rows = [
                        _mm256_shuffle_ps::<0x44>(low01, low23),
                        _mm256_shuffle_ps::<0xEE>(low01, low23),
                        _mm256_shuffle_ps::<0x44>(high01, high23),
                        _mm256_shuffle_ps::<0xEE>(high01, high23),
                    ];
                    for (i, row) in rows.into_iter().enumerate() {
                        _mm256_storeu_ps(to.add((at + i) * WIDTH + lane), row);
                    }
                    lane += 8;
                }
                if lane < WIDTH {
                    let (mut x0, mut x1, mut x2, mut x3) =
                        (load(lane), load(lane + 1), load(lane + 2), load(lane + 3));
                    _MM_TRANSPOSE4_PS(&mut x0, &mut x1, &mut x2, &mut x3);
                    for (i, row) in [x0, x1, x2, x3].into_iter().enumerate() {
                        _mm_storeu_ps(to.add((at + i) * WIDTH + lane), row);
                    }
                }
            }
        }
        gather::<WIDTH>(out, source, whole);
    }

    /// Calls `$tile::<rows>` for a number of rows that is known at run time only.
    macro_rules! by_rows {
        ($rows:expr, $tile:ident $arguments:tt, $($count:literal)*) => {
            match $rows {
                $($count => $tile::<$count> $arguments,)*
                _ => unreachable!("a tile has at least one row and at most ROWS"),
            }
        };
    }

    /// See [`super::Tile`].
    pub(super) unsafe fn tile_avx512(
        a: &[f32],
        b: &[f32],
        c: *mut f32,
        stride: usize,
        (rows, columns): (usize, usize),
        alpha: f32,
        add: bool,
    ) {
        let depth = b.len() / COLUMNS;
        assert!(a.len() == depth * ROWS && depth <= BLOCK);
        let (a, b) = (a.as_ptr(), b.as_ptr());
        // SAFETY: `tile()` asked the processor for these instructions before it handed this function out; the panels have
        // `depth` rows, as just checked; the elements of `c` are the caller's promise.
        unsafe {
            if columns == COLUMNS {
                return by_rows!(rows, avx512(depth, a, b, c, stride, alpha, add), 1 2 3 4 5 6 7 8 9 10 11 12);
            }
            let mut sums = [0f32; ROWS * COLUMNS];
            let to = sums.as_mut_ptr();
            by_rows!(rows, avx512(depth, a, b, to, COLUMNS, 1.0, false), 1 2 3 4 5 6 7 8 9 10 11 12);
            store_border(&sums, c, stride, (rows, columns), alpha, add);
        }
    }

    /// See [`super::Tile`].
    pub(super) unsafe fn tile_avx2(
        a: &[f32],
        b: &[f32],
        c: *mut f32,
        stride: usize,
        (rows, columns): (usize, usize),
        alpha: f32,
        add: bool,
    ) {
        let depth = b.len() / COLUMNS;
        assert!(a.len() == depth * ROWS && depth <= BLOCK);
        // SAFETY: as in `tile_avx512`; the tile is done in parts of 6 rows and 16 columns, whose sums fit 16 registers.
        unsafe {
            for row in (0..rows).step_by(6) {
                for column in (0..columns).step_by(16) {
                    let (a, b) = (a.as_ptr().add(row), b.as_ptr().add(column));
                    let rows = 6.min(rows - row);
                    let c = c.add(row * stride + column);
                    if column + 16 <= columns {
                        by_rows!(rows, avx2(depth, a, b, c, stride, alpha, add), 1 2 3 4 5 6);
                        continue;
                    }
                    let mut sums = [0f32; ROWS * COLUMNS];
                    let to = sums.as_mut_ptr();
                    by_rows!(rows, avx2(depth, a, b, to, COLUMNS, 1.0, false), 1 2 3 4 5 6);
                    store_border(&sums, c, stride, (rows, columns - column), alpha, add);
                }
            }
        }
    }

    /// Writes or adds a part of a whole tile's sums.
    #[target_feature(enable = "avx2,fma")]
    unsafe fn store_border(
        sums: &[f32; ROWS * COLUMNS],
        c: *mut f32,
        stride: usize,
        (rows, columns): (usize, usize),
        alpha: f32,
        add: bool,
    ) {
        for (row, sums) in sums.chunks_exact(COLUMNS).take(rows).enumerate() {
            for (column, &sum) in sums[..columns].iter().enumerate() {
                // SAFETY: the caller promises (rows, columns) elements of `c`.
                unsafe {
                    let c = c.add(row * stride + column);
                    *c = if add { alpha.mul_add(sum, *c) } else { alpha * sum };
                }
            }
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx2,fma")]
    unsafe fn avx512<const R: usize>(
        depth: usize,
        mut a: *const f32,
        mut b: *const f32,
        c: *mut f32,
        stride: usize,
        alpha: f32,
        add: bool,
    ) {
        // SAFETY: the caller promises `depth` rows of both panels and (R, COLUMNS) elements of `c`; prefetching any
        // address is allowed.
        unsafe {
            for row in 0..R {
                _mm_prefetch::<_MM_HINT_T0>(c.add(row * stride).cast());
                _mm_prefetch::<_MM_HINT_T0>(c.add(row * stride + 16).cast());
            }
            let mut sums = [[_mm512_setzero_ps(); 2]; R];
            for _ in 0..depth {
                let (b0, b1) = (_mm512_loadu_ps(b), _mm512_loadu_ps(b.add(16)));
                for row in 0..R {
                    let x = _mm512_set1_ps(*a.add(row));
                    sums[row][0] = _mm512_fmadd_ps(x, b0, sums[row][0]);
                    sums[row][1] = _mm512_fmadd_ps(x, b1, sums[row][1]);
                }
                a = a.add(ROWS);
                b = b.add(COLUMNS);
            }
            let alpha = _mm512_set1_ps(alpha);
            for row in 0..R {
                for half in 0..2 {
                    let to = c.add(row * stride + 16 * half);
                    let sum = sums[row][half];
                    let value = if add {
                        _mm512_fmadd_ps(alpha, sum, _mm512_loadu_ps(to))
                    } else {
                        _mm512_mul_ps(alpha, sum)
                    };
                    _mm512_storeu_ps(to, value);
                }
            }
        }
    }

    #[target_feature(enable = "avx2,fma")]
    unsafe fn avx2<const R: usize>(
        depth: usize,
        mut a: *const f32,
        mut b: *const f32,
        c: *mut f32,
        stride: usize,
        alpha: f32,
        add: bool,
    ) {
        // SAFETY: as in `avx512`, with 16 columns.
        unsafe {
            let mut sums = [[_mm256_setzero_ps(); 2]; R];
            for _ in 0..depth {
                let (b0, b1) = (_mm256_loadu_ps(b), _mm256_loadu_ps(b.add(8)));
                for row in 0..R {
                    let x = _mm256_set1_ps(*a.add(row));
                    sums[row][0] = _mm256_fmadd_ps(x, b0, sums[row][0]);
                    sums[row][1] = _mm256_fmadd_ps(x, b1, sums[row][1]);
                }
                a = a.add(ROWS);
                b = b.add(COLUMNS);
            }
            let alpha = _mm256_set1_ps(alpha);
            for row in 0..R {
                for half in 0..2 {
                    let to = c.add(row * stride + 8 * half);
                    let sum = sums[row][half];
                    let value = if add {
                        _mm256_fmadd_ps(alpha, sum, _mm256_loadu_ps(to))
                    } else {
                        _mm256_mul_ps(alpha, sum)
                    };
                    _mm256_storeu_ps(to, value);
                }
            }
        }
    }
}

#[cfg(test)]
#[cfg(target_arch = "x86_64")]
mod tests {
    use super::*;
    use crate::backend::cpu::vectorized::{InstructionSet, instruction_set};

    /// Both versions that this processor may have, on whole tiles and borders, bit by bit.
    #[test]
    fn both_instruction_sets_give_the_same_bits() {
        if instruction_set() != InstructionSet::Avx512 {
            return;
        }
        let numbers = |count: usize, factor: usize| -> Vec<f32> {
            (0..count).map(|i| (i * factor % 2003) as f32 / 1001.5 - 1.0).collect()
        };
        for depth in [1, 37, BLOCK] {
            let (a, b) = (numbers(depth * ROWS, 7919), numbers(depth * COLUMNS, 104_729));
            for (rows, columns) in [(ROWS, COLUMNS), (1, 1), (5, 17), (7, 16), (11, 31), (6, 32)] {
                for add in [false, true] {
                    let run = |tile: Tile| {
                        let mut c = numbers(ROWS * (COLUMNS + 3), 31);
                        // SAFETY: the processor has both instruction sets, and `c` has a row of more than COLUMNS
                        // elements for every row of a tile.
                        unsafe { tile(&a, &b, c.as_mut_ptr(), COLUMNS + 3, (rows, columns), 0.3, add) };
                        c
                    };
                    assert_eq!(run(x86::tile_avx512), run(x86::tile_avx2), "{depth} {rows} {columns} {add}");
                }
            }
        }
    }
}
