//! Where layers compute. A [`Backend`] has the operations that layers are made of, over tensors that lie where it computes:
//! [`cpu::Cpu`] for f32 and f64 on the host, an [`Accelerator`] for f32 on a GPU. A layer calls `x.backend()` and does not ask
//! which one it is.

mod accelerator;
pub mod cpu;
mod optimizer;
mod shapes;

pub use accelerator::{Accelerator, GpuBuffer, GpuElements, GpuHandle, GpuMemory, GpuTransfers};
pub use optimizer::{AdamWStep, MomentKind, Moments, Optimizer};
pub use shapes::{
    ActivationKind, Attended, AttentionInputGradients, AttentionInputs, Epilogue, HeadStrides, Heads,
    MeanRows, NormRule, Projection, RowStrides, Span, WeightShape,
};

use crate::{Float, Matrix, Rotary, Tensor};

/// Operations on tensors of one device. Matrices lie row by row. Lengths that do not fit each other, and tensors of another
/// device, are mistakes of the caller and panic: no work is done elsewhere unnoticed.
pub trait Backend<T: Float>: Send + Sync {
    /// Zeros in all of x.
    fn clear(&self, x: &mut Tensor<T>);

    /// `y = x w^T + b`, or what `epilogue` says, with x (rows, inner), w (outer, inner), b (outer), y (rows, outer).
    fn linear(
        &self,
        y: &mut Tensor<T>,
        x: &Tensor<T>,
        weight: Matrix<'_, T>,
        bias: Option<&Tensor<T>>,
        shape: WeightShape,
        epilogue: Epilogue,
    );

    /// Several products with the same x, which a backend may share work for.
    fn linear_each(&self, x: &Tensor<T>, projections: &mut [Projection<'_, T>]) {
        for Projection { y, weight, bias, shape } in projections {
            self.linear(y, x, *weight, *bias, *shape, Epilogue::None);
        }
    }

    /// `x w^T` with the first and the second half of its columns in tensors of their own.
    fn linear_halves(&self, x: &Tensor<T>, weight: Matrix<'_, T>, shape: WeightShape) -> [Tensor<T>; 2] {
        let mut both = Tensor::empty(&[x.rows(), shape.outer], x.device());
        self.linear(&mut both, x, weight, None, shape, Epilogue::None);
        let half = shape.outer / 2;
        [0, half].map(|first| slice_columns(self, &both, first, half))
    }

    /// Gradients through [`Backend::linear_halves`]: of x where it is wanted, and added to the weight's.
    fn linear_halves_backward(
        &self,
        dy: [&Tensor<T>; 2],
        x: &Tensor<T>,
        weight: Matrix<'_, T>,
        d_weight: Option<&mut Tensor<T>>,
        shape: WeightShape,
        needs_input_grad: bool,
    ) -> Option<Tensor<T>> {
        let both = concat_columns(self, &dy);
        if let Some(d_weight) = d_weight {
            self.matmul_tn_add(d_weight, &both, x, shape);
        }
        needs_input_grad.then(|| {
            let mut dx = Tensor::empty(x.shape(), x.device());
            self.matmul_nn(&mut dx, &both, weight, shape, false);
            dx
        })
    }

    /// `dx (+)= dy w` with dy (rows, outer), w (outer, inner), dx (rows, inner).
    fn matmul_nn(
        &self,
        dx: &mut Tensor<T>,
        dy: &Tensor<T>,
        weight: Matrix<'_, T>,
        shape: WeightShape,
        accumulate: bool,
    );

    /// `dw += dy^T x` with dw (outer, inner).
    fn matmul_tn_add(&self, dw: &mut Tensor<T>, dy: &Tensor<T>, x: &Tensor<T>, shape: WeightShape);

    /// Normalized rows of x, as wide as `weight`, and their statistics (rows, 2): mean and reciprocal deviation.
    fn norm(
        &self,
        x: &Tensor<T>,
        weight: &Tensor<T>,
        bias: Option<&Tensor<T>>,
        rule: NormRule,
    ) -> [Tensor<T>; 2];

    /// As [`Backend::norm`], to rows that are there and without statistics.
    fn norm_into(
        &self,
        y: &mut Tensor<T>,
        x: &Tensor<T>,
        weight: &Tensor<T>,
        bias: Option<&Tensor<T>>,
        rule: NormRule,
    );

    /// Gradient of x through [`Backend::norm`].
    fn norm_backward(
        &self,
        dy: &Tensor<T>,
        x: &Tensor<T>,
        weight: &Tensor<T>,
        statistics: &Tensor<T>,
        rule: NormRule,
    ) -> Tensor<T>;

    /// Adds the gradient of a norm's weight.
    fn norm_backward_weight(
        &self,
        d_weight: &mut Tensor<T>,
        dy: &Tensor<T>,
        x: &Tensor<T>,
        statistics: &Tensor<T>,
    );

    /// Adds the sums over rows of x to `sums`, as long as a row; in blocks of rows.
    fn add_column_sums(&self, sums: &mut Tensor<T>, x: &Tensor<T>);

    /// As [`Backend::add_column_sums`], one row after the other.
    fn add_rows_to(&self, sum: &mut Tensor<T>, x: &Tensor<T>);

    /// Adds `row` to every stretch of x that is as long.
    fn add_to_rows(&self, x: &mut Tensor<T>, row: &Tensor<T>);

    /// `y += x`.
    fn add_assign(&self, y: &mut Tensor<T>, x: &Tensor<T>);

    /// `x *= factor`.
    fn scale(&self, x: &mut Tensor<T>, factor: f64);

    /// Limits all elements to plus or minus `limit`; NaN stays.
    fn clamp(&self, x: &mut Tensor<T>, limit: f64);

    /// Turns the gradient of clamped elements into that before, in place: nothing passes at a limit.
    fn clamp_backward(&self, d: &mut Tensor<T>, clamped: &Tensor<T>, limit: f64);

    /// `activation(x)`.
    fn activated(&self, x: &Tensor<T>, kind: ActivationKind) -> Tensor<T>;

    /// `x = activation(x)`.
    fn activate(&self, x: &mut Tensor<T>, kind: ActivationKind);

    /// Turns the gradient of `activation(x)` into that of x, in place.
    fn activate_backward(&self, d: &mut Tensor<T>, x: &Tensor<T>, kind: ActivationKind);

    /// `silu(gate) up`.
    fn silu_product(&self, gate: &Tensor<T>, up: &Tensor<T>) -> Tensor<T>;

    /// `gate = silu(gate) up`.
    fn silu_product_in_place(&self, gate: &mut Tensor<T>, up: &Tensor<T>);

    /// Gradient of `gate`; `d_up` holds the product's gradient before and that of `up` afterwards.
    fn silu_product_backward(&self, gate: &Tensor<T>, up: &Tensor<T>, d_up: &mut Tensor<T>) -> Tensor<T>;

    /// `y += branch tanh(gate)`, the gate a single number.
    fn gate_add(&self, y: &mut Tensor<T>, branch: &Tensor<T>, gate: &Tensor<T>);

    /// Gradient of the branch; adds the gate's.
    fn gate_backward(
        &self,
        branch: &Tensor<T>,
        gate: &Tensor<T>,
        dy: &Tensor<T>,
        d_gate: Option<&mut Tensor<T>>,
    ) -> Tensor<T>;

    /// Copies, or adds, `sizes` rows of `len` elements between places of two tensors.
    fn copy_rows(
        &self,
        to: (&mut Tensor<T>, RowStrides),
        from: (&Tensor<T>, RowStrides),
        sizes: [usize; 3],
        len: usize,
        accumulate: bool,
    );

    /// The rows with these numbers of a matrix of rows of `width`.
    fn gather_rows(&self, table: Matrix<'_, T>, rows: &[u32], width: usize) -> Tensor<T>;

    /// As [`Backend::gather_rows`], the rows that lie `first` behind, to rows that are there.
    fn gather_rows_into(
        &self,
        out: &mut Tensor<T>,
        table: Matrix<'_, T>,
        rows: &[u32],
        first: u32,
        width: usize,
    );

    /// Writes the rows of d, of `width`, to the rows of x with these numbers: distinct ones, that are zero before.
    fn scatter_rows(&self, x: &mut Tensor<T>, d: &Tensor<T>, rows: &[u32], width: usize);

    /// Adds the rows of d, of `width`, to the rows of x with these numbers, one after the other.
    fn scatter_add_rows(&self, x: &mut Tensor<T>, d: &Tensor<T>, rows: &[u32], width: usize);

    /// Zeroes all rows of `width` elements but these.
    fn keep_rows(&self, x: &mut Tensor<T>, rows: &[u32], width: usize);

    /// Turns the heads of rows at `positions`, or with `back` their gradients back.
    fn rotate(&self, x: &mut Tensor<T>, rotary: &Rotary, positions: &[u32], back: bool);

    /// Attention of every span; rows of no span stay as they are. Log-sum-exps go to `log_sum_exp`, given with the rows of a
    /// batch entry.
    fn attention(
        &self,
        out: &mut Tensor<T>,
        heads: Heads<'_>,
        inputs: AttentionInputs<'_, T>,
        spans: &[Span],
        log_sum_exp: Option<(&mut Tensor<T>, usize)>,
    );

    /// Attention of a single query row of `batches` batch entries. `span` gives the keys of an entry; where it gives none, the
    /// output is zero. `scores` may be used as room for (batches, heads, most keys of a span), whatever is in it.
    fn attention_of_single_rows(
        &self,
        out: &mut Tensor<T>,
        heads: Heads<'_>,
        inputs: AttentionInputs<'_, T>,
        batches: usize,
        span: &(dyn Fn(usize) -> Option<Span> + Sync),
        _scores: &mut Tensor<T>,
    ) {
        let spans: Vec<Span> = (0..batches).filter_map(span).collect();
        if spans.len() < batches {
            self.clear(out);
        }
        self.attention(out, heads, inputs, &spans, None);
    }

    /// Adds the gradients of [`Backend::attention`].
    fn attention_backward(
        &self,
        heads: Heads<'_>,
        inputs: AttentionInputs<'_, T>,
        spans: &[Span],
        attended: Attended<'_, T>,
        gradients: AttentionInputGradients<'_, T>,
    );

    /// Rows of `out` become the mean over all latents of their items in v.
    fn mean_latents(
        &self,
        out: &mut Tensor<T>,
        v: &Tensor<T>,
        rows: &mut MeanRows<'_>,
        latents: usize,
        width: usize,
    );

    /// Adds to the gradient of v through [`Backend::mean_latents`].
    fn mean_latents_backward(
        &self,
        dv: &mut Tensor<T>,
        d_out: &Tensor<T>,
        rows: &mut MeanRows<'_>,
        latents: usize,
        width: usize,
    );

    /// Cross-entropy of rows of logits, a target each; with a `scale` they become the gradient of that times the sum.
    fn cross_entropy(
        &self,
        logits: &mut Tensor<T>,
        targets: &[u32],
        vocabulary: usize,
        scale: Option<f64>,
    ) -> Vec<f64>;

    /// Sum of the squares of all elements of some tensors.
    fn sum_of_squares(&self, tensors: &[&Tensor<T>]) -> f64;

    /// Whether some element is not zero.
    fn any_nonzero(&self, x: &Tensor<T>) -> bool;
}

/// Columns `first..first + width` of every row.
pub(crate) fn slice_columns<T: Float>(
    backend: &(impl Backend<T> + ?Sized),
    x: &Tensor<T>,
    first: usize,
    width: usize,
) -> Tensor<T> {
    let mut part = Tensor::empty(&[x.rows(), width], x.device());
    let (own, all) = (RowStrides::every(0, width), RowStrides::every(first, x.width()));
    backend.copy_rows((&mut part, own), (x, all), [1, 1, x.rows()], width, false);
    part
}

/// The rows of all parts side by side.
pub(crate) fn concat_columns<T: Float>(
    backend: &(impl Backend<T> + ?Sized),
    parts: &[&Tensor<T>],
) -> Tensor<T> {
    let (rows, width) = (parts[0].rows(), parts.iter().map(|part| part.width()).sum());
    let mut all = Tensor::empty(&[rows, width], parts[0].device());
    let mut first = 0;
    for part in parts {
        let (to, from) = (RowStrides::every(first, width), RowStrides::every(0, part.width()));
        backend.copy_rows((&mut all, to), (part, from), [1, 1, rows], part.width(), false);
        first += part.width();
    }
    all
}
