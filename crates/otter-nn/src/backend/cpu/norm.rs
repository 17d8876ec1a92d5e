//! Layer normalisation and root-mean-square normalisation over the last dimension, forward and backward.

use super::{for_row_blocks, sum_of, sum_pairs};
use crate::{Real, vectorised};

/// Rows whose gain and bias gradients are summed together before joining the rest: fixed, so that the result does not
/// depend on the number of threads.
const GRADIENT_BLOCK: usize = 64;

vectorised! {
    /// Mean and reciprocal deviation of every row.
    fn centred_statistics<T: Real>(statistics: &mut [[T; 2]], x: &[T], width: usize, eps: f64) {
        let n = T::from_f64(width as f64);
        for (s, row) in statistics.iter_mut().zip(x.chunks_exact(width)) {
            let mean = sum_of(row, |v| v) / n;
            let variance = sum_of(row, |v| (v - mean) * (v - mean)) / n;
            *s = [mean, T::ONE / (variance + T::from_f64(eps)).sqrt()];
        }
    }
}

vectorised! {
    /// Zero and reciprocal root mean square of every row.
    fn square_statistics<T: Real>(statistics: &mut [[T; 2]], x: &[T], width: usize, eps: f64) {
        for (s, row) in statistics.iter_mut().zip(x.chunks_exact(width)) {
            let square = sum_of(row, |v| v * v) / T::from_f64(width as f64);
            *s = [T::ZERO, T::ONE / (square + T::from_f64(eps)).sqrt()];
        }
    }
}

vectorised! {
    fn normalise_rows<T: Real>(
        y: &mut [T],
        x: &[T],
        statistics: &[[T; 2]],
        gain: &[T],
        bias: Option<&[T]>,
    ) {
        let width = gain.len();
        let rows = y.chunks_exact_mut(width).zip(x.chunks_exact(width));
        for ((out, row), &[mean, rstd]) in rows.zip(statistics) {
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
    }
}

vectorised! {
    /// `d` holds the output gradient on entry and the input gradient on return.
    fn input_gradient_rows<T: Real>(d: &mut [T], x: &[T], statistics: &[[T; 2]], gain: &[T], centred: bool) {
        let width = gain.len();
        let n = T::from_f64(width as f64);
        let rows = d.chunks_exact_mut(width).zip(x.chunks_exact(width));
        for ((d, row), &[mean, rstd]) in rows.zip(statistics) {
            for (v, &g) in d.iter_mut().zip(gain) {
                *v *= g;
            }
            let mean_d = if centred { sum_of(d, |v| v) / n } else { T::ZERO };
            let projection = sum_pairs(d, row, |v, x| v * (x - mean)) * rstd / n;
            for (v, &x) in d.iter_mut().zip(row) {
                *v = (*v - mean_d - (x - mean) * rstd * projection) * rstd;
            }
        }
    }
}

vectorised! {
    fn add_gain_gradient<T: Real>(d_gain: &mut [T], dy: &[T], x: &[T], statistics: &[[T; 2]]) {
        let width = d_gain.len();
        let mut sum = vec![T::ZERO; width];
        let rows = dy.chunks_exact(width).zip(x.chunks_exact(width));
        for ((dy, x), &[mean, rstd]) in rows.zip(statistics) {
            for ((s, &d), &v) in sum.iter_mut().zip(dy).zip(x) {
                *s += d * (v - mean) * rstd;
            }
        }
        for (g, s) in d_gain.iter_mut().zip(sum) {
            *g += s;
        }
    }
}

vectorised! {
    fn add_block_column_sums<T: Real>(d_bias: &mut [T], dy: &[T]) {
        let mut sum = vec![T::ZERO; d_bias.len()];
        for row in dy.chunks_exact(sum.len()) {
            for (s, &d) in sum.iter_mut().zip(row) {
                *s += d;
            }
        }
        for (b, s) in d_bias.iter_mut().zip(sum) {
            *b += s;
        }
    }
}

/// `y = (x - mean) / sqrt(variance + eps) * gain + bias`. Returns y and, per row, mean and reciprocal deviation.
pub fn layer_norm<T: Real>(x: &[T], gain: &[T], bias: Option<&[T]>, eps: f64) -> (Vec<T>, Vec<[T; 2]>) {
    let width = gain.len();
    let mut statistics = vec![[T::ZERO; 2]; x.len() / width];
    for_row_blocks(&mut statistics, 1, 2 * width, |first, block| {
        centred_statistics(block, &x[first * width..], width, eps);
    });
    (normalised(x, &statistics, gain, bias), statistics)
}

/// `y = x / sqrt(mean(x^2) + eps) * gain`. Returns y and, per row, `[0, reciprocal root mean square]`.
pub fn rms_norm<T: Real>(x: &[T], gain: &[T], eps: f64) -> (Vec<T>, Vec<[T; 2]>) {
    let width = gain.len();
    let mut statistics = vec![[T::ZERO; 2]; x.len() / width];
    for_row_blocks(&mut statistics, 1, 2 * width, |first, block| {
        square_statistics(block, &x[first * width..], width, eps);
    });
    (normalised(x, &statistics, gain, None), statistics)
}

fn normalised<T: Real>(x: &[T], statistics: &[[T; 2]], gain: &[T], bias: Option<&[T]>) -> Vec<T> {
    let width = gain.len();
    let mut y = super::zeros(x.len());
    for_row_blocks(&mut y, width, 4, |first, block| {
        normalise_rows(block, &x[first * width..], &statistics[first..], gain, bias);
    });
    y
}

/// [`layer_norm`] (`centred`) or [`rms_norm`] written to `y`, for when the reverse pass does not follow: a row is normalised
/// while it is still in the cache, and nothing is allocated.
pub fn normalise_into<T: Real>(
    y: &mut [T],
    x: &[T],
    gain: &[T],
    bias: Option<&[T]>,
    eps: f64,
    centred: bool,
) {
    assert_eq!(y.len(), x.len(), "lengths differ");
    let width = gain.len();
    for_row_blocks(y, width, 6, |first, block| {
        for (y, x) in block.chunks_exact_mut(width).zip(x[first * width..].chunks_exact(width)) {
            let mut statistics = [[T::ZERO; 2]];
            if centred {
                centred_statistics(&mut statistics, x, width, eps);
            } else {
                square_statistics(&mut statistics, x, width, eps);
            }
            normalise_rows(y, x, &statistics, gain, bias);
        }
    });
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
    let mut dx = dy.to_vec();
    for_row_blocks(&mut dx, width, 6, |first, block| {
        input_gradient_rows(block, &x[first * width..], &statistics[first..], gain, centred);
    });
    dx
}

/// Adds the gain gradient of a norm to `d_gain`: the sum over rows of dy times the normalised input.
pub fn norm_backward_gain<T: Real>(d_gain: &mut [T], dy: &[T], x: &[T], statistics: &[[T; 2]]) {
    let rows = GRADIENT_BLOCK * d_gain.len();
    let blocks = dy.chunks(rows).zip(x.chunks(rows)).zip(statistics.chunks(GRADIENT_BLOCK));
    for ((dy, x), statistics) in blocks {
        add_gain_gradient(d_gain, dy, x, statistics);
    }
}

/// Adds the sum over rows of `dy` to `d_bias`.
pub fn add_column_sums<T: Real>(d_bias: &mut [T], dy: &[T]) {
    for block in dy.chunks(GRADIENT_BLOCK * d_bias.len()) {
        add_block_column_sums(d_bias, block);
    }
}
