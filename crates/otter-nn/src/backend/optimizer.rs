//! Updates of trained parameters, where these are.

use crate::backend::cpu::adamw_eight_bit::blocks_of;
use crate::{Device, Tensor};

/// Constants of a step of AdamW for one parameter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWStep {
    /// Learning rate of this step.
    pub learning_rate: f64,
    /// Decay rates of the moments.
    pub betas: (f64, f64),
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Weight decay, times the learning rate; 0 for parameters that are not decayed.
    pub decay: f64,
    /// Number of the step, from 1 on.
    pub step: u64,
    /// Gradients are multiplied by this on the way (clipping).
    pub factor: f64,
}

/// How the moments of a parameter are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MomentKind {
    /// In 32 bits.
    Full,
    /// In 8 bits with a scale for each block: see [`adamw_eight_bit`](crate::backend::cpu::adamw_eight_bit).
    EightBit {
        /// Trained elements before the parameter.
        position: u64,
    },
}

/// AdamW's moments of a parameter.
pub enum Moments {
    /// First and second in 32 bits.
    Full([Tensor; 2]),
    /// In 8 bits.
    EightBit {
        /// Of the first and second.
        codes: [Tensor<u8>; 2],
        /// Of the first and second, one a block.
        scales: [Tensor; 2],
        /// Trained elements before the parameter.
        position: u64,
    },
}

impl Moments {
    /// Zero moments of a parameter of `len` elements.
    pub fn zeros(kind: MomentKind, len: usize, device: Device) -> Self {
        let floats = |len: usize| [(), ()].map(|()| Tensor::fresh_zeros(&[len], device));
        match kind {
            MomentKind::Full => Self::Full(floats(len)),
            MomentKind::EightBit { position } => {
                let codes = [(), ()].map(|()| Tensor::zero_bytes(len, device));
                Self::EightBit { codes, scales: floats(blocks_of(len)), position }
            }
        }
    }
}

/// Updates of f32 parameters. Lengths that do not fit each other are mistakes of the caller and panic.
pub trait Optimizer: Send + Sync {
    /// One step of AdamW on a parameter.
    fn adamw(&self, values: &mut Tensor, gradients: &Tensor, moments: &mut Moments, step: &AdamWStep);
}
