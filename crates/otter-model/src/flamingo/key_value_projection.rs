//! The joint key/value projection of the Perceiver and of gated cross-attention: rows 0..inner of the weight give
//! keys, the rest values.

use otter_nn::backend::WeightShape;
use otter_nn::{Float, Gradients, Init, ParameterId, ParameterSpecs, Parameters, Tensor};

/// Weight (2 * inner, width), no bias.
#[derive(Clone, Debug)]
pub struct KeyValueProjection {
    weight: ParameterId,
    width: usize,
    inner: usize,
}

/// Keys and values of the same rows, (rows, inner) each.
#[derive(Clone)]
pub struct KeysAndValues<T = f32> {
    /// Keys.
    pub k: Tensor<T>,
    /// Values.
    pub v: Tensor<T>,
}

impl KeyValueProjection {
    /// Registers `<name>.weight`.
    pub fn new(specs: &mut ParameterSpecs, name: &str, width: usize, inner: usize) -> Self {
        let weight = specs.add_matrix(format!("{name}.weight"), [2 * inner, width], Init::FanInUniform);
        Self { weight, width, inner }
    }

    /// Keys and values of x (rows, width).
    pub fn forward<T: Float>(&self, parameters: &Parameters<T>, x: &Tensor<T>) -> KeysAndValues<T> {
        let [k, v] = x.backend().linear_halves(x, parameters.matrix(self.weight), self.shape());
        KeysAndValues { k, v }
    }

    fn shape(&self) -> WeightShape {
        WeightShape { outer: 2 * self.inner, inner: self.width }
    }

    /// Adds the weight gradient; returns the gradient of x when asked for.
    pub fn backward<T: Float>(
        &self,
        parameters: &Parameters<T>,
        x: &Tensor<T>,
        (dk, dv): (&Tensor<T>, &Tensor<T>),
        needs_input_grad: bool,
        gradients: &mut Gradients<T>,
    ) -> Option<Tensor<T>> {
        let (weight, d_weight) = (parameters.matrix(self.weight), gradients.tensor_mut(self.weight));
        x.backend().linear_halves_backward([dk, dv], x, weight, d_weight, self.shape(), needs_input_grad)
    }
}
