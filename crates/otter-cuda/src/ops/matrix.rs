//! Matrices as a GPU keeps them, and how they are multiplied.

use crate::Buffer;
use otter_nn::DType;

/// Elements of a matrix, row by row.
#[derive(Clone, Copy)]
pub enum Matrix<'a> {
    /// Single precision.
    F32(&'a Buffer<f32>),
    /// Bits of IEEE 754 half precision.
    F16(&'a Buffer<u16>),
    /// Bits of bfloat16.
    Bf16(&'a Buffer<u16>),
}

impl Matrix<'_> {
    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            Self::F32(elements) => elements.len(),
            Self::F16(bits) | Self::Bf16(bits) => bits.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<'a> From<&'a Buffer<f32>> for Matrix<'a> {
    fn from(elements: &'a Buffer<f32>) -> Self {
        Self::F32(elements)
    }
}

/// How products of many rows are computed. Sums are f32 in either case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// Factors in f32, no tensor cores.
    #[default]
    F32,
    /// Factors rounded to bfloat16 as they are read, by tensor cores.
    Bf16,
}

/// Products know these two; whoever reads an option or a configuration accepts no other.
impl From<DType> for Precision {
    fn from(dtype: DType) -> Self {
        match dtype {
            DType::Bf16 => Self::Bf16,
            _ => Self::F32,
        }
    }
}
