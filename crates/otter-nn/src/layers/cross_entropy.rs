//! Output projection and softmax cross-entropy in one, in chunks of tokens: (tokens x vocabulary) never exists whole,
//! and tokens without a target are never projected.

use crate::backend::card::{Card, CardBuffer};
use crate::backend::cpu::{for_row_blocks, gemm as matmul, max_of, sum_of, zeros};
use crate::layers::rows;
use crate::{Device, Gradients, ParameterId, Parameters, Real, Tensor};

/// Label of a token without a target.
pub const IGNORE_INDEX: i64 = -100;

/// Largest number of logits held at once.
const CHUNK_LOGITS: usize = 1 << 22;

/// Cross-entropy of `hidden W^T` for an output table W (vocabulary, width).
#[derive(Clone, Copy, Debug)]
pub struct CrossEntropy {
    weight: ParameterId,
}

/// Sum of the losses and the number of targets.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LossSum {
    /// Sum over targets of minus the log-probability.
    pub sum: f64,
    /// Number of targets.
    pub targets: usize,
}

impl LossSum {
    /// Mean loss; NaN when there is no target, as in the reference.
    pub fn mean(&self) -> f64 {
        self.sum / self.targets as f64
    }
}

impl CrossEntropy {
    /// Uses the table `weight`.
    pub fn new(weight: ParameterId) -> Self {
        Self { weight }
    }

    /// Log-probability of each row's target; rows whose target is [`IGNORE_INDEX`] give `None`.
    ///
    /// hidden is (rows, width); `targets` has one entry a row.
    pub fn log_probabilities<T: Real>(
        &self,
        parameters: &Parameters<T>,
        hidden: &Tensor<T>,
        targets: &[i64],
    ) -> Vec<Option<f64>> {
        let mut out = vec![None; targets.len()];
        if let Device::Card(card) = hidden.device() {
            self.for_chunks_there(card, parameters, hidden, targets, |rows, _, logits, vocabulary| {
                let losses = card.cross_entropy(logits, &there(rows, targets), vocabulary, None);
                rows.iter().zip(losses).for_each(|(&row, loss)| out[row] = Some(f64::from(-loss)));
            });
            return out;
        }
        self.for_chunks(parameters, hidden, targets, |rows, _, logits, vocabulary| {
            for (row, logits) in rows.iter().zip(logits.chunks_exact(vocabulary)) {
                let log_sum = log_sum_exp(logits);
                out[*row] = Some((logits[targets[*row] as usize] - log_sum).to_f64());
            }
        });
        out
    }

    /// Sum of the losses.
    pub fn forward<T: Real>(
        &self,
        parameters: &Parameters<T>,
        hidden: &Tensor<T>,
        targets: &[i64],
    ) -> LossSum {
        let log_probabilities = self.log_probabilities(parameters, hidden, targets);
        let losses = log_probabilities.iter().flatten();
        LossSum { sum: losses.clone().map(|l| -l).sum(), targets: losses.count() }
    }

    /// Sum of the losses and the gradient of `scale * sum` with respect to `hidden`; adds the table's gradient.
    ///
    /// The logits of a chunk become their own gradient in place, so they are computed once.
    pub fn forward_backward<T: Real>(
        &self,
        parameters: &Parameters<T>,
        hidden: &Tensor<T>,
        targets: &[i64],
        scale: f64,
        gradients: &mut Gradients<T>,
    ) -> (LossSum, Tensor<T>) {
        if let Device::Card(card) = hidden.device() {
            return self.forward_backward_there(card, parameters, hidden, targets, scale, gradients);
        }
        let width = hidden.width();
        let mut d_hidden = hidden.zeros_like();
        let mut total = LossSum::default();
        let table = parameters.weight(self.weight);
        let scale = T::from_f64(scale);
        self.for_chunks(parameters, hidden, targets, |rows, gathered, logits, vocabulary| {
            let mut losses = vec![T::ZERO; rows.len()];
            let whole = &*logits;
            for_row_blocks(&mut losses, 1, vocabulary, |first, block| {
                for (row, loss) in (first..).zip(block.iter_mut()) {
                    let logits = &whole[row * vocabulary..][..vocabulary];
                    *loss = log_sum_exp(logits) - logits[targets[rows[row]] as usize];
                }
            });
            total.sum += losses.iter().map(|l| l.to_f64()).sum::<f64>();
            total.targets += rows.len();
            for_row_blocks(logits, vocabulary, 8, |first, block| {
                for (i, logits) in block.chunks_exact_mut(vocabulary).enumerate() {
                    let target = targets[rows[first + i]] as usize;
                    // log-sum-exp again from loss + target logit: the logits are still unchanged here
                    let log_sum = losses[first + i] + logits[target];
                    for logit in logits.iter_mut() {
                        *logit = scale * (*logit - log_sum).exp();
                    }
                    logits[target] += -scale;
                }
            });
            let mut d_gathered = vec![T::ZERO; rows.len() * width];
            matmul::times(&mut d_gathered, logits, table, vocabulary, width, false);
            for (row, d) in rows.iter().zip(d_gathered.chunks_exact(width)) {
                d_hidden.data_mut()[row * width..][..width].copy_from_slice(d);
            }
            if let Some(d_table) = gradients.get_mut(self.weight) {
                matmul::add_transposed_times(d_table, logits, gathered, vocabulary, width);
            }
        });
        (total, d_hidden)
    }

    /// [`CrossEntropy::forward_backward`] on a card.
    fn forward_backward_there<T: Real>(
        &self,
        card: Card,
        parameters: &Parameters<T>,
        hidden: &Tensor<T>,
        targets: &[i64],
        scale: f64,
        gradients: &mut Gradients<T>,
    ) -> (LossSum, Tensor<T>) {
        let width = hidden.width();
        let mut d_hidden = hidden.zeros_like();
        let mut total = LossSum::default();
        let table = parameters.get(self.weight).on_card();
        self.for_chunks_there(card, parameters, hidden, targets, |chunk, gathered, logits, vocabulary| {
            let targets = there(chunk, targets);
            let losses = card.cross_entropy(logits, &targets, vocabulary, Some(scale as f32));
            total.sum += losses.into_iter().map(f64::from).sum::<f64>();
            total.targets += chunk.len();
            let mut d_gathered = Tensor::empty(gathered.shape(), gathered.device());
            card.times(d_gathered.on_card_mut(), logits, table, (vocabulary, width), false);
            // Each row once: adding to zeros writes.
            rows::add_to_picked(&mut d_hidden, &d_gathered, &numbers(chunk), width);
            if let Some(d_table) = gradients.tensor_mut(self.weight) {
                let size = (vocabulary, width);
                card.add_transposed_times(d_table.on_card_mut(), logits, gathered.on_card(), size);
            }
        });
        (total, d_hidden)
    }

    /// [`CrossEntropy::for_chunks`] on a card.
    fn for_chunks_there<T: Real>(
        &self,
        card: Card,
        parameters: &Parameters<T>,
        hidden: &Tensor<T>,
        targets: &[i64],
        mut body: impl FnMut(&[usize], &Tensor<T>, &mut CardBuffer, usize),
    ) {
        assert_eq!(targets.len(), hidden.rows(), "one target a row");
        let table = parameters.get(self.weight);
        let (vocabulary, width) = (table.shape()[0], hidden.width());
        let with_target: Vec<usize> = (0..targets.len()).filter(|&i| targets[i] != IGNORE_INDEX).collect();
        for chunk in with_target.chunks(chunk_rows(vocabulary)) {
            let gathered = rows::picked(hidden, &numbers(chunk), width);
            let mut logits = card.empty(chunk.len() * vocabulary);
            let size = (width, vocabulary);
            card.times_transposed(&mut logits, gathered.on_card(), table.on_card(), size, false);
            body(chunk, &gathered, &mut logits, vocabulary);
        }
    }

    /// Calls `body(rows, hidden of the rows, their logits, vocabulary)` on chunks of rows with a target.
    fn for_chunks<T: Real>(
        &self,
        parameters: &Parameters<T>,
        hidden: &Tensor<T>,
        targets: &[i64],
        mut body: impl FnMut(&[usize], &[T], &mut [T], usize),
    ) {
        let width = hidden.width();
        assert_eq!(targets.len(), hidden.rows(), "one target a row");
        let table = parameters.get(self.weight);
        let vocabulary = table.shape()[0];
        let rows: Vec<usize> = (0..targets.len()).filter(|&i| targets[i] != IGNORE_INDEX).collect();
        for rows in rows.chunks(chunk_rows(vocabulary)) {
            let mut gathered = Vec::with_capacity(rows.len() * width);
            for &row in rows {
                gathered.extend_from_slice(&hidden.data()[row * width..][..width]);
            }
            let mut logits = zeros(rows.len() * vocabulary);
            matmul::times_transposed(&mut logits, &gathered, table.view(), width, vocabulary, false);
            body(rows, &gathered, &mut logits, vocabulary);
        }
    }
}

/// Rows whose logits are held at once.
fn chunk_rows(vocabulary: usize) -> usize {
    (CHUNK_LOGITS / vocabulary.max(1)).clamp(16, 1024)
}

/// The targets of these rows as a card takes them.
fn there(rows: &[usize], targets: &[i64]) -> Vec<u32> {
    rows.iter().map(|&row| targets[row] as u32).collect()
}

fn numbers(rows: &[usize]) -> Vec<u32> {
    rows.iter().map(|&row| row as u32).collect()
}

/// Log of the sum of exponentials. It is NaN where a logit is not finite, negative infinity included: no model means that.
pub fn log_sum_exp<T: Real>(logits: &[T]) -> T {
    crate::backend::cpu::simd(|| {
        let max = max_of(logits);
        // A product with zero is zero, or NaN.
        max + sum_of(logits, |l| (l - max).exp() + l * T::ZERO).ln()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::gradient_check::{check, check_half, random_tensor};
    use crate::{Init, ParameterSpecs};

    #[test]
    fn gradients_match_finite_differences() {
        let mut specs = ParameterSpecs::default();
        let weight = specs.add_matrix("head", [7, 4], Init::Normal(1.0));
        let layer = CrossEntropy::new(weight);
        let targets = [3, IGNORE_INDEX, 0, 6, IGNORE_INDEX];
        let scalar = |loss: f64| Tensor::from_vec(vec![loss], &[1], Device::Cpu);
        let inputs = [random_tensor("h", &[5, 4])];
        let forward =
            |p: &Parameters<f64>, x: &[Tensor<f64>]| scalar(layer.forward(p, &x[0], &targets).mean());
        let backward = |p: &Parameters<f64>, x: &[Tensor<f64>], dy: &Tensor<f64>, g: &mut Gradients<f64>| {
            let (loss, dx) = layer.forward_backward(p, &x[0], &targets, dy.data()[0] / 3.0, g);
            assert_eq!(loss.targets, 3);
            assert!((loss.sum - layer.forward(p, &x[0], &targets).sum).abs() < 1e-12);
            vec![dx]
        };
        check(&specs, &inputs, forward, backward);
        check_half(&specs, &inputs, forward, backward);
    }

    #[test]
    fn a_row_of_equal_logits_costs_the_log_of_the_vocabulary() {
        let mut specs = ParameterSpecs::default();
        let weight = specs.add("head", &[8, 2], Init::Ones);
        let parameters = Parameters::<f32>::initialise(&specs, 0, Device::Cpu);
        let hidden = Tensor::from_vec(vec![0.3, -0.1], &[1, 2], Device::Cpu);
        let loss = CrossEntropy::new(weight).forward(&parameters, &hidden, &[5]);
        assert!((loss.mean() - 8f64.ln()).abs() < 1e-6);
    }
}
