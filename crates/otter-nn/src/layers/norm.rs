//! Layer norm and root-mean-square norm.

use crate::backend::NormRule;
use crate::{Float, Gradients, Init, ParameterId, ParameterSpecs, Parameters, Tensor};

/// Per row mean and reciprocal deviation, (rows, 2), kept for the backward pass. Boxed, because what a layer saves has several.
#[derive(Clone)]
pub struct NormStatistics<T>(Box<Tensor<T>>);

/// What both norms do, with the weight and, of one, the bias.
#[derive(Clone, Debug)]
struct Rows {
    weight: ParameterId,
    bias: Option<ParameterId>,
    rule: NormRule,
}

impl Rows {
    fn forward_into<T: Float>(&self, parameters: &Parameters<T>, x: &Tensor<T>, y: &mut Tensor<T>) {
        let bias = self.bias.map(|id| parameters.tensor(id));
        x.backend().norm_into(y, x, parameters.tensor(self.weight), bias, self.rule);
    }

    fn forward_saved<T: Float>(
        &self,
        parameters: &Parameters<T>,
        x: &Tensor<T>,
    ) -> (Tensor<T>, NormStatistics<T>) {
        let bias = self.bias.map(|id| parameters.tensor(id));
        let [y, statistics] = x.backend().norm(x, parameters.tensor(self.weight), bias, self.rule);
        (y, NormStatistics(Box::new(statistics)))
    }

    fn backward<T: Float>(
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

    fn backward_parameters<T: Float>(
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

/// `(x - mean) / sqrt(variance + eps) * weight + bias` over the last dimension.
#[derive(Clone, Debug)]
pub struct LayerNorm(Rows);

impl LayerNorm {
    /// Registers `<name>.weight` (ones) and, if asked for, `<name>.bias` (zeros), both of `width`.
    pub fn new(specs: &mut ParameterSpecs, name: &str, width: usize, bias: bool, eps: f64) -> Self {
        let weight = specs.add(format!("{name}.weight"), &[width], Init::Ones);
        let bias = bias.then(|| specs.add(format!("{name}.bias"), &[width], Init::Zeros));
        Self(Rows { weight, bias, rule: NormRule { eps, centered: true } })
    }

    /// Normalized rows.
    pub fn forward<T: Float>(&self, parameters: &Parameters<T>, x: &Tensor<T>) -> Tensor<T> {
        self.0.forward_saved(parameters, x).0
    }

    /// Writes normalized rows to `y`.
    pub fn forward_into<T: Float>(&self, parameters: &Parameters<T>, x: &Tensor<T>, y: &mut Tensor<T>) {
        self.0.forward_into(parameters, x, y);
    }

    /// Normalized rows and the statistics that [`LayerNorm::backward`] needs.
    pub fn forward_saved<T: Float>(
        &self,
        parameters: &Parameters<T>,
        x: &Tensor<T>,
    ) -> (Tensor<T>, NormStatistics<T>) {
        self.0.forward_saved(parameters, x)
    }

    /// Input gradient; adds the weight and bias gradients.
    pub fn backward<T: Float>(
        &self,
        parameters: &Parameters<T>,
        x: &Tensor<T>,
        saved: &NormStatistics<T>,
        dy: &Tensor<T>,
        gradients: &mut Gradients<T>,
    ) -> Tensor<T> {
        self.0.backward(parameters, x, saved, dy, gradients)
    }

    /// Adds the weight and bias gradients only.
    pub fn backward_parameters<T: Float>(
        &self,
        x: &Tensor<T>,
        saved: &NormStatistics<T>,
        dy: &Tensor<T>,
        gradients: &mut Gradients<T>,
    ) {
        self.0.backward_parameters(x, saved, dy, gradients);
    }
}

/// `x / sqrt(mean(x^2) + eps) * weight` over the last dimension.
#[derive(Clone, Debug)]
pub struct RmsNorm(Rows);

impl RmsNorm {
    /// Registers `<name>.weight` (ones) of `width`.
    pub fn new(specs: &mut ParameterSpecs, name: &str, width: usize, eps: f64) -> Self {
        let weight = specs.add(format!("{name}.weight"), &[width], Init::Ones);
        Self(Rows { weight, bias: None, rule: NormRule { eps, centered: false } })
    }

    /// Normalized rows.
    pub fn forward<T: Float>(&self, parameters: &Parameters<T>, x: &Tensor<T>) -> Tensor<T> {
        self.0.forward_saved(parameters, x).0
    }

    /// Writes normalized rows to `y`.
    pub fn forward_into<T: Float>(&self, parameters: &Parameters<T>, x: &Tensor<T>, y: &mut Tensor<T>) {
        self.0.forward_into(parameters, x, y);
    }

    /// Normalized rows and the statistics that [`RmsNorm::backward`] needs.
    pub fn forward_saved<T: Float>(
        &self,
        parameters: &Parameters<T>,
        x: &Tensor<T>,
    ) -> (Tensor<T>, NormStatistics<T>) {
        self.0.forward_saved(parameters, x)
    }

    /// Input gradient; adds the weight gradient.
    pub fn backward<T: Float>(
        &self,
        parameters: &Parameters<T>,
        x: &Tensor<T>,
        saved: &NormStatistics<T>,
        dy: &Tensor<T>,
        gradients: &mut Gradients<T>,
    ) -> Tensor<T> {
        self.0.backward(parameters, x, saved, dy, gradients)
    }
}

/// The norm of a language model whose configuration chooses the kind.
#[derive(Clone, Debug)]
pub enum Norm {
    /// Mean and deviation.
    Layer(LayerNorm),
    /// Root mean square.
    Rms(RmsNorm),
}

impl Norm {
    /// Normalized rows.
    pub fn forward<T: Float>(&self, parameters: &Parameters<T>, x: &Tensor<T>) -> Tensor<T> {
        self.forward_saved(parameters, x).0
    }

    /// Writes normalized rows to `y`.
    pub fn forward_into<T: Float>(&self, parameters: &Parameters<T>, x: &Tensor<T>, y: &mut Tensor<T>) {
        match self {
            Self::Layer(norm) => norm.forward_into(parameters, x, y),
            Self::Rms(norm) => norm.forward_into(parameters, x, y),
        }
    }

    /// Normalized rows and the statistics that [`Norm::backward`] needs.
    pub fn forward_saved<T: Float>(
        &self,
        parameters: &Parameters<T>,
        x: &Tensor<T>,
    ) -> (Tensor<T>, NormStatistics<T>) {
        match self {
            Self::Layer(norm) => norm.forward_saved(parameters, x),
            Self::Rms(norm) => norm.forward_saved(parameters, x),
        }
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
        match self {
            Self::Layer(norm) => norm.backward(parameters, x, saved, dy, gradients),
            Self::Rms(norm) => norm.backward(parameters, x, saved, dy, gradients),
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
            Norm::Layer(LayerNorm::new(&mut specs, "a", 70, true, 1e-5)),
            Norm::Layer(LayerNorm::new(&mut specs, "b", 70, false, 1e-5)),
            Norm::Rms(RmsNorm::new(&mut specs, "c", 70, 1e-6)),
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
            let layer = LayerNorm::new(&mut specs, "n", 19, bias, 1e-5);
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
        let layer = RmsNorm::new(&mut specs, "n", 19, 1e-6);
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
