//! AdamW with decoupled weight decay (Loshchilov and Hutter, arXiv 1711.05101), in the order of operations of PyTorch.

use rayon::prelude::*;

use super::simd;
use crate::backend::AdamWStep;

/// Elements updated by one task.
const BLOCK: usize = 1 << 14;

/// Everything one step of one element needs, in f32 as PyTorch's kernels use it.
#[derive(Clone, Copy)]
pub(crate) struct StepConstants {
    pub gradient_factor: f32,
    pub keep: f32,
    pub beta2: f32,
    pub one_minus_beta1: f32,
    pub one_minus_beta2: f32,
    pub step_size: f32,
    pub root_correction2: f32,
    pub epsilon: f32,
}

impl StepConstants {
    pub(crate) fn new(step: &AdamWStep) -> Self {
        let (beta1, beta2) = step.betas;
        let exponent = step.step as f64;
        let (correction1, correction2) = (1.0 - beta1.powf(exponent), 1.0 - beta2.powf(exponent));
        Self {
            gradient_factor: step.factor as f32,
            keep: (1.0 - step.learning_rate * step.decay) as f32,
            beta2: beta2 as f32,
            one_minus_beta1: (1.0 - beta1) as f32,
            one_minus_beta2: (1.0 - beta2) as f32,
            step_size: (step.learning_rate / correction1) as f32,
            root_correction2: correction2.sqrt() as f32,
            epsilon: step.epsilon as f32,
        }
    }
}

/// Updates a parameter and its moments.
pub(crate) fn update(
    values: &mut [f32],
    gradients: &[f32],
    first: &mut [f32],
    second: &mut [f32],
    constants: StepConstants,
) {
    if values.len() <= BLOCK {
        return simd(|| update_block(values, gradients, first, second, constants));
    }
    values
        .par_chunks_mut(BLOCK)
        .zip(gradients.par_chunks(BLOCK))
        .zip(first.par_chunks_mut(BLOCK).zip(second.par_chunks_mut(BLOCK)))
        .for_each(|((values, gradients), (first, second))| {
            simd(|| update_block(values, gradients, first, second, constants));
        });
}

/// Elements that are left alone together when nothing ever reached them: a page of memory.
const PAGE: usize = 1 << 10;

/// Elementwise, so the result depends neither on blocks nor on threads. Pages whose gradients and moments are zero would
/// not change; they are not written, so that moments of tokens that never occur take no memory.
#[inline(always)]
fn update_block(
    values: &mut [f32],
    gradients: &[f32],
    first: &mut [f32],
    second: &mut [f32],
    c: StepConstants,
) {
    let all_zero = |x: &[f32]| x.iter().fold(0, |bits, x| bits | x.to_bits()) == 0;
    let moments = first.chunks_mut(PAGE).zip(second.chunks_mut(PAGE));
    for ((values, gradients), (first, second)) in
        values.chunks_mut(PAGE).zip(gradients.chunks(PAGE)).zip(moments)
    {
        let untouched = c.keep == 1.0 && all_zero(gradients) && all_zero(first) && all_zero(second);
        if !untouched {
            update_page(values, gradients, first, second, c);
        }
    }
}

#[inline(always)]
fn update_page(
    values: &mut [f32],
    gradients: &[f32],
    first: &mut [f32],
    second: &mut [f32],
    c: StepConstants,
) {
    let moments = first.iter_mut().zip(second.iter_mut());
    for ((value, &gradient), (first, second)) in values.iter_mut().zip(gradients).zip(moments) {
        let gradient = gradient * c.gradient_factor;
        *value *= c.keep;
        *first += (gradient - *first) * c.one_minus_beta1;
        *second = *second * c.beta2 + c.one_minus_beta2 * gradient * gradient;
        let denominator = second.sqrt() / c.root_correction2 + c.epsilon;
        *value -= c.step_size * (*first / denominator);
    }
}
