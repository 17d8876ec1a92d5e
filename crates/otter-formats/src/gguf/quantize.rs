//! Making blocks: 32-bit floats into the storage types that a GGUF file of ours may have.

use super::blocks::BlockFormat;
use crate::narrow::check_finite;
use crate::tensor::Dtype;
use half::{bf16, f16};
use otter_nn::quantised::OutOfRange;

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
            Self::Q4K => &[BlockFormat::Q4K, BlockFormat::Q8_0],
        };
        candidates.iter().find(|format| fits(**format)).map_or(Dtype::F16, |&format| Dtype::Block(format))
    }
}

/// Appends `values` in the given type; they must be whole blocks.
///
/// # Errors
/// The value that the type cannot hold, or that is not finite.
pub(super) fn narrow(dtype: Dtype, values: &[f32], out: &mut Vec<u8>) -> Result<(), f32> {
    check_finite(values)?;
    match dtype {
        Dtype::F32 => values.iter().for_each(|value| out.extend(value.to_le_bytes())),
        Dtype::F16 => {
            for &value in values {
                let narrow = f16::from_f32(value);
                if narrow.is_infinite() {
                    return Err(value);
                }
                out.extend(narrow.to_le_bytes());
            }
        }
        Dtype::Bf16 => values.iter().for_each(|&value| out.extend(bf16::from_f32(value).to_le_bytes())),
        Dtype::Block(format) => {
            if let Some(format) = format.quantised() {
                let start = out.len();
                out.resize(start + format.row_bytes(values.len()), 0);
                return format.encode_parallel(values, &mut out[start..]).map_err(|OutOfRange(value)| value);
            }
            if format != BlockFormat::Q4_0 {
                return Err(f32::NAN);
            }
            values.chunks_exact(format.shape().0).try_for_each(|block| q4_0(block, out))?;
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

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
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
        // Also where the type could hold them.
        for dtype in [Dtype::F32, Dtype::F16, Dtype::Bf16] {
            assert_eq!(narrow(dtype, &[1.0, f32::INFINITY], &mut out), Err(f32::INFINITY));
            assert!(narrow(dtype, &[f32::NAN], &mut out).is_err_and(f32::is_nan));
        }
    }

    #[test]
    fn rows_get_the_nearest_type_that_fits() {
        assert_eq!(GgufQuantization::Q4K.for_rows(512), Dtype::Block(BlockFormat::Q4K));
        assert_eq!(GgufQuantization::Q4K.for_rows(96), Dtype::Block(BlockFormat::Q8_0));
        assert_eq!(GgufQuantization::Q8_0.for_rows(40), Dtype::F16);
        assert_eq!(GgufQuantization::Bf16.for_rows(7), Dtype::Bf16);
    }
}
