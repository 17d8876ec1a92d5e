//! The tanh gate of gated cross-attention: `residual + branch * tanh(gate)` with one learned number.

use crate::{Float, Gradients, Init, ParameterId, ParameterSpecs, Parameters, Tensor};

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
    pub fn forward<T: Float>(
        &self,
        parameters: &Parameters<T>,
        residual: &Tensor<T>,
        branch: &Tensor<T>,
    ) -> Tensor<T> {
        let mut sum = residual.clone();
        self.forward_add(parameters, &mut sum, branch);
        sum
    }

    /// Adds `branch * tanh(gate)` to `residual`.
    pub fn forward_add<T: Float>(
        &self,
        parameters: &Parameters<T>,
        residual: &mut Tensor<T>,
        branch: &Tensor<T>,
    ) {
        residual.backend().gate_add(residual, branch, parameters.tensor(self.gate));
    }

    /// Gradient of `branch`; adds the gate's. The residual's gradient is `dy` itself.
    pub fn backward<T: Float>(
        &self,
        parameters: &Parameters<T>,
        branch: &Tensor<T>,
        dy: &Tensor<T>,
        gradients: &mut Gradients<T>,
    ) -> Tensor<T> {
        let d_gate = gradients.tensor_mut(self.gate);
        dy.backend().gate_backward(branch, parameters.tensor(self.gate), dy, d_gate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::gradient_check::{check, random_tensor};

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
