//! Linear layer: `y = x W^T + b`.

use crate::kernels::elementwise::{self, Activation};
use crate::kernels::{self, matmul, norm::add_column_sums};
use crate::{
    Gradients, Init, ParameterId, ParameterSpecs, Parameters, QuantisedView, Real, Tensor, WeightView,
};

/// A linear layer; weight (outer, inner), optional bias (outer).
#[derive(Clone, Debug)]
pub struct Linear {
    weight: ParameterId,
    bias: Option<ParameterId>,
    inner: usize,
    outer: usize,
}

impl Linear {
    /// Registers `<name>.weight` and, if asked for, `<name>.bias` (starting at zero).
    pub fn new(
        specs: &mut ParameterSpecs,
        name: &str,
        inner: usize,
        outer: usize,
        bias: bool,
        init: Init,
    ) -> Self {
        let weight = specs.add_matrix(format!("{name}.weight"), [outer, inner], init);
        let bias = bias.then(|| specs.add(format!("{name}.bias"), &[outer], Init::Zeros));
        Self { weight, bias, inner, outer }
    }

    /// Output width.
    pub fn outer(&self) -> usize {
        self.outer
    }

    /// The weight's id.
    pub fn weight(&self) -> ParameterId {
        self.weight
    }

    /// (…, inner) to (…, outer).
    pub fn forward<T: Real>(&self, parameters: &Parameters<T>, x: &Tensor<T>) -> Tensor<T> {
        let mut shape = x.shape().to_vec();
        if let Some(last) = shape.last_mut() {
            *last = self.outer;
        }
        let mut y = kernels::zeros(x.rows() * self.outer);
        self.forward_into(parameters, x.data(), &mut y, false);
        Tensor::from_vec(y, &shape, x.device())
    }

    /// Adds the layer's output to `residual`.
    pub fn forward_add<T: Real>(&self, parameters: &Parameters<T>, x: &Tensor<T>, residual: &mut Tensor<T>) {
        self.forward_into(parameters, x.data(), residual.data_mut(), true);
    }

    /// Writes or adds the output to a slice.
    pub fn forward_into<T: Real>(&self, parameters: &Parameters<T>, x: &[T], y: &mut [T], accumulate: bool) {
        let weight = parameters.weight(self.weight);
        let Some(bias) = self.bias.map(|bias| parameters.data(bias)) else {
            return matmul::times_transposed(y, x, weight, self.inner, self.outer, accumulate);
        };
        matmul::times_transposed_then(y, x, weight, self.inner, self.outer, accumulate, &|_, first, part| {
            elementwise::add_part(part, &bias[first..]);
        });
    }

    /// Writes the outputs of several layers over the same input. Where their weights are in blocks of one format, the input
    /// is rounded once, and their products share one pass over the threads.
    pub fn forward_each<T: Real, const N: usize>(
        parameters: &Parameters<T>,
        x: &[T],
        mut outputs: [(&Self, &mut [T]); N],
    ) {
        let Some(blocks) = Self::all_quantised(parameters, outputs.each_ref().map(|(layer, _)| *layer))
        else {
            return outputs.into_iter().for_each(|(layer, y)| layer.forward_into(parameters, x, y, false));
        };
        T::times_quantised_each(x, outputs.each_mut().map(|(_, y)| &mut **y), blocks);
        for (layer, y) in outputs {
            if let Some(bias) = layer.bias {
                let bias = parameters.data(bias);
                kernels::for_row_blocks(y, layer.outer, 1, |_, rows| {
                    rows.chunks_exact_mut(bias.len()).for_each(|row| elementwise::add_part(row, bias));
                });
            }
        }
    }

    /// The blocks of these layers, if all are in blocks.
    fn all_quantised<'a, T: Real, const N: usize>(
        parameters: &'a Parameters<T>,
        layers: [&Self; N],
    ) -> Option<[QuantisedView<'a>; N]> {
        let view = |layer: &Self| match parameters.weight(layer.weight) {
            WeightView::Quantised(blocks) => Some(blocks),
            _ => None,
        };
        let mut blocks = [view(layers.first()?)?; N];
        for (blocks, layer) in blocks.iter_mut().zip(layers) {
            *blocks = view(layer)?;
        }
        Some(blocks)
    }

    /// `activation(x W^T + b)`, (…, inner) to (…, outer), for when the reverse pass does not follow.
    pub fn forward_activated<A: Activation, T: Real>(
        &self,
        parameters: &Parameters<T>,
        x: &Tensor<T>,
    ) -> Tensor<T> {
        let mut y = Tensor::zeros(&[x.rows(), self.outer], x.device());
        let bias = self.bias.map(|bias| parameters.data(bias));
        let (out, weight) = (y.data_mut(), parameters.weight(self.weight));
        matmul::times_transposed_then(
            out,
            x.data(),
            weight,
            self.inner,
            self.outer,
            false,
            &|_, first, part| {
                if let Some(bias) = bias {
                    elementwise::add_part(part, &bias[first..]);
                }
                elementwise::activate_part::<A, T>(part);
            },
        );
        y
    }

    /// Input gradient from the output gradient `dy` and the forward input `x`; adds parameter gradients.
    pub fn backward<T: Real>(
        &self,
        parameters: &Parameters<T>,
        x: &Tensor<T>,
        dy: &Tensor<T>,
        gradients: &mut Gradients<T>,
    ) -> Tensor<T> {
        let mut dx = kernels::zeros(x.len());
        self.backward_into(parameters, x.data(), dy.data(), &mut dx, false, gradients);
        Tensor::from_vec(dx, x.shape(), x.device())
    }

    /// As [`Linear::backward`], writing or adding the input gradient to a slice.
    pub fn backward_into<T: Real>(
        &self,
        parameters: &Parameters<T>,
        x: &[T],
        dy: &[T],
        dx: &mut [T],
        accumulate: bool,
        gradients: &mut Gradients<T>,
    ) {
        self.backward_parameters(x, dy, gradients);
        matmul::times(dx, dy, parameters.weight(self.weight), self.outer, self.inner, accumulate);
    }

    /// Adds the parameter gradients only, for a layer whose input needs none.
    pub fn backward_parameters<T: Real>(&self, x: &[T], dy: &[T], gradients: &mut Gradients<T>) {
        if let Some(dw) = gradients.get_mut(self.weight) {
            matmul::add_transposed_times(dw, dy, x, self.outer, self.inner);
        }
        if let Some(db) = self.bias.and_then(|id| gradients.get_mut(id)) {
            add_column_sums(db, dy);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gradient_check::{check, check_half, random_tensor};

    #[test]
    fn gradients_match_finite_differences() {
        for (rows, bias) in [(1, true), (3, false), (7, true)] {
            let mut specs = ParameterSpecs::default();
            let layer = Linear::new(&mut specs, "l", 5, 4, bias, Init::Normal(0.7));
            check(
                &specs,
                &[random_tensor("x", &[rows, 5])],
                |p, inputs| layer.forward(p, &inputs[0]),
                |p, inputs, dy, g| vec![layer.backward(p, &inputs[0], dy, g)],
            );
        }
    }

    #[test]
    fn gradients_over_half_weights_match_finite_differences() {
        for rows in [1, 6] {
            let mut specs = ParameterSpecs::default();
            let layer = Linear::new(&mut specs, "l", 5, 4, true, Init::Normal(0.7));
            check_half(
                &specs,
                &[random_tensor("x", &[rows, 5])],
                |p, inputs| {
                    assert!(p.get(layer.weight).is_half());
                    layer.forward(p, &inputs[0])
                },
                |p, inputs, dy, g| vec![layer.backward(p, &inputs[0], dy, g)],
            );
        }
    }

    /// Few and many rows, with and without bias: a fused activation has the bits of one that follows.
    #[test]
    fn activations_may_be_fused() {
        use crate::kernels::elementwise::Gelu;
        for (rows, bias) in [(2, true), (40, true), (40, false)] {
            let mut specs = ParameterSpecs::default();
            let layer = Linear::new(&mut specs, "l", 65, 70, bias, Init::Normal(0.7));
            let mut parameters = Parameters::<f32>::initialise(&specs, 1, crate::Device::Cpu);
            parameters
                .iter_mut()
                .filter(|p| p.name == "l.bias")
                .for_each(|p| p.tensor.make_full().data_mut().fill(0.3));
            let x = random_tensor("x", &[rows, 65]).cast::<f32>();
            let plain = layer.forward(&parameters, &x);
            let expected = elementwise::activate::<Gelu, f32>(plain.data());
            assert_eq!(layer.forward_activated::<Gelu, f32>(&parameters, &x).data(), expected);
        }
    }

    #[test]
    fn frozen_weights_get_no_gradient() {
        let mut specs = ParameterSpecs::default();
        let layer = Linear::new(&mut specs, "l", 3, 2, true, Init::Normal(1.0));
        let mut parameters = Parameters::<f64>::initialise(&specs, 1, crate::Device::Cpu);
        parameters.set_trainable(|name| name == "l.bias");
        let mut gradients = Gradients::new(&parameters);
        let x = random_tensor("x", &[4, 3]);
        let dy = random_tensor("dy", &[4, 2]);
        layer.backward(&parameters, &x, &dy, &mut gradients);
        assert_eq!(gradients.flat().len(), 2);
        assert!(gradients.flat().iter().all(|g| *g != 0.0));
    }
}
