//! The tanh gate of gated cross-attention: `residual + branch * tanh(gate)` with one learned number.

use crate::kernels::elementwise;
use crate::{Gradients, Init, ParameterId, ParameterSpecs, Parameters, Real, Tensor};

/// A learned gate of shape (1,), starting at 0 so that a fresh branch changes nothing.
#[derive(Clone, Debug)]
pub struct TanhGate {
    gate: ParameterId,
}

impl TanhGate {
    /// Registers `name` with shape (1,).
    pub fn new(specs: &mut ParameterSpecs, name: &str) -> Self {
        Self { gate: specs.add(name, &[1], Init::Zeros) }
    }

    /// `residual + branch * tanh(gate)`.
    pub fn forward<T: Real>(
        &self,
        parameters: &Parameters<T>,
        residual: &Tensor<T>,
        branch: &Tensor<T>,
    ) -> Tensor<T> {
        let factor = parameters.data(self.gate)[0].tanh();
        let sum = elementwise::sum_scaled(residual.data(), branch.data(), factor);
        Tensor::from_vec(sum, residual.shape(), residual.device())
    }

    /// Adds `branch * tanh(gate)` to `residual`.
    pub fn forward_add<T: Real>(&self, parameters: &Parameters<T>, residual: &mut [T], branch: &[T]) {
        elementwise::add_scaled(residual, branch, parameters.data(self.gate)[0].tanh());
    }

    /// Gradient of `branch`; adds the gate's. The residual's gradient is `dy` itself.
    pub fn backward<T: Real>(
        &self,
        parameters: &Parameters<T>,
        branch: &Tensor<T>,
        dy: &Tensor<T>,
        gradients: &mut Gradients<T>,
    ) -> Tensor<T> {
        let factor = parameters.data(self.gate)[0].tanh();
        if let Some(d_gate) = gradients.get_mut(self.gate) {
            d_gate[0] += elementwise::dot(dy.data(), branch.data()) * (T::ONE - factor * factor);
        }
        let mut d_branch = dy.clone();
        elementwise::scale(d_branch.data_mut(), factor);
        d_branch
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gradient_check::{check, random_tensor};

    #[test]
    fn gradients_match_finite_differences() {
        let mut specs = ParameterSpecs::default();
        let gate = TanhGate::new(&mut specs, "g");
        check(
            &specs,
            &[random_tensor("residual", &[3, 4]), random_tensor("branch", &[3, 4])],
            |p, inputs| gate.forward(p, &inputs[0], &inputs[1]),
            |p, inputs, dy, g| vec![dy.clone(), gate.backward(p, &inputs[1], dy, g)],
        );
    }
}
