//! The operations of layers, each by the kernel of its name.

use otter_nn::backend::{
    ActivationKind, Attended, AttentionInputGradients, AttentionInputs, Backend, Epilogue, Heads, MeanRows,
    NormRule, RowStrides, Span, WeightShape,
};
use otter_nn::{Matrix, Rotary, Tensor};

use super::Layers;
use crate::attention::{self, ForwardResult, InputGradients, Inputs};
use crate::elementwise::{self, Activation};
use crate::memory::elements::{Stored, stored, values, values_mut};
use crate::{
    Buffer, Constant, Gpu, GpuError, Result, copy, cross_entropy, embedding, matmul, media, norm, quantized,
    skinny_gemm,
};

fn activation(kind: ActivationKind) -> Activation {
    match kind {
        ActivationKind::Gelu => Activation::Gelu,
        ActivationKind::GeluTanh => Activation::GeluTanh,
        ActivationKind::QuickGelu => Activation::QuickGelu,
        ActivationKind::Relu => Activation::Relu,
    }
}

fn strides(RowStrides { offset, strides }: RowStrides) -> copy::Layout {
    copy::Layout { offset, strides }
}

/// Slopes and visible keys of an attention, on the GPU.
struct Constants {
    slopes: Option<Constant<f32>>,
    visible: Option<(Constant<u8>, usize)>,
}

impl Constants {
    fn new(gpu: &Gpu, heads: &Heads<'_>, inputs: &AttentionInputs<'_, f32>) -> Result<Self> {
        let slopes = heads
            .slopes
            .map(|slopes| gpu.constant(&slopes.iter().map(|&slope| slope as f32).collect::<Vec<_>>()));
        let visible = inputs.visible.map(|(visible, keys)| {
            let visible: Vec<u8> = visible.iter().map(|&visible| visible.into()).collect();
            Ok::<_, GpuError>((gpu.constant(&visible)?, keys))
        });
        Ok(Self { slopes: slopes.transpose()?, visible: visible.transpose()? })
    }

    fn sizes(&self, heads: &Heads<'_>) -> attention::Heads<'_> {
        let &Heads { heads, key_heads, scale, .. } = heads;
        attention::Heads { heads, key_heads, scale, slopes: self.slopes.as_ref() }
    }

    fn inputs<'a>(&'a self, inputs: &AttentionInputs<'a, f32>) -> Result<Inputs<'a>> {
        Ok(Inputs {
            q: values(inputs.q)?,
            q_strides: inputs.q_strides,
            k: values(inputs.k)?,
            k_strides: inputs.kv_strides,
            v: values(inputs.v)?,
            v_strides: inputs.kv_strides,
            visible: self.visible.as_ref().map(|(visible, keys)| (visible, *keys)),
        })
    }
}

impl Backend<f32> for Layers {
    fn clear(&self, x: &mut Tensor) {
        self.run(|| values_mut(x)?.clear());
    }

    fn linear(
        &self,
        y: &mut Tensor,
        x: &Tensor,
        weight: Matrix<'_, f32>,
        bias: Option<&Tensor>,
        WeightShape { outer, inner }: WeightShape,
        epilogue: Epilogue,
    ) {
        self.run(|| {
            let (y, x, size) = (values_mut(y)?, values(x)?, (inner, outer));
            let add = epilogue == Epilogue::Add;
            match stored(weight)? {
                Stored::Blocks(w) => quantized::matmul_nt(y, x, w, add, self.precision)?,
                Stored::Plain(w) if x.len() <= skinny_gemm::MOST * inner => {
                    skinny_gemm::matmul_nt(y, x, w, size, add)?;
                }
                Stored::Plain(w) => matmul::matmul_nt(y, x, w, size, add, self.precision)?,
            }
            if let Some(bias) = bias {
                elementwise::add_bias(y, values(bias)?)?;
            }
            if let Epilogue::Activate(kind) = epilogue {
                *y = elementwise::activate(y, activation(kind))?;
            }
            Ok(())
        });
    }

    fn matmul_nn(
        &self,
        dx: &mut Tensor,
        dy: &Tensor,
        weight: Matrix<'_, f32>,
        WeightShape { outer, inner }: WeightShape,
        accumulate: bool,
    ) {
        self.run(|| {
            let (dx, dy) = (values_mut(dx)?, values(dy)?);
            match stored(weight)? {
                Stored::Blocks(w) => quantized::matmul_nn(dx, dy, w, accumulate, self.precision),
                Stored::Plain(w) => matmul::matmul_nn(dx, dy, w, (outer, inner), accumulate, self.precision),
            }
        });
    }

    fn matmul_tn_add(&self, dw: &mut Tensor, dy: &Tensor, x: &Tensor, shape: WeightShape) {
        let size = (shape.outer, shape.inner);
        self.run(|| matmul::matmul_tn_add(values_mut(dw)?, values(dy)?, values(x)?, size, self.precision));
    }

    fn norm(&self, x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, rule: NormRule) -> [Tensor; 2] {
        let rows = x.len() / weight.len().max(1);
        let made = self.failure.guard(|| {
            let bias = bias.map(values).transpose()?;
            norm::forward(values(x)?, values(weight)?, bias, rule.eps as f32, rule.centered)
        });
        let (y, statistics) = made.unzip();
        let lost = |buffer: Option<Buffer<f32>>| move || buffer.ok_or(GpuError::Lost);
        [self.like(x, lost(y)), self.tensor(x.device(), &[rows, 2], lost(statistics))]
    }

    fn norm_into(&self, y: &mut Tensor, x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, rule: NormRule) {
        let [made, _] = self.norm(x, weight, bias, rule);
        *y = made.reshape(y.shape());
    }

    fn norm_backward(
        &self,
        dy: &Tensor,
        x: &Tensor,
        weight: &Tensor,
        statistics: &Tensor,
        rule: NormRule,
    ) -> Tensor {
        self.like(x, || {
            norm::backward_input(values(dy)?, values(x)?, values(weight)?, values(statistics)?, rule.centered)
        })
    }

    fn norm_backward_weight(&self, d_weight: &mut Tensor, dy: &Tensor, x: &Tensor, statistics: &Tensor) {
        self.run(|| {
            norm::backward_weight(values_mut(d_weight)?, None, values(dy)?, values(x)?, values(statistics)?)
        });
    }

    fn add_column_sums(&self, sums: &mut Tensor, x: &Tensor) {
        self.run(|| norm::add_column_sums(values_mut(sums)?, values(x)?));
    }

    fn add_rows_to(&self, sum: &mut Tensor, x: &Tensor) {
        self.add_column_sums(sum, x);
    }

    fn add_to_rows(&self, x: &mut Tensor, row: &Tensor) {
        self.run(|| elementwise::add_bias(values_mut(x)?, values(row)?));
    }

    fn add_assign(&self, y: &mut Tensor, x: &Tensor) {
        self.run(|| elementwise::add_scaled(values_mut(y)?, values(x)?, 1.0));
    }

    fn scale(&self, x: &mut Tensor, factor: f64) {
        self.run(|| elementwise::scale(values_mut(x)?, factor as f32));
    }

    fn clamp(&self, x: &mut Tensor, limit: f64) {
        self.run(|| elementwise::clamp(values_mut(x)?, limit as f32));
    }

    fn clamp_backward(&self, d: &mut Tensor, clamped: &Tensor, limit: f64) {
        self.run(|| elementwise::clamp_backward(values_mut(d)?, values(clamped)?, limit as f32));
    }

    fn activated(&self, x: &Tensor, kind: ActivationKind) -> Tensor {
        self.like(x, || elementwise::activate(values(x)?, activation(kind)))
    }

    fn activate(&self, x: &mut Tensor, kind: ActivationKind) {
        *x = self.activated(x, kind);
    }

    fn activate_backward(&self, d: &mut Tensor, x: &Tensor, kind: ActivationKind) {
        self.run(|| elementwise::activate_backward(values_mut(d)?, values(x)?, activation(kind)));
    }

    fn silu_product(&self, gate: &Tensor, up: &Tensor) -> Tensor {
        self.like(gate, || elementwise::silu_product(values(gate)?, values(up)?))
    }

    fn silu_product_in_place(&self, gate: &mut Tensor, up: &Tensor) {
        *gate = self.silu_product(gate, up);
    }

    fn silu_product_backward(&self, gate: &Tensor, up: &Tensor, d_up: &mut Tensor) -> Tensor {
        self.like(gate, || elementwise::silu_product_backward(values(gate)?, values(up)?, values_mut(d_up)?))
    }

    fn gate_add(&self, y: &mut Tensor, branch: &Tensor, gate: &Tensor) {
        self.run(|| elementwise::gate_add(values_mut(y)?, values(branch)?, values(gate)?));
    }

    fn gate_backward(
        &self,
        branch: &Tensor,
        gate: &Tensor,
        dy: &Tensor,
        d_gate: Option<&mut Tensor>,
    ) -> Tensor {
        self.like(dy, || {
            let d_gate = d_gate.map(values_mut).transpose()?;
            elementwise::gate_backward(values(branch)?, values(gate)?, values(dy)?, d_gate)
        })
    }

    fn copy_rows(
        &self,
        (to, to_strides): (&mut Tensor, RowStrides),
        (from, from_strides): (&Tensor, RowStrides),
        sizes: [usize; 3],
        len: usize,
        accumulate: bool,
    ) {
        self.run(|| {
            let (to_strides, from_strides) = (strides(to_strides), strides(from_strides));
            copy::copy(values_mut(to)?, to_strides, values(from)?, from_strides, sizes, len, accumulate)
        });
    }

    fn gather_rows(&self, table: Matrix<'_, f32>, rows: &[u32], width: usize) -> Tensor {
        self.tensor(table.device(), &[rows.len(), width], || match stored(table)? {
            Stored::Plain(table) => embedding::rows_of(table, rows, width),
            Stored::Blocks(table) => embedding::rows_of_blocks(table, rows),
        })
    }

    fn gather_rows_into(
        &self,
        out: &mut Tensor,
        table: Matrix<'_, f32>,
        rows: &[u32],
        first: u32,
        width: usize,
    ) {
        let rows: Vec<u32> = rows.iter().map(|row| row + first).collect();
        *out = self.gather_rows(table, &rows, width);
    }

    fn scatter_rows(&self, x: &mut Tensor, d: &Tensor, rows: &[u32], width: usize) {
        // Adding to zeros, each row once, writes.
        self.scatter_add_rows(x, d, rows, width);
    }

    fn scatter_add_rows(&self, x: &mut Tensor, d: &Tensor, rows: &[u32], width: usize) {
        self.run(|| embedding::backward(values_mut(x)?, values(d)?, rows, width));
    }

    fn keep_rows(&self, x: &mut Tensor, rows: &[u32], width: usize) {
        self.run(|| elementwise::keep_rows(values_mut(x)?, rows, width));
    }

    fn rotate(&self, x: &mut Tensor, rotary: &Rotary, positions: &[u32], back: bool) {
        self.run(|| {
            let angles = self.angles(rotary, positions)?;
            let x = values_mut(x)?;
            if back { angles.rotate_back(x) } else { angles.rotate(x) }
        });
    }

    fn attention(
        &self,
        out: &mut Tensor,
        heads: Heads<'_>,
        inputs: AttentionInputs<'_, f32>,
        spans: &[Span],
        log_sum_exp: Option<(&mut Tensor, usize)>,
    ) {
        self.run(|| {
            let constants = Constants::new(&self.gpu, &heads, &inputs)?;
            let log_sum_exp = match log_sum_exp {
                Some((sums, rows)) => Some((values_mut(sums)?, rows)),
                None => None,
            };
            let there = constants.inputs(&inputs)?;
            let sizes = constants.sizes(&heads);
            attention::forward(&sizes, &there, spans, values_mut(out)?, inputs.q_strides, log_sum_exp)
        });
    }

    fn attention_backward(
        &self,
        heads: Heads<'_>,
        inputs: AttentionInputs<'_, f32>,
        spans: &[Span],
        attended: Attended<'_, f32>,
        gradients: AttentionInputGradients<'_, f32>,
    ) {
        self.run(|| {
            let constants = Constants::new(&self.gpu, &heads, &inputs)?;
            let result = ForwardResult {
                out: values(attended.out)?,
                d_out: values(attended.d_out)?,
                strides: inputs.q_strides,
                log_sum_exp: values(attended.log_sum_exp)?,
                rows_per_batch: attended.rows_per_batch,
            };
            let mut gradients = InputGradients {
                dq: values_mut(gradients.dq)?,
                dk: values_mut(gradients.dk)?,
                dk_strides: gradients.kv_strides,
                dv: values_mut(gradients.dv)?,
                dv_strides: gradients.kv_strides,
            };
            let (sizes, there) = (constants.sizes(&heads), constants.inputs(&inputs)?);
            attention::backward(&sizes, &there, spans, &result, &mut gradients)
        });
    }

    fn mean_latents(
        &self,
        out: &mut Tensor,
        v: &Tensor,
        rows: &mut MeanRows<'_>,
        latents: usize,
        width: usize,
    ) {
        let rows: Vec<_> = rows.collect();
        if !rows.is_empty() {
            self.run(|| media::mean_rows(values_mut(out)?, values(v)?, &rows, latents, width));
        }
    }

    fn mean_latents_backward(
        &self,
        dv: &mut Tensor,
        d_out: &Tensor,
        rows: &mut MeanRows<'_>,
        latents: usize,
        width: usize,
    ) {
        let rows: Vec<_> = rows.collect();
        if !rows.is_empty() {
            self.run(|| media::mean_rows_backward(values_mut(dv)?, values(d_out)?, &rows, latents, width));
        }
    }

    fn cross_entropy(
        &self,
        logits: &mut Tensor,
        targets: &[u32],
        vocabulary: usize,
        scale: Option<f64>,
    ) -> Vec<f64> {
        let scale = scale.map(|scale| scale as f32);
        let losses = self
            .failure
            .guard(|| cross_entropy::losses(values_mut(logits)?, targets, vocabulary, scale)?.download());
        let losses = losses.unwrap_or_else(|| vec![f32::NAN; targets.len()]);
        losses.into_iter().map(f64::from).collect()
    }

    /// Squares are added in f32: those of numbers from 1e19 on are infinite.
    fn sum_of_squares(&self, tensors: &[&Tensor]) -> f64 {
        let sums = self.failure.guard(|| {
            let buffers = tensors.iter().map(|tensor| values(tensor)).collect::<Result<Vec<_>>>()?;
            elementwise::sums_of_squares(&buffers)
        });
        sums.map_or(f64::NAN, |sums| sums.iter().sum())
    }

    fn any_nonzero(&self, x: &Tensor) -> bool {
        self.failure.guard(|| elementwise::any_nonzero(values(x)?)).unwrap_or(true)
    }
}
