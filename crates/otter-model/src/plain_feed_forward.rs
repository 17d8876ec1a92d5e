//! The feed-forward of a decoder layer without a gate: `W2 act(W1 x)`, from normalised rows to what joins the residual
//! stream.

use otter_nn::kernels::elementwise::{Gelu, GeluTanh, Relu, activate, activate_backward, activate_in_place};
use otter_nn::{Gradients, Init, Linear, ParameterSpecs, Parameters, Real, Tensor};

use crate::config::HiddenActivation;
use crate::decoder::{add_backward, input_gradient};
use crate::scratch::Scratch;

/// Widening, activation, narrowing.
#[derive(Clone, Debug)]
pub(crate) struct PlainFeedForward {
    up: Linear,
    down: Linear,
    activation: HiddenActivation,
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
        self.down.forward_add(parameters, &self.activated(&widened), residual);
        widened
    }

    /// Adds the output to `residual`, keeping nothing.
    pub(crate) fn forward_rows<T: Real>(
        &self,
        parameters: &Parameters<T>,
        normed: &[T],
        rows: usize,
        residual: &mut [T],
        scratch: &mut Scratch<T>,
    ) {
        let mut widened = scratch.take(rows * self.up.outer());
        self.up.forward_into(parameters, normed, &mut widened, false);
        match self.activation {
            HiddenActivation::Gelu => activate_in_place::<Gelu, T>(&mut widened),
            HiddenActivation::GeluTanh => activate_in_place::<GeluTanh, T>(&mut widened),
            HiddenActivation::Relu => activate_in_place::<Relu, T>(&mut widened),
        }
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
            self.down.backward(parameters, &self.activated(widened), dy, gradients)
        } else {
            input_gradient(&self.down, parameters, dy, widened.shape(), gradients)
        };
        match self.activation {
            HiddenActivation::Gelu => activate_backward::<Gelu, T>(d.data_mut(), widened.data()),
            HiddenActivation::GeluTanh => activate_backward::<GeluTanh, T>(d.data_mut(), widened.data()),
            HiddenActivation::Relu => activate_backward::<Relu, T>(d.data_mut(), widened.data()),
        }
        add_backward(&self.up, parameters, normed, &d, d_normed, gradients);
    }

    fn activated<T: Real>(&self, widened: &Tensor<T>) -> Tensor<T> {
        let data = match self.activation {
            HiddenActivation::Gelu => activate::<Gelu, T>(widened.data()),
            HiddenActivation::GeluTanh => activate::<GeluTanh, T>(widened.data()),
            HiddenActivation::Relu => activate::<Relu, T>(widened.data()),
        };
        Tensor::from_vec(data, widened.shape(), widened.device())
    }
}
