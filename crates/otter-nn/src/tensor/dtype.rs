//! The element types that a person may ask for.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::QuantizedFormat;

/// An element type by the name that options and configurations use. What a type may be asked for differs: products are
/// computed in f32 or bf16, safetensors hold the plain types, a GGUF file any of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum DType {
    /// 32-bit floats.
    #[serde(rename = "f32")]
    F32,
    /// 16-bit floats of IEEE 754: up to ±65504.
    #[serde(rename = "f16")]
    F16,
    /// 16-bit floats with the range of 32-bit ones.
    #[serde(rename = "bf16")]
    Bf16,
    /// Blocks of 8.5 bits an element.
    #[serde(rename = "q8_0")]
    Q8_0,
    /// Blocks of 4.5 bits an element, one scale for 32.
    #[serde(rename = "q4_0")]
    Q4_0,
    /// Blocks of 4.5 bits an element, scale and minimum for 32.
    #[serde(rename = "q4_k")]
    Q4K,
}

impl DType {
    /// Every type.
    pub const ALL: [Self; 6] = [Self::F32, Self::F16, Self::Bf16, Self::Q8_0, Self::Q4_0, Self::Q4K];

    /// Name in options, configurations and messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::Q8_0 => "q8_0",
            Self::Q4_0 => "q4_0",
            Self::Q4K => "q4_k",
        }
    }

    /// Whether several elements share scales.
    pub const fn is_block(self) -> bool {
        matches!(self, Self::Q8_0 | Self::Q4_0 | Self::Q4K)
    }
}

impl From<QuantizedFormat> for DType {
    fn from(format: QuantizedFormat) -> Self {
        match format {
            QuantizedFormat::Q8_0 => Self::Q8_0,
            QuantizedFormat::Q4K => Self::Q4K,
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// A name that is no element type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownDType(String);

impl fmt::Display for UnknownDType {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = DType::ALL.map(DType::name).join(", ");
        write!(formatter, "`{}` is no element type; expected one of {known}", self.0)
    }
}

impl std::error::Error for UnknownDType {}

impl FromStr for DType {
    type Err = UnknownDType;

    fn from_str(name: &str) -> Result<Self, UnknownDType> {
        Self::ALL.into_iter().find(|dtype| dtype.name() == name).ok_or_else(|| UnknownDType(name.to_owned()))
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for dtype in DType::ALL {
            assert_eq!(dtype.name().parse::<DType>().unwrap(), dtype);
        }
        let error = "int8".parse::<DType>().unwrap_err().to_string();
        assert!(error.contains("`int8`") && error.contains("q4_k"), "{error}");
    }
}
