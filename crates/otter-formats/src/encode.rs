//! 32-bit floats as the little-endian bytes of another type: floats of another width, or blocks.

use crate::dtype::StoredDType;
use half::{bf16, f16};
use otter_nn::all_finite;
use otter_nn::tensor::quantized::OutOfRange;

/// Appends `values` as `dtype`, rounded to nearest; for a block format they must be whole blocks.
///
/// # Errors
/// The first value that is not finite or that the type cannot hold, or the type when floats do not become it.
pub fn encode(values: &[f32], dtype: StoredDType, bytes: &mut Vec<u8>) -> Result<(), EncodeError> {
    check_finite(values).map_err(EncodeError::NotFinite)?;
    match dtype {
        StoredDType::F32 => values.iter().for_each(|value| bytes.extend_from_slice(&value.to_le_bytes())),
        StoredDType::F64 => {
            values.iter().for_each(|&value| bytes.extend_from_slice(&f64::from(value).to_le_bytes()))
        }
        StoredDType::Bf16 => {
            values.iter().for_each(|&value| bytes.extend_from_slice(&bf16::from_f32(value).to_le_bytes()));
        }
        StoredDType::F16 => {
            for &value in values {
                let narrow = f16::from_f32(value);
                if narrow.is_infinite() {
                    return Err(EncodeError::Overflow(value));
                }
                bytes.extend_from_slice(&narrow.to_le_bytes());
            }
        }
        StoredDType::Q4_0 => {
            let blocks = values.chunks_exact(dtype.block().0);
            for block in blocks {
                q4_0(block, bytes).map_err(EncodeError::Overflow)?;
            }
        }
        other => {
            let format = other.quantized().ok_or(EncodeError::NotFloat(other))?;
            let start = bytes.len();
            bytes.resize(start + format.row_bytes(values.len()), 0);
            format
                .encode_parallel(values, &mut bytes[start..])
                .map_err(|OutOfRange(value)| EncodeError::Overflow(value))?;
        }
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

/// Whether all values are finite: nothing else is written.
///
/// # Errors
/// The first value that is not.
pub fn check_finite(values: &[f32]) -> Result<(), f32> {
    if all_finite(values) {
        return Ok(());
    }
    Err(values.iter().copied().find(|value| !value.is_finite()).unwrap_or(f32::NAN))
}

/// Why a value was not written.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum EncodeError {
    /// NaN or infinite.
    NotFinite(f32),
    /// Beyond ±65504, or beyond what the scale of a block can say.
    Overflow(f32),
    /// Floats do not become this type.
    NotFloat(StoredDType),
}

impl EncodeError {
    /// What is wrong and what to do.
    pub fn problem(self) -> String {
        match self {
            Self::NotFinite(value) => format!(
                "it holds {value}, with which no model works; list such tensors with `otter inspect --scan` and take \
                 another copy"
            ),
            Self::Overflow(value) => {
                format!("the value {value} does not fit 16-bit floats; save as bf16 or f32")
            }
            Self::NotFloat(dtype) => format!("floats cannot be stored as {dtype}; save as f32, f16 or bf16"),
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::gguf::dequantize_blocks;
    use proptest::prelude::*;

    #[test]
    fn every_float_type_holds_what_it_can() {
        let values = [1.5f32, -0.0, f32::MIN_POSITIVE, 65504.0];
        for dtype in [StoredDType::F32, StoredDType::F64, StoredDType::F16, StoredDType::Bf16] {
            let mut bytes = Vec::new();
            encode(&values, dtype, &mut bytes).unwrap();
            assert_eq!(bytes.len(), 4 * dtype.size());
        }
        let mut bytes = Vec::new();
        assert_eq!(encode(&[1.0, 7e4], StoredDType::F16, &mut bytes), Err(EncodeError::Overflow(7e4)));
        assert_eq!(
            encode(&[1.0], StoredDType::I64, &mut bytes),
            Err(EncodeError::NotFloat(StoredDType::I64))
        );
        for dtype in [StoredDType::F32, StoredDType::F64, StoredDType::F16, StoredDType::Bf16] {
            let bad = encode(&[1.0, f32::NEG_INFINITY, f32::NAN], dtype, &mut bytes).unwrap_err();
            assert_eq!(bad, EncodeError::NotFinite(f32::NEG_INFINITY), "{dtype}");
            assert!(bad.problem().contains("-inf"));
        }
    }

    fn there_and_back(format: StoredDType, values: &[f32]) -> Vec<f32> {
        let mut bytes = Vec::new();
        encode(values, format, &mut bytes).unwrap();
        assert_eq!(Some(bytes.len()), format.bytes_of(values.len()));
        let mut out = vec![0.0; values.len()];
        dequantize_blocks(format, &bytes, &mut out);
        out
    }

    /// Largest error a format may make in a block, from its definition: half a step, plus what rounding the scale to
    /// eleven bits does to the largest code; Q4_0 also cuts off half the step at the far end.
    fn bound(format: StoredDType, block: &[f32]) -> f32 {
        let largest = block.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
        let least = block.iter().fold(0.0f32, |least, &value| least.min(value));
        let most = block.iter().fold(0.0f32, |most, &value| most.max(value));
        // the smallest half-precision step
        let tiny = 6e-8;
        match format {
            StoredDType::Q8_0 => largest / 127.0 * 0.5 + largest / 2048.0 + 127.0 * tiny,
            StoredDType::Q4_0 => largest / 8.0 + largest / 2048.0 + 8.0 * tiny,
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
            for format in [StoredDType::Q8_0, StoredDType::Q4_0, StoredDType::Q4K] {
                let back = there_and_back(format, &values);
                let length = format.block().0;
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
            [(StoredDType::Q8_0, 0.007), (StoredDType::Q4_0, 0.10), (StoredDType::Q4K, 0.085)]
        {
            let back = there_and_back(format, &values);
            let square: f64 = values.iter().zip(&back).map(|(a, b)| f64::from(a - b).powi(2)).sum();
            let error = (square / values.len() as f64).sqrt();
            assert!(error < limit, "{}: {error}", format.name());
        }
    }

    #[test]
    fn values_that_blocks_cannot_hold_are_given_back() {
        let mut out = Vec::new();
        for format in [StoredDType::Q8_0, StoredDType::Q4_0, StoredDType::Q4K] {
            let mut values = vec![0.0; 256];
            assert_eq!(there_and_back(format, &values), values);
            values[200] = f32::INFINITY;
            assert_eq!(encode(&values, format, &mut out), Err(EncodeError::NotFinite(f32::INFINITY)));
            values[200] = 1e30;
            assert!(matches!(encode(&values, format, &mut out), Err(EncodeError::Overflow(_))));
        }
        assert_eq!(encode(&[1e6], StoredDType::F16, &mut out), Err(EncodeError::Overflow(1e6)));
        assert_eq!(
            encode(&[0.0; 256], StoredDType::Q5K, &mut out),
            Err(EncodeError::NotFloat(StoredDType::Q5K))
        );
    }
}
