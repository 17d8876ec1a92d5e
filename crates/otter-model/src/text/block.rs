//! The transformer block: self-attention and a feed-forward, joined to the residual stream. Every language model, the image
//! tower and the sentence encoder are made of it; what they choose is in [`BlockParts`] and [`Residual`].

use otter_nn::{Device, Float, Gradients, Norm, NormStatistics, Parameters, Tensor};

pub use super::block_parts::{BlockParts, NormSpec, Rows};

use super::attention::{AttentionSpec, SelfAttention, SelfAttentionSaved};
use super::cache::LayerCache;
use super::mlp::{Mlp, MlpSaved, MlpSpec};
use crate::workspace::Workspace;

/// One block.
#[derive(Clone, Debug)]
pub struct TransformerBlock {
    /// The norms, and how the two branches join.
    pub residual: Residual,
    /// The first branch.
    pub attention: SelfAttention,
    /// The second branch.
    pub mlp: Mlp,
}

/// How the two branches join the residual stream, with the norms.
#[derive(Clone, Debug)]
pub enum Residual {
    /// m = x + attention(n1(x)); y = m + mlp(n2(m))
    PreNorm(Norm, Norm),
    /// m = n1(x + attention(x)); y = n2(m + mlp(m))
    PostNorm(Norm, Norm),
    /// y = x + attention(n(x)) + mlp(n(x))
    Parallel(Norm),
    /// y = x + attention(n1(x)) + mlp(n2(x))
    ParallelTwoNorms(Norm, Norm),
}

/// Kept for the backward pass: nothing that a cheap pass over rows can compute again.
pub struct BlockSaved<T> {
    x: Tensor<T>,
    attention: SelfAttentionSaved<T>,
    mlp: MlpSaved<T>,
    first: NormStatistics<T>,
    rest: Rest<T>,
}

/// What each [`Residual`] keeps besides.
enum Rest<T> {
    PreNorm {
        middle: Tensor<T>,
        second: NormStatistics<T>,
    },
    /// Sums before the norms.
    PostNorm {
        attended: Tensor<T>,
        fed: Tensor<T>,
        second: NormStatistics<T>,
    },
    Parallel,
    ParallelTwoNorms {
        second: NormStatistics<T>,
    },
}

impl BlockParts<'_> {
    /// The projections of the attention.
    pub fn attention(&mut self, spec: AttentionSpec<'_>) -> SelfAttention {
        SelfAttention::new(self, spec)
    }

    /// The matrices of the feed-forward.
    pub fn mlp(&mut self, spec: &MlpSpec<'_>) -> Mlp {
        Mlp::new(self, spec)
    }
}

impl TransformerBlock {
    /// An empty cache for `capacity` tokens of `batch` sequences.
    pub fn new_cache<T: Float>(&self, batch: usize, capacity: usize, device: Device) -> LayerCache<T> {
        LayerCache::new(self.attention.key_heads(), batch, capacity, device)
    }

    /// Elements that [`TransformerBlock::forward_saved`] keeps for each row of `width` features.
    pub fn saved_elements_per_row(&self, width: usize) -> usize {
        let between = match &self.residual {
            Residual::PreNorm(..) => width,
            Residual::PostNorm(..) => 2 * width,
            Residual::Parallel(_) | Residual::ParallelTwoNorms(..) => 0,
        };
        width + between + self.attention.saved_elements_per_row() + self.mlp.saved_elements_per_row()
    }

    /// The block on x (batch * length, width), with what the backward pass needs.
    pub fn forward_saved<T: Float>(
        &self,
        parameters: &Parameters<T>,
        x: Tensor<T>,
        rows: &Rows<'_>,
    ) -> (Tensor<T>, BlockSaved<T>) {
        let attend = |normed: &Tensor<T>, residual: &mut Tensor<T>| {
            self.attention.forward_saved(parameters, normed, rows, residual)
        };
        let feed = |normed: &Tensor<T>, residual: &mut Tensor<T>| {
            self.mlp.forward_saved(parameters, normed, residual)
        };
        match &self.residual {
            Residual::PreNorm(norm_1, norm_2) => {
                let (normed, first) = norm_1.forward_saved(parameters, &x);
                let mut middle = x.clone();
                let attention = attend(&normed, &mut middle);
                let (normed, second) = norm_2.forward_saved(parameters, &middle);
                let mut y = middle.clone();
                let mlp = feed(&normed, &mut y);
                (y, BlockSaved { x, attention, mlp, first, rest: Rest::PreNorm { middle, second } })
            }
            Residual::PostNorm(norm_1, norm_2) => {
                let mut attended = x.clone();
                let attention = attend(&x, &mut attended);
                let (middle, first) = norm_1.forward_saved(parameters, &attended);
                let mut fed = middle.clone();
                let mlp = feed(&middle, &mut fed);
                let (y, second) = norm_2.forward_saved(parameters, &fed);
                let rest = Rest::PostNorm { attended, fed, second };
                (y, BlockSaved { x, attention, mlp, first, rest })
            }
            Residual::Parallel(norm) => {
                let (normed, first) = norm.forward_saved(parameters, &x);
                let mut y = x.clone();
                let attention = attend(&normed, &mut y);
                let mlp = feed(&normed, &mut y);
                (y, BlockSaved { x, attention, mlp, first, rest: Rest::Parallel })
            }
            Residual::ParallelTwoNorms(norm_1, norm_2) => {
                let (normed, first) = norm_1.forward_saved(parameters, &x);
                let mut y = x.clone();
                let attention = attend(&normed, &mut y);
                let (normed, second) = norm_2.forward_saved(parameters, &x);
                let mlp = feed(&normed, &mut y);
                (y, BlockSaved { x, attention, mlp, first, rest: Rest::ParallelTwoNorms { second } })
            }
        }
    }

    /// The block on x (batch * length, width) in place, keeping nothing. With a cache, the rows follow those whose keys and
    /// values it holds (the number beside it), and theirs join it.
    pub fn forward<T: Float>(
        &self,
        parameters: &Parameters<T>,
        x: &mut Tensor<T>,
        rows: &Rows<'_>,
        mut cache: Option<(&mut LayerCache<T>, usize)>,
        workspace: &mut Workspace<T>,
    ) {
        let mut attend = |normed: &Tensor<T>, residual: &mut Tensor<T>, workspace: &mut Workspace<T>| {
            self.attention.forward(parameters, normed, rows, cache.take(), residual, workspace);
        };
        let feed = |normed: &Tensor<T>, residual: &mut Tensor<T>, workspace: &mut Workspace<T>| {
            self.mlp.forward(parameters, normed, residual, workspace);
        };
        let mut normed = workspace.take(x.shape());
        match &self.residual {
            Residual::PreNorm(norm_1, norm_2) => {
                norm_1.forward_into(parameters, x, &mut normed);
                attend(&normed, x, workspace);
                norm_2.forward_into(parameters, x, &mut normed);
                feed(&normed, x, workspace);
            }
            Residual::PostNorm(norm_1, norm_2) => {
                normed.copy_from(x);
                attend(x, &mut normed, workspace);
                norm_1.forward_into(parameters, &normed, x);
                normed.copy_from(x);
                feed(x, &mut normed, workspace);
                norm_2.forward_into(parameters, &normed, x);
            }
            Residual::Parallel(norm) => {
                norm.forward_into(parameters, x, &mut normed);
                attend(&normed, x, workspace);
                feed(&normed, x, workspace);
            }
            Residual::ParallelTwoNorms(norm_1, norm_2) => {
                let mut second = workspace.take(x.shape());
                norm_2.forward_into(parameters, x, &mut second);
                norm_1.forward_into(parameters, x, &mut normed);
                attend(&normed, x, workspace);
                feed(&second, x, workspace);
                workspace.give(second);
            }
        }
        workspace.give(normed);
    }

    /// Gradient of x; adds parameter gradients of whatever is trained. `saved` is what this block's
    /// [`TransformerBlock::forward_saved`] returned.
    pub fn backward<T: Float>(
        &self,
        parameters: &Parameters<T>,
        saved: BlockSaved<T>,
        rows: &Rows<'_>,
        dy: Tensor<T>,
        gradients: &mut Gradients<T>,
    ) -> Tensor<T> {
        let BlockSaved { x, attention, mlp, first, rest } = saved;
        // Both write or add to the gradient of the rows that the branch read. Those rows are computed again only where a
        // weight that reads them is trained.
        let feed_back = |normed: &dyn Fn() -> Tensor<T>,
                         dy: &Tensor<T>,
                         (d, add): (&mut Tensor<T>, bool),
                         g: &mut Gradients<T>| {
            let normed = self.mlp.needs_input(g).then(normed);
            self.mlp.backward(parameters, &mlp, normed.as_ref(), dy, (d, add), g);
        };
        let attend_back = |normed: &dyn Fn() -> Tensor<T>,
                           dy: &Tensor<T>,
                           (d, add): (&mut Tensor<T>, bool),
                           g: &mut Gradients<T>| {
            let normed = self.attention.needs_input(g).then(normed);
            self.attention.backward(parameters, &attention, normed.as_ref(), rows, dy, (d, add), g);
        };
        let mut d = Tensor::empty(x.shape(), x.device());
        match (&self.residual, rest) {
            (Residual::PreNorm(norm_1, norm_2), Rest::PreNorm { middle, second }) => {
                feed_back(&|| norm_2.forward(parameters, &middle), &dy, (&mut d, false), gradients);
                let mut d_middle = norm_2.backward(parameters, &middle, &second, &d, gradients);
                d_middle.add_assign(&dy);
                attend_back(&|| norm_1.forward(parameters, &x), &d_middle, (&mut d, false), gradients);
                let mut dx = norm_1.backward(parameters, &x, &first, &d, gradients);
                dx.add_assign(&d_middle);
                dx
            }
            (Residual::PostNorm(norm_1, norm_2), Rest::PostNorm { attended, fed, second }) => {
                let d_fed = norm_2.backward(parameters, &fed, &second, &dy, gradients);
                d.copy_from(&d_fed);
                feed_back(&|| norm_1.forward(parameters, &attended), &d_fed, (&mut d, true), gradients);
                let d_attended = norm_1.backward(parameters, &attended, &first, &d, gradients);
                d.copy_from(&d_attended);
                attend_back(&|| x.clone(), &d_attended, (&mut d, true), gradients);
                d
            }
            (Residual::Parallel(norm), Rest::Parallel) => {
                let normed = || norm.forward(parameters, &x);
                feed_back(&normed, &dy, (&mut d, false), gradients);
                attend_back(&normed, &dy, (&mut d, true), gradients);
                let mut dx = norm.backward(parameters, &x, &first, &d, gradients);
                dx.add_assign(&dy);
                dx
            }
            (Residual::ParallelTwoNorms(norm_1, norm_2), Rest::ParallelTwoNorms { second }) => {
                feed_back(&|| norm_2.forward(parameters, &x), &dy, (&mut d, false), gradients);
                let mut dx = norm_2.backward(parameters, &x, &second, &d, gradients);
                attend_back(&|| norm_1.forward(parameters, &x), &dy, (&mut d, false), gradients);
                dx.add_assign(&norm_1.backward(parameters, &x, &first, &d, gradients));
                dx.add_assign(&dy);
                dx
            }
            _ => unreachable!("a block's backward pass gets what the same block saved"),
        }
    }
}

#[cfg(test)]
#[path = "block_tests.rs"]
pub(crate) mod tests;
