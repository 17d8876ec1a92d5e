//! The host as a [`Backend`]: operations on tensors by the kernels beside this file.

use super::adamw::{self, StepConstants};
use super::adamw_eight_bit::{self, EightBitMoments};
use super::attention::{self, ForwardResult, InputGradients, Inputs, row::forward_rows};
use super::{cross_entropy, elementwise, for_row_blocks, gemm, media, norm, rotary, rows};
use crate::backend::{
    ActivationKind, AdamWStep, Attended, AttentionInputGradients, AttentionInputs, Backend, Epilogue, Heads,
    MeanRows, Moments, NormRule, Optimizer, Projection, RowStrides, Span, WeightShape,
};
use crate::{Device, Float, Matrix, Rotary, Tensor, WeightView};

/// The host: its threads, its memory, for f32 and f64.
pub struct Cpu;

/// `$call` with the activation type of a kind.
macro_rules! with_kind {
    ($kind:expr, $activation:ident => $call:expr) => {
        match $kind {
            ActivationKind::Gelu => {
                type $activation = elementwise::Gelu;
                $call
            }
            ActivationKind::GeluTanh => {
                type $activation = elementwise::GeluTanh;
                $call
            }
            ActivationKind::QuickGelu => {
                type $activation = elementwise::QuickGelu;
                $call
            }
            ActivationKind::Relu => {
                type $activation = elementwise::Relu;
                $call
            }
        }
    };
}

/// The halves of a weight's rows.
fn halves<'a, T: Float>(weight: Matrix<'a, T>, shape: WeightShape) -> [WeightView<'a, T>; 2] {
    let (head, tail) = weight.view().split_at(shape.outer / 2 * shape.inner);
    [head, tail]
}

fn inputs<'a, T: Float>(inputs: &AttentionInputs<'a, T>) -> Inputs<'a, T> {
    Inputs {
        q: inputs.q.data(),
        q_strides: inputs.q_strides,
        k: inputs.k.data(),
        k_strides: inputs.kv_strides,
        v: inputs.v.data(),
        v_strides: inputs.kv_strides,
        visible: inputs.visible,
    }
}

/// Statistics of rows, (rows, 2), as kernels take them.
fn pairs<T: Float>(statistics: &Tensor<T>) -> &[[T; 2]] {
    statistics.data().as_chunks().0
}

fn made<T: Float>(elements: Vec<T>, like: &Tensor<T>) -> Tensor<T> {
    Tensor::from_vec(elements, like.shape(), Device::Cpu)
}

impl<T: Float> Backend<T> for Cpu {
    fn clear(&self, x: &mut Tensor<T>) {
        for_row_blocks(x.data_mut(), 1, 1, |_, block| block.fill(T::ZERO));
    }

    fn linear(
        &self,
        y: &mut Tensor<T>,
        x: &Tensor<T>,
        weight: Matrix<'_, T>,
        bias: Option<&Tensor<T>>,
        WeightShape { outer, inner }: WeightShape,
        epilogue: Epilogue,
    ) {
        let (y, x, weight, bias) = (y.data_mut(), x.data(), weight.view(), bias.map(Tensor::data));
        let add_bias = |first: usize, part: &mut [T]| {
            if let Some(bias) = bias {
                elementwise::add_part(part, &bias[first..]);
            }
        };
        if let Epilogue::Activate(kind) = epilogue {
            return with_kind!(kind, A => {
                gemm::matmul_nt_then(y, x, weight, inner, outer, false, &|_, first, part| {
                    add_bias(first, part);
                    elementwise::activate_part::<A, T>(part);
                })
            });
        }
        let accumulate = epilogue == Epilogue::Add;
        if bias.is_none() {
            return gemm::matmul_nt(y, x, weight, inner, outer, accumulate);
        }
        gemm::matmul_nt_then(y, x, weight, inner, outer, accumulate, &|_, first, part| {
            add_bias(first, part);
        });
    }

    /// Where all weights are in blocks of one format, x is rounded once, and the products share one pass over the threads.
    fn linear_each(&self, x: &Tensor<T>, projections: &mut [Projection<'_, T>]) {
        if T::matmul_nt_quantized_each(x.data(), projections) {
            for Projection { y, bias, .. } in projections {
                if let Some(bias) = bias {
                    self.add_to_rows(y, bias);
                }
            }
            return;
        }
        for Projection { y, weight, bias, shape } in projections {
            self.linear(y, x, *weight, *bias, *shape, Epilogue::None);
        }
    }

    fn linear_halves(&self, x: &Tensor<T>, weight: Matrix<'_, T>, shape: WeightShape) -> [Tensor<T>; 2] {
        let half = shape.outer / 2;
        halves(weight, shape).map(|weight| {
            let mut y = Tensor::zeros(&[x.rows(), half], Device::Cpu);
            gemm::matmul_nt(y.data_mut(), x.data(), weight, shape.inner, half, false);
            y
        })
    }

    fn linear_halves_backward(
        &self,
        dy: [&Tensor<T>; 2],
        x: &Tensor<T>,
        weight: Matrix<'_, T>,
        d_weight: Option<&mut Tensor<T>>,
        shape: WeightShape,
        needs_input_grad: bool,
    ) -> Option<Tensor<T>> {
        let (half, inner) = (shape.outer / 2, shape.inner);
        if let Some(d_weight) = d_weight {
            let parts = d_weight.data_mut().chunks_exact_mut(half * inner);
            parts.zip(dy).for_each(|(d, dy)| gemm::matmul_tn_add(d, dy.data(), x.data(), half, inner));
        }
        needs_input_grad.then(|| {
            let mut dx = x.zeros_like();
            for (at, (dy, weight)) in dy.into_iter().zip(halves(weight, shape)).enumerate() {
                gemm::matmul_nn(dx.data_mut(), dy.data(), weight, half, inner, at > 0);
            }
            dx
        })
    }

    fn matmul_nn(
        &self,
        dx: &mut Tensor<T>,
        dy: &Tensor<T>,
        weight: Matrix<'_, T>,
        shape: WeightShape,
        accumulate: bool,
    ) {
        gemm::matmul_nn(dx.data_mut(), dy.data(), weight.view(), shape.outer, shape.inner, accumulate);
    }

    fn matmul_tn_add(&self, dw: &mut Tensor<T>, dy: &Tensor<T>, x: &Tensor<T>, shape: WeightShape) {
        gemm::matmul_tn_add(dw.data_mut(), dy.data(), x.data(), shape.outer, shape.inner);
    }

    fn norm(
        &self,
        x: &Tensor<T>,
        weight: &Tensor<T>,
        bias: Option<&Tensor<T>>,
        NormRule { eps, centered }: NormRule,
    ) -> [Tensor<T>; 2] {
        let (y, statistics) = match centered {
            true => norm::layer_norm(x.data(), weight.data(), bias.map(Tensor::data), eps),
            false => norm::rms_norm(x.data(), weight.data(), eps),
        };
        let shape = [statistics.len(), 2];
        let statistics = Tensor::from_vec(statistics.into_flattened(), &shape, Device::Cpu);
        [made(y, x), statistics]
    }

    fn norm_into(
        &self,
        y: &mut Tensor<T>,
        x: &Tensor<T>,
        weight: &Tensor<T>,
        bias: Option<&Tensor<T>>,
        NormRule { eps, centered }: NormRule,
    ) {
        norm::normalize_into(y.data_mut(), x.data(), weight.data(), bias.map(Tensor::data), eps, centered);
    }

    fn norm_backward(
        &self,
        dy: &Tensor<T>,
        x: &Tensor<T>,
        weight: &Tensor<T>,
        statistics: &Tensor<T>,
        rule: NormRule,
    ) -> Tensor<T> {
        let statistics = pairs(statistics);
        made(norm::norm_backward_input(dy.data(), x.data(), weight.data(), statistics, rule.centered), x)
    }

    fn norm_backward_weight(
        &self,
        d_weight: &mut Tensor<T>,
        dy: &Tensor<T>,
        x: &Tensor<T>,
        statistics: &Tensor<T>,
    ) {
        norm::norm_backward_weight(d_weight.data_mut(), dy.data(), x.data(), pairs(statistics));
    }

    fn add_column_sums(&self, sums: &mut Tensor<T>, x: &Tensor<T>) {
        norm::add_column_sums(sums.data_mut(), x.data());
    }

    fn add_rows_to(&self, sum: &mut Tensor<T>, x: &Tensor<T>) {
        let sum = sum.data_mut();
        x.data().chunks_exact(sum.len().max(1)).for_each(|part| elementwise::add_part(sum, part));
    }

    fn add_to_rows(&self, x: &mut Tensor<T>, row: &Tensor<T>) {
        let row = row.data();
        for_row_blocks(x.data_mut(), row.len(), 1, |_, block| {
            block.chunks_exact_mut(row.len()).for_each(|x| elementwise::add_part(x, row));
        });
    }

    fn add_assign(&self, y: &mut Tensor<T>, x: &Tensor<T>) {
        elementwise::add_assign(y.data_mut(), x.data());
    }

    fn scale(&self, x: &mut Tensor<T>, factor: f64) {
        elementwise::scale(x.data_mut(), T::from_f64(factor));
    }

    fn clamp(&self, x: &mut Tensor<T>, limit: f64) {
        elementwise::clamp(x.data_mut(), T::from_f64(limit));
    }

    fn clamp_backward(&self, d: &mut Tensor<T>, clamped: &Tensor<T>, limit: f64) {
        elementwise::clamp_backward(d.data_mut(), clamped.data(), T::from_f64(limit));
    }

    fn activated(&self, x: &Tensor<T>, kind: ActivationKind) -> Tensor<T> {
        made(with_kind!(kind, A => elementwise::activate::<A, T>(x.data())), x)
    }

    fn activate(&self, x: &mut Tensor<T>, kind: ActivationKind) {
        with_kind!(kind, A => elementwise::activate_in_place::<A, T>(x.data_mut()));
    }

    fn activate_backward(&self, d: &mut Tensor<T>, x: &Tensor<T>, kind: ActivationKind) {
        with_kind!(kind, A => elementwise::activate_backward::<A, T>(d.data_mut(), x.data()));
    }

    fn silu_product(&self, gate: &Tensor<T>, up: &Tensor<T>) -> Tensor<T> {
        made(elementwise::silu_product(gate.data(), up.data()), gate)
    }

    fn silu_product_in_place(&self, gate: &mut Tensor<T>, up: &Tensor<T>) {
        elementwise::silu_product_in_place(gate.data_mut(), up.data());
    }

    fn silu_product_backward(&self, gate: &Tensor<T>, up: &Tensor<T>, d_up: &mut Tensor<T>) -> Tensor<T> {
        made(elementwise::silu_product_backward(gate.data(), up.data(), d_up.data_mut()), gate)
    }

    fn gate_add(&self, y: &mut Tensor<T>, branch: &Tensor<T>, gate: &Tensor<T>) {
        elementwise::add_scaled(y.data_mut(), branch.data(), gate_factor(gate));
    }

    fn gate_backward(
        &self,
        branch: &Tensor<T>,
        gate: &Tensor<T>,
        dy: &Tensor<T>,
        d_gate: Option<&mut Tensor<T>>,
    ) -> Tensor<T> {
        let factor = gate_factor(gate);
        if let Some(d_gate) = d_gate {
            d_gate.data_mut()[0] += elementwise::dot(dy.data(), branch.data()) * (T::ONE - factor * factor);
        }
        let mut d_branch = dy.clone();
        elementwise::scale(d_branch.data_mut(), factor);
        d_branch
    }

    fn copy_rows(
        &self,
        (to, to_strides): (&mut Tensor<T>, RowStrides),
        (from, from_strides): (&Tensor<T>, RowStrides),
        sizes: [usize; 3],
        len: usize,
        accumulate: bool,
    ) {
        rows::copy((to.data_mut(), to_strides), (from.data(), from_strides), sizes, len, accumulate);
    }

    fn gather_rows(&self, table: Matrix<'_, T>, numbers: &[u32], width: usize) -> Tensor<T> {
        let shape = [numbers.len(), width];
        if let WeightView::Full(table) = table.view() {
            let row = |&at: &u32| table[at as usize * width..][..width].iter().copied();
            return Tensor::from_vec(numbers.iter().flat_map(row).collect(), &shape, Device::Cpu);
        }
        let mut out = Tensor::zeros(&shape, Device::Cpu);
        self.gather_rows_into(&mut out, table, numbers, 0, width);
        out
    }

    fn gather_rows_into(
        &self,
        out: &mut Tensor<T>,
        table: Matrix<'_, T>,
        numbers: &[u32],
        first: u32,
        width: usize,
    ) {
        let table = table.view();
        for (&at, row) in numbers.iter().zip(out.data_mut().chunks_exact_mut(width)) {
            table.read((at + first) as usize * width, row);
        }
    }

    fn scatter_rows(&self, x: &mut Tensor<T>, d: &Tensor<T>, numbers: &[u32], width: usize) {
        let x = x.data_mut();
        for (&at, d) in numbers.iter().zip(d.data().chunks_exact(width)) {
            x[at as usize * width..][..width].copy_from_slice(d);
        }
    }

    fn scatter_add_rows(&self, x: &mut Tensor<T>, d: &Tensor<T>, numbers: &[u32], width: usize) {
        let x = x.data_mut();
        for (&at, d) in numbers.iter().zip(d.data().chunks_exact(width)) {
            elementwise::add_part(&mut x[at as usize * width..][..width], d);
        }
    }

    fn keep_rows(&self, x: &mut Tensor<T>, numbers: &[u32], width: usize) {
        rows::keep(x.data_mut(), numbers, width);
    }

    fn rotate(&self, x: &mut Tensor<T>, rotary: &Rotary, positions: &[u32], back: bool) {
        rotary::rotate(rotary, x.data_mut(), positions, if back { -T::ONE } else { T::ONE });
    }

    fn attention(
        &self,
        out: &mut Tensor<T>,
        heads: Heads<'_>,
        from: AttentionInputs<'_, T>,
        spans: &[Span],
        log_sum_exp: Option<(&mut Tensor<T>, usize)>,
    ) {
        let log_sum_exp = log_sum_exp.map(|(sums, rows)| (sums.data_mut(), rows));
        attention::forward(heads, inputs(&from), spans, out.data_mut(), from.q_strides, log_sum_exp);
    }

    /// Allocates nothing.
    fn attention_of_single_rows(
        &self,
        out: &mut Tensor<T>,
        heads: Heads<'_>,
        from: AttentionInputs<'_, T>,
        batches: usize,
        span: &(dyn Fn(usize) -> Option<Span> + Sync),
        scores: &mut Tensor<T>,
    ) {
        let (scores, out) = (scores.data_mut(), out.data_mut());
        forward_rows(heads, inputs(&from), batches, span, scores, out, from.q_strides);
    }

    fn attention_backward(
        &self,
        heads: Heads<'_>,
        from: AttentionInputs<'_, T>,
        spans: &[Span],
        attended: Attended<'_, T>,
        gradients: AttentionInputGradients<'_, T>,
    ) {
        let result = ForwardResult {
            out: attended.out.data(),
            d_out: attended.d_out.data(),
            strides: from.q_strides,
            log_sum_exp: attended.log_sum_exp.data(),
            rows_per_batch: attended.rows_per_batch,
        };
        let strides = gradients.kv_strides;
        let gradients = InputGradients {
            dq: gradients.dq.data_mut(),
            dk: gradients.dk.data_mut(),
            dk_strides: strides,
            dv: gradients.dv.data_mut(),
            dv_strides: strides,
        };
        attention::backward(heads, inputs(&from), spans, result, gradients);
    }

    fn mean_latents(
        &self,
        out: &mut Tensor<T>,
        v: &Tensor<T>,
        rows: &mut MeanRows<'_>,
        latents: usize,
        width: usize,
    ) {
        media::mean_latents(out.data_mut(), v.data(), rows, latents * width, width);
    }

    fn mean_latents_backward(
        &self,
        dv: &mut Tensor<T>,
        d_out: &Tensor<T>,
        rows: &mut MeanRows<'_>,
        latents: usize,
        width: usize,
    ) {
        media::mean_latents_backward(dv.data_mut(), d_out.data(), rows, latents * width, width);
    }

    fn cross_entropy(
        &self,
        logits: &mut Tensor<T>,
        targets: &[u32],
        vocabulary: usize,
        scale: Option<f64>,
    ) -> Vec<f64> {
        let scale = scale.map(T::from_f64);
        let losses = cross_entropy::cross_entropy(logits.data_mut(), targets, vocabulary, scale);
        losses.into_iter().map(T::to_f64).collect()
    }

    fn sum_of_squares(&self, tensors: &[&Tensor<T>]) -> f64 {
        elementwise::sum_of_all_squares(tensors.iter().map(|tensor| tensor.data()))
    }

    fn any_nonzero(&self, x: &Tensor<T>) -> bool {
        x.data().iter().any(|&value| value != T::ZERO)
    }
}

impl Optimizer for Cpu {
    fn adamw(&self, values: &mut Tensor, gradients: &Tensor, moments: &mut Moments, step: &AdamWStep) {
        let (values, gradients, constants) = (values.data_mut(), gradients.data(), StepConstants::new(step));
        match moments {
            Moments::Full([first, second]) => {
                adamw::update(values, gradients, first.data_mut(), second.data_mut(), constants);
            }
            Moments::EightBit { codes: [first, second], scales: [first_scales, second_scales], position } => {
                let moments = EightBitMoments {
                    first: first.data_mut(),
                    second: second.data_mut(),
                    first_scales: first_scales.data_mut(),
                    second_scales: second_scales.data_mut(),
                };
                adamw_eight_bit::update(values, gradients, moments, (step.step, *position), constants);
            }
        }
    }
}

/// tanh of the gate; not a number where that is infinite: no training ends there, and a product with 1 would hide it.
fn gate_factor<T: Float>(gate: &Tensor<T>) -> T {
    let gate = gate.data()[0];
    gate.tanh() + gate * T::ZERO
}
