//! What the parts of a block are made with, and the rows that they see.

use otter_nn::{AttentionMask, Init, Linear, Norm, ParameterSpecs};

/// Where the rows of a pass stand.
#[derive(Clone, Debug)]
pub struct Rows<'a> {
    /// Sequences.
    pub batch: usize,
    /// Position of every row (batch * length), for models with rotary or learned positions.
    pub positions: &'a [u32],
    /// Which keys each row may see.
    pub mask: &'a AttentionMask,
}

/// A kind of norm with its epsilon.
#[derive(Clone, Copy, Debug)]
pub enum NormSpec {
    /// Mean and deviation.
    Layer {
        /// Added to the variance.
        eps: f64,
        /// Whether there is a bias beside the weight.
        bias: bool,
    },
    /// Root mean square.
    Rms {
        /// Added to the mean square.
        eps: f64,
    },
}

impl NormSpec {
    /// Registers a norm of rows of `width` under `name`.
    pub fn build(self, specs: &mut ParameterSpecs, name: &str, width: usize) -> Norm {
        match self {
            Self::Layer { eps, bias } => Norm::layer(specs, name, width, bias, eps),
            Self::Rms { eps } => Norm::rms(specs, name, width, eps),
        }
    }
}

/// Registers the parts of one block. Parameters are listed in the order of the calls.
pub struct BlockParts<'a> {
    /// Receives the parameters.
    pub specs: &'a mut ParameterSpecs,
    /// Name of the block; its parts stand under `<name>.`.
    pub name: &'a str,
    /// Width of the residual stream.
    pub width: usize,
}

impl BlockParts<'_> {
    /// A norm of rows of the residual stream.
    pub fn norm(&mut self, part: &str, spec: NormSpec) -> Norm {
        self.norm_of(part, spec, self.width)
    }

    /// A norm of rows of another width.
    pub fn norm_of(&mut self, part: &str, spec: NormSpec, width: usize) -> Norm {
        spec.build(self.specs, &format!("{}.{part}", self.name), width)
    }

    pub(crate) fn linear(&mut self, part: &str, from: usize, to: usize, bias: bool, init: Init) -> Linear {
        Linear::new(self.specs, &format!("{}.{part}", self.name), from, to, bias, init)
    }
}
