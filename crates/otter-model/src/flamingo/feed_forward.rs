//! The bias-free feed-forward of the Perceiver and of gated cross-attention: `W2 gelu(W1 LN(x))`, exact GELU.
//! Keys `.0` (norm), `.1` and `.3`; index 2 is the activation.

use otter_nn::layers::elementwise::{activate, activate_backward, activated};
use otter_nn::{
    ActivationKind, Gradients, Init, LayerNorm, Linear, NormStatistics, ParameterSpecs, Parameters, Real,
    Tensor,
};

use crate::workspace::Scratch;

const GELU: ActivationKind = ActivationKind::Gelu;

/// Norm, widening, GELU, narrowing.
#[derive(Clone, Debug)]
pub struct FeedForward {
    norm: LayerNorm,
    widen: Linear,
    narrow: Linear,
}

/// Kept for the reverse pass.
pub struct Saved<T> {
    statistics: NormStatistics<T>,
    widened: Tensor<T>,
}

impl FeedForward {
    /// Registers `<name>.0`, `<name>.1`, `<name>.3` for inputs of `width` and an inner width of `mult * width`.
    pub fn new(specs: &mut ParameterSpecs, name: &str, width: usize, mult: usize) -> Self {
        Self {
            norm: LayerNorm::new(specs, &format!("{name}.0"), width, true, 1e-5),
            widen: Linear::new(specs, &format!("{name}.1"), width, mult * width, false, Init::FanInUniform),
            narrow: Linear::new(specs, &format!("{name}.3"), mult * width, width, false, Init::FanInUniform),
        }
    }

    /// The branch's output (not added to x).
    pub fn forward_saved<T: Real>(&self, parameters: &Parameters<T>, x: &Tensor<T>) -> (Tensor<T>, Saved<T>) {
        let (normed, statistics) = self.norm.forward_saved(parameters, x);
        let widened = self.widen.forward(parameters, &normed);
        let y = self.narrow.forward(parameters, &activated(&widened, GELU));
        (y, Saved { statistics, widened })
    }

    /// Writes the branch's output to `y`, keeping nothing.
    pub fn forward_into<T: Real>(
        &self,
        parameters: &Parameters<T>,
        x: &Tensor<T>,
        y: &mut Tensor<T>,
        scratch: &mut Scratch<T>,
    ) {
        let mut normed = scratch.take(x.shape());
        self.norm.forward_into(parameters, x, &mut normed);
        let mut widened = scratch.take(&[x.rows(), self.widen.outer()]);
        self.widen.forward_into(parameters, &normed, &mut widened, false);
        activate(&mut widened, GELU);
        self.narrow.forward_into(parameters, &widened, y, false);
        scratch.give(normed);
        scratch.give(widened);
    }

    /// Gradient of x through the branch; x is the input given to the forward pass.
    pub fn backward<T: Real>(
        &self,
        parameters: &Parameters<T>,
        x: &Tensor<T>,
        saved: &Saved<T>,
        dy: &Tensor<T>,
        gradients: &mut Gradients<T>,
    ) -> Tensor<T> {
        let mut d_widened = {
            let active = activated(&saved.widened, GELU);
            self.narrow.backward(parameters, &active, dy, gradients)
        };
        activate_backward(&mut d_widened, &saved.widened, GELU);
        let normed = self.norm.forward(parameters, x);
        let d_normed = self.widen.backward(parameters, &normed, &d_widened, gradients);
        self.norm.backward(parameters, x, &saved.statistics, &d_normed, gradients)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use otter_nn::gradient_check::{check, random_tensor};

    #[test]
    fn gradients_match_finite_differences() {
        let mut specs = ParameterSpecs::default();
        let layer = FeedForward::new(&mut specs, "ff", 6, 4);
        check(
            &specs,
            &[random_tensor("x", &[5, 6])],
            |p, x| layer.forward_saved(p, &x[0]).0,
            |p, x, dy, g| {
                let (_, saved) = layer.forward_saved(p, &x[0]);
                vec![layer.backward(p, &x[0], &saved, dy, g)]
            },
        );
    }
}
