//! Dot products of several rows with several weight rows at once, their partial sums in registers.
//!
//! Both operands are read along their rows, so nothing is packed: for few rows that is faster than a general matrix
//! product. Every result has the bits of one dot product after the other (`dot_one`), whatever the instruction set. The
//! tiles are written with intrinsics because the compiler vectorizes such a loop nest across the wrong dimension.

use super::{dot_four, dot_one};
use crate::{Float, vectorized};

/// Dot products of the rows of `x` with the rows of `w`, all of `inner` elements: out (rows of w, rows of x).
pub(crate) fn dot_products_f32(out: &mut [f32], x: &[f32], w: &[f32], inner: usize) {
    #[cfg(target_arch = "x86_64")]
    {
        use crate::backend::cpu::vectorized::{InstructionSet, instruction_set};
        match instruction_set() {
            // SAFETY: the processor was just asked for these instructions.
            InstructionSet::Avx512 => return unsafe { x86::avx512(out, x, w, inner) },
            // SAFETY: as above.
            InstructionSet::Avx2 => return unsafe { x86::avx2(out, x, w, inner) },
            InstructionSet::Baseline => {}
        }
    }
    dot_products(out, x, w, inner);
}

vectorized! {
    /// The same for every element type, one row of `x` after the other.
    pub(crate) fn dot_products<T: Float>(out: &mut [T], x: &[T], w: &[T], inner: usize) {
        let rows = x.len() / inner;
        let groups = out.chunks_mut(4 * rows).zip(w.chunks(4 * inner));
        for (out, w) in groups {
            for (row, x) in x.chunks_exact(inner).enumerate() {
                if w.len() == 4 * inner {
                    for (of_weight, value) in dot_four(x, w).into_iter().enumerate() {
                        out[of_weight * rows + row] = value;
                    }
                } else {
                    for (of_weight, w) in w.chunks_exact(inner).enumerate() {
                        out[of_weight * rows + row] = dot_one(x, w);
                    }
                }
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::super::super::{LANES, fold_lanes};
    use super::super::dot_one;

    /// Goes over the matrix in tiles of `W` weight rows and `X` rows that `tile` computes; the border is done row by row.
    #[inline(always)]
    fn tiles<const W: usize, const X: usize>(
        out: &mut [f32],
        x: &[f32],
        w: &[f32],
        inner: usize,
        tile: impl Fn(&[f32], &[f32]) -> [[[f32; LANES]; X]; W],
    ) {
        let rows = x.len() / inner;
        for (out, w) in out.chunks_mut(W * rows).zip(w.chunks(W * inner)) {
            let whole = if w.len() == W * inner { rows / X * X } else { 0 };
            for first in (0..whole).step_by(X) {
                let x = &x[first * inner..][..X * inner];
                let sums = tile(x, w);
                let tail = |of: usize| of * inner + inner / LANES * LANES..(of + 1) * inner;
                for (of_weight, sums) in sums.into_iter().enumerate() {
                    for (row, mut lanes) in sums.into_iter().enumerate() {
                        let tails = x[tail(row)].iter().zip(&w[tail(of_weight)]);
                        for (lane, (&x, &w)) in lanes.iter_mut().zip(tails) {
                            *lane += x * w;
                        }
                        out[of_weight * rows + first + row] = fold_lanes(lanes);
                    }
                }
            }
            for (of_weight, w) in w.chunks_exact(inner).enumerate() {
                for row in whole..rows {
                    out[of_weight * rows + row] = dot_one(&x[row * inner..][..inner], w);
                }
            }
        }
    }

    /// Tiles of four weight rows and six rows: 24 of the 32 registers hold sums.
    #[target_feature(enable = "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx2,fma")]
    pub fn avx512(out: &mut [f32], x: &[f32], w: &[f32], inner: usize) {
        const X: usize = 6;
        tiles::<4, X>(out, x, w, inner, |x, w| {
            assert!(x.len() == X * inner && w.len() == 4 * inner);
            // SAFETY: this closure is only called in the function with these instructions around it; loads of sixteen
            // elements end at most at the end of a row, and the rows are inside the slices, as just checked.
            unsafe {
                let mut sums = [[_mm512_setzero_ps(); X]; 4];
                for start in (0..inner / LANES * LANES).step_by(LANES) {
                    let load =
                        |rows: &[f32], row: usize| _mm512_loadu_ps(rows.as_ptr().add(row * inner + start));
                    let w: [__m512; 4] = [load(w, 0), load(w, 1), load(w, 2), load(w, 3)];
                    for row in 0..X {
                        let x = load(x, row);
                        for of_weight in 0..4 {
                            let product = _mm512_mul_ps(x, w[of_weight]);
                            sums[of_weight][row] = _mm512_add_ps(sums[of_weight][row], product);
                        }
                    }
                }
                sums.map(|sums| {
                    sums.map(|sum| {
                        let mut lanes = [0.0; LANES];
                        _mm512_storeu_ps(lanes.as_mut_ptr(), sum);
                        lanes
                    })
                })
            }
        });
    }

    /// Tiles of two weight rows and two rows: the sums take 8 of the 16 registers.
    #[target_feature(enable = "avx2,fma")]
    pub fn avx2(out: &mut [f32], x: &[f32], w: &[f32], inner: usize) {
        const X: usize = 2;
        tiles::<2, X>(out, x, w, inner, |x, w| {
            assert!(x.len() == X * inner && w.len() == 2 * inner);
            // SAFETY: as in `avx512`; two loads read sixteen elements.
            unsafe {
                let mut sums = [[[_mm256_setzero_ps(); 2]; X]; 2];
                for start in (0..inner / LANES * LANES).step_by(LANES) {
                    let load = |rows: &[f32], row: usize| {
                        let first = rows.as_ptr().add(row * inner + start);
                        [_mm256_loadu_ps(first), _mm256_loadu_ps(first.add(8))]
                    };
                    let w = [load(w, 0), load(w, 1)];
                    for row in 0..X {
                        let x = load(x, row);
                        for of_weight in 0..2 {
                            for part in 0..2 {
                                let product = _mm256_mul_ps(x[part], w[of_weight][part]);
                                let sum = &mut sums[of_weight][row][part];
                                *sum = _mm256_add_ps(*sum, product);
                            }
                        }
                    }
                }
                sums.map(|sums| {
                    sums.map(|[low, high]| {
                        let mut lanes = [0.0; LANES];
                        _mm256_storeu_ps(lanes.as_mut_ptr(), low);
                        _mm256_storeu_ps(lanes[8..].as_mut_ptr(), high);
                        lanes
                    })
                })
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(count: usize, factor: usize) -> Vec<f32> {
        (0..count).map(|i| (i * factor % 2003) as f32 / 1001.5 - 1.0).collect()
    }

    type Kernel = fn(&mut [f32], &[f32], &[f32], usize);

    /// Every version that this processor can run, against one dot product after the other.
    #[test]
    fn every_version_has_the_bits_of_single_dot_products() {
        let mut kernels: Vec<(&str, Kernel)> =
            vec![("chosen", dot_products_f32), ("plain", dot_products::<f32>)];
        #[cfg(target_arch = "x86_64")]
        {
            use crate::backend::cpu::vectorized::{InstructionSet, instruction_set};
            if instruction_set() != InstructionSet::Baseline {
                // SAFETY: the processor was just asked for these instructions.
                kernels.push(("avx2", |out, x, w, inner| unsafe { x86::avx2(out, x, w, inner) }));
            } else {
                crate::skip::skipped("avx2", "the plain version alone is tested");
            }
        }
        for (rows, inner, outer) in
            [(1, 16, 4), (4, 1, 1), (6, 48, 4), (7, 37, 9), (13, 64, 11), (12, 100, 8)]
        {
            let (x, w) = (numbers(rows * inner, 7919), numbers(outer * inner, 104_729));
            for (name, kernel) in &kernels {
                let mut out = vec![f32::NAN; rows * outer];
                kernel(&mut out, &x, &w, inner);
                for (at, found) in out.iter().enumerate() {
                    let expected =
                        dot_one(&x[at % rows * inner..][..inner], &w[at / rows * inner..][..inner]);
                    assert_eq!(found.to_bits(), expected.to_bits(), "{name}, {rows} {inner} {outer}, {at}");
                }
            }
        }
    }
}
