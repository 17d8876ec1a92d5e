//! Linear layer: `y = x W^T + b`.

use crate::backend::card::ActivationKind;
use crate::backend::cpu::elementwise::{self, Activation};
use crate::backend::cpu::{gemm as matmul, norm::add_column_sums};
use crate::layers::elementwise::{activate, with_kind};
use crate::layers::rows;
use crate::{
    Device, Gradients, Init, ParameterId, ParameterSpecs, Parameters, QuantisedView, Real, Tensor, WeightView,
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

    /// A layer without bias over a weight that is registered already, as a matrix of `outer` rows of `inner` elements.
    pub fn over(weight: ParameterId, inner: usize, outer: usize) -> Self {
        Self { weight, bias: None, inner, outer }
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
        let mut y = self.output(x);
        self.forward_into(parameters, x, &mut y, false);
        y
    }

    /// Room for the output of x.
    fn output<T: Real>(&self, x: &Tensor<T>) -> Tensor<T> {
        let mut y = Tensor::empty(&[x.rows(), self.outer], x.device());
        if x.shape().len() != 2 {
            let mut shape = x.shape().to_vec();
            if let Some(last) = shape.last_mut() {
                *last = self.outer;
            }
            y = y.reshape(&shape);
        }
        y
    }

    /// Adds the layer's output to `residual`.
    pub fn forward_add<T: Real>(&self, parameters: &Parameters<T>, x: &Tensor<T>, residual: &mut Tensor<T>) {
        self.forward_into(parameters, x, residual, true);
    }

    /// Writes or adds the output to rows that are there.
    pub fn forward_into<T: Real>(
        &self,
        parameters: &Parameters<T>,
        x: &Tensor<T>,
        y: &mut Tensor<T>,
        accumulate: bool,
    ) {
        let (inner, outer) = (self.inner, self.outer);
        if let Device::Card(card) = x.device() {
            let weight = parameters.get(self.weight).on_card();
            card.times_transposed(y.on_card_mut(), x.on_card(), weight, (inner, outer), accumulate);
            if let Some(bias) = self.bias {
                card.add_to_rows(y.on_card_mut(), parameters.tensor(bias).on_card());
            }
            return;
        }
        let (weight, x, y) = (parameters.weight(self.weight), x.data(), y.data_mut());
        let Some(bias) = self.bias.map(|bias| parameters.data(bias)) else {
            return matmul::times_transposed(y, x, weight, inner, outer, accumulate);
        };
        matmul::times_transposed_then(y, x, weight, inner, outer, accumulate, &|_, first, part| {
            elementwise::add_part(part, &bias[first..]);
        });
    }

    /// Writes the outputs of several layers over the same input. Where their weights are in blocks of one format, the host
    /// rounds the input once, and the products share one pass over the threads.
    pub fn forward_each<T: Real, const N: usize>(
        parameters: &Parameters<T>,
        x: &Tensor<T>,
        mut outputs: [(&Self, &mut Tensor<T>); N],
    ) {
        let together = match x.device() {
            Device::Cpu => Self::all_quantised(parameters, outputs.each_ref().map(|(layer, _)| *layer)),
            Device::Card(_) => None,
        };
        let Some(blocks) = together else {
            return outputs.into_iter().for_each(|(layer, y)| layer.forward_into(parameters, x, y, false));
        };
        T::times_quantised_each(x.data(), outputs.each_mut().map(|(_, y)| y.data_mut()), blocks);
        for (layer, y) in outputs {
            if let Some(bias) = layer.bias {
                rows::add_to_each(y, parameters.tensor(bias));
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

    /// Writes `activation(x W^T + b)`, (…, inner) to (…, outer), for when the reverse pass does not follow.
    pub fn forward_activated_into<T: Real>(
        &self,
        parameters: &Parameters<T>,
        x: &Tensor<T>,
        y: &mut Tensor<T>,
        kind: ActivationKind,
    ) {
        if let Device::Card(_) = x.device() {
            self.forward_into(parameters, x, y, false);
            return activate(y, kind);
        }
        with_kind!(kind, A => self.forward_activated_here::<A, T>(parameters, x, y));
    }

    fn forward_activated_here<A: Activation, T: Real>(
        &self,
        parameters: &Parameters<T>,
        x: &Tensor<T>,
        y: &mut Tensor<T>,
    ) {
        let bias = self.bias.map(|bias| parameters.data(bias));
        let (y, x, weight) = (y.data_mut(), x.data(), parameters.weight(self.weight));
        matmul::times_transposed_then(y, x, weight, self.inner, self.outer, false, &|_, first, part| {
            if let Some(bias) = bias {
                elementwise::add_part(part, &bias[first..]);
            }
            elementwise::activate_part::<A, T>(part);
        });
    }

    /// Input gradient from the output gradient `dy` and the forward input `x`; adds parameter gradients.
    pub fn backward<T: Real>(
        &self,
        parameters: &Parameters<T>,
        x: &Tensor<T>,
        dy: &Tensor<T>,
        gradients: &mut Gradients<T>,
    ) -> Tensor<T> {
        let mut dx = Tensor::empty(x.shape(), x.device());
        self.backward_into(parameters, Some(x), dy, &mut dx, false, gradients);
        dx
    }

    /// As [`Linear::backward`], writing or adding the input gradient to rows that are there. The input is needed only
    /// where the weight is trained.
    ///
    /// # Panics
    /// When the weight is trained and there is no input: a mistake of the caller.
    pub fn backward_into<T: Real>(
        &self,
        parameters: &Parameters<T>,
        x: Option<&Tensor<T>>,
        dy: &Tensor<T>,
        dx: &mut Tensor<T>,
        accumulate: bool,
        gradients: &mut Gradients<T>,
    ) {
        self.backward_parameters(x, dy, gradients);
        let (outer, inner) = (self.outer, self.inner);
        match dy.device() {
            Device::Cpu => {
                let weight = parameters.weight(self.weight);
                matmul::times(dx.data_mut(), dy.data(), weight, outer, inner, accumulate);
            }
            Device::Card(card) => {
                let weight = parameters.get(self.weight).on_card();
                card.times(dx.on_card_mut(), dy.on_card(), weight, (outer, inner), accumulate);
            }
        }
    }

    /// Adds the parameter gradients only, for a layer whose input needs none.
    ///
    /// # Panics
    /// As [`Linear::backward_into`].
    pub fn backward_parameters<T: Real>(
        &self,
        x: Option<&Tensor<T>>,
        dy: &Tensor<T>,
        gradients: &mut Gradients<T>,
    ) {
        if let Some(dw) = gradients.tensor_mut(self.weight) {
            let Some(x) = x else { panic!("the input of a trained layer was not kept") };
            match dy.device() {
                Device::Cpu => {
                    matmul::add_transposed_times(dw.data_mut(), dy.data(), x.data(), self.outer, self.inner);
                }
                Device::Card(card) => {
                    let size = (self.outer, self.inner);
                    card.add_transposed_times(dw.on_card_mut(), dy.on_card(), x.on_card(), size);
                }
            }
        }
        if let Some(db) = self.bias.and_then(|id| gradients.tensor_mut(id)) {
            match dy.device() {
                Device::Cpu => add_column_sums(db.data_mut(), dy.data()),
                Device::Card(card) => card.add_column_sums(db.on_card_mut(), dy.on_card()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::gradient_check::{check, check_half, random_tensor};

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
        use crate::backend::cpu::elementwise::Gelu;
        for (rows, bias) in [(2, true), (40, true), (40, false)] {
            let mut specs = ParameterSpecs::default();
            let layer = Linear::new(&mut specs, "l", 65, 70, bias, Init::Normal(0.7));
            let mut parameters = Parameters::<f32>::initialise(&specs, 1, Device::Cpu);
            parameters
                .iter_mut()
                .filter(|p| p.name == "l.bias")
                .for_each(|p| p.tensor.make_full().data_mut().fill(0.3));
            let x = random_tensor("x", &[rows, 65]).cast::<f32>();
            let plain = layer.forward(&parameters, &x);
            let expected = elementwise::activate::<Gelu, f32>(plain.data());
            let mut found = Tensor::empty(&[x.rows(), layer.outer], x.device());
            layer.forward_activated_into(&parameters, &x, &mut found, ActivationKind::Gelu);
            assert_eq!(found.data(), expected);
        }
    }

    #[test]
    fn frozen_weights_get_no_gradient() {
        let mut specs = ParameterSpecs::default();
        let layer = Linear::new(&mut specs, "l", 3, 2, true, Init::Normal(1.0));
        let mut parameters = Parameters::<f64>::initialise(&specs, 1, Device::Cpu);
        parameters.set_trainable(|name| name == "l.bias");
        let mut gradients = Gradients::new(&parameters);
        let x = random_tensor("x", &[4, 3]);
        let dy = random_tensor("dy", &[4, 2]);
        layer.backward(&parameters, &x, &dy, &mut gradients);
        assert_eq!(gradients.flat().len(), 2);
        assert!(gradients.flat().iter().all(|g| *g != 0.0));
    }
}
