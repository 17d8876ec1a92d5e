//! Cross-entropy of rows of logits.

use super::{for_row_blocks, max_of, sum_of};
use crate::Float;

/// Loss of each row of logits with its target; with a `scale` the logits become the gradient of that times the sum.
pub fn cross_entropy<T: Float>(
    logits: &mut [T],
    targets: &[u32],
    vocabulary: usize,
    scale: Option<T>,
) -> Vec<T> {
    let mut losses = vec![T::ZERO; targets.len()];
    let whole = &*logits;
    for_row_blocks(&mut losses, 1, vocabulary, |first, block| {
        for (row, loss) in (first..).zip(block.iter_mut()) {
            let logits = &whole[row * vocabulary..][..vocabulary];
            *loss = log_sum_exp(logits) - logits[targets[row] as usize];
        }
    });
    let Some(scale) = scale else { return losses };
    for_row_blocks(logits, vocabulary, 8, |first, block| {
        for (i, logits) in block.chunks_exact_mut(vocabulary).enumerate() {
            let target = targets[first + i] as usize;
            // log-sum-exp again from loss + target logit: the logits are still unchanged here
            let log_sum = losses[first + i] + logits[target];
            for logit in logits.iter_mut() {
                *logit = scale * (*logit - log_sum).exp();
            }
            logits[target] += -scale;
        }
    });
    losses
}

/// Log of the sum of exponentials. It is NaN where a logit is not finite, negative infinity included: no model means that.
pub fn log_sum_exp<T: Float>(logits: &[T]) -> T {
    super::simd(|| {
        let max = max_of(logits);
        // A product with zero is zero, or NaN.
        max + sum_of(logits, |l| (l - max).exp() + l * T::ZERO).ln()
    })
}
