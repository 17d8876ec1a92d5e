//! The feed-forward of a decoder layer without a gate: `W2 act(W1 x)`, from normalised rows to what joins the residual
//! stream.

use otter_nn::layers::elementwise::{activate, activate_backward, activated};
use otter_nn::{ActivationKind, Gradients, Init, Linear, ParameterSpecs, Parameters, Real, Tensor};

use crate::config::HiddenActivation;
use crate::text::decoder::{add_backward, input_gradient};
use crate::workspace::Scratch;

/// Widening, activation, narrowing.
#[derive(Clone, Debug)]
pub(crate) struct PlainFeedForward {
    up: Linear,
    down: Linear,
    activation: ActivationKind,
}

impl PlainFeedForward {
    /// Registers `<name>.<up>` and `<name>.<down>` for rows of `width` and an inner width of `inner`.
    pub(crate) fn new(
        specs: &mut ParameterSpecs,
        (up, down): (&str, &str),
        (width, inner): (usize, usize),
        bias: bool,
        activation: HiddenActivation,
    ) -> Self {
        let up = Linear::new(specs, up, width, inner, bias, Init::Normal(0.02));
        let down = Linear::new(specs, down, inner, width, bias, Init::Normal(0.02));
        let activation = match activation {
            HiddenActivation::Gelu => ActivationKind::Gelu,
            HiddenActivation::GeluTanh => ActivationKind::GeluTanh,
            HiddenActivation::Relu => ActivationKind::Relu,
        };
        Self { up, down, activation }
    }

    /// Adds the output to `residual`; returns the widened rows before the activation, for the reverse pass.
    pub(crate) fn forward_saved<T: Real>(
        &self,
        parameters: &Parameters<T>,
        normed: &Tensor<T>,
        residual: &mut Tensor<T>,
    ) -> Tensor<T> {
        let widened = self.up.forward(parameters, normed);
        self.down.forward_add(parameters, &activated(&widened, self.activation), residual);
        widened
    }

    /// Adds the output to `residual`, keeping nothing.
    pub(crate) fn forward_rows<T: Real>(
        &self,
        parameters: &Parameters<T>,
        normed: &Tensor<T>,
        residual: &mut Tensor<T>,
        scratch: &mut Scratch<T>,
    ) {
        let mut widened = scratch.take(&[normed.rows(), self.up.outer()]);
        self.up.forward_into(parameters, normed, &mut widened, false);
        activate(&mut widened, self.activation);
        self.down.forward_into(parameters, &widened, residual, true);
        scratch.give(widened);
    }

    /// Whether the reverse pass needs the normalised rows again.
    pub(crate) fn wants_input<T: Real>(&self, gradients: &Gradients<T>) -> bool {
        gradients.wants(self.up.weight())
    }

    /// Adds the gradient of the normalised rows to `d_normed`. `normed` is there when
    /// [`PlainFeedForward::wants_input`] says so.
    pub(crate) fn backward<T: Real>(
        &self,
        parameters: &Parameters<T>,
        widened: &Tensor<T>,
        normed: Option<&Tensor<T>>,
        dy: &Tensor<T>,
        d_normed: &mut Tensor<T>,
        gradients: &mut Gradients<T>,
    ) {
        let mut d = if gradients.wants(self.down.weight()) {
            self.down.backward(parameters, &activated(widened, self.activation), dy, gradients)
        } else {
            input_gradient(&self.down, parameters, dy, widened.shape(), gradients)
        };
        activate_backward(&mut d, widened, self.activation);
        add_backward(&self.up, parameters, normed, &d, d_normed, gradients);
    }
}
