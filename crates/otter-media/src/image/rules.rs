//! How the pixels of a file become the 8-bit RGB that a vision tower sees, where there is a choice.

use serde::{Deserialize, Serialize};

/// What to do with the orientation stored in EXIF.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Orientation {
    /// Turn the image upright.
    Apply,
    /// Keep the stored rows, as the original does.
    Ignore,
}

/// What is shown where an image is transparent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AlphaRule {
    /// The colors stored under the transparency, whatever they are, as the original does.
    Drop,
    /// The image over white.
    White,
    /// The image over black.
    Black,
}

impl AlphaRule {
    /// The name in configurations.
    pub fn name(self) -> &'static str {
        match self {
            Self::Drop => "drop",
            Self::White => "white",
            Self::Black => "black",
        }
    }
}

/// What becomes of gray of 16 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Gray16Rule {
    /// The whole range is scaled to 8 bits.
    Scale,
    /// Values above 255 are white, as the original does.
    Clip,
}

impl Gray16Rule {
    /// The name in configurations.
    pub fn name(self) -> &'static str {
        match self {
            Self::Scale => "scale",
            Self::Clip => "clip",
        }
    }
}

/// All choices of decoding. The default shows what a person sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRules {
    /// See [`Orientation`].
    pub orientation: Orientation,
    /// See [`AlphaRule`].
    pub alpha: AlphaRule,
    /// See [`Gray16Rule`].
    pub gray16: Gray16Rule,
}

impl ImageRules {
    /// What the original does, and what its checkpoints were trained with.
    pub const REFERENCE: Self =
        Self { orientation: Orientation::Ignore, alpha: AlphaRule::Drop, gray16: Gray16Rule::Clip };
}

impl Default for ImageRules {
    fn default() -> Self {
        Self { orientation: Orientation::Apply, alpha: AlphaRule::White, gray16: Gray16Rule::Scale }
    }
}
