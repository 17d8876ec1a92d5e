//! AdamW's moments in one byte each: block-wise 8-bit states (Dettmers et al., arXiv 2110.02861) with two changes that make
//! long averages hold.
//!
//! [`BLOCK`] consecutive elements of a parameter share one f32 scale a moment; an element's code is its share of the largest
//! of them, as a float of 8 bits:
//!
//! ```text
//! first moment    sign, 4 bits of exponent, 3 of mantissa   0, then 2^-18 … 1.875 evenly near zero (2^-15 is added first)
//! second moment         5 bits of exponent, 3 of mantissa   0, then 2^-31 … 1.875; what is not zero never becomes zero
//! ```
//!
//! *No second moment is rounded to zero.* It would be divided by: the published map gives zero below 1e-7 of the block's largest,
//! and a first moment beside it then makes a step of any size.
//!
//! *Rounding is random, and right on average.* One step changes a second moment by a thousandth, less than half the distance of
//! two codes, so rounding to the nearest would never let it decay. The bits come from a hash of step and position: they depend
//! neither on threads nor on where a run was resumed.

use rayon::prelude::*;

use super::adamw::StepConstants;
use crate::vectorized;

/// Elements that share a scale.
pub const BLOCK: usize = 256;

/// Blocks updated by one task.
const TASK: usize = 64;

/// Bits of an f32 that a code leaves out.
const DROPPED: u32 = 20;
/// Code of 2^0 with mantissa 0 minus that of a first moment's smallest magnitude, in eighths of an octave.
const FIRST_BASE: u32 = (127 - 15) << 3;
/// Added to a first moment's magnitude: 2^-15.
const FIRST_OFFSET: f32 = 1.0 / 32768.0;
/// As [`FIRST_BASE`] for second moments, whose exponents reach down to -31.
const SECOND_BASE: u32 = (127 - 31) << 3;
/// Value of the second moment's code 1: 1.125 x 2^-31.
const SECOND_SMALLEST: f32 = 1.125 / 2_147_483_648.0;
/// The largest value of a code.
const LARGEST: f32 = 1.875;
/// Gradients beyond this (2^63) count as this, so that their square is finite.
const LARGEST_GRADIENT: f32 = 9_223_372_036_854_775_808.0;
/// Scales are at least this (2^-124), so that one over them is finite; a square root of it is far below any epsilon.
const SMALLEST_SCALE: f32 = 4.701_977_4e-38;

/// Both moments of one parameter.
pub(crate) struct EightBitMoments<'a> {
    /// Codes of the first moments.
    pub first: &'a mut [u8],
    /// Codes of the second moments.
    pub second: &'a mut [u8],
    /// Scales of the first moments, one a block; the last block may be shorter.
    pub first_scales: &'a mut [f32],
    /// Scales of the second moments.
    pub second_scales: &'a mut [f32],
}

/// Blocks of so many elements.
pub fn blocks_of(elements: usize) -> usize {
    elements.div_ceil(BLOCK)
}

/// Bytes of both moments of a parameter with so many elements.
pub fn bytes_of(elements: u64) -> u64 {
    2 * elements + 2 * size_of::<f32>() as u64 * elements.div_ceil(BLOCK as u64)
}

/// Updates one parameter: decodes, updates, encodes, a block at a time. `position` is the number of trained elements before the
/// parameter, `step` counts from 1.
pub(crate) fn update(
    values: &mut [f32],
    gradients: &[f32],
    moments: EightBitMoments<'_>,
    (step, position): (u64, u64),
    constants: StepConstants,
) {
    let task = TASK * BLOCK;
    let codes = moments.first.par_chunks_mut(task).zip(moments.second.par_chunks_mut(task));
    let scales = moments.first_scales.par_chunks_mut(TASK).zip(moments.second_scales.par_chunks_mut(TASK));
    let key = step_key(step);
    values.par_chunks_mut(task).zip(gradients.par_chunks(task)).zip(codes.zip(scales)).enumerate().for_each(
        |(at, ((values, gradients), ((first, second), (first_scales, second_scales))))| {
            // Positions wrap after 2^32 elements; the same bits for two elements do no harm.
            let position = (position as usize + at * task) as u32;
            let scales = (first_scales, second_scales);
            update_blocks(values, gradients, (first, second), scales, (key, position), constants);
        },
    );
}

vectorized! {
    /// Some whole blocks of one parameter, the last of which may be shorter. Elementwise but for the largest of a block.
    fn update_blocks<>(
        values: &mut [f32],
        gradients: &[f32],
        codes: (&mut [u8], &mut [u8]),
        scales: (&mut [f32], &mut [f32]),
        random: (u32, u32),
        constants: StepConstants,
    ) {
        let (mut first, mut second) = ([0f32; BLOCK], [0f32; BLOCK]);
        let (key, mut position) = random;
        let blocks = values.chunks_mut(BLOCK).zip(gradients.chunks(BLOCK));
        let codes = codes.0.chunks_mut(BLOCK).zip(codes.1.chunks_mut(BLOCK));
        let scales = scales.0.iter_mut().zip(scales.1.iter_mut());
        for ((values, gradients), ((codes1, codes2), (scale1, scale2))) in blocks.zip(codes.zip(scales)) {
            let length = values.len();
            let (m, v) = (&mut first[..length], &mut second[..length]);
            let (old, scales) = ((&*codes1, &*codes2), (*scale1, *scale2));
            let (largest1, largest2) = update_block(values, gradients, old, scales, (&mut *m, &mut *v), constants);
            let inverse1 = rescale(scale1, largest1, LARGEST - FIRST_OFFSET);
            let inverse2 = rescale(scale2, largest2, LARGEST);
            encode((codes1, codes2), (m, v), (inverse1, inverse2), (key, position));
            position = position.wrapping_add(BLOCK as u32);
        }
    }
}

/// Decodes the moments of a block into `moments`, updates them and the values, and returns the largest magnitudes.
#[inline(always)]
fn update_block(
    values: &mut [f32],
    gradients: &[f32],
    codes: (&[u8], &[u8]),
    scales: (f32, f32),
    moments: (&mut [f32], &mut [f32]),
    c: StepConstants,
) -> (f32, f32) {
    // Bits of floats that are not negative compare as the floats do, and their largest is found in vectors.
    let (mut largest1, mut largest2) = (0u32, 0u32);
    let codes = codes.0.iter().zip(codes.1);
    let moments = moments.0.iter_mut().zip(moments.1.iter_mut());
    for (((value, &gradient), (&code1, &code2)), (first, second)) in
        values.iter_mut().zip(gradients).zip(codes).zip(moments)
    {
        let gradient = (gradient * c.gradient_factor).clamp(-LARGEST_GRADIENT, LARGEST_GRADIENT);
        let mut m = decode_first(code1) * scales.0;
        let mut v = decode_second(code2) * scales.1;
        m += (gradient - m) * c.one_minus_beta1;
        v = v * c.beta2 + c.one_minus_beta2 * gradient * gradient;
        *value = *value * c.keep - c.step_size * (m / (v.sqrt() / c.root_correction2 + c.epsilon));
        largest1 = largest1.max(m.to_bits() & 0x7fff_ffff);
        largest2 = largest2.max(v.to_bits());
        (*first, *second) = (m, v);
    }
    (f32::from_bits(largest1), f32::from_bits(largest2))
}

/// Sets the scale that gives `largest` the value `full`; returns one over it.
#[inline(always)]
fn rescale(scale: &mut f32, largest: f32, full: f32) -> f32 {
    if largest == 0.0 {
        *scale = 0.0;
        return 0.0;
    }
    *scale = (largest / full).max(SMALLEST_SCALE);
    1.0 / *scale
}

#[inline(always)]
fn encode(
    codes: (&mut [u8], &mut [u8]),
    moments: (&[f32], &[f32]),
    inverse: (f32, f32),
    (key, position): (u32, u32),
) {
    let codes = codes.0.iter_mut().zip(codes.1.iter_mut());
    for (at, ((code1, code2), (&m, &v))) in codes.zip(moments.0.iter().zip(moments.1)).enumerate() {
        let random = mixed(position.wrapping_add(at as u32), key);
        *code1 = encode_first(m * inverse.0, random << 16);
        *code2 = encode_second(v * inverse.1, random & 0xffff_0000);
    }
}

#[inline(always)]
fn decode_first(code: u8) -> f32 {
    let magnitude = f32::from_bits((u32::from(code & 0x7f) + FIRST_BASE) << DROPPED) - FIRST_OFFSET;
    f32::from_bits(magnitude.to_bits() | u32::from(code & 0x80) << 24)
}

/// Code of a value from -1.875 to 1.875. The upper bits of `random` decide between the two codes around it.
#[inline(always)]
fn encode_first(value: f32, random: u32) -> u8 {
    let bits = (value.abs() + FIRST_OFFSET).to_bits() + (random >> (32 - DROPPED));
    let magnitude = ((bits >> DROPPED) - FIRST_BASE).min(0x7f);
    (magnitude | (value.to_bits() >> 24 & 0x80)) as u8
}

#[inline(always)]
fn decode_second(code: u8) -> f32 {
    if code == 0 { 0.0 } else { f32::from_bits((u32::from(code) + SECOND_BASE) << DROPPED) }
}

/// Code of a value from 0 to 1.875; 0 only of 0.
#[inline(always)]
fn encode_second(value: f32, random: u32) -> u8 {
    let bits = value.max(SECOND_SMALLEST).to_bits() + (random >> (32 - DROPPED));
    let code = ((bits >> DROPPED) - SECOND_BASE).min(0xff);
    if value == 0.0 { 0 } else { code as u8 }
}

/// Random bits of a position, from the finishing steps of MurmurHash3.
#[inline(always)]
fn mixed(position: u32, key: u32) -> u32 {
    let mut bits = position.wrapping_mul(0x9e37_79b1) ^ key;
    bits = (bits ^ bits >> 16).wrapping_mul(0x85eb_ca6b);
    bits = (bits ^ bits >> 13).wrapping_mul(0xc2b2_ae35);
    bits ^ bits >> 16
}

/// What makes the random bits of one step other than those of the next.
fn step_key(step: u64) -> u32 {
    mixed(step as u32, mixed((step >> 32) as u32, 0x5bd1_e995))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::Cpu;
    use crate::backend::{AdamWStep, MomentKind, Moments, Optimizer};
    use crate::{Device, Tensor};

    fn randoms() -> impl Iterator<Item = u32> {
        (0..4096u32).map(|i| i << 20 | 0x8_0000)
    }

    /// Every code is what it decodes to, whatever the random bits.
    #[test]
    fn codes_come_back() {
        for code in 0..=255u8 {
            for random in [0, 0x7777_0000, 0xffff_0000] {
                // Minus zero is zero.
                let first = if code == 0x80 { 0 } else { code };
                let found = encode_first(decode_first(first), random);
                assert_eq!(found, first, "{code} {random:x}");
                assert_eq!(encode_second(decode_second(code), random), code);
            }
        }
        assert_eq!(decode_first(0), 0.0);
        assert_eq!(decode_first(0x7f), LARGEST - FIRST_OFFSET);
        assert_eq!(decode_first(0xff), -(LARGEST - FIRST_OFFSET));
        assert_eq!((decode_second(255), decode_second(1)), (LARGEST, SECOND_SMALLEST));
    }

    #[test]
    fn codes_ascend() {
        for code in 1..=127u8 {
            assert!(decode_first(code) > decode_first(code - 1));
            assert!(decode_first(code | 0x80) < decode_first((code - 1) | 0x80));
        }
        for code in 1..=255u8 {
            assert!(decode_second(code) > decode_second(code - 1));
        }
    }

    /// The mean over all random bits is the value itself, small values included.
    #[test]
    fn rounding_is_right_on_average() {
        for value in [1.7f32, 0.9, 0.123, 3e-3, 1e-4, 2e-5, 1e-6, -0.4, -7e-5] {
            let mean: f64 =
                randoms().map(|r| f64::from(decode_first(encode_first(value, r)))).sum::<f64>() / 4096.0;
            let step = (f64::from(value).abs() + 3.1e-5) / 8.0;
            assert!((mean - f64::from(value)).abs() < step / 1000.0, "{value}: {mean}");
            let nearest = f64::from(decode_first(encode_first(value, 0x8000_0000)));
            assert!((nearest - f64::from(value)).abs() <= step / 2.0 * 1.01, "{value}: {nearest}");
        }
        for value in [1.7f32, 0.9, 0.123, 3e-5, 1e-8, 1e-9] {
            let mean: f64 =
                randoms().map(|r| f64::from(decode_second(encode_second(value, r)))).sum::<f64>() / 4096.0;
            assert!((mean / f64::from(value) - 1.0).abs() < 1e-4, "{value}: {mean}");
        }
    }

    #[test]
    fn a_second_moment_is_zero_only_when_it_is() {
        for random in randoms() {
            assert_eq!(encode_second(0.0, random), 0);
            assert!(encode_second(1e-30, random) > 0);
            assert_eq!(encode_first(0.0, random), 0);
        }
        assert_eq!(decode_second(encode_second(1e-30, 0)), SECOND_SMALLEST);
    }

    /// Every instruction set gives the same bits: the chosen version against the plain functions.
    #[test]
    fn vectors_give_the_bits_of_single_elements() {
        let length = 3 * BLOCK + 41;
        let constants = StepConstants {
            gradient_factor: 0.7,
            keep: 0.999,
            beta2: 0.999,
            one_minus_beta1: 0.1,
            one_minus_beta2: 1e-3,
            step_size: 1e-3,
            root_correction2: 0.3,
            epsilon: 1e-8,
        };
        let gradient = |i: usize, step: u64| ((i * 7919 + step as usize * 31) % 1013) as f32 * 1e-3 - 0.4;
        let start: Vec<f32> = (0..length).map(|i| (i as f32).sin()).collect();
        let mut values = start.clone();
        let mut plain_values = start;
        let state = || {
            (
                vec![0u8; length],
                vec![0u8; length],
                vec![0f32; blocks_of(length)],
                vec![0f32; blocks_of(length)],
            )
        };
        let (mut found, mut plain) = (state(), state());
        for step in 1..6 {
            let gradients: Vec<f32> = (0..length).map(|i| gradient(i, step)).collect();
            let moments = EightBitMoments {
                first: &mut found.0,
                second: &mut found.1,
                first_scales: &mut found.2,
                second_scales: &mut found.3,
            };
            update(&mut values, &gradients, moments, (step, 0), constants);
            for block in 0..blocks_of(length) {
                let range = block * BLOCK..((block + 1) * BLOCK).min(length);
                let (mut m, mut v) = (vec![0.0; range.len()], vec![0.0; range.len()]);
                let scales = (plain.2[block], plain.3[block]);
                let codes = (&plain.0[range.clone()], &plain.1[range.clone()]);
                let largest = update_block(
                    &mut plain_values[range.clone()],
                    &gradients[range.clone()],
                    codes,
                    scales,
                    (&mut m, &mut v),
                    constants,
                );
                let inverse = (
                    rescale(&mut plain.2[block], largest.0, LARGEST - FIRST_OFFSET),
                    rescale(&mut plain.3[block], largest.1, LARGEST),
                );
                let codes = (&mut plain.0[range.clone()], &mut plain.1[range.clone()]);
                encode(codes, (&m, &v), inverse, (step_key(step), range.start as u32));
            }
        }
        assert_eq!(found, plain);
        assert!(values.iter().zip(&plain_values).all(|(a, b)| a.to_bits() == b.to_bits()));
    }

    /// What was learned about an element fades when its gradient stays zero, also beside one whose gradient does not: with the
    /// nearest code it would stay for ever.
    #[test]
    fn second_moments_decay_on_average() {
        const LENGTH: usize = 256;
        let mut values = Tensor::from_vec(vec![1.0; LENGTH], &[LENGTH], Device::Cpu);
        let mut moments = Moments::zeros(MomentKind::EightBit { position: 0 }, LENGTH, Device::Cpu);
        for step in 0..1400 {
            let mut gradients = vec![if step < 400 { 1.0 } else { 0.0 }; LENGTH];
            gradients[0] = 1.0;
            let gradients = Tensor::from_vec(gradients, &[LENGTH], Device::Cpu);
            let (learning_rate, betas, epsilon) = (1e-3, (0.9, 0.999), 1e-8);
            let step = AdamWStep { learning_rate, betas, epsilon, decay: 0.0, step: step + 1, factor: 1.0 };
            Cpu.adamw(&mut values, &gradients, &mut moments, &step);
        }
        let Moments::EightBit { codes, scales, .. } = moments else { panic!("8-bit moments were asked for") };
        let [first, second] = codes.each_ref().map(|codes| &codes.data()[1..]);
        let [first_scale, second_scale] = scales.each_ref().map(|scales| scales.data()[0]);
        let mean =
            second.iter().map(|&code| decode_second(code) * second_scale).sum::<f32>() / (LENGTH - 1) as f32;
        let expected = (1.0 - 0.999f32.powi(400)) * 0.999f32.powi(1000);
        assert!((mean / expected - 1.0).abs() < 0.1, "{mean}, expected {expected}");
        let first = first.iter().map(|&code| (decode_first(code) * first_scale).abs()).fold(0.0, f32::max);
        assert!(first < 1e-4, "{first}");
    }
}
