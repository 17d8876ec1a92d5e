//! Masked gated cross-attention (Flamingo, arXiv 2204.14198): text rows attend the latents of
//! the latest media item, then a feed-forward; both branches enter through a tanh gate that starts at zero.

use otter_nn::layers::media_attention::MediaAttentionOutput;
use otter_nn::{
    Float, Gradients, Init, Linear, MediaAttention, MediaRows, MediaTarget, Norm, NormStatistics,
    ParameterSpecs, Parameters, TanhGate, Tensor,
};

use crate::config::CrossAttentionConfig;
use crate::flamingo::feed_forward::{self, FeedForward};
use crate::flamingo::key_value_projection::KeyValueProjection;
pub use crate::flamingo::key_value_projection::KeysAndValues;
use crate::workspace::Workspace;

/// One block.
#[derive(Clone, Debug)]
pub struct GatedCrossAttention {
    attn_gate: TanhGate,
    ff_gate: TanhGate,
    norm: Norm,
    to_q: Linear,
    to_kv: KeyValueProjection,
    to_out: Linear,
    feed_forward: FeedForward,
    core: MediaAttention,
}

struct AttentionSaved<T> {
    norm: NormStatistics<T>,
    q: Tensor<T>,
    kv: KeysAndValues<T>,
    attention: MediaAttentionOutput<T>,
    branch: Tensor<T>,
}

/// Kept for the backward pass.
pub struct CrossAttentionSaved<T> {
    x: Tensor<T>,
    /// `None` when no row attends anything.
    attention: Option<AttentionSaved<T>>,
    middle: Tensor<T>,
    feed_forward: feed_forward::Saved<T>,
    branch: Tensor<T>,
}

impl GatedCrossAttention {
    /// Registers a block under `<name>.` for text of width `text` and media of width `media` with `latents` latents.
    pub fn new(
        specs: &mut ParameterSpecs,
        name: &str,
        (text, media, latents): (usize, usize, usize),
        config: &CrossAttentionConfig,
    ) -> Self {
        let inner = config.inner_dim();
        let init = Init::FanInUniform;
        Self {
            attn_gate: TanhGate::new(specs, &format!("{name}.attn_gate")),
            ff_gate: TanhGate::new(specs, &format!("{name}.ff_gate")),
            norm: Norm::layer(specs, &format!("{name}.attn.norm"), text, true, 1e-5),
            to_q: Linear::new(specs, &format!("{name}.attn.to_q"), text, inner, false, init),
            to_kv: KeyValueProjection::new(specs, &format!("{name}.attn.to_kv"), media, inner),
            to_out: Linear::new(specs, &format!("{name}.attn.to_out"), inner, text, false, init),
            feed_forward: FeedForward::new(specs, &format!("{name}.feed_forward"), text, config.ff_mult),
            core: MediaAttention { heads: config.heads, head_size: config.dim_head, latents },
        }
    }

    /// Keys and values of the latents (items * latents, media width): once a prompt, not once a token.
    pub fn project_media<T: Float>(
        &self,
        parameters: &Parameters<T>,
        latents: &Tensor<T>,
    ) -> KeysAndValues<T> {
        self.to_kv.forward(parameters, latents)
    }

    /// The block on x (rows, text width) in place, with media already projected.
    pub fn forward_projected<T: Float>(
        &self,
        parameters: &Parameters<T>,
        x: &mut Tensor<T>,
        media: Option<&KeysAndValues<T>>,
        rows: &MediaRows,
        workspace: &mut Workspace<T>,
    ) {
        let count = rows.targets.len();
        let mut branch = workspace.take(x.shape());
        if let Some(kv) = media.filter(|_| attends(rows)) {
            self.norm.forward_into(parameters, x, &mut branch);
            let mut q = workspace.take(&[count, self.to_q.outer()]);
            self.to_q.forward_into(parameters, &branch, &mut q, false);
            let mut out = workspace.take(q.shape());
            let mut scores = workspace.take_for_host(count * self.core.heads * self.core.latents);
            self.core.forward_into(&q, &kv.k, &kv.v, rows, &mut scores, &mut out);
            self.to_out.forward_into(parameters, &out, &mut branch, false);
            self.attn_gate.forward_add(parameters, x, &branch);
            [q, out, scores].into_iter().for_each(|buffer| workspace.give(buffer));
        }
        self.feed_forward.forward_into(parameters, x, &mut branch, workspace);
        self.ff_gate.forward_add(parameters, x, &branch);
        workspace.give(branch);
    }

    /// The block on x (rows, text width) and latents (items * latents, media width).
    pub fn forward_saved<T: Float>(
        &self,
        parameters: &Parameters<T>,
        x: Tensor<T>,
        latents: Option<&Tensor<T>>,
        rows: &MediaRows,
    ) -> (Tensor<T>, CrossAttentionSaved<T>) {
        let attention = latents.filter(|_| attends(rows)).map(|latents| {
            let (normed, norm) = self.norm.forward_saved(parameters, &x);
            let q = self.to_q.forward(parameters, &normed);
            let kv = self.to_kv.forward(parameters, latents);
            let attention = self.core.forward_saved(&q, &kv.k, &kv.v, rows);
            let branch = self.to_out.forward(parameters, &attention.out);
            AttentionSaved { norm, q, kv, attention, branch }
        });
        let middle = match &attention {
            Some(saved) => self.attn_gate.forward(parameters, &x, &saved.branch),
            None => x.clone(),
        };
        let (branch, feed_forward) = self.feed_forward.forward_saved(parameters, &middle);
        let y = self.ff_gate.forward(parameters, &middle, &branch);
        (y, CrossAttentionSaved { x, attention, middle, feed_forward, branch })
    }

    /// Gradient of x; adds parameter gradients and, when given, the gradient of the latents to `d_latents`.
    pub fn backward<T: Float>(
        &self,
        parameters: &Parameters<T>,
        saved: CrossAttentionSaved<T>,
        latents: Option<&Tensor<T>>,
        rows: &MediaRows,
        dy: Tensor<T>,
        d_latents: Option<&mut Tensor<T>>,
        gradients: &mut Gradients<T>,
    ) -> Tensor<T> {
        let CrossAttentionSaved { x, attention, middle, feed_forward, branch } = saved;
        let d_branch = self.ff_gate.backward(parameters, &branch, &dy, gradients);
        let mut dx = self.feed_forward.backward(parameters, &middle, &feed_forward, &d_branch, gradients);
        dx.add_assign(&dy);
        let (Some(saved), Some(latents)) = (attention, latents) else { return dx };
        let d_branch = self.attn_gate.backward(parameters, &saved.branch, &dx, gradients);
        let d_out = self.to_out.backward(parameters, &saved.attention.out, &d_branch, gradients);
        let (dq, dk, dv) =
            self.core.backward(&saved.q, &saved.kv.k, &saved.kv.v, rows, &saved.attention, &d_out);
        let needs_latents_grad = d_latents.is_some();
        let d = self.to_kv.backward(parameters, latents, (&dk, &dv), needs_latents_grad, gradients);
        if let (Some(total), Some(d)) = (d_latents, d) {
            total.add_assign(&d);
        }
        let normed = self.norm.forward(parameters, &x);
        let d_normed = self.to_q.backward(parameters, &normed, &dq, gradients);
        dx.add_assign(&self.norm.backward(parameters, &x, &saved.norm, &d_normed, gradients));
        dx
    }
}

fn attends(rows: &MediaRows) -> bool {
    rows.targets.iter().any(|t| *t != MediaTarget::Nothing)
}

#[cfg(test)]
mod tests {
    use super::*;
    use otter_nn::testing::gradient_check::{check, random_tensor};

    #[test]
    fn gradients_match_finite_differences() {
        let config = CrossAttentionConfig { every_n_layers: 1, heads: 2, dim_head: 3, ff_mult: 2 };
        for pattern in [[0, 1, 0, 1, 0, 1], [0, 0, 0, 0, 0, 0]] {
            let mut specs = ParameterSpecs::default();
            let block = GatedCrossAttention::new(&mut specs, "b", (6, 5, 2), &config);
            let media_tokens: Vec<bool> = pattern.iter().map(|&t| t == 1).collect();
            let rows = MediaRows::from_media_tokens(&media_tokens, 6, &[vec![0, 1]]);
            check(
                &specs,
                &[random_tensor("x", &[6, 6]), random_tensor("latents", &[4, 5])],
                |p, x| block.forward_saved(p, x[0].clone(), Some(&x[1]), &rows).0,
                |p, x, dy, g| {
                    let (y, saved) = block.forward_saved(p, x[0].clone(), Some(&x[1]), &rows);
                    let kv = block.project_media(p, &x[1]);
                    let mut projected = x[0].clone();
                    let mut workspace = Workspace::new(projected.device());
                    block.forward_projected(p, &mut projected, Some(&kv), &rows, &mut workspace);
                    assert!(y.data().iter().zip(projected.data()).all(|(a, b)| (a - b).abs() < 1e-12));
                    let mut d_latents = x[1].zeros_like();
                    let latents = Some(&x[1]);
                    let dx = block.backward(p, saved, latents, &rows, dy.clone(), Some(&mut d_latents), g);
                    vec![dx, d_latents]
                },
            );
        }
    }
}
