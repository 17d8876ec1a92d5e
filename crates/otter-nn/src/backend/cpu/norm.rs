//! Layer normalization and root-mean-square normalization over the last dimension, forward and backward.

use super::{for_row_blocks, sum_of, sum_pairs};
use crate::{Float, vectorized};

/// Rows whose weight and bias gradients are summed together before joining the rest: fixed, so that the result does not
/// depend on the number of threads.
const GRADIENT_BLOCK: usize = 64;

vectorized! {
    /// Mean and reciprocal deviation of every row.
    fn centered_statistics<T: Float>(statistics: &mut [[T; 2]], x: &[T], width: usize, eps: f64) {
        let n = T::from_f64(width as f64);
        for (s, row) in statistics.iter_mut().zip(x.chunks_exact(width)) {
            let mean = sum_of(row, |v| v) / n;
            let variance = sum_of(row, |v| (v - mean) * (v - mean)) / n;
            *s = [mean, T::ONE / (variance + T::from_f64(eps)).sqrt()];
        }
    }
}

vectorized! {
    /// Zero and reciprocal root mean square of every row.
    fn square_statistics<T: Float>(statistics: &mut [[T; 2]], x: &[T], width: usize, eps: f64) {
        for (s, row) in statistics.iter_mut().zip(x.chunks_exact(width)) {
            let square = sum_of(row, |v| v * v) / T::from_f64(width as f64);
            *s = [T::ZERO, T::ONE / (square + T::from_f64(eps)).sqrt()];
        }
    }
}

vectorized! {
    fn normalize_rows<T: Float>(
        y: &mut [T],
        x: &[T],
        statistics: &[[T; 2]],
        weight: &[T],
        bias: Option<&[T]>,
    ) {
        let width = weight.len();
        let rows = y.chunks_exact_mut(width).zip(x.chunks_exact(width));
        for ((out, row), &[mean, rstd]) in rows.zip(statistics) {
            match bias {
                Some(bias) => {
                    for (((o, &v), &g), &b) in out.iter_mut().zip(row).zip(weight).zip(bias) {
                        *o = (v - mean) * rstd * g + b;
                    }
                }
                None => {
                    for ((o, &v), &g) in out.iter_mut().zip(row).zip(weight) {
                        *o = (v - mean) * rstd * g;
                    }
                }
            }
        }
    }
}

vectorized! {
    /// `d` holds the output gradient on entry and the input gradient on return.
    fn input_gradient_rows<T: Float>(d: &mut [T], x: &[T], statistics: &[[T; 2]], weight: &[T], centered: bool) {
        let width = weight.len();
        let n = T::from_f64(width as f64);
        let rows = d.chunks_exact_mut(width).zip(x.chunks_exact(width));
        for ((d, row), &[mean, rstd]) in rows.zip(statistics) {
            for (v, &g) in d.iter_mut().zip(weight) {
                *v *= g;
            }
            let mean_d = if centered { sum_of(d, |v| v) / n } else { T::ZERO };
            let projection = sum_pairs(d, row, |v, x| v * (x - mean)) * rstd / n;
            for (v, &x) in d.iter_mut().zip(row) {
                *v = (*v - mean_d - (x - mean) * rstd * projection) * rstd;
            }
        }
    }
}

vectorized! {
    fn add_weight_gradient<T: Float>(d_weight: &mut [T], dy: &[T], x: &[T], statistics: &[[T; 2]]) {
        let width = d_weight.len();
        let mut sum = vec![T::ZERO; width];
        let rows = dy.chunks_exact(width).zip(x.chunks_exact(width));
        for ((dy, x), &[mean, rstd]) in rows.zip(statistics) {
            for ((s, &d), &v) in sum.iter_mut().zip(dy).zip(x) {
                *s += d * (v - mean) * rstd;
            }
        }
        for (g, s) in d_weight.iter_mut().zip(sum) {
            *g += s;
        }
    }
}

vectorized! {
    fn add_block_column_sums<T: Float>(d_bias: &mut [T], dy: &[T]) {
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

/// `y = (x - mean) / sqrt(variance + eps) * weight + bias`. Returns y and, per row, mean and reciprocal deviation.
pub fn layer_norm<T: Float>(x: &[T], weight: &[T], bias: Option<&[T]>, eps: f64) -> (Vec<T>, Vec<[T; 2]>) {
    let width = weight.len();
    let mut statistics = vec![[T::ZERO; 2]; x.len() / width];
    for_row_blocks(&mut statistics, 1, 2 * width, |first, block| {
        centered_statistics(block, &x[first * width..], width, eps);
    });
    (normalized(x, &statistics, weight, bias), statistics)
}

/// `y = x / sqrt(mean(x^2) + eps) * weight`. Returns y and, per row, `[0, reciprocal root mean square]`.
pub fn rms_norm<T: Float>(x: &[T], weight: &[T], eps: f64) -> (Vec<T>, Vec<[T; 2]>) {
    let width = weight.len();
    let mut statistics = vec![[T::ZERO; 2]; x.len() / width];
    for_row_blocks(&mut statistics, 1, 2 * width, |first, block| {
        square_statistics(block, &x[first * width..], width, eps);
    });
    (normalized(x, &statistics, weight, None), statistics)
}

fn normalized<T: Float>(x: &[T], statistics: &[[T; 2]], weight: &[T], bias: Option<&[T]>) -> Vec<T> {
    let width = weight.len();
    let mut y = super::zeros(x.len());
    for_row_blocks(&mut y, width, 4, |first, block| {
        normalize_rows(block, &x[first * width..], &statistics[first..], weight, bias);
    });
    y
}

/// [`layer_norm`] (`centered`) or [`rms_norm`] written to `y`, for when the backward pass does not follow: a row is normalized
/// while it is still in the cache, and nothing is allocated.
pub fn normalize_into<T: Float>(
    y: &mut [T],
    x: &[T],
    weight: &[T],
    bias: Option<&[T]>,
    eps: f64,
    centered: bool,
) {
    assert_eq!(y.len(), x.len(), "lengths differ");
    let width = weight.len();
    for_row_blocks(y, width, 6, |first, block| {
        for (y, x) in block.chunks_exact_mut(width).zip(x[first * width..].chunks_exact(width)) {
            let mut statistics = [[T::ZERO; 2]];
            if centered {
                centered_statistics(&mut statistics, x, width, eps);
            } else {
                square_statistics(&mut statistics, x, width, eps);
            }
            normalize_rows(y, x, &statistics, weight, bias);
        }
    });
}

/// Input gradient of [`layer_norm`] (`centered`) or [`rms_norm`] (not centered).
pub fn norm_backward_input<T: Float>(
    dy: &[T],
    x: &[T],
    weight: &[T],
    statistics: &[[T; 2]],
    centered: bool,
) -> Vec<T> {
    let width = weight.len();
    let mut dx = dy.to_vec();
    for_row_blocks(&mut dx, width, 6, |first, block| {
        input_gradient_rows(block, &x[first * width..], &statistics[first..], weight, centered);
    });
    dx
}

/// Adds the weight gradient of a norm to `d_weight`: the sum over rows of dy times the normalized input.
pub fn norm_backward_weight<T: Float>(d_weight: &mut [T], dy: &[T], x: &[T], statistics: &[[T; 2]]) {
    let rows = GRADIENT_BLOCK * d_weight.len();
    let blocks = dy.chunks(rows).zip(x.chunks(rows)).zip(statistics.chunks(GRADIENT_BLOCK));
    for ((dy, x), statistics) in blocks {
        add_weight_gradient(d_weight, dy, x, statistics);
    }
}

/// Adds the sum over rows of `dy` to `d_bias`.
pub fn add_column_sums<T: Float>(d_bias: &mut [T], dy: &[T]) {
    for block in dy.chunks(GRADIENT_BLOCK * d_bias.len()) {
        add_block_column_sums(d_bias, block);
    }
}
