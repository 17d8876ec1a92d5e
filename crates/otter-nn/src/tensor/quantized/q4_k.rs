//! Q4_K: 256 elements in eight groups of 32; value = scale · code − minimum, with scale and minimum of a group 6-bit
//! multiples of two f16 units of the block. Two groups share 32 bytes: low halves, then high halves.

use super::{OutOfRange, inverse, lanes, put_scale, scale};

/// Elements of a block.
pub const ELEMENTS: usize = 256;
/// Bytes of a block: unit of scales, unit of minima, packed scales and minima, codes.
pub const BYTES: usize = 144;
/// Elements of a group.
pub const GROUP: usize = 32;
/// Groups of a block.
pub const GROUPS: usize = ELEMENTS / GROUP;
/// Where the packed scales and minima begin.
pub(crate) const PACKED: usize = 4;
/// Where the codes begin.
pub(crate) const QUANTS: usize = 16;

/// The eight 6-bit scales and the eight 6-bit minima of a block.
#[inline(always)]
pub(crate) fn scales_and_minima(block: &[u8; BYTES]) -> ([u8; GROUPS], [u8; GROUPS]) {
    let word = |at: usize| {
        let at = PACKED + at;
        u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]])
    };
    let (a, b, c) = (word(0), word(4), word(8));
    let join = |low: u32, high: u32| (u64::from(low) | u64::from(high) << 32).to_le_bytes();
    let scales = join(a & 0x3f3f_3f3f, c & 0x0f0f_0f0f | (a >> 6 & 0x0303_0303) << 4);
    let minima = join(b & 0x3f3f_3f3f, c >> 4 & 0x0f0f_0f0f | (b >> 6 & 0x0303_0303) << 4);
    (scales, minima)
}

/// Dequantizes a block.
#[inline(always)]
pub(crate) fn decode(block: &[u8], out: &mut [f32]) {
    let (unit, minimum) = (scale(block, 0), scale(block, 2));
    let Some(block) = block.first_chunk::<BYTES>() else { unreachable!("a whole block") };
    let (scales, minima) = scales_and_minima(block);
    let quants = &block[QUANTS..];
    for (pair, out) in out[..ELEMENTS].chunks_exact_mut(2 * GROUP).enumerate() {
        let quants = &quants[pair * GROUP..][..GROUP];
        let (low, high) = out.split_at_mut(GROUP);
        let factor = |group: usize| (unit * f32::from(scales[group]), minimum * f32::from(minima[group]));
        let (step, shift) = factor(2 * pair);
        for (value, &byte) in low.iter_mut().zip(quants) {
            *value = step * f32::from(byte & 15) - shift;
        }
        let (step, shift) = factor(2 * pair + 1);
        for (value, &byte) in high.iter_mut().zip(quants) {
            *value = step * f32::from(byte >> 4) - shift;
        }
    }
}

/// Scale and minimum of each group are rounded outwards, so that every value lies inside its range and the error is at
/// most half a step.
#[inline(always)]
pub(super) fn encode(values: &[f32], block: &mut [u8]) -> Result<(), OutOfRange> {
    // Minima are stored as what is subtracted, never negative.
    let (mut below, mut above) = ([0.0f32; GROUPS], [0.0f32; GROUPS]);
    for (at, group) in values.chunks_exact(GROUP).enumerate() {
        below[at] = lanes::largest(group, |value| -value);
        above[at] = lanes::largest(group, |value| value);
    }
    let minimum = put_scale(round_up(largest(&below) / 63.0), &mut block[2..4])?;
    let minima = below.map(|below| code_up(below, minimum));
    let mut steps = [0.0f32; GROUPS];
    for at in 0..GROUPS {
        steps[at] = (above[at] + minimum * f32::from(minima[at])) / 15.0;
    }
    let unit = put_scale(round_up(largest(&steps) / 63.0), &mut block[..2])?;
    let scales = steps.map(|step| code_up(step, unit));
    block[PACKED..QUANTS].copy_from_slice(&pack(&scales, &minima));
    let mut codes = [0u8; ELEMENTS];
    let groups = values.chunks_exact(GROUP).zip(codes.chunks_exact_mut(GROUP));
    for (at, (group, codes)) in groups.enumerate() {
        let inverse = inverse(unit * f32::from(scales[at]));
        let shift = minimum * f32::from(minima[at]);
        for (code, value) in codes.iter_mut().zip(group) {
            let value = (value + shift) * inverse;
            let value = if value > 15.0 { 15.0 } else { value };
            let value = if value < 0.0 { 0.0 } else { value };
            *code = lanes::rounded(value);
        }
    }
    for (bytes, pair) in block[QUANTS..].chunks_exact_mut(GROUP).zip(codes.chunks_exact(2 * GROUP)) {
        let (low, high) = pair.split_at(GROUP);
        for ((byte, low), high) in bytes.iter_mut().zip(low).zip(high) {
            *byte = low | high << 4;
        }
    }
    Ok(())
}

fn largest(values: &[f32; GROUPS]) -> f32 {
    values.iter().fold(0.0f32, |largest, &value| largest.max(value))
}

/// The next half-precision number that is not smaller.
fn round_up(value: f32) -> f32 {
    let narrow = half::f16::from_f32(value);
    if narrow.to_f32() < value {
        half::f16::from_bits(narrow.to_bits() + 1).to_f32()
    } else {
        narrow.to_f32()
    }
}

/// The smallest 6-bit multiple of `unit` that is not smaller than `value`.
fn code_up(value: f32, unit: f32) -> u8 {
    let code = (value * inverse(unit)).ceil();
    let code = if code * unit < value { code + 1.0 } else { code };
    code.clamp(0.0, 63.0) as u8
}

/// Scales and minima in twelve bytes, as [`scales_and_minima`] takes them apart.
fn pack(scales: &[u8; GROUPS], minima: &[u8; GROUPS]) -> [u8; 12] {
    let mut packed = [0; 12];
    for group in 0..4 {
        packed[group] = scales[group] | scales[group + 4] >> 4 << 6;
        packed[group + 4] = minima[group] | minima[group + 4] >> 4 << 6;
        packed[group + 8] = scales[group + 4] & 15 | (minima[group + 4] & 15) << 4;
    }
    packed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packed_scales_come_apart_again() {
        // every code in every place, beside other codes that move
        for shift in 0..64u8 {
            let code = |at: usize, step: u8| shift.wrapping_add((at as u8).wrapping_mul(step)) % 64;
            let scales: [u8; GROUPS] = std::array::from_fn(|at| code(at, 11));
            let minima: [u8; GROUPS] = std::array::from_fn(|at| code(at, 29));
            let mut block = [0; BYTES];
            block[PACKED..QUANTS].copy_from_slice(&pack(&scales, &minima));
            assert_eq!(scales_and_minima(&block), (scales, minima));
        }
    }
}
