//! Arguments of a backend's operations: sizes, places, and groups of tensors.

pub use crate::backend::cpu::attention::{HeadStrides, Heads, Span};
use crate::{Matrix, Tensor};

/// What follows a product `x w^T + b`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Epilogue {
    /// It is written.
    None,
    /// It is added to what is there.
    Add,
    /// An activation of it is written.
    Activate(ActivationKind),
}

/// Rows and columns of a weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WeightShape {
    /// Features of an output row.
    pub outer: usize,
    /// Features of an input row.
    pub inner: usize,
}

/// One of several products with the same input.
pub struct Projection<'a, T> {
    /// Its output, which is written.
    pub y: &'a mut Tensor<T>,
    /// Its weight.
    pub weight: Matrix<'a, T>,
    /// Its bias.
    pub bias: Option<&'a Tensor<T>>,
    /// Shape of the weight.
    pub shape: WeightShape,
}

/// How the rows of a norm are scaled.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NormRule {
    /// Added to the variance.
    pub eps: f64,
    /// Whether the mean is taken away.
    pub centered: bool,
}

/// Where strided rows lie: row (i, j, k) begins at `offset + i * strides[0] + j * strides[1] + k * strides[2]`.
#[derive(Clone, Copy, Debug)]
pub struct RowStrides {
    /// The first row's beginning.
    pub offset: usize,
    /// Distances of the three dimensions; 0 repeats what is read.
    pub strides: [usize; 3],
}

impl RowStrides {
    /// Rows that begin at `offset` and lie `stride` apart.
    pub fn every(offset: usize, stride: usize) -> Self {
        Self { offset, strides: [0, 0, stride] }
    }
}

/// The activation functions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ActivationKind {
    /// x times the normal distribution function.
    Gelu,
    /// The same approximated with tanh.
    GeluTanh,
    /// x sigmoid(1.702 x).
    QuickGelu,
    /// x where it is positive.
    Relu,
}

/// Queries, keys and values of an attention with their strides.
#[derive(Clone, Copy)]
pub struct AttentionInputs<'a, T> {
    /// Queries.
    pub q: &'a Tensor<T>,
    /// Where the query heads are.
    pub q_strides: HeadStrides,
    /// Keys.
    pub k: &'a Tensor<T>,
    /// Values.
    pub v: &'a Tensor<T>,
    /// Where the key and value heads are.
    pub kv_strides: HeadStrides,
    /// Per key row of each batch entry, whether it may be seen: `visible[batch * keys + key]`.
    pub visible: Option<(&'a [bool], usize)>,
}

/// What the forward pass of an attention left, and the gradient of its output.
#[derive(Clone, Copy)]
pub struct Attended<'a, T> {
    /// Output, laid out as the queries.
    pub out: &'a Tensor<T>,
    /// Gradient of the output.
    pub d_out: &'a Tensor<T>,
    /// Log-sum-exp per (batch, head, row).
    pub log_sum_exp: &'a Tensor<T>,
    /// Rows per batch entry in `log_sum_exp`.
    pub rows_per_batch: usize,
}

/// Gradients of an attention's inputs, to add to.
pub struct AttentionInputGradients<'a, T> {
    /// Of the queries, in their strides.
    pub dq: &'a mut Tensor<T>,
    /// Of the keys.
    pub dk: &'a mut Tensor<T>,
    /// Of the values.
    pub dv: &'a mut Tensor<T>,
    /// Layout of `dk` and `dv`.
    pub kv_strides: HeadStrides,
}

/// Rows that become the mean over all latents of some media items: (row, items).
pub type MeanRows<'a> = dyn Iterator<Item = (usize, &'a [usize])> + 'a;
