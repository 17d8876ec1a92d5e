//! Linear layer: `y = x W^T + b`.

use crate::backend::{ActivationKind, Epilogue, Projection, WeightShape};
use crate::{Float, Gradients, Init, ParameterId, ParameterSpecs, Parameters, Tensor};

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
    pub fn forward<T: Float>(&self, parameters: &Parameters<T>, x: &Tensor<T>) -> Tensor<T> {
        let mut y = self.output(x);
        self.forward_into(parameters, x, &mut y, false);
        y
    }

    /// Room for the output of x.
    fn output<T: Float>(&self, x: &Tensor<T>) -> Tensor<T> {
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
    pub fn forward_add<T: Float>(&self, parameters: &Parameters<T>, x: &Tensor<T>, residual: &mut Tensor<T>) {
        self.forward_into(parameters, x, residual, true);
    }

    /// Writes or adds the output to rows that are there.
    pub fn forward_into<T: Float>(
        &self,
        parameters: &Parameters<T>,
        x: &Tensor<T>,
        y: &mut Tensor<T>,
        accumulate: bool,
    ) {
        self.forward_with(parameters, x, y, if accumulate { Epilogue::Add } else { Epilogue::None });
    }

    fn forward_with<T: Float>(
        &self,
        parameters: &Parameters<T>,
        x: &Tensor<T>,
        y: &mut Tensor<T>,
        epilogue: Epilogue,
    ) {
        let (weight, bias) = (parameters.matrix(self.weight), self.bias(parameters));
        x.backend().linear(y, x, weight, bias, self.shape(), epilogue);
    }

    fn bias<'a, T: Float>(&self, parameters: &'a Parameters<T>) -> Option<&'a Tensor<T>> {
        self.bias.map(|bias| parameters.tensor(bias))
    }

    fn shape(&self) -> WeightShape {
        WeightShape { outer: self.outer, inner: self.inner }
    }

    /// Writes the outputs of several layers over the same input. Where their weights are in blocks of one format, the host
    /// rounds the input once, and the products share one pass over the threads.
    pub fn forward_each<T: Float, const N: usize>(
        parameters: &Parameters<T>,
        x: &Tensor<T>,
        outputs: [(&Self, &mut Tensor<T>); N],
    ) {
        let mut projections = outputs.map(|(layer, y)| Projection {
            y,
            weight: parameters.matrix(layer.weight),
            bias: layer.bias(parameters),
            shape: layer.shape(),
        });
        x.backend().linear_each(x, &mut projections);
    }

    /// Writes `activation(x W^T + b)`, (…, inner) to (…, outer), for when the backward pass does not follow.
    pub fn forward_activated_into<T: Float>(
        &self,
        parameters: &Parameters<T>,
        x: &Tensor<T>,
        y: &mut Tensor<T>,
        kind: ActivationKind,
    ) {
        self.forward_with(parameters, x, y, Epilogue::Activate(kind));
    }

    /// Input gradient from the output gradient `dy` and the forward input `x`; adds parameter gradients.
    pub fn backward<T: Float>(
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
    pub fn backward_into<T: Float>(
        &self,
        parameters: &Parameters<T>,
        x: Option<&Tensor<T>>,
        dy: &Tensor<T>,
        dx: &mut Tensor<T>,
        accumulate: bool,
        gradients: &mut Gradients<T>,
    ) {
        self.backward_parameters(x, dy, gradients);
        dy.backend().matmul_nn(dx, dy, parameters.matrix(self.weight), self.shape(), accumulate);
    }

    /// Adds the parameter gradients only, for a layer whose input needs none.
    ///
    /// # Panics
    /// As [`Linear::backward_into`].
    pub fn backward_parameters<T: Float>(
        &self,
        x: Option<&Tensor<T>>,
        dy: &Tensor<T>,
        gradients: &mut Gradients<T>,
    ) {
        if let Some(dw) = gradients.tensor_mut(self.weight) {
            let Some(x) = x else { panic!("the input of a trained layer was not kept") };
            dy.backend().matmul_tn_add(dw, dy, x, self.shape());
        }
        if let Some(db) = self.bias.and_then(|id| gradients.tensor_mut(id)) {
            dy.backend().add_column_sums(db, dy);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Device;
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
        use crate::backend::cpu::elementwise::{self, Gelu};
        for (rows, bias) in [(2, true), (40, true), (40, false)] {
            let mut specs = ParameterSpecs::default();
            let layer = Linear::new(&mut specs, "l", 65, 70, bias, Init::Normal(0.7));
            let mut parameters = Parameters::<f32>::initialize(&specs, 1, Device::Cpu);
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
        let mut parameters = Parameters::<f64>::initialize(&specs, 1, Device::Cpu);
        parameters.set_trainable(|name| name == "l.bias");
        let mut gradients = Gradients::new(&parameters);
        let x = random_tensor("x", &[4, 3]);
        let dy = random_tensor("dy", &[4, 2]);
        layer.backward(&parameters, &x, &dy, &mut gradients);
        assert_eq!(gradients.flat().len(), 2);
        assert!(gradients.flat().iter().all(|g| *g != 0.0));
    }
}
