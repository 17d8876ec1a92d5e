//! Self-attention of a decoder layer, from normalised rows to what joins the residual stream: projections (apart or
//! fused, with or without biases), rotary positions where the model has them, attention, output projection.

use otter_nn::layers::attention::{AttentionGradients, AttentionOutput, KeysValues};
use otter_nn::layers::rows::{self, RowLayout};
use otter_nn::{
    Gradients, Init, Linear, ParameterSpecs, Parameters, Real, Rotary, SelfAttentionCore, Tensor,
};

use crate::text::cache::LayerCache;
use crate::text::decoder::{Rows, add_backward};
use crate::workspace::Scratch;

/// Projections, positions, attention, output.
#[derive(Clone, Debug)]
pub(crate) struct SelfAttention {
    projection: Projection,
    rotary: Option<Rotary>,
    core: SelfAttentionCore,
    out: Linear,
}

/// How queries, keys and values come from a row.
#[derive(Clone, Debug)]
enum Projection {
    /// A matrix for each.
    Separate { q: Linear, k: Linear, v: Linear },
    /// One matrix. Its output is a group for every key head: the query heads that use it, the key head, the value head.
    Fused(Linear),
}

/// Names of the projections, and what they have in common.
pub(crate) struct ProjectionSpec<'a> {
    /// Queries, keys and values; one name when they are fused.
    pub(crate) inputs: &'a [&'a str],
    /// Output.
    pub(crate) output: &'a str,
    /// Width of the rows.
    pub(crate) width: usize,
    /// Whether the matrices have biases.
    pub(crate) bias: bool,
}

/// Kept for the reverse pass.
pub(crate) struct SelfAttentionSaved<T> {
    q: Tensor<T>,
    k: Tensor<T>,
    v: Tensor<T>,
    attention: AttentionOutput<T>,
}

impl SelfAttention {
    /// Registers the projections under `<name>.`.
    pub(crate) fn new(
        specs: &mut ParameterSpecs,
        name: &str,
        spec: &ProjectionSpec<'_>,
        core: SelfAttentionCore,
        rotary: Option<Rotary>,
    ) -> Self {
        let (query_width, key_width) = (core.heads * core.head_size, core.key_heads * core.head_size);
        let mut linear = |part: &str, from: usize, to: usize| {
            Linear::new(specs, &format!("{name}.{part}"), from, to, spec.bias, Init::Normal(0.02))
        };
        let projection = match spec.inputs {
            [q, k, v] => Projection::Separate {
                q: linear(q, spec.width, query_width),
                k: linear(k, spec.width, key_width),
                v: linear(v, spec.width, key_width),
            },
            fused => Projection::Fused(linear(&fused.concat(), spec.width, query_width + 2 * key_width)),
        };
        let out = linear(spec.output, query_width, spec.width);
        Self { projection, rotary, core, out }
    }

    /// Adds the attention of normalised rows (batch * length, width) to `residual`.
    pub(crate) fn forward_saved<T: Real>(
        &self,
        parameters: &Parameters<T>,
        normed: &Tensor<T>,
        rows: &Rows<'_>,
        residual: &mut Tensor<T>,
    ) -> SelfAttentionSaved<T> {
        let (q, k, v) = self.project(parameters, normed, rows.positions);
        let kv = KeysValues::exact(&k, &v, normed.rows() / rows.batch);
        let attention = self.core.forward_saved(&q, rows.batch, kv, rows.mask);
        self.out.forward_add(parameters, &attention.out, residual);
        SelfAttentionSaved { q, k, v, attention }
    }

    /// The same for new rows (batch * new, width) that follow `len` cached ones.
    pub(crate) fn forward_cached<T: Real>(
        &self,
        parameters: &Parameters<T>,
        normed: &Tensor<T>,
        rows: &Rows<'_>,
        (cache, len): (&mut LayerCache<T>, usize),
        residual: &mut Tensor<T>,
        scratch: &mut Scratch<T>,
    ) {
        let (count, size) = (rows.positions.len(), self.core.head_size);
        let key_shape = [count, self.core.key_heads * size];
        let mut q = scratch.take(&[count, self.core.heads * size]);
        let (mut k, mut v) = (scratch.take(&key_shape), scratch.take(&key_shape));
        match &self.projection {
            Projection::Separate { q: to_q, k: to_k, v: to_v } => {
                Linear::forward_each(parameters, normed, [(to_q, &mut q), (to_k, &mut k), (to_v, &mut v)]);
            }
            Projection::Fused(qkv) => {
                let mut fused = scratch.take(&[count, qkv.outer()]);
                qkv.forward_into(parameters, normed, &mut fused, false);
                self.split_into(&fused, &mut q, &mut k, &mut v);
                scratch.give(fused);
            }
        }
        if let Some(rotary) = &self.rotary {
            rotary.rotate(&mut q, rows.positions);
            rotary.rotate(&mut k, rows.positions);
        }
        let kv = cache.append(&k, &v, rows.batch, len);
        let mut attended = scratch.take(q.shape());
        let mut scores = scratch.take_for_host(rows.batch * self.core.heads * kv.capacity);
        self.core.forward_into(&q, rows.batch, kv, rows.mask, &mut scores, &mut attended);
        self.out.forward_into(parameters, &attended, residual, true);
        [q, k, v, attended, scores].into_iter().for_each(|buffer| scratch.give(buffer));
    }

    /// Whether the reverse pass needs the normalised rows again.
    pub(crate) fn wants_input<T: Real>(&self, gradients: &Gradients<T>) -> bool {
        match &self.projection {
            Projection::Separate { q, k, v } => [q, k, v].iter().any(|l| gradients.wants(l.weight())),
            Projection::Fused(qkv) => gradients.wants(qkv.weight()),
        }
    }

    /// Adds the gradient of the normalised rows to `d_normed`, given that of the output. `normed` is there when
    /// [`SelfAttention::wants_input`] says so.
    pub(crate) fn backward<T: Real>(
        &self,
        parameters: &Parameters<T>,
        saved: &SelfAttentionSaved<T>,
        normed: Option<&Tensor<T>>,
        rows: &Rows<'_>,
        dy: &Tensor<T>,
        d_normed: &mut Tensor<T>,
        gradients: &mut Gradients<T>,
    ) {
        let SelfAttentionSaved { q, k, v, attention } = saved;
        let d_attended = self.out.backward(parameters, &attention.out, dy, gradients);
        let kv = KeysValues::exact(k, v, k.rows() / rows.batch);
        let mut d = self.core.backward(q, rows.batch, kv, rows.mask, attention, &d_attended);
        if let Some(rotary) = &self.rotary {
            rotary.rotate_back(&mut d.dq, rows.positions);
            rotary.rotate_back(&mut d.dk, rows.positions);
        }
        match &self.projection {
            Projection::Separate { q, k, v } => {
                for (layer, d) in [(q, &d.dq), (k, &d.dk), (v, &d.dv)] {
                    add_backward(layer, parameters, normed, d, d_normed, gradients);
                }
            }
            Projection::Fused(qkv) => {
                add_backward(qkv, parameters, normed, &self.join(&d), d_normed, gradients);
            }
        }
    }

    fn project<T: Real>(
        &self,
        parameters: &Parameters<T>,
        normed: &Tensor<T>,
        positions: &[u32],
    ) -> (Tensor<T>, Tensor<T>, Tensor<T>) {
        let (mut q, mut k, v) = match &self.projection {
            Projection::Separate { q, k, v } => {
                (q.forward(parameters, normed), k.forward(parameters, normed), v.forward(parameters, normed))
            }
            Projection::Fused(qkv) => self.split(&qkv.forward(parameters, normed)),
        };
        if let Some(rotary) = &self.rotary {
            rotary.rotate(&mut q, positions);
            rotary.rotate(&mut k, positions);
        }
        (q, k, v)
    }

    /// Features of the queries and of the whole of one group of a fused projection.
    fn group(&self) -> (usize, usize) {
        let queries = self.core.heads / self.core.key_heads * self.core.head_size;
        (queries, queries + 2 * self.core.head_size)
    }

    /// Queries, keys and values of a fused projection's output.
    fn split<T: Real>(&self, fused: &Tensor<T>) -> (Tensor<T>, Tensor<T>, Tensor<T>) {
        let (rows, size) = (fused.rows(), self.core.head_size);
        let part = |heads: usize| Tensor::empty(&[rows, heads * size], fused.device());
        let (mut q, mut k, mut v) =
            (part(self.core.heads), part(self.core.key_heads), part(self.core.key_heads));
        self.split_into(fused, &mut q, &mut k, &mut v);
        (q, k, v)
    }

    /// [`SelfAttention::split`] into tensors that are there.
    fn split_into<T: Real>(
        &self,
        fused: &Tensor<T>,
        q: &mut Tensor<T>,
        k: &mut Tensor<T>,
        v: &mut Tensor<T>,
    ) {
        let ((queries, group), size) = (self.group(), self.core.head_size);
        let groups = [1, 1, fused.len() / group];
        for (part, first, width) in [(q, 0, queries), (k, queries, size), (v, queries + size, size)] {
            let (own, all) = (RowLayout::every(0, width), RowLayout::every(first, group));
            rows::copy((part, own), (fused, all), groups, width);
        }
    }

    /// The reverse of [`SelfAttention::split`], for gradients.
    fn join<T: Real>(&self, d: &AttentionGradients<T>) -> Tensor<T> {
        let ((queries, group), size) = (self.group(), self.core.head_size);
        let count = d.dq.rows();
        let mut fused = Tensor::empty(&[count, self.core.key_heads * group], d.dq.device());
        let groups = [1, 1, fused.len() / group];
        for (part, first, width) in
            [(&d.dq, 0, queries), (&d.dk, queries, size), (&d.dv, queries + size, size)]
        {
            let (own, all) = (RowLayout::every(0, width), RowLayout::every(first, group));
            rows::copy((&mut fused, all), (part, own), groups, width);
        }
        fused
    }
}
