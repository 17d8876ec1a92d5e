//! The tanh gate of gated cross-attention: `residual + branch * tanh(gate)` with one learned number.

use crate::backend::cpu::elementwise;
use crate::{Device, Gradients, Init, ParameterId, ParameterSpecs, Parameters, Real, Tensor};

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
        if let Device::Card(_) = residual.device() {
            let mut sum = residual.clone();
            self.forward_add(parameters, &mut sum, branch);
            return sum;
        }
        let factor = factor(parameters.data(self.gate)[0]);
        let sum = elementwise::sum_scaled(residual.data(), branch.data(), factor);
        Tensor::from_vec(sum, residual.shape(), residual.device())
    }

    /// Adds `branch * tanh(gate)` to `residual`.
    pub fn forward_add<T: Real>(
        &self,
        parameters: &Parameters<T>,
        residual: &mut Tensor<T>,
        branch: &Tensor<T>,
    ) {
        let gate = parameters.tensor(self.gate);
        match residual.device() {
            Device::Cpu => {
                elementwise::add_scaled(residual.data_mut(), branch.data(), factor(gate.data()[0]));
            }
            Device::Card(card) => card.gate_add(residual.on_card_mut(), branch.on_card(), gate.on_card()),
        }
    }

    /// Gradient of `branch`; adds the gate's. The residual's gradient is `dy` itself.
    pub fn backward<T: Real>(
        &self,
        parameters: &Parameters<T>,
        branch: &Tensor<T>,
        dy: &Tensor<T>,
        gradients: &mut Gradients<T>,
    ) -> Tensor<T> {
        if let Device::Card(card) = dy.device() {
            let gate = parameters.tensor(self.gate).on_card();
            let d_gate = gradients.tensor_mut(self.gate).map(Tensor::on_card_mut);
            let d_branch = card.gate_back(branch.on_card(), gate, dy.on_card(), d_gate);
            return Tensor::from_card(d_branch, dy.shape(), card);
        }
        let factor = factor(parameters.data(self.gate)[0]);
        if let Some(d_gate) = gradients.get_mut(self.gate) {
            d_gate[0] += elementwise::dot(dy.data(), branch.data()) * (T::ONE - factor * factor);
        }
        let mut d_branch = dy.clone();
        elementwise::scale(d_branch.data_mut(), factor);
        d_branch
    }
}

/// tanh of the gate; not a number where that is infinite: no training ends there, and a product with 1 would hide it.
fn factor<T: Real>(gate: T) -> T {
    gate.tanh() + gate * T::ZERO
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
