//! Small loops over the elements of a block, written so that they become vector instructions.

/// The largest of `f` over whole groups of 32 values, at least 0. Values are finite.
#[inline(always)]
pub(super) fn largest(values: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0.0f32; 32];
    for group in values.chunks_exact(32) {
        for (lane, &value) in lanes.iter_mut().zip(group) {
            let value = f(value);
            *lane = if value > *lane { value } else { *lane };
        }
    }
    let mut half = 16;
    while half > 0 {
        for at in 0..half {
            let upper = lanes[at + half];
            lanes[at] = if upper > lanes[at] { upper } else { lanes[at] };
        }
        half /= 2;
    }
    lanes[0]
}

/// The nearest integer (ties to even) of a number in [-128, 127], as the byte of its two's complement.
#[inline(always)]
pub(super) fn rounded(value: f32) -> u8 {
    /// 1.5 * 2^23: adding it leaves the integer in the low bits of the mantissa.
    const MAGIC: f32 = 12_582_912.0;
    (value + MAGIC).to_bits() as u8
}
