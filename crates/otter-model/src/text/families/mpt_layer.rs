//! MPT decoder layer (MosaicML), `spec/model.md` 7.2 and 7.3: pre-norm attention with a fused projection and ALiBi, and a
//! plain GELU feed-forward. `MosaicGPT`, its first generation, has other names.

use otter_nn::layers::attention::{AttentionOutput, KeysValues};
use otter_nn::layers::elementwise::{activate, activate_backward, activated, clamp, clamp_backward};
use otter_nn::layers::rows::{self, RowLayout, columns, side_by_side};
use otter_nn::{
    ActivationKind, Gradients, Init, LayerNorm, Linear, Norm, NormStatistics, ParameterSpecs, Parameters,
    Real, RmsNorm, SelfAttentionCore, Tensor,
};

use crate::config::{MptConfig, MptStyle, NormKind};
use crate::text::cache::LayerCache;
use crate::text::decoder::{Rows, input_gradient};
use crate::workspace::Scratch;

/// Epsilon of every norm of the family.
const EPSILON: f64 = 1e-5;
const GELU: ActivationKind = ActivationKind::Gelu;

/// One decoder layer.
#[derive(Clone, Debug)]
pub struct MptLayer {
    norm_1: Norm,
    qkv: Linear,
    query_norm: Option<Norm>,
    key_norm: Option<Norm>,
    out: Linear,
    norm_2: Norm,
    up: Linear,
    down: Linear,
    clip: Option<f64>,
    key_width: usize,
    core: SelfAttentionCore,
}

/// Kept for the reverse pass: nothing that a cheap pass over rows can make again.
pub struct MptLayerSaved<T> {
    x: Tensor<T>,
    norm_1: NormStatistics<T>,
    projected: Projected<T>,
    attention: AttentionOutput<T>,
    middle: Tensor<T>,
    norm_2: NormStatistics<T>,
    up: Tensor<T>,
}

/// Queries, keys and values.
struct Projected<T> {
    /// As the attention uses them.
    q: Tensor<T>,
    k: Tensor<T>,
    v: Tensor<T>,
    /// Queries and keys before their norm, with its statistics.
    raw_q: Option<(Tensor<T>, NormStatistics<T>)>,
    raw_k: Option<(Tensor<T>, NormStatistics<T>)>,
}

/// Registers a norm of the kind that the configuration names.
pub(crate) fn norm(specs: &mut ParameterSpecs, name: &str, width: usize, config: &MptConfig) -> Norm {
    match config.norm {
        NormKind::Layer => Norm::Layer(LayerNorm::new(specs, name, width, !config.no_bias, EPSILON)),
        NormKind::Rms => Norm::Rms(RmsNorm::new(specs, name, width, EPSILON)),
    }
}

impl MptLayer {
    /// Registers the layer under `<name>.`.
    pub fn new(specs: &mut ParameterSpecs, name: &str, config: &MptConfig) -> Self {
        let (norm_1, norm_2, up, down) = match config.style {
            MptStyle::Mpt => ("norm_1", "norm_2", "ffn.up_proj", "ffn.down_proj"),
            MptStyle::MosaicGpt => ("ln_1", "ln_2", "mlp.mlp_up", "mlp.mlp_down"),
        };
        let (width, key_width) = (config.d_model, config.key_width());
        let inner = config.expansion_ratio * width;
        let bias = !config.no_bias;
        // Kaiming normal; outputs into the residual stream are divided by the root of their number.
        let spread = |fan_in: usize| (2.0 / fan_in as f64).sqrt();
        let residual = |fan_in: usize| spread(fan_in) / (2.0 * config.n_layers as f64).sqrt();
        let mut linear = |part: &str, from: usize, to: usize, deviation: f64| {
            Linear::new(specs, &format!("{name}.{part}"), from, to, bias, Init::Normal(deviation))
        };
        let qkv = linear("attn.Wqkv", width, width + 2 * key_width, spread(width));
        let out = linear("attn.out_proj", width, width, residual(width));
        let up = linear(up, width, inner, spread(width));
        let down = linear(down, inner, width, residual(inner));
        let norm_1 = norm(specs, &format!("{name}.{norm_1}"), width, config);
        let norm_2 = norm(specs, &format!("{name}.{norm_2}"), width, config);
        let (query_norm, key_norm) = if config.qk_ln {
            let query = norm(specs, &format!("{name}.attn.q_ln"), width, config);
            (Some(query), Some(norm(specs, &format!("{name}.attn.k_ln"), key_width, config)))
        } else {
            (None, None)
        };
        let mut core = SelfAttentionCore::new(config.n_heads, config.key_heads, config.head_dim());
        core.scale = config.softmax_scale.unwrap_or(core.scale);
        core.slopes = config.alibi.then(|| config.alibi_slopes());
        Self {
            norm_1,
            qkv,
            query_norm,
            key_norm,
            out,
            norm_2,
            up,
            down,
            clip: config.clip_qkv,
            key_width,
            core,
        }
    }

    /// The layer on x (batch * length, width).
    pub fn forward_saved<T: Real>(
        &self,
        parameters: &Parameters<T>,
        x: Tensor<T>,
        rows: &Rows<'_>,
    ) -> (Tensor<T>, MptLayerSaved<T>) {
        let (normed, norm_1) = self.norm_1.forward_saved(parameters, &x);
        let projected = self.project(parameters, &normed);
        let kv = KeysValues::exact(&projected.k, &projected.v, x.rows() / rows.batch);
        let attention = self.core.forward_saved(&projected.q, rows.batch, kv, rows.mask);
        let mut middle = x.clone();
        self.out.forward_add(parameters, &attention.out, &mut middle);
        let (normed, norm_2) = self.norm_2.forward_saved(parameters, &middle);
        let up = self.up.forward(parameters, &normed);
        let mut y = middle.clone();
        self.down.forward_add(parameters, &activated(&up, GELU), &mut y);
        (y, MptLayerSaved { x, norm_1, projected, attention, middle, norm_2, up })
    }

    /// The layer on new rows (batch * new, width) that follow `len` cached ones, in place; their keys and values join the
    /// cache.
    pub fn forward_cached<T: Real>(
        &self,
        parameters: &Parameters<T>,
        x: &mut Tensor<T>,
        rows: &Rows<'_>,
        (cache, len): (&mut LayerCache<T>, usize),
        scratch: &mut Scratch<T>,
    ) {
        let (count, key_width) = (rows.positions.len(), self.key_width);
        let width = self.qkv.outer() - 2 * key_width;
        let mut normed = scratch.take(x.shape());
        self.norm_1.forward_into(parameters, x, &mut normed);
        let mut fused = scratch.take(&[count, self.qkv.outer()]);
        self.qkv.forward_into(parameters, &normed, &mut fused, false);
        if let Some(limit) = self.clip {
            clamp(&mut fused, limit);
        }
        let mut part = |norm: Option<&Norm>, first: usize, width: usize| {
            let mut part = scratch.take(&[count, width]);
            let (own, all) = (RowLayout::every(0, width), RowLayout::every(first, self.qkv.outer()));
            rows::copy((&mut part, own), (&fused, all), [1, 1, count], width);
            let Some(norm) = norm else { return part };
            let mut normed = scratch.take(part.shape());
            norm.forward_into(parameters, &part, &mut normed);
            scratch.give(part);
            normed
        };
        let q = part(self.query_norm.as_ref(), 0, width);
        let k = part(self.key_norm.as_ref(), width, key_width);
        let v = part(None, width + key_width, key_width);
        let kv = cache.append(&k, &v, rows.batch, len);
        let mut attended = scratch.take(q.shape());
        let mut scores = scratch.take_for_host(rows.batch * self.core.heads * kv.capacity);
        self.core.forward_into(&q, rows.batch, kv, rows.mask, &mut scores, &mut attended);
        self.out.forward_into(parameters, &attended, x, true);
        self.norm_2.forward_into(parameters, x, &mut normed);
        [fused, q, k, v, attended, scores].into_iter().for_each(|buffer| scratch.give(buffer));
        let mut up = scratch.take(&[count, self.up.outer()]);
        self.up.forward_into(parameters, &normed, &mut up, false);
        activate(&mut up, GELU);
        self.down.forward_into(parameters, &up, x, true);
        scratch.give(normed);
        scratch.give(up);
    }

    /// Gradient of x; adds parameter gradients of whatever is trained.
    pub fn backward<T: Real>(
        &self,
        parameters: &Parameters<T>,
        saved: MptLayerSaved<T>,
        rows: &Rows<'_>,
        dy: Tensor<T>,
        gradients: &mut Gradients<T>,
    ) -> Tensor<T> {
        let MptLayerSaved { x, norm_1, projected, attention, middle, norm_2, up } = saved;
        let mut d_up = if gradients.wants(self.down.weight()) {
            self.down.backward(parameters, &activated(&up, GELU), &dy, gradients)
        } else {
            input_gradient(&self.down, parameters, &dy, up.shape(), gradients)
        };
        activate_backward(&mut d_up, &up, GELU);
        let mut d_middle =
            through_norm(&self.norm_2, &self.up, parameters, &middle, &norm_2, &d_up, gradients);
        d_middle.add_assign(&dy);
        let d_attended = self.out.backward(parameters, &attention.out, &d_middle, gradients);
        let kv = KeysValues::exact(&projected.k, &projected.v, x.rows() / rows.batch);
        let d = self.core.backward(&projected.q, rows.batch, kv, rows.mask, &attention, &d_attended);
        let d_qkv = self.projected_backward(parameters, &projected, d.dq, d.dk, d.dv, gradients);
        let mut dx = through_norm(&self.norm_1, &self.qkv, parameters, &x, &norm_1, &d_qkv, gradients);
        dx.add_assign(&d_middle);
        dx
    }

    /// Queries, keys and values of normalised rows: one product, limited, split, normalised.
    fn project<T: Real>(&self, parameters: &Parameters<T>, normed: &Tensor<T>) -> Projected<T> {
        let mut qkv = self.qkv.forward(parameters, normed);
        if let Some(limit) = self.clip {
            clamp(&mut qkv, limit);
        }
        let width = qkv.width() - 2 * self.key_width;
        let (q, k, v) = (
            columns(&qkv, 0, width),
            columns(&qkv, width, self.key_width),
            columns(&qkv, width + self.key_width, self.key_width),
        );
        let normalised = |norm: &Option<Norm>, raw: Tensor<T>| match norm {
            None => (raw, None),
            Some(norm) => {
                let (y, statistics) = norm.forward_saved(parameters, &raw);
                (y, Some((raw, statistics)))
            }
        };
        let (q, raw_q) = normalised(&self.query_norm, q);
        let (k, raw_k) = normalised(&self.key_norm, k);
        Projected { q, k, v, raw_q, raw_k }
    }

    /// Gradient of the fused projection's output.
    fn projected_backward<T: Real>(
        &self,
        parameters: &Parameters<T>,
        projected: &Projected<T>,
        dq: Tensor<T>,
        dk: Tensor<T>,
        dv: Tensor<T>,
        gradients: &mut Gradients<T>,
    ) -> Tensor<T> {
        let Projected { q, k, v, raw_q, raw_k } = projected;
        let mut part =
            |norm: &Option<Norm>, raw: &Option<(Tensor<T>, NormStatistics<T>)>, limited: &Tensor<T>, d| {
                let (mut d, limited) = match (norm, raw) {
                    (Some(norm), Some((raw, statistics))) => {
                        (norm.backward(parameters, raw, statistics, &d, gradients), raw)
                    }
                    _ => (d, limited),
                };
                if let Some(limit) = self.clip {
                    clamp_backward(&mut d, limited, limit);
                }
                d
            };
        let dq = part(&self.query_norm, raw_q, q, dq);
        let dk = part(&self.key_norm, raw_k, k, dk);
        let dv = part(&None, &None, v, dv);
        side_by_side(&[&dq, &dk, &dv])
    }
}

/// Gradient of x through `layer(norm(x))`. The normalised rows are made again only where the layer is trained.
fn through_norm<T: Real>(
    norm: &Norm,
    layer: &Linear,
    parameters: &Parameters<T>,
    x: &Tensor<T>,
    statistics: &NormStatistics<T>,
    dy: &Tensor<T>,
    gradients: &mut Gradients<T>,
) -> Tensor<T> {
    let d_normed = if gradients.wants(layer.weight()) {
        layer.backward(parameters, &norm.forward(parameters, x), dy, gradients)
    } else {
        input_gradient(layer, parameters, dy, x.shape(), gradients)
    };
    norm.backward(parameters, x, statistics, &d_normed, gradients)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::decoder::tests::check_layer;

    fn config() -> MptConfig {
        MptConfig {
            d_model: 8,
            n_heads: 4,
            key_heads: 4,
            n_layers: 2,
            expansion_ratio: 2,
            ..MptConfig::mpt_7b()
        }
    }

    /// Every variant of the family: as published, with norms of queries and keys, with biases and learned positions, with
    /// limited projections and one key head, with root-mean-square norms, in the names of the first generation.
    fn variants() -> Vec<MptConfig> {
        vec![
            config(),
            MptConfig { qk_ln: true, n_heads: 2, key_heads: 2, ..config() },
            MptConfig { no_bias: false, alibi: false, qk_ln: true, softmax_scale: Some(0.4), ..config() },
            MptConfig { clip_qkv: Some(0.6), key_heads: 1, qk_ln: true, ..config() },
            MptConfig { clip_qkv: Some(0.6), norm: NormKind::Rms, ..config() },
            MptConfig { style: MptStyle::MosaicGpt, qk_ln: true, ..config() },
        ]
    }

    #[test]
    fn layers_pass_every_check() {
        for config in variants() {
            check_layer(&config.into(), 8);
        }
    }
}
