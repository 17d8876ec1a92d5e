//! Layer norm and root-mean-square norm.

use crate::kernels::norm;
use crate::{Gradients, Init, ParameterId, ParameterSpecs, Parameters, Real, Tensor};

/// Per row mean and reciprocal deviation, kept for the reverse pass.
#[derive(Clone, Debug)]
pub struct NormStatistics<T>(Vec<[T; 2]>);

/// `(x - mean) / sqrt(variance + eps) * weight + bias` over the last dimension.
#[derive(Clone, Debug)]
pub struct LayerNorm {
    weight: ParameterId,
    bias: Option<ParameterId>,
    eps: f64,
}

impl LayerNorm {
    /// Registers `<name>.weight` (ones) and, if asked for, `<name>.bias` (zeros), both of `width`.
    pub fn new(specs: &mut ParameterSpecs, name: &str, width: usize, bias: bool, eps: f64) -> Self {
        let weight = specs.add(format!("{name}.weight"), &[width], Init::Ones);
        let bias = bias.then(|| specs.add(format!("{name}.bias"), &[width], Init::Zeros));
        Self { weight, bias, eps }
    }

    /// Normalised rows.
    pub fn forward<T: Real>(&self, parameters: &Parameters<T>, x: &Tensor<T>) -> Tensor<T> {
        self.forward_saved(parameters, x).0
    }

    /// Writes normalised rows to `y`.
    pub fn forward_into<T: Real>(&self, parameters: &Parameters<T>, x: &[T], y: &mut [T]) {
        let bias = self.bias.map(|id| parameters.data(id));
        norm::normalise_into(y, x, parameters.data(self.weight), bias, self.eps, true);
    }

    /// Normalised rows and the statistics that [`LayerNorm::backward`] needs.
    pub fn forward_saved<T: Real>(
        &self,
        parameters: &Parameters<T>,
        x: &Tensor<T>,
    ) -> (Tensor<T>, NormStatistics<T>) {
        let bias = self.bias.map(|id| parameters.data(id));
        let (y, statistics) = norm::layer_norm(x.data(), parameters.data(self.weight), bias, self.eps);
        (Tensor::from_vec(y, x.shape(), x.device()), NormStatistics(statistics))
    }

    /// Input gradient; adds the gain and bias gradients.
    pub fn backward<T: Real>(
        &self,
        parameters: &Parameters<T>,
        x: &Tensor<T>,
        saved: &NormStatistics<T>,
        dy: &Tensor<T>,
        gradients: &mut Gradients<T>,
    ) -> Tensor<T> {
        self.backward_parameters(x, saved, dy, gradients);
        let gain = parameters.data(self.weight);
        let dx = norm::norm_backward_input(dy.data(), x.data(), gain, &saved.0, true);
        Tensor::from_vec(dx, x.shape(), x.device())
    }

    /// Adds the gain and bias gradients only.
    pub fn backward_parameters<T: Real>(
        &self,
        x: &Tensor<T>,
        saved: &NormStatistics<T>,
        dy: &Tensor<T>,
        gradients: &mut Gradients<T>,
    ) {
        if let Some(d_gain) = gradients.get_mut(self.weight) {
            norm::norm_backward_gain(d_gain, dy.data(), x.data(), &saved.0);
        }
        if let Some(d_bias) = self.bias.and_then(|id| gradients.get_mut(id)) {
            norm::add_column_sums(d_bias, dy.data());
        }
    }
}

/// `x / sqrt(mean(x^2) + eps) * weight` over the last dimension.
#[derive(Clone, Debug)]
pub struct RmsNorm {
    weight: ParameterId,
    eps: f64,
}

impl RmsNorm {
    /// Registers `<name>.weight` (ones) of `width`.
    pub fn new(specs: &mut ParameterSpecs, name: &str, width: usize, eps: f64) -> Self {
        Self { weight: specs.add(format!("{name}.weight"), &[width], Init::Ones), eps }
    }

    /// Normalised rows.
    pub fn forward<T: Real>(&self, parameters: &Parameters<T>, x: &Tensor<T>) -> Tensor<T> {
        self.forward_saved(parameters, x).0
    }

    /// Writes normalised rows to `y`.
    pub fn forward_into<T: Real>(&self, parameters: &Parameters<T>, x: &[T], y: &mut [T]) {
        norm::normalise_into(y, x, parameters.data(self.weight), None, self.eps, false);
    }

    /// Normalised rows and the statistics that [`RmsNorm::backward`] needs.
    pub fn forward_saved<T: Real>(
        &self,
        parameters: &Parameters<T>,
        x: &Tensor<T>,
    ) -> (Tensor<T>, NormStatistics<T>) {
        let (y, statistics) = norm::rms_norm(x.data(), parameters.data(self.weight), self.eps);
        (Tensor::from_vec(y, x.shape(), x.device()), NormStatistics(statistics))
    }

    /// Input gradient; adds the gain gradient.
    pub fn backward<T: Real>(
        &self,
        parameters: &Parameters<T>,
        x: &Tensor<T>,
        saved: &NormStatistics<T>,
        dy: &Tensor<T>,
        gradients: &mut Gradients<T>,
    ) -> Tensor<T> {
        if let Some(d_gain) = gradients.get_mut(self.weight) {
            norm::norm_backward_gain(d_gain, dy.data(), x.data(), &saved.0);
        }
        let gain = parameters.data(self.weight);
        let dx = norm::norm_backward_input(dy.data(), x.data(), gain, &saved.0, false);
        Tensor::from_vec(dx, x.shape(), x.device())
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
    /// Normalised rows.
    pub fn forward<T: Real>(&self, parameters: &Parameters<T>, x: &Tensor<T>) -> Tensor<T> {
        self.forward_saved(parameters, x).0
    }

    /// Writes normalised rows to `y`.
    pub fn forward_into<T: Real>(&self, parameters: &Parameters<T>, x: &[T], y: &mut [T]) {
        match self {
            Self::Layer(norm) => norm.forward_into(parameters, x, y),
            Self::Rms(norm) => norm.forward_into(parameters, x, y),
        }
    }

    /// Normalised rows and the statistics that [`Norm::backward`] needs.
    pub fn forward_saved<T: Real>(
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
    pub fn backward<T: Real>(
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
    use crate::gradient_check::{check, random_tensor};

    /// Both ways of normalising give the same bits.
    #[test]
    fn rows_may_be_normalised_into_a_slice() {
        let mut specs = ParameterSpecs::default();
        let norms = [
            Norm::Layer(LayerNorm::new(&mut specs, "a", 70, true, 1e-5)),
            Norm::Layer(LayerNorm::new(&mut specs, "b", 70, false, 1e-5)),
            Norm::Rms(RmsNorm::new(&mut specs, "c", 70, 1e-6)),
        ];
        let parameters = Parameters::<f32>::initialise(&specs, 1, crate::Device::Cpu);
        let x = random_tensor("x", &[9, 70]).cast::<f32>();
        for norm in norms {
            let mut y = vec![f32::NAN; x.len()];
            norm.forward_into(&parameters, x.data(), &mut y);
            assert_eq!(y, norm.forward(&parameters, &x).data());
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
