//! Layer norm and root-mean-square norm.

use crate::backend::NormRule;
use crate::{Float, Gradients, Init, ParameterId, ParameterSpecs, Parameters, Tensor};

/// Per row mean and reciprocal deviation, (rows, 2), kept for the backward pass. Boxed, because what a layer saves has several.
#[derive(Clone)]
pub struct NormStatistics<T>(Box<Tensor<T>>);

/// A norm over the last dimension.
#[derive(Clone, Debug)]
pub struct Norm {
    weight: ParameterId,
    bias: Option<ParameterId>,
    rule: NormRule,
}

impl Norm {
    /// `(x - mean) / sqrt(variance + eps) * weight + bias`. Registers `<name>.weight` (ones) and, if asked for, `<name>.bias`
    /// (zeros), both of `width`.
    pub fn layer(specs: &mut ParameterSpecs, name: &str, width: usize, bias: bool, eps: f64) -> Self {
        let weight = specs.add(format!("{name}.weight"), &[width], Init::Ones);
        let bias = bias.then(|| specs.add(format!("{name}.bias"), &[width], Init::Zeros));
        Self { weight, bias, rule: NormRule { eps, centered: true } }
    }

    /// `x / sqrt(mean(x^2) + eps) * weight`. Registers `<name>.weight` (ones) of `width`.
    pub fn rms(specs: &mut ParameterSpecs, name: &str, width: usize, eps: f64) -> Self {
        let weight = specs.add(format!("{name}.weight"), &[width], Init::Ones);
        Self { weight, bias: None, rule: NormRule { eps, centered: false } }
    }

    /// Normalized rows.
    pub fn forward<T: Float>(&self, parameters: &Parameters<T>, x: &Tensor<T>) -> Tensor<T> {
        self.forward_saved(parameters, x).0
    }

    /// Writes normalized rows to `y`.
    pub fn forward_into<T: Float>(&self, parameters: &Parameters<T>, x: &Tensor<T>, y: &mut Tensor<T>) {
        let bias = self.bias.map(|id| parameters.tensor(id));
        x.backend().norm_into(y, x, parameters.tensor(self.weight), bias, self.rule);
    }

    /// Normalized rows and the statistics that [`Norm::backward`] needs.
    pub fn forward_saved<T: Float>(
        &self,
        parameters: &Parameters<T>,
        x: &Tensor<T>,
    ) -> (Tensor<T>, NormStatistics<T>) {
        let bias = self.bias.map(|id| parameters.tensor(id));
        let [y, statistics] = x.backend().norm(x, parameters.tensor(self.weight), bias, self.rule);
        (y, NormStatistics(Box::new(statistics)))
    }

    /// Input gradient; adds the parameter gradients.
    pub fn backward<T: Float>(
        &self,
        parameters: &Parameters<T>,
        x: &Tensor<T>,
        saved: &NormStatistics<T>,
        dy: &Tensor<T>,
        gradients: &mut Gradients<T>,
    ) -> Tensor<T> {
        self.backward_parameters(x, saved, dy, gradients);
        x.backend().norm_backward(dy, x, parameters.tensor(self.weight), &saved.0, self.rule)
    }

    /// Adds the parameter gradients only.
    pub fn backward_parameters<T: Float>(
        &self,
        x: &Tensor<T>,
        saved: &NormStatistics<T>,
        dy: &Tensor<T>,
        gradients: &mut Gradients<T>,
    ) {
        if let Some(d_weight) = gradients.tensor_mut(self.weight) {
            x.backend().norm_backward_weight(d_weight, dy, x, &saved.0);
        }
        if let Some(d_bias) = self.bias.and_then(|id| gradients.tensor_mut(id)) {
            dy.backend().add_column_sums(d_bias, dy);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Device;
    use crate::testing::gradient_check::{check, random_tensor};

    /// Both ways of normalizing give the same bits.
    #[test]
    fn rows_may_be_normalized_into_rows_that_are_there() {
        let mut specs = ParameterSpecs::default();
        let norms = [
            Norm::layer(&mut specs, "a", 70, true, 1e-5),
            Norm::layer(&mut specs, "b", 70, false, 1e-5),
            Norm::rms(&mut specs, "c", 70, 1e-6),
        ];
        let parameters = Parameters::<f32>::initialize(&specs, 1, Device::Cpu);
        let x = random_tensor("x", &[9, 70]).cast::<f32>();
        for norm in norms {
            let mut y = Tensor::from_vec(vec![f32::NAN; x.len()], x.shape(), Device::Cpu);
            norm.forward_into(&parameters, &x, &mut y);
            assert_eq!(y.data(), norm.forward(&parameters, &x).data());
        }
    }

    #[test]
    fn layer_norm_gradients_match_finite_differences() {
        for bias in [true, false] {
            let mut specs = ParameterSpecs::default();
            let layer = Norm::layer(&mut specs, "n", 19, bias, 1e-5);
            check(
                &specs,
                &[random_tensor("x", &[5, 19])],
                |p, inputs| layer.forward(p, &inputs[0]),
                |p, inputs, dy, g| {
                    let (_, saved) = layer.forward_saved(p, &inputs[0]);
                    vec![layer.backward(p, &inputs[0], &saved, dy, g)]
                },
            );
        }
    }

    #[test]
    fn rms_norm_gradients_match_finite_differences() {
        let mut specs = ParameterSpecs::default();
        let layer = Norm::rms(&mut specs, "n", 19, 1e-6);
        check(
            &specs,
            &[random_tensor("x", &[70, 19])],
            |p, inputs| layer.forward(p, &inputs[0]),
            |p, inputs, dy, g| {
                let (_, saved) = layer.forward_saved(p, &inputs[0]);
                vec![layer.backward(p, &inputs[0], &saved, dy, g)]
            },
        );
    }
}
