//! Q8_0: 32 elements as an f16 scale and signed bytes; value = scale · byte.

use super::{OutOfRange, inverse, lanes, put_scale, scale};

/// Elements of a block.
pub const ELEMENTS: usize = 32;
/// Bytes of a block: the scale, then the elements.
pub const BYTES: usize = 34;
/// Where the elements begin.
pub(crate) const QUANTS: usize = 2;

/// The value of largest magnitude becomes ±127.
#[inline(always)]
pub(super) fn encode(values: &[f32], block: &mut [u8]) -> Result<(), OutOfRange> {
    let largest = lanes::largest(values, |value| f32::from_bits(value.to_bits() & 0x7fff_ffff));
    let (head, quants) = block.split_at_mut(QUANTS);
    let inverse = inverse(put_scale(largest / 127.0, head)?);
    for (quant, value) in quants.iter_mut().zip(values) {
        // Rounding the scale to half precision may have made it a little too small.
        let value = value * inverse;
        let value = if value > 127.0 { 127.0 } else { value };
        let value = if value < -127.0 { -127.0 } else { value };
        *quant = lanes::rounded(value);
    }
    Ok(())
}

/// Dequantizes a block.
#[inline(always)]
pub(crate) fn decode(block: &[u8], out: &mut [f32]) {
    let scale = scale(block, 0);
    for (value, &quant) in out[..ELEMENTS].iter_mut().zip(&block[QUANTS..BYTES]) {
        *value = scale * f32::from(quant as i8);
    }
}
