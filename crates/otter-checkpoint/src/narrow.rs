//! 32-bit floats as the little-endian bytes of another float type.

use crate::tensor::Dtype;
use half::{bf16, f16};

/// Appends `values` as `dtype`, rounded to nearest.
///
/// # Errors
/// The first finite value that 16-bit floats cannot hold, or the type when it is not a float.
pub(crate) fn narrow(values: &[f32], dtype: Dtype, bytes: &mut Vec<u8>) -> Result<(), NarrowError> {
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
                if narrow.is_infinite() && value.is_finite() {
                    return Err(NarrowError::Overflow(value));
                }
                bytes.extend_from_slice(&narrow.to_le_bytes());
            }
        }
        other => return Err(NarrowError::NotFloat(other)),
    }
    Ok(())
}

/// Why a value was not written.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum NarrowError {
    /// Beyond ±65504.
    Overflow(f32),
    /// Floats do not become this type.
    NotFloat(Dtype),
}

impl NarrowError {
    /// What is wrong and what to do.
    pub(crate) fn problem(self) -> String {
        match self {
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
        let values = [1.5f32, -0.0, f32::INFINITY, 65504.0];
        for dtype in [Dtype::F32, Dtype::F64, Dtype::F16, Dtype::Bf16] {
            let mut bytes = Vec::new();
            narrow(&values, dtype, &mut bytes).unwrap();
            assert_eq!(bytes.len(), 4 * dtype.size());
        }
        let mut bytes = Vec::new();
        assert_eq!(narrow(&[1.0, 7e4], Dtype::F16, &mut bytes), Err(NarrowError::Overflow(7e4)));
        assert_eq!(narrow(&[1.0], Dtype::I64, &mut bytes), Err(NarrowError::NotFloat(Dtype::I64)));
    }
}
