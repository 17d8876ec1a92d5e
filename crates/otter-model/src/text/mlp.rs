//! The feed-forward of a block, from normalized rows to what joins the residual stream: `W2 act(W1 x)`, or with a gate
//! `W2 (silu(Wg x) W1 x)`.

use otter_nn::layers::elementwise::{
    activate_backward, activated, silu_product, silu_product_backward, silu_product_in_place,
};
use otter_nn::{ActivationKind, Float, Gradients, Init, Linear, Parameters, Tensor};

use super::block_parts::BlockParts;
use crate::workspace::Workspace;

/// The matrices and what stands between them.
#[derive(Clone, Debug)]
pub struct Mlp {
    form: Form,
    up: Linear,
    down: Linear,
}

#[derive(Clone, Debug)]
enum Form {
    Plain(ActivationKind),
    Gated(Linear),
}

/// Names, sizes and kind of a feed-forward.
#[derive(Clone, Debug)]
pub struct MlpSpec<'a> {
    /// What stands between the matrices.
    pub form: MlpForm<'a>,
    /// Name of the matrix to the inner width.
    pub up: &'a str,
    /// Name of the matrix back.
    pub down: &'a str,
    /// Inner width.
    pub inner: usize,
    /// Whether the matrices have biases.
    pub bias: bool,
    /// Beginnings of the first and of the last matrix.
    pub init: [Init; 2],
}

/// What stands between the matrices of a feed-forward.
#[derive(Clone, Copy, Debug)]
pub enum MlpForm<'a> {
    /// An activation.
    Plain(ActivationKind),
    /// A product with the SiLU of another matrix of this name.
    Gated(&'a str),
}

/// Kept for the backward pass: the inner rows before activation or product.
pub(crate) struct MlpSaved<T> {
    gate: Option<Tensor<T>>,
    up: Tensor<T>,
}

impl Mlp {
    pub(super) fn new(parts: &mut BlockParts<'_>, spec: &MlpSpec<'_>) -> Self {
        let &MlpSpec { form, up, down, inner, bias, init: [first, last] } = spec;
        let width = parts.width;
        let form = match form {
            MlpForm::Plain(activation) => Form::Plain(activation),
            MlpForm::Gated(gate) => Form::Gated(parts.linear(gate, width, inner, bias, first)),
        };
        let up = parts.linear(up, width, inner, bias, first);
        let down = parts.linear(down, inner, width, bias, last);
        Self { form, up, down }
    }

    pub(super) fn saved_elements_per_row(&self) -> usize {
        let kept = match self.form {
            Form::Plain(_) => 1,
            Form::Gated(_) => 2,
        };
        kept * self.up.outer()
    }

    /// Adds the output to `residual`.
    pub(super) fn forward_saved<T: Float>(
        &self,
        parameters: &Parameters<T>,
        normed: &Tensor<T>,
        residual: &mut Tensor<T>,
    ) -> MlpSaved<T> {
        let gate = match &self.form {
            Form::Plain(_) => None,
            Form::Gated(gate) => Some(gate.forward(parameters, normed)),
        };
        let saved = MlpSaved { gate, up: self.up.forward(parameters, normed) };
        self.down.forward_add(parameters, &self.inner(&saved), residual);
        saved
    }

    /// The rows that the last matrix reads.
    fn inner<T: Float>(&self, saved: &MlpSaved<T>) -> Tensor<T> {
        match (&self.form, &saved.gate) {
            (Form::Plain(activation), _) => activated(&saved.up, *activation),
            (Form::Gated(_), Some(gate)) => silu_product(gate, &saved.up),
            (Form::Gated(_), None) => unreachable!("a gated feed-forward keeps its gate"),
        }
    }

    /// Adds the output to `residual`, keeping nothing.
    pub(super) fn forward<T: Float>(
        &self,
        parameters: &Parameters<T>,
        normed: &Tensor<T>,
        residual: &mut Tensor<T>,
        workspace: &mut Workspace<T>,
    ) {
        let shape = [normed.rows(), self.up.outer()];
        let mut up = workspace.take(&shape);
        match &self.form {
            Form::Plain(activation) => {
                self.up.forward_activated_into(parameters, normed, &mut up, *activation);
                self.down.forward_into(parameters, &up, residual, true);
            }
            Form::Gated(to_gate) => {
                let mut gate = workspace.take(&shape);
                Linear::forward_each(parameters, normed, [(to_gate, &mut gate), (&self.up, &mut up)]);
                silu_product_in_place(&mut gate, &up);
                self.down.forward_into(parameters, &gate, residual, true);
                workspace.give(gate);
            }
        }
        workspace.give(up);
    }

    /// Whether the backward pass needs the normalized rows again.
    pub(super) fn needs_input<T: Float>(&self, gradients: &Gradients<T>) -> bool {
        let gate = match &self.form {
            Form::Plain(_) => false,
            Form::Gated(gate) => gradients.requires_grad(gate.weight()),
        };
        gate || gradients.requires_grad(self.up.weight())
    }

    /// Writes or adds the gradient of the normalized rows to `d_normed`. `normed` is there when [`Mlp::needs_input`] says
    /// so.
    pub(super) fn backward<T: Float>(
        &self,
        parameters: &Parameters<T>,
        saved: &MlpSaved<T>,
        normed: Option<&Tensor<T>>,
        dy: &Tensor<T>,
        (d_normed, accumulate): (&mut Tensor<T>, bool),
        gradients: &mut Gradients<T>,
    ) {
        let inner = gradients.requires_grad(self.down.weight()).then(|| self.inner(saved));
        let mut d_up = Tensor::empty(saved.up.shape(), dy.device());
        self.down.backward_into(parameters, inner.as_ref(), dy, &mut d_up, false, gradients);
        drop(inner);
        let mut accumulate = accumulate;
        match (&self.form, &saved.gate) {
            (Form::Gated(to_gate), Some(gate)) => {
                let d_gate = silu_product_backward(gate, &saved.up, &mut d_up);
                to_gate.backward_into(parameters, normed, &d_gate, d_normed, accumulate, gradients);
                accumulate = true;
            }
            (Form::Plain(activation), _) => activate_backward(&mut d_up, &saved.up, *activation),
            (Form::Gated(_), None) => unreachable!("a gated feed-forward keeps its gate"),
        }
        self.up.backward_into(parameters, normed, &d_up, d_normed, accumulate, gradients);
    }
}
