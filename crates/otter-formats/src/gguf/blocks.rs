//! Block formats of GGML: a run of 32 or 256 consecutive elements of a row shares scales. Here they are dequantized
//! to 32-bit floats; `encode.rs` makes some of them. Layouts: `ggml-common.h` of the GGML project.

use crate::dtype::StoredDType;
use half::f16;

/// Dequantizes whole blocks. `bytes` and `out` must belong to the same number of blocks.
pub fn dequantize_blocks(format: StoredDType, bytes: &[u8], out: &mut [f32]) {
    let (length, size) = format.block();
    debug_assert_eq!(bytes.len() / size * length, out.len());
    for (block, out) in bytes.chunks_exact(size).zip(out.chunks_exact_mut(length)) {
        match format {
            StoredDType::Q4_0 => dequantize_nibbles(&block[2..], None, out, scale(block, 0), -8.0),
            StoredDType::Q4_1 => {
                dequantize_nibbles(&block[4..], None, out, scale(block, 0), 0.0);
                out.iter_mut().for_each(|value| *value += scale(block, 2));
            }
            StoredDType::Q5_0 => {
                dequantize_nibbles(&block[6..], Some(bits(block, 2)), out, scale(block, 0), -16.0);
            }
            StoredDType::Q5_1 => {
                dequantize_nibbles(&block[8..], Some(bits(block, 4)), out, scale(block, 0), 0.0);
                out.iter_mut().for_each(|value| *value += scale(block, 2));
            }
            StoredDType::Q8_0 => {
                let scale = scale(block, 0);
                for (value, &byte) in out.iter_mut().zip(&block[2..]) {
                    *value = scale * f32::from(byte as i8);
                }
            }
            StoredDType::Q2K => dequantize_q2(block, out),
            StoredDType::Q3K => dequantize_q3(block, out),
            StoredDType::Q4K => dequantize_q4_q5(&block[..16], None, &block[16..], out),
            StoredDType::Q5K => dequantize_q4_q5(&block[..16], Some(&block[16..48]), &block[48..], out),
            StoredDType::Q6K => dequantize_q6(block, out),
            _ => debug_assert!(false, "{format} is no block format"),
        }
    }
}
/// The half-precision number at a byte of a block.
fn scale(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

fn bits(block: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]])
}

/// 32 elements: the low halves of 16 bytes, then the high halves; a fifth bit may come from `high`.
fn dequantize_nibbles(quants: &[u8], high: Option<u32>, out: &mut [f32], scale: f32, offset: f32) {
    let high = high.unwrap_or(0);
    for at in 0..16 {
        let fifth = |element: usize| (high >> element & 1) as u8 * 16;
        out[at] = scale * (f32::from((quants[at] & 15) + fifth(at)) + offset);
        out[at + 16] = scale * (f32::from((quants[at] >> 4) + fifth(at + 16)) + offset);
    }
}

/// Scales (low half) and minima (high half) of 16 groups, 2-bit values, scale and minimum of the block.
fn dequantize_q2(block: &[u8], out: &mut [f32]) {
    let (scales, quants) = (&block[..16], &block[16..80]);
    let (d, minimum) = (scale(block, 80), scale(block, 82));
    for (group, out) in out.chunks_exact_mut(16).enumerate() {
        // Each half of the block: four times 32 elements from the same 32 bytes, two bits higher each time.
        let (half, shift) = (group / 8, group % 8 / 2 * 2);
        let bytes = &quants[half * 32 + group % 2 * 16..][..16];
        let (factor, shift_down) =
            (d * f32::from(scales[group] & 15), minimum * f32::from(scales[group] >> 4));
        for (value, byte) in out.iter_mut().zip(bytes) {
            *value = factor * f32::from(byte >> shift & 3) - shift_down;
        }
    }
}

/// High bits of all elements, 2-bit values, sixteen 6-bit scales, scale of the block.
fn dequantize_q3(block: &[u8], out: &mut [f32]) {
    let (high, quants, scales) = (&block[..32], &block[32..96], &block[96..108]);
    let d = scale(block, 108);
    for (group, out) in out.chunks_exact_mut(16).enumerate() {
        let low = if group < 8 { scales[group] & 15 } else { scales[group - 8] >> 4 };
        let top = scales[8 + group % 4] >> (2 * (group / 4)) & 3;
        let factor = d * (f32::from(low | top << 4) - 32.0);
        let (half, shift, column) = (group / 8, group % 8 / 2 * 2, group % 2 * 16);
        for (at, value) in out.iter_mut().enumerate() {
            let low = quants[half * 32 + column + at] >> shift & 3;
            let top = high[column + at] >> (group / 2) & 1;
            *value = factor * (f32::from(low) - if top == 1 { 0.0 } else { 4.0 });
        }
    }
}

/// The 6-bit scale and minimum of one of the eight groups of a Q4_K or Q5_K block.
fn scale_and_minimum(packed: &[u8], group: usize) -> (u8, u8) {
    if group < 4 {
        (packed[group] & 63, packed[group + 4] & 63)
    } else {
        (
            packed[group + 4] & 15 | packed[group - 4] >> 6 << 4,
            packed[group + 4] >> 4 | packed[group] >> 6 << 4,
        )
    }
}

/// `head`: scale, minimum, packed group scales. Two groups share 32 bytes; Q5_K has a fifth bit apart.
fn dequantize_q4_q5(head: &[u8], high: Option<&[u8]>, quants: &[u8], out: &mut [f32]) {
    let (d, minimum, packed) = (scale(head, 0), scale(head, 2), &head[4..]);
    for (group, out) in out.chunks_exact_mut(32).enumerate() {
        let (own_scale, own_minimum) = scale_and_minimum(packed, group);
        let (factor, shift_down) = (d * f32::from(own_scale), minimum * f32::from(own_minimum));
        for (at, value) in out.iter_mut().enumerate() {
            let low = quants[group / 2 * 32 + at] >> (group % 2 * 4) & 15;
            let fifth = high.map_or(0, |high| (high[at] >> group & 1) * 16);
            *value = factor * f32::from(low + fifth) - shift_down;
        }
    }
}

/// Low halves, 2-bit high parts, signed scales of 16 groups, scale of the block.
fn dequantize_q6(block: &[u8], out: &mut [f32]) {
    let (low, high, scales) = (&block[..128], &block[128..192], &block[192..208]);
    let d = scale(block, 208);
    for (group, out) in out.chunks_exact_mut(16).enumerate() {
        // Each half of the block: four quarters of 32 elements; the last two are the upper halves of the bytes.
        let (half, quarter, column) = (group / 8, group % 8 / 2, group % 2 * 16);
        let factor = d * f32::from(scales[group] as i8);
        for (at, value) in out.iter_mut().enumerate() {
            let at = column + at;
            let bottom = low[half * 64 + quarter % 2 * 32 + at] >> (quarter / 2 * 4) & 15;
            let top = high[half * 32 + at] >> (quarter * 2) & 3;
            *value = factor * (f32::from(bottom | top << 4) - 32.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes of a block with scales that are powers of two, so that all values are exact.
    fn block(format: StoredDType) -> Vec<u8> {
        let (_, size) = format.block();
        let mut state = 12345u32;
        let mut bytes: Vec<u8> = (0..size)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 24) as u8
            })
            .collect();
        let halves: &[(usize, f32)] = match format {
            StoredDType::Q4_0 | StoredDType::Q5_0 | StoredDType::Q8_0 => &[(0, 0.5)],
            StoredDType::Q4_1 | StoredDType::Q5_1 | StoredDType::Q4K | StoredDType::Q5K => {
                &[(0, 0.5), (2, 0.25)]
            }
            StoredDType::Q2K => &[(80, 0.5), (82, 0.25)],
            StoredDType::Q3K => &[(108, 0.5)],
            StoredDType::Q6K => &[(208, 0.5)],
            other => panic!("{other} is no block format"),
        };
        for &(at, value) in halves {
            bytes[at..at + 2].copy_from_slice(&f16::from_f32(value).to_le_bytes());
        }
        bytes
    }

    fn dequantized(format: StoredDType, bytes: &[u8]) -> Vec<f32> {
        let mut out = vec![0.0; bytes.len() / format.block().1 * format.block().0];
        dequantize_blocks(format, bytes, &mut out);
        out
    }

    /// Element `i` of a block by the description of the format alone: bit positions, no loops over groups.
    fn element(format: StoredDType, b: &[u8], i: usize) -> f32 {
        let half = |at: usize| f64::from(f16::from_le_bytes([b[at], b[at + 1]]).to_f32());
        let bit = |byte: usize, shift: usize, width: u32| {
            f64::from(u32::from(b[byte]) >> shift & (2u32.pow(width) - 1))
        };
        let nibble = |start: usize| bit(start + i % 16, i / 16 * 4, 4);
        let fifth = |start: usize| 16.0 * bit(start + i / 8, i % 8, 1);
        // position in a half block of 128, and which 32 of it
        let (n, l, q) = (i / 128, i % 32, i / 32 % 4);
        let packed = |start: usize, group: usize| -> (f64, f64) {
            match group {
                0..4 => (bit(start + group, 0, 6), bit(start + 4 + group, 0, 6)),
                _ => (
                    bit(start + 4 + group, 0, 4) + 16.0 * bit(start + group - 4, 6, 2),
                    bit(start + 4 + group, 4, 4) + 16.0 * bit(start + group, 6, 2),
                ),
            }
        };
        let value = match format {
            StoredDType::Q4_0 => half(0) * (nibble(2) - 8.0),
            StoredDType::Q4_1 => half(0) * nibble(4) + half(2),
            StoredDType::Q5_0 => half(0) * (nibble(6) + fifth(2) - 16.0),
            StoredDType::Q5_1 => half(0) * (nibble(8) + fifth(4)) + half(2),
            StoredDType::Q8_0 => half(0) * f64::from(b[2 + i] as i8),
            StoredDType::Q2K => {
                let value = bit(16 + 32 * n + l, 2 * q, 2);
                half(80) * bit(i / 16, 0, 4) * value - half(82) * bit(i / 16, 4, 4)
            }
            StoredDType::Q3K => {
                let value = bit(32 + 32 * n + l, 2 * q, 2) + 4.0 * bit(l, i / 32, 1) - 4.0;
                let group = i / 16;
                let low = bit(96 + group % 8, group / 8 * 4, 4);
                let scale = low + 16.0 * bit(104 + group % 4, group / 4 * 2, 2) - 32.0;
                half(108) * scale * value
            }
            StoredDType::Q4K => {
                let (scale, minimum) = packed(4, i / 32);
                half(0) * scale * bit(16 + i / 64 * 32 + l, i / 32 % 2 * 4, 4) - half(2) * minimum
            }
            StoredDType::Q5K => {
                let (scale, minimum) = packed(4, i / 32);
                let value = bit(48 + i / 64 * 32 + l, i / 32 % 2 * 4, 4) + 16.0 * bit(16 + l, i / 32, 1);
                half(0) * scale * value - half(2) * minimum
            }
            StoredDType::Q6K => {
                let low = bit(64 * n + 32 * (q % 2) + l, q / 2 * 4, 4);
                let value = low + 16.0 * bit(128 + 32 * n + l, 2 * q, 2) - 32.0;
                half(208) * f64::from(b[192 + i / 16] as i8) * value
            }
            other => panic!("{other} is no block format"),
        };
        value as f32
    }

    #[test]
    fn blocks_are_what_their_description_says() {
        for format in StoredDType::ALL.into_iter().filter(|format| format.is_block()) {
            let one = block(format);
            let mut two = one.clone();
            two.extend(one.iter().rev().copied().collect::<Vec<_>>());
            // The reversed bytes may hold any scale, also not a number.
            let (length, size) = format.block();
            let out = dequantized(format, &two);
            for at in 0..length {
                assert_eq!(out[at], element(format, &one, at), "{} {at}", format.name());
            }
            assert_eq!(out.len(), 2 * length);
            assert_eq!(two.len(), 2 * size);
        }
    }

    /// `sum (i + 1) x[i]` of the blocks above by the `gguf` package of the GGML project (gguf.quants.dequantize).
    #[test]
    fn sums_of_the_reference_implementation() {
        let expected = [
            (StoredDType::Q4_0, 27.0),
            (StoredDType::Q4_1, 2285.0),
            (StoredDType::Q5_0, -47.5),
            (StoredDType::Q5_1, 4684.0),
            (StoredDType::Q8_0, 7939.5),
            (StoredDType::Q2K, 145686.5),
            (StoredDType::Q3K, -84470.5),
            (StoredDType::Q4K, 3473405.0),
            (StoredDType::Q5K, 6950271.5),
            (StoredDType::Q6K, -2032613.5),
        ];
        for (format, sum) in expected {
            let values = dequantized(format, &block(format));
            let own: f64 = values.iter().enumerate().map(|(at, &x)| (at + 1) as f64 * f64::from(x)).sum();
            assert_eq!(own, sum, "{}", format.name());
        }
    }

    #[test]
    fn sizes_are_whole_blocks() {
        assert_eq!(StoredDType::Q4K.bytes_of(512), Some(288));
        assert_eq!(StoredDType::Q4K.bytes_of(500), None);
        assert_eq!(StoredDType::Q8_0.bytes_of(usize::MAX / 32 * 32), None);
    }
}
