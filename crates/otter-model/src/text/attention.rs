//! The self-attention of a block, from normalized rows to what joins the residual stream: projections (apart or fused, with
//! or without biases, limits and norms), rotary positions where the model has them, attention, output projection.

use otter_nn::layers::attention::{AttentionOutput, KeysValues};
use otter_nn::layers::elementwise::{clamp, clamp_backward};
use otter_nn::layers::rows::{self, RowStrides};
use otter_nn::{
    Float, Gradients, Init, Linear, Norm, NormStatistics, Parameters, Rotary, SelfAttentionCore, Tensor,
};

use super::block_parts::{BlockParts, Rows};
use super::cache::LayerCache;
use crate::workspace::Workspace;

/// Projections, positions, attention, output.
#[derive(Clone, Debug)]
pub struct SelfAttention {
    projection: Projection,
    clip: Option<f64>,
    /// Norms over the whole width of queries and keys.
    norms: Option<[Norm; 2]>,
    rotary: Option<Rotary>,
    core: SelfAttentionCore,
    out: Linear,
}

/// How queries, keys and values come from a row.
#[derive(Clone, Debug)]
enum Projection {
    /// A matrix for each of queries, keys, values.
    Separate([Linear; 3]),
    /// One matrix, whose output is this number of groups of queries, keys, values.
    Fused(Linear, usize),
}

/// The names of the projections of queries, keys and values.
#[derive(Clone, Copy, Debug)]
pub enum InputNames<'a> {
    /// A matrix for each.
    Separate([&'a str; 3]),
    /// One matrix. Its output is a group for every key head: the query heads that use it, the key head, the value head.
    Grouped(&'a str),
    /// One matrix. Its output is all queries, all keys, all values.
    Fused(&'a str),
}

/// Names, kind and sizes of an attention.
pub struct AttentionSpec<'a> {
    /// Queries, keys and values.
    pub inputs: InputNames<'a>,
    /// Output.
    pub output: &'a str,
    /// Whether the matrices have biases.
    pub bias: bool,
    /// Beginnings of the input and of the output matrices.
    pub init: [Init; 2],
    /// Largest absolute value of queries, keys and values.
    pub clip: Option<f64>,
    /// Rotary positions.
    pub rotary: Option<Rotary>,
    /// Heads.
    pub core: SelfAttentionCore,
}

/// Kept for the backward pass.
pub(crate) struct SelfAttentionSaved<T> {
    /// As the attention uses them.
    q: Tensor<T>,
    k: Tensor<T>,
    v: Tensor<T>,
    raw_q: Option<Raw<T>>,
    raw_k: Option<Raw<T>>,
    attention: AttentionOutput<T>,
}

/// Queries or keys before norm and rotary positions, where the backward pass needs them.
struct Raw<T> {
    rows: Tensor<T>,
    norm: Option<NormStatistics<T>>,
}

impl SelfAttention {
    pub(super) fn new(parts: &mut BlockParts<'_>, spec: AttentionSpec<'_>) -> Self {
        let AttentionSpec { inputs, output, bias, init: [first, last], clip, rotary, core } = spec;
        let width = parts.width;
        let (queries, keys) = (core.heads * core.head_size, core.key_heads * core.head_size);
        let mut input = |name: &str, to: usize| parts.linear(name, width, to, bias, first);
        let projection = match inputs {
            InputNames::Separate([q, k, v]) => {
                Projection::Separate([input(q, queries), input(k, keys), input(v, keys)])
            }
            InputNames::Grouped(name) => Projection::Fused(input(name, queries + 2 * keys), core.key_heads),
            InputNames::Fused(name) => Projection::Fused(input(name, queries + 2 * keys), 1),
        };
        let out = parts.linear(output, queries, width, bias, last);
        Self { projection, clip, norms: None, rotary, core, out }
    }

    /// Normalizes the whole width of queries and keys.
    #[must_use]
    pub fn with_norms(self, queries: Norm, keys: Norm) -> Self {
        Self { norms: Some([queries, keys]), ..self }
    }

    /// Heads of the keys, and of the values, and their features.
    pub fn key_heads(&self) -> (usize, usize) {
        (self.core.key_heads, self.core.head_size)
    }

    /// Features of all queries, and of all keys.
    fn widths(&self) -> (usize, usize) {
        (self.core.heads * self.core.head_size, self.core.key_heads * self.core.head_size)
    }

    pub(super) fn saved_elements_per_row(&self) -> usize {
        let (queries, keys) = self.widths();
        let raw = if self.keeps_raw() { queries + keys } else { 0 };
        // Queries, keys, values, attended rows, the logarithm of each head's sum.
        2 * queries + 2 * keys + self.core.heads + raw
    }

    fn keeps_raw(&self) -> bool {
        self.norms.is_some() || self.clip.is_some() && self.rotary.is_some()
    }

    /// Adds the attention of normalized rows (batch * length, width) to `residual`.
    pub(super) fn forward_saved<T: Float>(
        &self,
        parameters: &Parameters<T>,
        normed: &Tensor<T>,
        rows: &Rows<'_>,
        residual: &mut Tensor<T>,
    ) -> SelfAttentionSaved<T> {
        let (q, k, v) = self.project(parameters, normed);
        let [norm_q, norm_k] = self.norms_of();
        let (q, raw_q) = self.prepare(parameters, norm_q, q, rows.positions);
        let (k, raw_k) = self.prepare(parameters, norm_k, k, rows.positions);
        let kv = KeysValues::exact(&k, &v, normed.rows() / rows.batch);
        let attention = self.core.forward_saved(&q, rows.batch, kv, rows.mask);
        self.out.forward_add(parameters, &attention.out, residual);
        SelfAttentionSaved { q, k, v, raw_q, raw_k, attention }
    }

    fn norms_of(&self) -> [Option<&Norm>; 2] {
        self.norms.as_ref().map_or([None; 2], |norms| norms.each_ref().map(Some))
    }

    /// Projected and limited queries, keys, values.
    fn project<T: Float>(
        &self,
        parameters: &Parameters<T>,
        normed: &Tensor<T>,
    ) -> (Tensor<T>, Tensor<T>, Tensor<T>) {
        let (mut q, mut k, mut v) = match &self.projection {
            Projection::Separate([q, k, v]) => {
                (q.forward(parameters, normed), k.forward(parameters, normed), v.forward(parameters, normed))
            }
            Projection::Fused(qkv, groups) => {
                let fused = qkv.forward(parameters, normed);
                let ((queries, keys), rows) = (self.widths(), fused.rows());
                let part = |width: usize| Tensor::empty(&[rows, width], fused.device());
                let mut parts = [part(queries), part(keys), part(keys)];
                self.split_into(&fused, *groups, parts.each_mut());
                parts.into()
            }
        };
        self.limit([&mut q, &mut k, &mut v]);
        (q, k, v)
    }

    fn limit<T: Float>(&self, parts: [&mut Tensor<T>; 3]) {
        if let Some(limit) = self.clip {
            parts.into_iter().for_each(|part| clamp(part, limit));
        }
    }

    /// Queries or keys as the attention uses them.
    fn prepare<T: Float>(
        &self,
        parameters: &Parameters<T>,
        norm: Option<&Norm>,
        projected: Tensor<T>,
        positions: &[u32],
    ) -> (Tensor<T>, Option<Raw<T>>) {
        let (mut y, raw) = match norm {
            Some(norm) => {
                let (y, statistics) = norm.forward_saved(parameters, &projected);
                (y, Some(Raw { rows: projected, norm: Some(statistics) }))
            }
            None if self.keeps_raw() => {
                let y = projected.clone();
                (y, Some(Raw { rows: projected, norm: None }))
            }
            None => (projected, None),
        };
        if let Some(rotary) = &self.rotary {
            rotary.rotate(&mut y, positions);
        }
        (y, raw)
    }

    /// Adds the attention of normalized rows to `residual`, keeping nothing. With a cache, the rows follow those whose keys
    /// and values it holds (the number beside it), and theirs join it.
    pub(super) fn forward<T: Float>(
        &self,
        parameters: &Parameters<T>,
        normed: &Tensor<T>,
        rows: &Rows<'_>,
        cache: Option<(&mut LayerCache<T>, usize)>,
        residual: &mut Tensor<T>,
        workspace: &mut Workspace<T>,
    ) {
        let ((queries, keys), count) = (self.widths(), normed.rows());
        let mut q = workspace.take(&[count, queries]);
        let (mut k, mut v) = (workspace.take(&[count, keys]), workspace.take(&[count, keys]));
        match &self.projection {
            Projection::Separate([to_q, to_k, to_v]) => {
                Linear::forward_each(parameters, normed, [(to_q, &mut q), (to_k, &mut k), (to_v, &mut v)]);
            }
            Projection::Fused(qkv, groups) => {
                let mut fused = workspace.take(&[count, qkv.outer()]);
                qkv.forward_into(parameters, normed, &mut fused, false);
                self.split_into(&fused, *groups, [&mut q, &mut k, &mut v]);
                workspace.give(fused);
            }
        }
        self.limit([&mut q, &mut k, &mut v]);
        for (norm, part) in self.norms.iter().flatten().zip([&mut q, &mut k]) {
            let mut normed = workspace.take(part.shape());
            norm.forward_into(parameters, part, &mut normed);
            workspace.give(std::mem::replace(part, normed));
        }
        if let Some(rotary) = &self.rotary {
            rotary.rotate(&mut q, rows.positions);
            rotary.rotate(&mut k, rows.positions);
        }
        let kv = match cache {
            Some((cache, len)) => cache.append(&k, &v, rows.batch, len),
            None => KeysValues::exact(&k, &v, count / rows.batch.max(1)),
        };
        let mut attended = workspace.take(q.shape());
        let mut scores = workspace.take_for_host(rows.batch * self.core.heads * kv.capacity);
        self.core.forward_into(&q, rows.batch, kv, rows.mask, &mut scores, &mut attended);
        self.out.forward_into(parameters, &attended, residual, true);
        [q, k, v, attended, scores].into_iter().for_each(|buffer| workspace.give(buffer));
    }

    /// Whether the backward pass needs the normalized rows again.
    pub(super) fn needs_input<T: Float>(&self, gradients: &Gradients<T>) -> bool {
        match &self.projection {
            Projection::Separate(layers) => {
                layers.iter().any(|layer| gradients.requires_grad(layer.weight()))
            }
            Projection::Fused(qkv, _) => gradients.requires_grad(qkv.weight()),
        }
    }

    /// Writes or adds the gradient of the normalized rows to `d_normed`, given that of the output. `normed` is there when
    /// [`SelfAttention::needs_input`] says so.
    pub(super) fn backward<T: Float>(
        &self,
        parameters: &Parameters<T>,
        saved: &SelfAttentionSaved<T>,
        normed: Option<&Tensor<T>>,
        rows: &Rows<'_>,
        dy: &Tensor<T>,
        (d_normed, mut accumulate): (&mut Tensor<T>, bool),
        gradients: &mut Gradients<T>,
    ) {
        let SelfAttentionSaved { q, k, v, raw_q, raw_k, attention } = saved;
        let d_attended = self.out.backward(parameters, &attention.out, dy, gradients);
        let kv = KeysValues::exact(k, v, k.rows() / rows.batch);
        let d = self.core.backward(q, rows.batch, kv, rows.mask, attention, &d_attended);
        let [norm_q, norm_k] = self.norms_of();
        let dq = self.prepare_backward(parameters, norm_q, (q, raw_q.as_ref()), rows, d.dq, gradients);
        let dk = self.prepare_backward(parameters, norm_k, (k, raw_k.as_ref()), rows, d.dk, gradients);
        let mut dv = d.dv;
        if let Some(limit) = self.clip {
            clamp_backward(&mut dv, v, limit);
        }
        match &self.projection {
            Projection::Separate(layers) => {
                for (layer, d) in layers.iter().zip([&dq, &dk, &dv]) {
                    layer.backward_into(parameters, normed, d, d_normed, accumulate, gradients);
                    accumulate = true;
                }
            }
            Projection::Fused(qkv, groups) => {
                let d = self.join(*groups, [&dq, &dk, &dv]);
                qkv.backward_into(parameters, normed, &d, d_normed, accumulate, gradients);
            }
        }
    }

    /// Gradient of projected queries or keys from that of [`SelfAttention::prepare`]'s output `used`.
    fn prepare_backward<T: Float>(
        &self,
        parameters: &Parameters<T>,
        norm: Option<&Norm>,
        (used, raw): (&Tensor<T>, Option<&Raw<T>>),
        rows: &Rows<'_>,
        mut d: Tensor<T>,
        gradients: &mut Gradients<T>,
    ) -> Tensor<T> {
        if let Some(rotary) = &self.rotary {
            rotary.rotate_back(&mut d, rows.positions);
        }
        if let (Some(norm), Some(Raw { rows, norm: Some(statistics) })) = (norm, raw) {
            d = norm.backward(parameters, rows, statistics, &d, gradients);
        }
        if let Some(limit) = self.clip {
            clamp_backward(&mut d, raw.map_or(used, |raw| &raw.rows), limit);
        }
        d
    }

    /// First feature and number of features of queries, keys and values in each of so many groups.
    fn group(&self, groups: usize) -> [(usize, usize); 3] {
        let (queries, keys) = self.widths();
        let (queries, keys) = (queries / groups, keys / groups);
        [(0, queries), (queries, keys), (queries + keys, keys)]
    }

    /// Queries, keys and values of a fused projection's output.
    fn split_into<T: Float>(&self, fused: &Tensor<T>, groups: usize, parts: [&mut Tensor<T>; 3]) {
        let group = fused.width() / groups;
        for (part, (first, width)) in parts.into_iter().zip(self.group(groups)) {
            let (own, all) = (RowStrides::every(0, width), RowStrides::every(first, group));
            rows::copy((part, own), (fused, all), [1, 1, fused.len() / group], width);
        }
    }

    /// The reverse of [`SelfAttention::split_into`], for gradients.
    fn join<T: Float>(&self, groups: usize, parts: [&Tensor<T>; 3]) -> Tensor<T> {
        let (queries, keys) = self.widths();
        let width = queries + 2 * keys;
        let mut fused = Tensor::empty(&[parts[0].rows(), width], parts[0].device());
        let (group, count) = (width / groups, fused.rows() * groups);
        for (part, (first, width)) in parts.into_iter().zip(self.group(groups)) {
            let (own, all) = (RowStrides::every(0, width), RowStrides::every(first, group));
            rows::copy((&mut fused, all), (part, own), [1, 1, count], width);
        }
        fused
    }
}
