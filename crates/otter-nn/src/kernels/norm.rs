//! Layer normalisation and root-mean-square normalisation over the last dimension, forward and backward.

use super::{for_row_blocks, simd, sum_of, sum_pairs};
use crate::Real;

/// Rows whose gain and bias gradients are summed together before joining the rest: fixed, so that the result does not
/// depend on the number of threads.
const GRADIENT_BLOCK: usize = 64;

/// `y = (x - mean) / sqrt(variance + eps) * gain + bias`. Returns y and, per row, mean and reciprocal deviation.
pub fn layer_norm<T: Real>(x: &[T], gain: &[T], bias: Option<&[T]>, eps: f64) -> (Vec<T>, Vec<[T; 2]>) {
    let width = gain.len();
    let statistics = row_statistics(x, width, |row| {
        let n = T::from_f64(width as f64);
        let mean = sum_of(row, |v| v) / n;
        let variance = sum_of(row, |v| (v - mean) * (v - mean)) / n;
        [mean, T::ONE / (variance + T::from_f64(eps)).sqrt()]
    });
    let mut y = vec![T::ZERO; x.len()];
    for_row_blocks(&mut y, width, 4, |first, block| {
        for (i, out) in block.chunks_exact_mut(width).enumerate() {
            let [mean, rstd] = statistics[first + i];
            let row = &x[(first + i) * width..][..width];
            match bias {
                Some(bias) => {
                    for (((o, &v), &g), &b) in out.iter_mut().zip(row).zip(gain).zip(bias) {
                        *o = (v - mean) * rstd * g + b;
                    }
                }
                None => {
                    for ((o, &v), &g) in out.iter_mut().zip(row).zip(gain) {
                        *o = (v - mean) * rstd * g;
                    }
                }
            }
        }
    });
    (y, statistics)
}

/// `y = x / sqrt(mean(x^2) + eps) * gain`. Returns y and, per row, `[0, reciprocal root mean square]`.
pub fn rms_norm<T: Real>(x: &[T], gain: &[T], eps: f64) -> (Vec<T>, Vec<[T; 2]>) {
    let width = gain.len();
    let statistics = row_statistics(x, width, |row| {
        let square = sum_of(row, |v| v * v) / T::from_f64(width as f64);
        [T::ZERO, T::ONE / (square + T::from_f64(eps)).sqrt()]
    });
    let mut y = vec![T::ZERO; x.len()];
    for_row_blocks(&mut y, width, 4, |first, block| {
        for (i, out) in block.chunks_exact_mut(width).enumerate() {
            let rstd = statistics[first + i][1];
            let row = &x[(first + i) * width..][..width];
            for ((o, &v), &g) in out.iter_mut().zip(row).zip(gain) {
                *o = v * rstd * g;
            }
        }
    });
    (y, statistics)
}

fn row_statistics<T: Real>(x: &[T], width: usize, of_row: impl Fn(&[T]) -> [T; 2] + Sync) -> Vec<[T; 2]> {
    let mut statistics = vec![[T::ZERO; 2]; x.len() / width];
    for_row_blocks(&mut statistics, 1, 2 * width, |first, block| {
        for (i, s) in block.iter_mut().enumerate() {
            *s = of_row(&x[(first + i) * width..][..width]);
        }
    });
    statistics
}

/// Input gradient of [`layer_norm`] (`centred`) or [`rms_norm`] (not centred).
pub fn norm_backward_input<T: Real>(
    dy: &[T],
    x: &[T],
    gain: &[T],
    statistics: &[[T; 2]],
    centred: bool,
) -> Vec<T> {
    let width = gain.len();
    let n = T::from_f64(width as f64);
    let mut dx = dy.to_vec();
    for_row_blocks(&mut dx, width, 6, |first, block| {
        for (i, d) in block.chunks_exact_mut(width).enumerate() {
            let [mean, rstd] = statistics[first + i];
            let row = &x[(first + i) * width..][..width];
            for (v, &g) in d.iter_mut().zip(gain) {
                *v *= g;
            }
            let mean_d = if centred { sum_of(d, |v| v) / n } else { T::ZERO };
            let projection = sum_pairs(d, row, |v, x| v * (x - mean)) * rstd / n;
            for (v, &x) in d.iter_mut().zip(row) {
                *v = (*v - mean_d - (x - mean) * rstd * projection) * rstd;
            }
        }
    });
    dx
}

/// Adds the gain gradient of a norm to `d_gain`: the sum over rows of dy times the normalised input.
pub fn norm_backward_gain<T: Real>(d_gain: &mut [T], dy: &[T], x: &[T], statistics: &[[T; 2]]) {
    let width = d_gain.len();
    let rows = GRADIENT_BLOCK * width;
    for (block, (dy, x)) in dy.chunks(rows).zip(x.chunks(rows)).enumerate() {
        simd(|| {
            let mut sum = vec![T::ZERO; width];
            for (i, (dy, x)) in dy.chunks_exact(width).zip(x.chunks_exact(width)).enumerate() {
                let [mean, rstd] = statistics[block * GRADIENT_BLOCK + i];
                for ((s, &d), &v) in sum.iter_mut().zip(dy).zip(x) {
                    *s += d * (v - mean) * rstd;
                }
            }
            for (g, s) in d_gain.iter_mut().zip(sum) {
                *g += s;
            }
        });
    }
}

/// Adds the sum over rows of `dy` to `d_bias`.
pub fn add_column_sums<T: Real>(d_bias: &mut [T], dy: &[T]) {
    let width = d_bias.len();
    for block in dy.chunks(GRADIENT_BLOCK * width) {
        simd(|| {
            let mut sum = vec![T::ZERO; width];
            for row in block.chunks_exact(width) {
                for (s, &d) in sum.iter_mut().zip(row) {
                    *s += d;
                }
            }
            for (b, s) in d_bias.iter_mut().zip(sum) {
                *b += s;
            }
        });
    }
}
