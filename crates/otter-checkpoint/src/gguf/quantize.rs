//! Making blocks: 32-bit floats into the storage types that a GGUF file of ours may have.

use super::blocks::BlockFormat;
use crate::tensor::Dtype;
use half::{bf16, f16};

/// How the large matrices of a GGUF file are stored. Small and sensitive tensors always stay 32-bit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum GgufQuantization {
    /// 32-bit floats: exact.
    F32,
    /// 16-bit floats.
    #[default]
    F16,
    /// Brain floats.
    Bf16,
    /// 8.5 bits an element.
    Q8_0,
    /// 4.5 bits an element, one scale for 32.
    Q4_0,
    /// 4.5 bits an element, scale and minimum for 32.
    Q4K,
}

impl GgufQuantization {
    /// The type of a matrix whose rows have this length: the one asked for, or the nearest whose blocks fit.
    pub(super) fn for_rows(self, row_length: usize) -> Dtype {
        let fits = |format: BlockFormat| row_length.is_multiple_of(format.shape().0) && row_length > 0;
        let candidates: &[BlockFormat] = match self {
            Self::F32 => return Dtype::F32,
            Self::F16 => return Dtype::F16,
            Self::Bf16 => return Dtype::Bf16,
            Self::Q8_0 => &[BlockFormat::Q8_0],
            Self::Q4_0 => &[BlockFormat::Q4_0],
            Self::Q4K => &[BlockFormat::Q4K, BlockFormat::Q4_0],
        };
        candidates.iter().find(|format| fits(**format)).map_or(Dtype::F16, |&format| Dtype::Block(format))
    }
}

/// Appends `values` in the given type; they must be whole blocks.
///
/// # Errors
/// The value that the type cannot hold.
pub(super) fn narrow(dtype: Dtype, values: &[f32], out: &mut Vec<u8>) -> Result<(), f32> {
    let finite = |value: f32| if value.is_finite() { Ok(value) } else { Err(value) };
    match dtype {
        Dtype::F32 => values.iter().for_each(|value| out.extend(value.to_le_bytes())),
        Dtype::F16 => {
            for &value in values {
                let narrow = f16::from_f32(value);
                if narrow.is_infinite() && value.is_finite() {
                    return Err(value);
                }
                out.extend(narrow.to_le_bytes());
            }
        }
        Dtype::Bf16 => values.iter().for_each(|&value| out.extend(bf16::from_f32(value).to_le_bytes())),
        Dtype::Block(format) => {
            values.iter().try_for_each(|&value| finite(value).map(drop))?;
            for block in values.chunks_exact(format.shape().0) {
                match format {
                    BlockFormat::Q8_0 => q8_0(block, out)?,
                    BlockFormat::Q4_0 => q4_0(block, out)?,
                    BlockFormat::Q4K => q4_k(block, out)?,
                    _ => return Err(f32::NAN),
                }
            }
        }
        _ => return Err(f32::NAN),
    }
    Ok(())
}

/// A scale in half precision, as number and appended.
fn put_scale(scale: f32, out: &mut Vec<u8>) -> Result<f32, f32> {
    let narrow = f16::from_f32(scale);
    if narrow.is_infinite() {
        return Err(scale);
    }
    out.extend(narrow.to_le_bytes());
    Ok(narrow.to_f32())
}

fn inverse(scale: f32) -> f32 {
    if scale == 0.0 { 0.0 } else { 1.0 / scale }
}

/// The value of largest magnitude becomes ±127.
fn q8_0(block: &[f32], out: &mut Vec<u8>) -> Result<(), f32> {
    let largest = block.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
    let scale = put_scale(largest / 127.0, out)?;
    let inverse = inverse(scale);
    out.extend(block.iter().map(|value| (value * inverse).round().clamp(-127.0, 127.0) as i8 as u8));
    Ok(())
}

/// The value of largest magnitude becomes -8; the other side reaches only to 7.
fn q4_0(block: &[f32], out: &mut Vec<u8>) -> Result<(), f32> {
    let largest =
        block.iter().fold(0.0f32, |kept, &value| if value.abs() > kept.abs() { value } else { kept });
    let scale = put_scale(largest / -8.0, out)?;
    let inverse = inverse(scale);
    let code = |value: f32| ((value * inverse).round().clamp(-8.0, 7.0) + 8.0) as u8;
    out.extend((0..16).map(|at| code(block[at]) | code(block[at + 16]) << 4));
    Ok(())
}

/// Scale and minimum of each 32 elements are rounded outwards, so that every value lies inside its range and the
/// error is at most half a step.
fn q4_k(block: &[f32], out: &mut Vec<u8>) -> Result<(), f32> {
    let groups = block.chunks_exact(32);
    // Minima are stored as what is subtracted, never negative.
    let below: Vec<f32> =
        groups.clone().map(|group| -group.iter().fold(0.0f32, |least, &value| least.min(value))).collect();
    let start = out.len();
    let largest = |values: &[f32]| values.iter().fold(0.0f32, |largest, &value| largest.max(value));
    out.extend([0; 2]);
    let minimum = put_scale(round_up(largest(&below) / 63.0), out)?;
    let minimum_codes: Vec<u8> = below.iter().map(|&below| code_up(below, minimum)).collect();
    let steps: Vec<f32> = groups
        .clone()
        .zip(&minimum_codes)
        .map(|(group, &code)| (largest(group) + minimum * f32::from(code)) / 15.0)
        .collect();
    let mut d = Vec::new();
    let scale = put_scale(round_up(largest(&steps) / 63.0), &mut d)?;
    out[start..start + 2].copy_from_slice(&d);
    let scale_codes: Vec<u8> = steps.iter().map(|&step| code_up(step, scale)).collect();
    out.extend(pack_scales(&scale_codes, &minimum_codes));
    let codes: Vec<u8> = groups
        .zip(scale_codes.iter().zip(&minimum_codes))
        .flat_map(|(group, (&own_scale, &own_minimum))| {
            let inverse = inverse(scale * f32::from(own_scale));
            let shift_up = minimum * f32::from(own_minimum);
            group.iter().map(move |value| ((value + shift_up) * inverse).round().clamp(0.0, 15.0) as u8)
        })
        .collect();
    for pair in codes.chunks_exact(64) {
        out.extend((0..32).map(|at| pair[at] | pair[at + 32] << 4));
    }
    Ok(())
}

/// The next half-precision number that is not smaller.
fn round_up(value: f32) -> f32 {
    let narrow = f16::from_f32(value);
    if narrow.to_f32() < value { f16::from_bits(narrow.to_bits() + 1).to_f32() } else { narrow.to_f32() }
}

/// The smallest 6-bit multiple of `unit` that is not smaller than `value`.
fn code_up(value: f32, unit: f32) -> u8 {
    let code = (value * inverse(unit)).ceil();
    let code = if code * unit < value { code + 1.0 } else { code };
    code.clamp(0.0, 63.0) as u8
}

/// Eight 6-bit scales and minima in twelve bytes, as `scale_and_minimum` takes them apart.
fn pack_scales(scales: &[u8], minima: &[u8]) -> [u8; 12] {
    let mut packed = [0; 12];
    for group in 0..4 {
        packed[group] = scales[group] | scales[group + 4] >> 4 << 6;
        packed[group + 4] = minima[group] | minima[group + 4] >> 4 << 6;
        packed[group + 8] = scales[group + 4] & 15 | (minima[group + 4] & 15) << 4;
    }
    packed
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::super::blocks::scale_and_minimum;
    use super::*;
    use proptest::prelude::*;

    fn there_and_back(format: BlockFormat, values: &[f32]) -> Vec<f32> {
        let mut bytes = Vec::new();
        narrow(Dtype::Block(format), values, &mut bytes).unwrap();
        assert_eq!(Some(bytes.len()), format.bytes_of(values.len()));
        let mut out = vec![0.0; values.len()];
        format.widen(&bytes, &mut out);
        out
    }

    /// Largest error a format may make in a block, from its definition: half a step, plus what rounding the scale to
    /// eleven bits does to the largest code; Q4_0 also cuts off half the step at the far end.
    fn bound(format: BlockFormat, block: &[f32]) -> f32 {
        let largest = block.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
        let least = block.iter().fold(0.0f32, |least, &value| least.min(value));
        let most = block.iter().fold(0.0f32, |most, &value| most.max(value));
        // the smallest half-precision step
        let tiny = 6e-8;
        match format {
            BlockFormat::Q8_0 => largest / 127.0 * 0.5 + largest / 2048.0 + 127.0 * tiny,
            BlockFormat::Q4_0 => largest / 8.0 + largest / 2048.0 + 8.0 * tiny,
            _ => {
                // one unit of the minimum and one of the scale more than the range itself
                let minimum = -least / 63.0 * 1.001 + tiny;
                let range = most - least + minimum;
                (range / 15.0 * (1.0 + 1.0 / 63.0) * 1.001 + tiny) * 0.5 + largest * 1e-6
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        #[test]
        fn errors_stay_below_their_bound(
            values in prop::collection::vec(-1.0f32..1.0, 256), exponent in -20i32..10, offset in -2.0f32..2.0,
        ) {
            let values: Vec<f32> = values.iter().map(|value| (value + offset) * 2f32.powi(exponent)).collect();
            for format in [BlockFormat::Q8_0, BlockFormat::Q4_0, BlockFormat::Q4K] {
                let back = there_and_back(format, &values);
                let length = format.shape().0;
                for (block, back) in values.chunks(length).zip(back.chunks(length)) {
                    let limit = bound(format, block);
                    for (value, back) in block.iter().zip(back) {
                        prop_assert!((value - back).abs() <= limit, "{} {value} {back} {limit}", format.name());
                    }
                }
            }
        }

        #[test]
        fn packed_scales_come_apart_again(codes in prop::collection::vec(0u8..64, 16)) {
            let packed = pack_scales(&codes[..8], &codes[8..]);
            for group in 0..8 {
                prop_assert_eq!(scale_and_minimum(&packed, group), (codes[group], codes[group + 8]));
            }
        }
    }

    /// What an ordinary weight matrix loses: root mean square against the standard deviation.
    #[test]
    fn typical_errors() {
        let mut state = 1u64;
        let mut uniform = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 40) as f32 / (1u64 << 24) as f32
        };
        let values: Vec<f32> = (0..65_536).map(|_| (0..12).map(|_| uniform()).sum::<f32>() - 6.0).collect();
        for (format, limit) in
            [(BlockFormat::Q8_0, 0.007), (BlockFormat::Q4_0, 0.10), (BlockFormat::Q4K, 0.085)]
        {
            let back = there_and_back(format, &values);
            let square: f64 = values.iter().zip(&back).map(|(a, b)| f64::from(a - b).powi(2)).sum();
            let error = (square / values.len() as f64).sqrt();
            assert!(error < limit, "{}: {error}", format.name());
        }
    }

    #[test]
    fn values_that_do_not_fit_are_given_back() {
        let mut out = Vec::new();
        for format in [BlockFormat::Q8_0, BlockFormat::Q4_0, BlockFormat::Q4K] {
            let mut values = vec![0.0; 256];
            assert_eq!(there_and_back(format, &values), values);
            values[200] = f32::INFINITY;
            assert_eq!(narrow(Dtype::Block(format), &values, &mut out), Err(f32::INFINITY));
            values[200] = 1e30;
            assert!(narrow(Dtype::Block(format), &values, &mut out).is_err());
        }
        assert_eq!(narrow(Dtype::F16, &[1e6], &mut out), Err(1e6));
        // Values that are not numbers stay what they are where the type can say so.
        assert_eq!(narrow(Dtype::F16, &[f32::INFINITY], &mut out), Ok(()));
    }

    #[test]
    fn rows_get_the_nearest_type_that_fits() {
        assert_eq!(GgufQuantization::Q4K.for_rows(512), Dtype::Block(BlockFormat::Q4K));
        assert_eq!(GgufQuantization::Q4K.for_rows(96), Dtype::Block(BlockFormat::Q4_0));
        assert_eq!(GgufQuantization::Q8_0.for_rows(40), Dtype::F16);
        assert_eq!(GgufQuantization::Bf16.for_rows(7), Dtype::Bf16);
    }
}
