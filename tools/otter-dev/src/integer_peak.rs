//! What this processor can do at most in sums of products of bytes, measured: the limit of kernels over weights in blocks.

use std::hint::black_box;
use std::time::Instant;

use rayon::prelude::*;

/// Independent sums, so that the latency of an instruction does not count.
const SUMS: usize = 12;
/// Rounds of one repetition.
const ROUNDS: usize = 1 << 20;
/// Repetitions, of which the fastest counts.
const REPETITIONS: usize = 4;

/// Operations a second on all threads of the pool, a multiplication of two bytes and its addition counting as two. Takes
/// a tenth of a second.
pub fn measured_integer_peak() -> f64 {
    let threads = rayon::current_num_threads();
    let (round, operations) = kernel();
    let fastest = (0..=REPETITIONS)
        .map(|_| {
            let start = Instant::now();
            (0..threads).into_par_iter().with_max_len(1).for_each(|_| {
                black_box(round(black_box(0x0102_0304)));
            });
            start.elapsed().as_secs_f64()
        })
        .fold(f64::INFINITY, f64::min);
    (threads * ROUNDS * operations) as f64 / fastest
}

/// The widest loop that this processor can run, and the operations of one of its rounds.
fn kernel() -> (fn(i32) -> i32, usize) {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vnni") {
            // SAFETY: the processor was just asked for these instructions.
            return (|x| unsafe { x86::avx512(x) }, 2 * 64 * SUMS);
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: as above.
            return (|x| unsafe { x86::avx2(x) }, 2 * 32 * SUMS);
        }
    }
    (plain, 2 * 4 * SUMS)
}

fn plain(x: i32) -> i32 {
    let mut sums = [[x; 4]; SUMS];
    for _ in 0..ROUNDS {
        for sum in sums.as_flattened_mut() {
            *sum = sum.wrapping_mul(x).wrapping_add(x);
        }
    }
    sums.as_flattened().iter().fold(0, |all, sum| all ^ sum)
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{ROUNDS, SUMS};

    #[target_feature(enable = "avx512f,avx512vnni")]
    pub(super) fn avx512(x: i32) -> i32 {
        let x = _mm512_set1_epi32(x);
        let mut sums = [x; SUMS];
        for _ in 0..ROUNDS {
            for sum in &mut sums {
                *sum = _mm512_dpbusd_epi32(*sum, x, x);
            }
        }
        sums.into_iter().map(|sum| _mm512_reduce_add_epi32(sum)).fold(0, |all, sum| all ^ sum)
    }

    /// The products depend on the sums, so that none can be moved out of the loop.
    #[target_feature(enable = "avx2")]
    pub(super) fn avx2(x: i32) -> i32 {
        let (x, ones) = (_mm256_set1_epi32(x), _mm256_set1_epi16(1));
        let mut sums = [x; SUMS];
        for _ in 0..ROUNDS {
            for sum in &mut sums {
                let products = _mm256_madd_epi16(_mm256_maddubs_epi16(*sum, x), ones);
                *sum = _mm256_add_epi32(*sum, products);
            }
        }
        sums.into_iter().map(|sum| _mm256_extract_epi32::<0>(sum)).fold(0, |all, sum| all ^ sum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_plausible() {
        let peak = measured_integer_peak();
        assert!((1e8..1e15).contains(&peak), "{peak}");
    }
}
