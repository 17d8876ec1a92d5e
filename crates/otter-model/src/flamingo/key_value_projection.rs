//! The joint key/value projection of the Perceiver and of gated cross-attention: rows 0..inner of the weight give
//! keys, the rest values (`spec/model.md` 3.4, 4.4).

use otter_nn::kernels::matmul;
use otter_nn::layers::rows;
use otter_nn::{
    Device, Gradients, Init, Linear, ParameterId, ParameterSpecs, Parameters, Real, Tensor, WeightView,
};

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
    pub fn forward<T: Real>(&self, parameters: &Parameters<T>, x: &Tensor<T>) -> KeysAndValues<T> {
        if let Device::Card(_) = x.device() {
            let both = self.whole().forward(parameters, x);
            let (k, v) = (rows::columns(&both, 0, self.inner), rows::columns(&both, self.inner, self.inner));
            return KeysAndValues { k, v };
        }
        let (to_k, to_v) = parameters.weight(self.weight).split_at(self.inner * self.width);
        let half = |weight: WeightView<'_, T>| {
            let mut y = Tensor::zeros(&[x.rows(), self.inner], x.device());
            matmul::times_transposed(y.data_mut(), x.data(), weight, self.width, self.inner, false);
            y
        };
        KeysAndValues { k: half(to_k), v: half(to_v) }
    }

    /// Keys and values side by side in a row.
    fn whole(&self) -> Linear {
        Linear::over(self.weight, self.width, 2 * self.inner)
    }

    /// Adds the weight gradient; returns the gradient of x when asked for.
    pub fn backward<T: Real>(
        &self,
        parameters: &Parameters<T>,
        x: &Tensor<T>,
        (dk, dv): (&Tensor<T>, &Tensor<T>),
        wants_input: bool,
        gradients: &mut Gradients<T>,
    ) -> Option<Tensor<T>> {
        if let Device::Card(_) = x.device() {
            let both = rows::side_by_side(&[dk, dv]);
            if !wants_input {
                self.whole().backward_parameters(Some(x), &both, gradients);
                return None;
            }
            return Some(self.whole().backward(parameters, x, &both, gradients));
        }
        if let Some(dw) = gradients.get_mut(self.weight) {
            let (d_to_k, d_to_v) = dw.split_at_mut(self.inner * self.width);
            matmul::add_transposed_times(d_to_k, dk.data(), x.data(), self.inner, self.width);
            matmul::add_transposed_times(d_to_v, dv.data(), x.data(), self.inner, self.width);
        }
        wants_input.then(|| {
            let (to_k, to_v) = parameters.weight(self.weight).split_at(self.inner * self.width);
            let mut dx = x.zeros_like();
            matmul::times(dx.data_mut(), dk.data(), to_k, self.inner, self.width, false);
            matmul::times(dx.data_mut(), dv.data(), to_v, self.inner, self.width, true);
            dx
        })
    }
}
