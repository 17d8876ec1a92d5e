//! How images are shown where there is a choice; several commands take this.

use clap::{Args, ValueEnum};
use otter_data::{AlphaRule, Gray16Rule, ImageRules};

/// What is shown where an image is transparent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AlphaChoice {
    /// The colors stored under the transparency, as the original does.
    Drop,
    /// The image over white.
    White,
    /// The image over black.
    Black,
}

/// What becomes of gray of 16 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Gray16Choice {
    /// The whole range is scaled to 8 bits.
    Scale,
    /// Values above 255 are white, as the original does.
    Clip,
}

impl From<AlphaChoice> for AlphaRule {
    fn from(choice: AlphaChoice) -> Self {
        match choice {
            AlphaChoice::Drop => Self::Drop,
            AlphaChoice::White => Self::White,
            AlphaChoice::Black => Self::Black,
        }
    }
}

impl From<Gray16Choice> for Gray16Rule {
    fn from(choice: Gray16Choice) -> Self {
        match choice {
            Gray16Choice::Scale => Self::Scale,
            Gray16Choice::Clip => Self::Clip,
        }
    }
}

/// Rules of decoding, where they are not to be the usual ones.
#[derive(Clone, Copy, Debug, Args)]
pub struct ImageRuleArguments {
    /// What is shown where an image is transparent (default: as the model was trained, or as `data` says; else drop for a
    /// model that does not tell, white for data).
    #[arg(long, value_enum, value_name = "RULE")]
    pub alpha: Option<AlphaChoice>,
    /// What becomes of gray of 16 bits (default: as the model was trained, or as `data` says; else clip for a model that does
    /// not tell, scale for data).
    #[arg(long, value_enum, value_name = "RULE")]
    pub gray16: Option<Gray16Choice>,
}

impl ImageRuleArguments {
    /// The rules, with those of `base` where none is given.
    pub fn or(self, base: ImageRules) -> ImageRules {
        ImageRules {
            orientation: base.orientation,
            alpha: self.alpha.map_or(base.alpha, Into::into),
            gray16: self.gray16.map_or(base.gray16, Into::into),
        }
    }
}
