//! What this processor can do at most, measured: multiply-adds a second and bytes from memory a second. Times of
//! kernels are judged by their distance to it.

use std::hint::black_box;
use std::time::Instant;

use rayon::prelude::*;

/// Elements read to measure the memory's bandwidth: far more than caches hold.
const MEMORY_ELEMENTS: usize = 1 << 26;
/// Repetitions, of which the fastest counts.
const REPETITIONS: usize = 5;
/// Rounds of one repetition of the arithmetic.
const ROUNDS: usize = 1 << 20;

/// Upper limits of this machine.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Peak {
    /// f32 operations a second on one thread, a fused multiply-add counting as two.
    pub one_thread_flops: f64,
    /// The same on all threads of the pool.
    pub flops: f64,
    /// Bytes read from memory a second by one thread.
    pub one_thread_bytes: f64,
    /// The same by all threads of the pool.
    pub bytes: f64,
}

/// Measures the limits; takes about a second and 256 MiB.
pub fn measured_peak() -> Peak {
    let threads = rayon::current_num_threads();
    let arithmetic = |threads: usize| {
        let seconds = fastest(|| {
            (0..threads).into_par_iter().with_max_len(1).for_each(|_| {
                black_box(multiply_adds(black_box(1e-9)));
            });
        });
        (threads * ROUNDS * operations_per_round()) as f64 / seconds
    };
    let memory = vec![1.0f32; MEMORY_ELEMENTS];
    let bytes = |threads: usize| {
        let seconds = fastest(|| {
            memory.par_chunks(MEMORY_ELEMENTS.div_ceil(threads)).for_each(|part| {
                black_box(sum_of_part(part));
            });
        });
        size_of_val(&memory[..]) as f64 / seconds
    };
    Peak {
        one_thread_flops: arithmetic(1),
        flops: arithmetic(threads),
        one_thread_bytes: bytes(1),
        bytes: bytes(threads),
    }
}

/// Seconds of the fastest repetition; the first is a warm-up.
fn fastest(body: impl Fn()) -> f64 {
    (0..=REPETITIONS)
        .map(|_| {
            let start = Instant::now();
            body();
            start.elapsed().as_secs_f64()
        })
        .skip(1)
        .fold(f64::INFINITY, f64::min)
}

/// A loop with the widest instructions that this processor has, chosen among three.
macro_rules! widest {
    ($avx512:expr, $avx2:expr, $plain:expr) => {{
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the processor was just asked for these instructions.
            return unsafe { $avx512 };
        } else if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: as above.
            return unsafe { $avx2 };
        }
        $plain
    }};
}

fn sum_of_part(part: &[f32]) -> f32 {
    widest!(x86::sum_avx512(part), x86::sum_avx2(part), sum(part))
}

#[inline(always)]
fn sum(part: &[f32]) -> f32 {
    let (chunks, rest) = part.as_chunks::<64>();
    let mut sums = [0.0f32; 64];
    for chunk in chunks {
        for (sum, value) in sums.iter_mut().zip(chunk) {
            *sum += value;
        }
    }
    sums.iter().chain(rest).sum()
}

/// Vectors that are updated in a round; independent, so that the latency of an addition does not count.
const VECTORS: usize = 12;

/// Operations of a round: lanes of a vector times vectors, a multiplication and an addition in each.
fn operations_per_round() -> usize {
    let lanes = {
        #[cfg(target_arch = "x86_64")]
        match () {
            () if is_x86_feature_detected!("avx512f") => 16,
            () if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") => 8,
            () => 4,
        }
        #[cfg(not(target_arch = "x86_64"))]
        4
    };
    2 * VECTORS * lanes
}

fn multiply_adds(x: f32) -> f32 {
    widest!(x86::avx512(x), x86::avx2(x), {
        let mut sums = [[x; 4]; VECTORS];
        for _ in 0..ROUNDS {
            for lane in sums.as_flattened_mut() {
                *lane = *lane * x + x;
            }
        }
        sums.as_flattened().iter().sum()
    })
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{ROUNDS, VECTORS};

    #[target_feature(enable = "avx512f")]
    pub(super) fn sum_avx512(part: &[f32]) -> f32 {
        super::sum(part)
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) fn sum_avx2(part: &[f32]) -> f32 {
        super::sum(part)
    }

    #[target_feature(enable = "avx512f")]
    pub(super) fn avx512(x: f32) -> f32 {
        let x = _mm512_set1_ps(x);
        let mut sums = [x; VECTORS];
        for _ in 0..ROUNDS {
            for sum in &mut sums {
                *sum = _mm512_fmadd_ps(*sum, x, x);
            }
        }
        sums.into_iter().map(|sum| _mm512_reduce_add_ps(sum)).sum()
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) fn avx2(x: f32) -> f32 {
        let x = _mm256_set1_ps(x);
        let mut sums = [x; VECTORS];
        for _ in 0..ROUNDS {
            for sum in &mut sums {
                *sum = _mm256_fmadd_ps(*sum, x, x);
            }
        }
        sums.into_iter().map(|sum| _mm256_cvtss_f32(sum)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_has_every_element() {
        let values: Vec<f32> = (0..200).map(|value| value as f32).collect();
        assert_eq!((sum(&values), sum_of_part(&values)), (19900.0, 19900.0));
    }

    #[test]
    fn limits_are_plausible() {
        let peak = measured_peak();
        for value in [peak.one_thread_flops, peak.flops] {
            assert!((1e8..1e14).contains(&value), "{peak:?}");
        }
        for value in [peak.one_thread_bytes, peak.bytes] {
            assert!((1e8..1e13).contains(&value), "{peak:?}");
        }
    }
}
