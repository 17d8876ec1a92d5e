//! The bias-free feed-forward of the Perceiver and of gated cross-attention: `W2 gelu(W1 LN(x))`, exact GELU.
//! Keys `.0` (norm), `.1` and `.3`; index 2 is the activation.

use otter_nn::layers::elementwise::{activate, activate_backward, activated};
use otter_nn::{
    ActivationKind, Float, Gradients, Init, Linear, Norm, NormStatistics, ParameterSpecs, Parameters, Tensor,
};

use crate::workspace::Workspace;

const GELU: ActivationKind = ActivationKind::Gelu;

/// Norm, up-projection, GELU, down-projection.
#[derive(Clone, Debug)]
pub struct FeedForward {
    norm: Norm,
    up_proj: Linear,
    down_proj: Linear,
}

/// Kept for the backward pass.
pub struct Saved<T> {
    statistics: NormStatistics<T>,
    hidden: Tensor<T>,
}

impl FeedForward {
    /// Registers `<name>.0`, `<name>.1`, `<name>.3` for inputs of `width` and an inner width of `mult * width`.
    pub fn new(specs: &mut ParameterSpecs, name: &str, width: usize, mult: usize) -> Self {
        Self {
            norm: Norm::layer(specs, &format!("{name}.0"), width, true, 1e-5),
            up_proj: Linear::new(specs, &format!("{name}.1"), width, mult * width, false, Init::FanInUniform),
            down_proj: Linear::new(
                specs,
                &format!("{name}.3"),
                mult * width,
                width,
                false,
                Init::FanInUniform,
            ),
        }
    }

    /// The branch's output (not added to x).
    pub fn forward_saved<T: Float>(
        &self,
        parameters: &Parameters<T>,
        x: &Tensor<T>,
    ) -> (Tensor<T>, Saved<T>) {
        let (normed, statistics) = self.norm.forward_saved(parameters, x);
        let hidden = self.up_proj.forward(parameters, &normed);
        let y = self.down_proj.forward(parameters, &activated(&hidden, GELU));
        (y, Saved { statistics, hidden })
    }

    /// Writes the branch's output to `y`, keeping nothing.
    pub fn forward_into<T: Float>(
        &self,
        parameters: &Parameters<T>,
        x: &Tensor<T>,
        y: &mut Tensor<T>,
        workspace: &mut Workspace<T>,
    ) {
        let mut normed = workspace.take(x.shape());
        self.norm.forward_into(parameters, x, &mut normed);
        let mut hidden = workspace.take(&[x.rows(), self.up_proj.outer()]);
        self.up_proj.forward_into(parameters, &normed, &mut hidden, false);
        activate(&mut hidden, GELU);
        self.down_proj.forward_into(parameters, &hidden, y, false);
        workspace.give(normed);
        workspace.give(hidden);
    }

    /// Gradient of x through the branch; x is the input given to the forward pass.
    pub fn backward<T: Float>(
        &self,
        parameters: &Parameters<T>,
        x: &Tensor<T>,
        saved: &Saved<T>,
        dy: &Tensor<T>,
        gradients: &mut Gradients<T>,
    ) -> Tensor<T> {
        let mut d_hidden = {
            let active = activated(&saved.hidden, GELU);
            self.down_proj.backward(parameters, &active, dy, gradients)
        };
        activate_backward(&mut d_hidden, &saved.hidden, GELU);
        let normed = self.norm.forward(parameters, x);
        let d_normed = self.up_proj.backward(parameters, &normed, &d_hidden, gradients);
        self.norm.backward(parameters, x, &saved.statistics, &d_normed, gradients)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use otter_nn::testing::gradient_check::{check, random_tensor};

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
