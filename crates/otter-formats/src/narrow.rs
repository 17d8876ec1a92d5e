//! 32-bit floats as the little-endian bytes of another float type.

use crate::tensor::Dtype;
use half::{bf16, f16};
use otter_nn::all_finite;

/// Appends `values` as `dtype`, rounded to nearest.
///
/// # Errors
/// The first value that is not finite or that 16-bit floats cannot hold, or the type when it is not a float.
pub(crate) fn narrow(values: &[f32], dtype: Dtype, bytes: &mut Vec<u8>) -> Result<(), NarrowError> {
    check_finite(values).map_err(NarrowError::NotFinite)?;
    match dtype {
        Dtype::F32 => values.iter().for_each(|value| bytes.extend_from_slice(&value.to_le_bytes())),
        Dtype::F64 => {
            values.iter().for_each(|&value| bytes.extend_from_slice(&f64::from(value).to_le_bytes()))
        }
        Dtype::Bf16 => {
            values.iter().for_each(|&value| bytes.extend_from_slice(&bf16::from_f32(value).to_le_bytes()));
        }
        Dtype::F16 => {
            for &value in values {
                let narrow = f16::from_f32(value);
                if narrow.is_infinite() {
                    return Err(NarrowError::Overflow(value));
                }
                bytes.extend_from_slice(&narrow.to_le_bytes());
            }
        }
        other => return Err(NarrowError::NotFloat(other)),
    }
    Ok(())
}

/// Whether all values are finite: nothing else is written.
///
/// # Errors
/// The first value that is not.
pub(crate) fn check_finite(values: &[f32]) -> Result<(), f32> {
    if all_finite(values) {
        return Ok(());
    }
    Err(values.iter().copied().find(|value| !value.is_finite()).unwrap_or(f32::NAN))
}

/// Why a value was not written.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum NarrowError {
    /// NaN or infinite.
    NotFinite(f32),
    /// Beyond ±65504.
    Overflow(f32),
    /// Floats do not become this type.
    NotFloat(Dtype),
}

impl NarrowError {
    /// What is wrong and what to do.
    pub(crate) fn problem(self) -> String {
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

    #[test]
    fn every_float_type_holds_what_it_can() {
        let values = [1.5f32, -0.0, f32::MIN_POSITIVE, 65504.0];
        for dtype in [Dtype::F32, Dtype::F64, Dtype::F16, Dtype::Bf16] {
            let mut bytes = Vec::new();
            narrow(&values, dtype, &mut bytes).unwrap();
            assert_eq!(bytes.len(), 4 * dtype.size());
        }
        let mut bytes = Vec::new();
        assert_eq!(narrow(&[1.0, 7e4], Dtype::F16, &mut bytes), Err(NarrowError::Overflow(7e4)));
        assert_eq!(narrow(&[1.0], Dtype::I64, &mut bytes), Err(NarrowError::NotFloat(Dtype::I64)));
        for dtype in [Dtype::F32, Dtype::F64, Dtype::F16, Dtype::Bf16] {
            let bad = narrow(&[1.0, f32::NEG_INFINITY, f32::NAN], dtype, &mut bytes).unwrap_err();
            assert_eq!(bad, NarrowError::NotFinite(f32::NEG_INFINITY), "{dtype}");
            assert!(bad.problem().contains("-inf"));
        }
    }
}
