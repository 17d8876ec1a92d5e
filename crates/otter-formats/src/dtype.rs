//! The element types that files store.

use otter_nn::{DType, QuantizedFormat};
use std::fmt;

/// Element type in a file: a plain type, or one of GGML's blocks, where 32 or 256 consecutive elements of a row share
/// scales and one alone has no bytes of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StoredDType {
    /// 32-bit float.
    F32,
    /// 16-bit float of IEEE 754.
    F16,
    /// 16-bit float with the exponent range of 32-bit.
    Bf16,
    /// 64-bit float.
    F64,
    /// 64-bit integer.
    I64,
    /// 32-bit integer.
    I32,
    /// 16-bit integer.
    I16,
    /// 8-bit integer.
    I8,
    /// Unsigned byte.
    U8,
    /// One byte, 0 or 1.
    Bool,
    /// 4 bits, one scale for 32 elements.
    Q4_0,
    /// 4 bits, scale and minimum for 32 elements.
    Q4_1,
    /// 5 bits, one scale for 32 elements.
    Q5_0,
    /// 5 bits, scale and minimum for 32 elements.
    Q5_1,
    /// 8 bits, one scale for 32 elements.
    Q8_0,
    /// 2 bits, 4-bit scales and minima for each 16 of 256 elements.
    Q2K,
    /// 3 bits, 6-bit scales for each 16 of 256 elements.
    Q3K,
    /// 4 bits, 6-bit scales and minima for each 32 of 256 elements.
    Q4K,
    /// 5 bits, 6-bit scales and minima for each 32 of 256 elements.
    Q5K,
    /// 6 bits, 8-bit scales for each 16 of 256 elements.
    Q6K,
}

/// Elements of the largest block.
pub(crate) const LARGEST_BLOCK: usize = 256;

impl StoredDType {
    /// Every type.
    pub const ALL: [Self; 20] = [
        Self::F32,
        Self::F16,
        Self::Bf16,
        Self::F64,
        Self::I64,
        Self::I32,
        Self::I16,
        Self::I8,
        Self::U8,
        Self::Bool,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q2K,
        Self::Q3K,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
    ];

    /// Elements and bytes of the shortest run that has bytes of its own: one element, or a block.
    pub fn block(self) -> (usize, usize) {
        match self {
            Self::F64 | Self::I64 => (1, 8),
            Self::F32 | Self::I32 => (1, 4),
            Self::F16 | Self::Bf16 | Self::I16 => (1, 2),
            Self::I8 | Self::U8 | Self::Bool => (1, 1),
            Self::Q4_0 => (32, 18),
            Self::Q4_1 => (32, 20),
            Self::Q5_0 => (32, 22),
            Self::Q5_1 => (32, 24),
            Self::Q8_0 => (32, 34),
            Self::Q2K => (256, 84),
            Self::Q3K => (256, 110),
            Self::Q4K => (256, 144),
            Self::Q5K => (256, 176),
            Self::Q6K => (256, 210),
        }
    }

    /// Whether several elements share scales.
    pub fn is_block(self) -> bool {
        self.block().0 > 1
    }

    /// Whether elements become 32-bit floats: floats of any width, and blocks.
    pub fn is_float(self) -> bool {
        matches!(self, Self::F32 | Self::F64 | Self::F16 | Self::Bf16) || self.is_block()
    }

    /// Bytes of one element. Those of a block have none; 4 is what one takes once dequantized. See
    /// [`StoredDType::bytes_of`].
    pub fn size(self) -> usize {
        if self.is_block() { size_of::<f32>() } else { self.block().1 }
    }

    /// Bytes of so many elements in a file; `None` when they are no whole blocks or the number overflows.
    pub fn bytes_of(self, elements: usize) -> Option<usize> {
        let (length, bytes) = self.block();
        elements.is_multiple_of(length).then(|| (elements / length).checked_mul(bytes)).flatten()
    }

    /// The name safetensors uses, or GGML's name of a block format.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::Bf16 => "BF16",
            Self::F64 => "F64",
            Self::I64 => "I64",
            Self::I32 => "I32",
            Self::I16 => "I16",
            Self::I8 => "I8",
            Self::U8 => "U8",
            Self::Bool => "BOOL",
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
            Self::Q5_0 => "Q5_0",
            Self::Q5_1 => "Q5_1",
            Self::Q8_0 => "Q8_0",
            Self::Q2K => "Q2_K",
            Self::Q3K => "Q3_K",
            Self::Q4K => "Q4_K",
            Self::Q5K => "Q5_K",
            Self::Q6K => "Q6_K",
        }
    }

    /// The plain type with this safetensors name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|dtype| dtype.name() == name && !dtype.is_block())
    }

    /// The format of kernels that multiply with these blocks as they are.
    pub fn quantized(self) -> Option<QuantizedFormat> {
        match self {
            Self::Q8_0 => Some(QuantizedFormat::Q8_0),
            Self::Q4K => Some(QuantizedFormat::Q4K),
            _ => None,
        }
    }
}

impl From<DType> for StoredDType {
    fn from(dtype: DType) -> Self {
        match dtype {
            DType::F32 => Self::F32,
            DType::F16 => Self::F16,
            DType::Bf16 => Self::Bf16,
            DType::Q8_0 => Self::Q8_0,
            DType::Q4_0 => Self::Q4_0,
            DType::Q4K => Self::Q4K,
        }
    }
}

impl fmt::Display for StoredDType {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}
