//! What otter's layers ask of a card ([`otter_nn::card`]), by the kernels of this crate.
//!
//! Every function here only finds the buffers behind its arguments, calls the function of the kernel, and keeps the first
//! failure: after one nothing more is done until it was asked for.

use std::sync::{Arc, Mutex, PoisonError};

use otter_nn::card::{
    ActivationKind, AdamWStep, CardAttended, CardBuffer, CardInputGradients, CardInputs, CardMatrix,
    CardMemory, CardMoments, CardTransfers, Operations, RowLayout,
};
use otter_nn::kernels::attention::{Heads, Span};
use otter_nn::{QuantisedView, Rotary};

use crate::adamw::{self, Settings};
use crate::attention::{self, ForwardResult, InputGradients, Inputs};
use crate::elementwise::{self, Activation};
use crate::memory::elements::{
    Blocks, Failure, Plain, Stored, blocks, elements, elements_mut, plain, singles, singles_mut, stored,
};
use crate::quantised::{self, QuantisedBuffer};
use crate::rotary::RotaryAngles;
use crate::{
    Buffer, Constant, Gpu, GpuError, Precision, Result, copy, cross_entropy, embedding, few_rows, matmul,
    media, norm,
};

/// Angles that are kept: those of the passes that alternate.
const KEPT_ANGLES: usize = 4;

/// Angles of rows at these positions, that all layers of a pass share.
type Known = (Rotary, Vec<u32>, Arc<RotaryAngles>);

/// A card as layers use it.
pub(crate) struct Layers {
    gpu: Gpu,
    precision: Precision,
    failure: Arc<Failure>,
    angles: Mutex<Vec<Known>>,
}

fn activation(kind: ActivationKind) -> Activation {
    match kind {
        ActivationKind::Gelu => Activation::Gelu,
        ActivationKind::GeluTanh => Activation::GeluTanh,
        ActivationKind::QuickGelu => Activation::QuickGelu,
        ActivationKind::Relu => Activation::Relu,
    }
}

fn layout(RowLayout { offset, strides }: RowLayout) -> copy::Layout {
    copy::Layout { offset, strides }
}

/// Slopes and visible keys of an attention, on the card.
struct Constants {
    slopes: Option<Constant<f32>>,
    visible: Option<(Constant<u8>, usize)>,
}

impl Constants {
    fn new(gpu: &Gpu, heads: &Heads<'_>, inputs: &CardInputs<'_>) -> Result<Self> {
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

    fn inputs<'a>(&'a self, inputs: &CardInputs<'a>) -> Result<Inputs<'a>> {
        Ok(Inputs {
            q: singles(inputs.q)?,
            q_layout: inputs.q_layout,
            k: singles(inputs.k)?,
            k_layout: inputs.kv_layout,
            v: singles(inputs.v)?,
            v_layout: inputs.kv_layout,
            visible: self.visible.as_ref().map(|(visible, keys)| (visible, *keys)),
        })
    }
}

impl Layers {
    pub(crate) fn new(gpu: Gpu, precision: Precision) -> Self {
        Self { gpu, precision, failure: Arc::default(), angles: Mutex::default() }
    }

    /// Work that changes buffers.
    fn run(&self, work: impl FnOnce() -> Result<()>) {
        self.failure.guard(work);
    }

    /// Work that makes a buffer of so many f32.
    fn made(&self, len: usize, work: impl FnOnce() -> Result<Buffer<f32>>) -> CardBuffer {
        plain(&self.failure, len, work)
    }

    fn angles(&self, rotary: &Rotary, positions: &[u32]) -> Result<Arc<RotaryAngles>> {
        let mut angles = self.angles.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, _, known)) = angles.iter().find(|(r, p, _)| p == positions && r == rotary) {
            return Ok(Arc::clone(known));
        }
        let new = Arc::new(RotaryAngles::new(&self.gpu, rotary, positions)?);
        if angles.len() >= KEPT_ANGLES {
            angles.remove(0);
        }
        angles.push((rotary.clone(), positions.to_vec(), Arc::clone(&new)));
        Ok(new)
    }
}

impl Operations for Layers {
    fn name(&self) -> String {
        let how = match self.precision {
            Precision::F32 => "f32",
            Precision::Bf16 => "bf16 products",
        };
        format!("{}, {how}", self.gpu.name())
    }

    fn memory(&self) -> CardMemory {
        CardMemory { used: self.gpu.used(), peak: self.gpu.peak(), limit: self.gpu.most() }
    }

    fn transfers(&self) -> CardTransfers {
        let (uploads, downloads) = self.gpu.transfers();
        CardTransfers { uploads, downloads }
    }

    fn limit(&self, bytes: u64) {
        self.gpu.limit(bytes);
    }

    fn reset_peak(&self) {
        self.gpu.reset_peak();
    }

    fn take_error(&self) -> Option<String> {
        self.failure.take()
    }

    fn synchronise(&self) {
        self.run(|| self.gpu.synchronise());
    }

    fn empty(&self, len: usize) -> CardBuffer {
        self.made(len, || self.gpu.allocate(len))
    }

    fn zeros(&self, len: usize) -> CardBuffer {
        self.made(len, || self.gpu.zeros(len))
    }

    fn clear(&self, x: &mut CardBuffer) {
        self.run(|| singles_mut(x)?.clear());
    }

    fn upload(&self, elements: &[f32]) -> CardBuffer {
        self.made(elements.len(), || self.gpu.upload(elements))
    }

    fn upload_halves(&self, bits: &[u16]) -> CardBuffer {
        plain(&self.failure, bits.len(), || self.gpu.upload(bits))
    }

    fn upload_blocks(&self, blocks: QuantisedView<'_>) -> CardBuffer {
        let matrix = self.failure.guard(|| QuantisedBuffer::upload(&self.gpu, blocks));
        CardBuffer::new(Blocks { matrix, len: blocks.bytes().len() })
    }

    fn zero_bytes(&self, len: usize) -> CardBuffer {
        plain::<u8>(&self.failure, len, || self.gpu.zeros(len))
    }

    fn write(&self, to: &mut CardBuffer, elements: &[f32]) {
        self.run(|| singles_mut(to)?.upload(elements));
    }

    fn write_bytes(&self, to: &mut CardBuffer, bytes: &[u8]) {
        self.run(|| elements_mut::<u8>(to)?.upload(bytes));
    }

    fn download(&self, from: &CardBuffer, to: &mut [f32]) {
        if self.failure.guard(|| singles(from)?.download_to(to)).is_none() {
            to.fill(f32::NAN);
        }
    }

    fn download_bytes(&self, from: &CardBuffer, to: &mut [u8]) {
        self.run(|| elements::<u8>(from)?.download_to(to));
    }

    fn download_halves(&self, from: &CardBuffer, to: &mut [u16]) {
        if self.failure.guard(|| elements::<u16>(from)?.download_to(to)).is_none() {
            // Not a number as f16 and as bf16.
            to.fill(0x7fff);
        }
    }

    fn download_blocks(&self, from: &CardBuffer, to: &mut [u8]) {
        self.run(|| blocks(from)?.bytes().download_to(to));
    }

    fn times_transposed(
        &self,
        y: &mut CardBuffer,
        x: &CardBuffer,
        w: CardMatrix<'_>,
        (inner, outer): (usize, usize),
        accumulate: bool,
    ) {
        self.run(|| {
            let (y, x) = (singles_mut(y)?, singles(x)?);
            match stored(w)? {
                Stored::Blocks(w) => quantised::times_transposed(y, x, w, accumulate, self.precision),
                Stored::Plain(w) if x.len() <= few_rows::MOST * inner => {
                    few_rows::times_transposed(y, x, w, (inner, outer), accumulate)
                }
                Stored::Plain(w) => {
                    matmul::times_transposed(y, x, w, (inner, outer), accumulate, self.precision)
                }
            }
        });
    }

    fn times(
        &self,
        dx: &mut CardBuffer,
        dy: &CardBuffer,
        w: CardMatrix<'_>,
        size: (usize, usize),
        accumulate: bool,
    ) {
        self.run(|| {
            let (dx, dy) = (singles_mut(dx)?, singles(dy)?);
            match stored(w)? {
                Stored::Blocks(w) => quantised::times(dx, dy, w, accumulate, self.precision),
                Stored::Plain(w) => matmul::times(dx, dy, w, size, accumulate, self.precision),
            }
        });
    }

    fn add_transposed_times(
        &self,
        dw: &mut CardBuffer,
        dy: &CardBuffer,
        x: &CardBuffer,
        size: (usize, usize),
    ) {
        self.run(|| {
            matmul::add_transposed_times(singles_mut(dw)?, singles(dy)?, singles(x)?, size, self.precision)
        });
    }

    fn normalise(
        &self,
        x: &CardBuffer,
        gain: &CardBuffer,
        bias: Option<&CardBuffer>,
        eps: f64,
        centred: bool,
    ) -> [CardBuffer; 2] {
        let (len, rows) = (x.len(), x.len() / gain.len().max(1));
        let made = self.failure.guard(|| {
            let bias = bias.map(singles).transpose()?;
            norm::forward(singles(x)?, singles(gain)?, bias, eps as f32, centred)
        });
        let (y, statistics) = made.unzip();
        let wrap = |buffer, len| CardBuffer::new(Plain { buffer, len, failure: Arc::clone(&self.failure) });
        [wrap(y, len), wrap(statistics, 2 * rows)]
    }

    fn normalise_back(
        &self,
        dy: &CardBuffer,
        x: &CardBuffer,
        gain: &CardBuffer,
        statistics: &CardBuffer,
        centred: bool,
    ) -> CardBuffer {
        self.made(x.len(), || {
            norm::backward_input(singles(dy)?, singles(x)?, singles(gain)?, singles(statistics)?, centred)
        })
    }

    fn add_gain_gradient(
        &self,
        d_gain: &mut CardBuffer,
        dy: &CardBuffer,
        x: &CardBuffer,
        statistics: &CardBuffer,
    ) {
        self.run(|| {
            norm::backward_gain(singles_mut(d_gain)?, None, singles(dy)?, singles(x)?, singles(statistics)?)
        });
    }

    fn add_column_sums(&self, sums: &mut CardBuffer, x: &CardBuffer) {
        self.run(|| norm::add_column_sums(singles_mut(sums)?, singles(x)?));
    }

    fn add_to_rows(&self, x: &mut CardBuffer, row: &CardBuffer) {
        self.run(|| elementwise::add_bias(singles_mut(x)?, singles(row)?));
    }

    fn add_scaled(&self, y: &mut CardBuffer, x: &CardBuffer, factor: f32) {
        self.run(|| elementwise::add_scaled(singles_mut(y)?, singles(x)?, factor));
    }

    fn scale(&self, x: &mut CardBuffer, factor: f32) {
        self.run(|| elementwise::scale(singles_mut(x)?, factor));
    }

    fn clamp(&self, x: &mut CardBuffer, limit: f32) {
        self.run(|| elementwise::clamp(singles_mut(x)?, limit));
    }

    fn clamp_back(&self, d: &mut CardBuffer, clamped: &CardBuffer, limit: f32) {
        self.run(|| elementwise::clamp_backward(singles_mut(d)?, singles(clamped)?, limit));
    }

    fn activate(&self, x: &CardBuffer, kind: ActivationKind) -> CardBuffer {
        self.made(x.len(), || elementwise::activate(singles(x)?, activation(kind)))
    }

    fn activate_back(&self, d: &mut CardBuffer, x: &CardBuffer, kind: ActivationKind) {
        self.run(|| elementwise::activate_backward(singles_mut(d)?, singles(x)?, activation(kind)));
    }

    fn silu_product(&self, gate: &CardBuffer, up: &CardBuffer) -> CardBuffer {
        self.made(gate.len(), || elementwise::silu_product(singles(gate)?, singles(up)?))
    }

    fn silu_product_back(&self, gate: &CardBuffer, up: &CardBuffer, d_up: &mut CardBuffer) -> CardBuffer {
        self.made(gate.len(), || {
            elementwise::silu_product_backward(singles(gate)?, singles(up)?, singles_mut(d_up)?)
        })
    }

    fn gate_add(&self, y: &mut CardBuffer, branch: &CardBuffer, gate: &CardBuffer) {
        self.run(|| elementwise::gate_add(singles_mut(y)?, singles(branch)?, singles(gate)?));
    }

    fn gate_back(
        &self,
        branch: &CardBuffer,
        gate: &CardBuffer,
        dy: &CardBuffer,
        d_gate: Option<&mut CardBuffer>,
    ) -> CardBuffer {
        self.made(dy.len(), || {
            let d_gate = d_gate.map(singles_mut).transpose()?;
            elementwise::gate_backward(singles(branch)?, singles(gate)?, singles(dy)?, d_gate)
        })
    }

    fn copy(
        &self,
        (to, to_layout): (&mut CardBuffer, RowLayout),
        (from, from_layout): (&CardBuffer, RowLayout),
        sizes: [usize; 3],
        len: usize,
        accumulate: bool,
    ) {
        self.run(|| {
            let (to_layout, from_layout) = (layout(to_layout), layout(from_layout));
            copy::copy(singles_mut(to)?, to_layout, singles(from)?, from_layout, sizes, len, accumulate)
        });
    }

    fn table_rows(&self, table: CardMatrix<'_>, ids: &[u32], width: usize) -> CardBuffer {
        self.made(ids.len() * width, || match stored(table)? {
            Stored::Plain(table) => embedding::rows_of(table, ids, width),
            Stored::Blocks(table) => embedding::rows_of_blocks(table, ids),
        })
    }

    fn add_table_rows(&self, d_table: &mut CardBuffer, dy: &CardBuffer, ids: &[u32], width: usize) {
        self.run(|| embedding::backward(singles_mut(d_table)?, singles(dy)?, ids, width));
    }

    fn keep_rows(&self, x: &mut CardBuffer, rows: &[u32], width: usize) {
        self.run(|| elementwise::keep_rows(singles_mut(x)?, rows, width));
    }

    fn rotate(&self, x: &mut CardBuffer, rotary: &Rotary, positions: &[u32], back: bool) {
        self.run(|| {
            let angles = self.angles(rotary, positions)?;
            let x = singles_mut(x)?;
            if back { angles.rotate_back(x) } else { angles.rotate(x) }
        });
    }

    fn attend(
        &self,
        heads: Heads<'_>,
        inputs: CardInputs<'_>,
        spans: &[Span],
        out: &mut CardBuffer,
        log_sums: Option<(&mut CardBuffer, usize)>,
    ) {
        self.run(|| {
            let constants = Constants::new(&self.gpu, &heads, &inputs)?;
            let log_sums = match log_sums {
                Some((sums, rows)) => Some((singles_mut(sums)?, rows)),
                None => None,
            };
            let there = constants.inputs(&inputs)?;
            let sizes = constants.sizes(&heads);
            attention::forward(&sizes, &there, spans, singles_mut(out)?, inputs.q_layout, log_sums)
        });
    }

    fn attend_back(
        &self,
        heads: Heads<'_>,
        inputs: CardInputs<'_>,
        spans: &[Span],
        attended: CardAttended<'_>,
        gradients: CardInputGradients<'_>,
    ) {
        self.run(|| {
            let constants = Constants::new(&self.gpu, &heads, &inputs)?;
            let result = ForwardResult {
                out: singles(attended.out)?,
                d_out: singles(attended.d_out)?,
                layout: inputs.q_layout,
                log_sums: singles(attended.log_sums)?,
                rows_per_batch: attended.rows_per_batch,
            };
            let mut gradients = InputGradients {
                dq: singles_mut(gradients.dq)?,
                dk: singles_mut(gradients.dk)?,
                dk_layout: gradients.kv_layout,
                dv: singles_mut(gradients.dv)?,
                dv_layout: gradients.kv_layout,
            };
            let (sizes, there) = (constants.sizes(&heads), constants.inputs(&inputs)?);
            attention::backward(&sizes, &there, spans, &result, &mut gradients)
        });
    }

    fn mean_latents(
        &self,
        out: &mut CardBuffer,
        v: &CardBuffer,
        rows: &[(usize, &[usize])],
        latents: usize,
        width: usize,
    ) {
        self.run(|| media::mean_rows(singles_mut(out)?, singles(v)?, rows, latents, width));
    }

    fn mean_latents_back(
        &self,
        dv: &mut CardBuffer,
        d_out: &CardBuffer,
        rows: &[(usize, &[usize])],
        latents: usize,
        width: usize,
    ) {
        self.run(|| media::mean_rows_backward(singles_mut(dv)?, singles(d_out)?, rows, latents, width));
    }

    fn cross_entropy(
        &self,
        logits: &mut CardBuffer,
        targets: &[u32],
        vocabulary: usize,
        scale: Option<f32>,
    ) -> Vec<f32> {
        let losses = self
            .failure
            .guard(|| cross_entropy::losses(singles_mut(logits)?, targets, vocabulary, scale)?.download());
        losses.unwrap_or_else(|| vec![f32::NAN; targets.len()])
    }

    fn sums_of_squares(&self, buffers: &[&CardBuffer]) -> Vec<f64> {
        let sums = self.failure.guard(|| {
            let buffers = buffers.iter().map(|buffer| singles(buffer)).collect::<Result<Vec<_>>>()?;
            elementwise::sums_of_squares(&buffers)
        });
        sums.unwrap_or_else(|| vec![f64::NAN; buffers.len()])
    }

    fn any_nonzero(&self, x: &CardBuffer) -> bool {
        self.failure.guard(|| elementwise::any_nonzero(singles(x)?)).unwrap_or(true)
    }

    fn adamw(
        &self,
        values: &mut CardBuffer,
        gradients: &CardBuffer,
        moments: CardMoments<'_>,
        step: &AdamWStep,
    ) {
        let settings = Settings {
            learning_rate: step.learning_rate,
            beta1: step.betas.0,
            beta2: step.betas.1,
            epsilon: step.epsilon,
            decay: step.decay,
            step: step.step,
            factor: step.factor,
        };
        self.run(|| {
            let (values, gradients) = (singles_mut(values)?, singles(gradients)?);
            match moments {
                CardMoments::Full([first, second]) => {
                    let (first, second) = (singles_mut(first)?, singles_mut(second)?);
                    adamw::update(values, gradients, first, second, &settings)
                }
                CardMoments::EightBit([first, second, first_scales, second_scales], position) => {
                    let moments = adamw::EightBitMoments {
                        first: elements_mut(first)?,
                        second: elements_mut(second)?,
                        first_scales: singles_mut(first_scales)?,
                        second_scales: singles_mut(second_scales)?,
                    };
                    adamw::update_eight_bit(values, gradients, moments, position, &settings)
                }
            }
        });
    }
}
