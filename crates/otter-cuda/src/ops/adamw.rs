//! AdamW, one launch a parameter: twins of the host's updates (`adamw.rs`, `adamw_eight_bit.rs` of `otter-nn`), bit for bit.

use crate::Argument;
use crate::{Buffer, Launch, Result};

/// Elements that share a scale of 8-bit moments.
pub const BLOCK: usize = 256;

/// What a step of a parameter needs beside the parameter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// Learning rate of this step.
    pub learning_rate: f64,
    /// Decay rate of the first moment.
    pub beta1: f64,
    /// Decay rate of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Weight decay, times the learning rate; 0 for parameters that are not decayed.
    pub decay: f64,
    /// Number of the step, from 1 on.
    pub step: u64,
    /// Gradients are multiplied by this on the way (clipping).
    pub factor: f64,
}

impl Settings {
    /// In f32 as the kernels take them, in their order.
    fn arguments(&self) -> [Argument; 8] {
        assert!(self.step > 0, "steps count from 1");
        let exponent = self.step as f64;
        let (correction1, correction2) = (1.0 - self.beta1.powf(exponent), 1.0 - self.beta2.powf(exponent));
        [
            self.factor,
            1.0 - self.learning_rate * self.decay,
            self.beta2,
            1.0 - self.beta1,
            1.0 - self.beta2,
            self.learning_rate / correction1,
            correction2.sqrt(),
            self.epsilon,
        ]
        .map(|constant| (constant as f32).into())
    }
}

/// Updates a parameter and its moments of 32 bits.
///
/// # Errors
/// What the driver says; so for all functions here.
///
/// # Panics
/// When lengths differ, or the step is 0; so for all functions here.
pub fn update(
    values: &mut Buffer<f32>,
    gradients: &Buffer<f32>,
    first: &mut Buffer<f32>,
    second: &mut Buffer<f32>,
    settings: &Settings,
) -> Result<()> {
    let count = values.len();
    assert_eq!([gradients.len(), first.len(), second.len()], [count; 3], "adamw: lengths");
    if count == 0 {
        return Ok(());
    }
    let mut arguments =
        vec![(&*values).into(), gradients.into(), (&*first).into(), (&*second).into(), count.into()];
    arguments.extend(settings.arguments());
    // SAFETY: all buffers have as many elements as are given (checked above).
    unsafe { values.gpu().launch(&Launch::over("adamw", count.div_ceil(4), arguments)) }
}

/// Both moments of a parameter in 8 bits, with a scale for each [`BLOCK`] of them.
pub struct EightBitMoments<'a> {
    /// Codes of the first moments.
    pub first: &'a mut Buffer<u8>,
    /// Codes of the second moments.
    pub second: &'a mut Buffer<u8>,
    /// Scales of the first moments, one a block.
    pub first_scales: &'a mut Buffer<f32>,
    /// Scales of the second moments.
    pub second_scales: &'a mut Buffer<f32>,
}

/// Updates a parameter and its moments of 8 bits. `position` is the number of trained elements before the parameter:
/// random bits come from it and the step.
pub fn update_eight_bit(
    values: &mut Buffer<f32>,
    gradients: &Buffer<f32>,
    moments: EightBitMoments<'_>,
    position: u64,
    settings: &Settings,
) -> Result<()> {
    let (count, blocks) = (values.len(), values.len().div_ceil(BLOCK));
    let EightBitMoments { first, second, first_scales, second_scales } = moments;
    assert_eq!([gradients.len(), first.len(), second.len()], [count; 3], "adamw: lengths");
    assert_eq!([first_scales.len(), second_scales.len()], [blocks; 2], "adamw: numbers of scales");
    if count == 0 {
        return Ok(());
    }
    let mut arguments = vec![
        (&*values).into(),
        gradients.into(),
        (&*first).into(),
        (&*second).into(),
        (&*first_scales).into(),
        (&*second_scales).into(),
        count.into(),
        // Positions wrap after 2^32 elements; the same bits for two elements do no harm.
        (position as u32).into(),
        step_key(settings.step).into(),
    ];
    arguments.extend(settings.arguments());
    // SAFETY: all buffers have as many elements, or blocks of them, as are given (checked above).
    unsafe { values.gpu().launch(&Launch::over("adamw_eight_bit", 32 * blocks, arguments)) }
}

/// What makes the random bits of one step other than those of the next.
fn step_key(step: u64) -> u32 {
    mixed(step as u32, mixed((step >> 32) as u32, 0x5bd1_e995))
}

/// `mixed` of `kernels/adamw.cu`.
fn mixed(position: u32, key: u32) -> u32 {
    let mut bits = position.wrapping_mul(0x9e37_79b1) ^ key;
    bits = (bits ^ bits >> 16).wrapping_mul(0x85eb_ca6b);
    bits = (bits ^ bits >> 13).wrapping_mul(0xc2b2_ae35);
    bits ^ bits >> 16
}
