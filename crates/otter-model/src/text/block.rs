//! The decoder layer that GPT-NeoX, OPT and Falcon share: self-attention and a plain feed-forward, joined to the residual
//! stream in one of four ways. Each model's own file says which, and gives the parts their names.

use otter_nn::{Gradients, LayerNorm, NormStatistics, Parameters, Real, Tensor};

use crate::text::attention::{SelfAttention, SelfAttentionSaved};
use crate::text::cache::LayerCache;
use crate::text::decoder::Rows;
use crate::text::mlp::PlainFeedForward;
use crate::workspace::Scratch;

/// One decoder layer.
#[derive(Clone, Debug)]
pub struct TransformerLayer {
    pub(crate) order: Order,
    pub(crate) attention: SelfAttention,
    pub(crate) feed_forward: PlainFeedForward,
}

/// How the two branches join the residual stream, with the norms.
#[derive(Clone, Debug)]
pub(crate) enum Order {
    /// m = x + attention(n1(x)); y = m + feed_forward(n2(m))
    PreNorm(LayerNorm, LayerNorm),
    /// m = n1(x + attention(x)); y = n2(m + feed_forward(m))
    PostNorm(LayerNorm, LayerNorm),
    /// y = x + attention(n(x)) + feed_forward(n(x))
    Parallel(LayerNorm),
    /// y = x + attention(n1(x)) + feed_forward(n2(x))
    ParallelTwoNorms(LayerNorm, LayerNorm),
}

/// Kept for the reverse pass: nothing that a cheap pass over rows can make again.
pub struct TransformerLayerSaved<T> {
    x: Tensor<T>,
    attention: SelfAttentionSaved<T>,
    widened: Tensor<T>,
    first: NormStatistics<T>,
    rest: Rest<T>,
}

/// What each [`Order`] keeps besides.
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

impl TransformerLayer {
    /// The layer on x (batch * length, width).
    pub fn forward_saved<T: Real>(
        &self,
        parameters: &Parameters<T>,
        x: Tensor<T>,
        rows: &Rows<'_>,
    ) -> (Tensor<T>, TransformerLayerSaved<T>) {
        let attend = |normed: &Tensor<T>, residual: &mut Tensor<T>| {
            self.attention.forward_saved(parameters, normed, rows, residual)
        };
        let feed = |normed: &Tensor<T>, residual: &mut Tensor<T>| {
            self.feed_forward.forward_saved(parameters, normed, residual)
        };
        match &self.order {
            Order::PreNorm(norm_1, norm_2) => {
                let (normed, first) = norm_1.forward_saved(parameters, &x);
                let mut middle = x.clone();
                let attention = attend(&normed, &mut middle);
                let (normed, second) = norm_2.forward_saved(parameters, &middle);
                let mut y = middle.clone();
                let widened = feed(&normed, &mut y);
                let rest = Rest::PreNorm { middle, second };
                (y, TransformerLayerSaved { x, attention, widened, first, rest })
            }
            Order::PostNorm(norm_1, norm_2) => {
                let mut attended = x.clone();
                let attention = attend(&x, &mut attended);
                let (middle, first) = norm_1.forward_saved(parameters, &attended);
                let mut fed = middle.clone();
                let widened = feed(&middle, &mut fed);
                let (y, second) = norm_2.forward_saved(parameters, &fed);
                let rest = Rest::PostNorm { attended, fed, second };
                (y, TransformerLayerSaved { x, attention, widened, first, rest })
            }
            Order::Parallel(norm) => {
                let (normed, first) = norm.forward_saved(parameters, &x);
                let mut y = x.clone();
                let attention = attend(&normed, &mut y);
                let widened = feed(&normed, &mut y);
                (y, TransformerLayerSaved { x, attention, widened, first, rest: Rest::Parallel })
            }
            Order::ParallelTwoNorms(norm_1, norm_2) => {
                let (normed, first) = norm_1.forward_saved(parameters, &x);
                let mut y = x.clone();
                let attention = attend(&normed, &mut y);
                let (normed, second) = norm_2.forward_saved(parameters, &x);
                let widened = feed(&normed, &mut y);
                let rest = Rest::ParallelTwoNorms { second };
                (y, TransformerLayerSaved { x, attention, widened, first, rest })
            }
        }
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
        let mut attend = |normed: &Tensor<T>, residual: &mut Tensor<T>, scratch: &mut Scratch<T>| {
            self.attention.forward_cached(parameters, normed, rows, (&mut *cache, len), residual, scratch);
        };
        let feed = |normed: &Tensor<T>, residual: &mut Tensor<T>, scratch: &mut Scratch<T>| {
            self.feed_forward.forward_rows(parameters, normed, residual, scratch);
        };
        let mut normed = scratch.take(x.shape());
        match &self.order {
            Order::PreNorm(norm_1, norm_2) => {
                norm_1.forward_into(parameters, x, &mut normed);
                attend(&normed, x, scratch);
                norm_2.forward_into(parameters, x, &mut normed);
                feed(&normed, x, scratch);
            }
            Order::PostNorm(norm_1, norm_2) => {
                normed.copy_from(x);
                attend(x, &mut normed, scratch);
                norm_1.forward_into(parameters, &normed, x);
                normed.copy_from(x);
                feed(x, &mut normed, scratch);
                norm_2.forward_into(parameters, &normed, x);
            }
            Order::Parallel(norm) => {
                norm.forward_into(parameters, x, &mut normed);
                attend(&normed, x, scratch);
                feed(&normed, x, scratch);
            }
            Order::ParallelTwoNorms(norm_1, norm_2) => {
                let mut second = scratch.take(x.shape());
                norm_2.forward_into(parameters, x, &mut second);
                norm_1.forward_into(parameters, x, &mut normed);
                attend(&normed, x, scratch);
                feed(&second, x, scratch);
                scratch.give(second);
            }
        }
        scratch.give(normed);
    }

    /// Gradient of x; adds parameter gradients of whatever is trained.
    pub fn backward<T: Real>(
        &self,
        parameters: &Parameters<T>,
        saved: TransformerLayerSaved<T>,
        rows: &Rows<'_>,
        dy: Tensor<T>,
        gradients: &mut Gradients<T>,
    ) -> Tensor<T> {
        let TransformerLayerSaved { x, attention, widened, first, rest } = saved;
        // Normalised rows are made again only where a weight that reads them is trained.
        let feed_back =
            |normed: &dyn Fn() -> Tensor<T>, dy: &Tensor<T>, d: &mut Tensor<T>, g: &mut Gradients<T>| {
                let normed = self.feed_forward.wants_input(g).then(normed);
                self.feed_forward.backward(parameters, &widened, normed.as_ref(), dy, d, g);
            };
        let attend_back =
            |normed: &dyn Fn() -> Tensor<T>, dy: &Tensor<T>, d: &mut Tensor<T>, g: &mut Gradients<T>| {
                let normed = self.attention.wants_input(g).then(normed);
                self.attention.backward(parameters, &attention, normed.as_ref(), rows, dy, d, g);
            };
        match (&self.order, rest) {
            (Order::PreNorm(norm_1, norm_2), Rest::PreNorm { middle, second }) => {
                let mut d = middle.zeros_like();
                feed_back(&|| norm_2.forward(parameters, &middle), &dy, &mut d, gradients);
                let mut d_middle = norm_2.backward(parameters, &middle, &second, &d, gradients);
                d_middle.add_assign(&dy);
                let mut d = x.zeros_like();
                attend_back(&|| norm_1.forward(parameters, &x), &d_middle, &mut d, gradients);
                let mut dx = norm_1.backward(parameters, &x, &first, &d, gradients);
                dx.add_assign(&d_middle);
                dx
            }
            (Order::PostNorm(norm_1, norm_2), Rest::PostNorm { attended, fed, second }) => {
                let d_fed = norm_2.backward(parameters, &fed, &second, &dy, gradients);
                let mut d_middle = d_fed.clone();
                feed_back(&|| norm_1.forward(parameters, &attended), &d_fed, &mut d_middle, gradients);
                let d_attended = norm_1.backward(parameters, &attended, &first, &d_middle, gradients);
                let mut dx = d_attended.clone();
                attend_back(&|| x.clone(), &d_attended, &mut dx, gradients);
                dx
            }
            (Order::Parallel(norm), Rest::Parallel) => {
                let mut d = x.zeros_like();
                let normed = || norm.forward(parameters, &x);
                feed_back(&normed, &dy, &mut d, gradients);
                attend_back(&normed, &dy, &mut d, gradients);
                let mut dx = norm.backward(parameters, &x, &first, &d, gradients);
                dx.add_assign(&dy);
                dx
            }
            (Order::ParallelTwoNorms(norm_1, norm_2), Rest::ParallelTwoNorms { second }) => {
                let mut d = x.zeros_like();
                feed_back(&|| norm_2.forward(parameters, &x), &dy, &mut d, gradients);
                let mut dx = norm_2.backward(parameters, &x, &second, &d, gradients);
                d = x.zeros_like();
                attend_back(&|| norm_1.forward(parameters, &x), &dy, &mut d, gradients);
                dx.add_assign(&norm_1.backward(parameters, &x, &first, &d, gradients));
                dx.add_assign(&dy);
                dx
            }
            _ => unreachable!("a layer's reverse pass gets what the same layer saved"),
        }
    }
}
