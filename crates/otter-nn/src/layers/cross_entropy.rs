//! Output projection and softmax cross-entropy in one, in chunks of tokens: (tokens x vocabulary) never exists whole,
//! and tokens without a target are never projected.

pub use crate::backend::cpu::cross_entropy::log_sum_exp;
use crate::backend::{Epilogue, WeightShape};
use crate::{Float, Gradients, IGNORE_INDEX, Matrix, ParameterId, Parameters, Tensor};

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
    pub fn log_probabilities<T: Float>(
        &self,
        parameters: &Parameters<T>,
        hidden: &Tensor<T>,
        targets: &[i64],
    ) -> Vec<Option<f64>> {
        let mut out = vec![None; targets.len()];
        self.for_chunks(parameters, hidden, targets, |rows, _, logits, shape| {
            let targets = targets_of(rows, targets);
            let losses = hidden.backend().cross_entropy(logits, &targets, shape.outer, None);
            // From zero, not negated: a loss of zero is a log-probability of plus zero.
            rows.iter().zip(losses).for_each(|(&row, loss)| out[row as usize] = Some(0.0 - loss));
        });
        out
    }

    /// Sum of the losses.
    pub fn forward<T: Float>(
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
    pub fn forward_backward<T: Float>(
        &self,
        parameters: &Parameters<T>,
        hidden: &Tensor<T>,
        targets: &[i64],
        scale: f64,
        gradients: &mut Gradients<T>,
    ) -> (LossSum, Tensor<T>) {
        let (backend, width) = (hidden.backend(), hidden.width());
        let mut d_hidden = hidden.zeros_like();
        let mut total = LossSum::default();
        let table = parameters.matrix(self.weight);
        self.for_chunks(parameters, hidden, targets, |rows, gathered, logits, shape| {
            let targets = targets_of(rows, targets);
            let losses = backend.cross_entropy(logits, &targets, shape.outer, Some(scale));
            total.sum += losses.iter().sum::<f64>();
            total.targets += rows.len();
            let mut d_gathered = Tensor::empty(gathered.shape(), gathered.device());
            backend.matmul_nn(&mut d_gathered, logits, table, shape, false);
            backend.scatter_rows(&mut d_hidden, &d_gathered, rows, width);
            if let Some(d_table) = gradients.tensor_mut(self.weight) {
                backend.matmul_tn_add(d_table, logits, gathered, shape);
            }
        });
        (total, d_hidden)
    }

    /// Calls `body(rows, hidden of the rows, their logits, shape of the table)` on chunks of rows with a target.
    fn for_chunks<T: Float>(
        &self,
        parameters: &Parameters<T>,
        hidden: &Tensor<T>,
        targets: &[i64],
        mut body: impl FnMut(&[u32], &Tensor<T>, &mut Tensor<T>, WeightShape),
    ) {
        assert_eq!(targets.len(), hidden.rows(), "one target a row");
        let (backend, table) = (hidden.backend(), parameters.get(self.weight));
        let shape = WeightShape { outer: table.shape()[0], inner: hidden.width() };
        let rows: Vec<u32> =
            (0..).zip(targets).filter(|(_, t)| **t != IGNORE_INDEX).map(|(row, _)| row).collect();
        for rows in rows.chunks(chunk_rows(shape.outer)) {
            let gathered = backend.gather_rows(Matrix::Full(hidden), rows, shape.inner);
            let mut logits = Tensor::empty(&[rows.len(), shape.outer], hidden.device());
            backend.linear(&mut logits, &gathered, table.matrix(), None, shape, Epilogue::None);
            body(rows, &gathered, &mut logits, shape);
        }
    }
}

/// Rows whose logits are held at once.
fn chunk_rows(vocabulary: usize) -> usize {
    (CHUNK_LOGITS / vocabulary.max(1)).clamp(16, 1024)
}

/// The targets of these rows.
fn targets_of(rows: &[u32], targets: &[i64]) -> Vec<u32> {
    rows.iter().map(|&row| targets[row as usize] as u32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::gradient_check::{check, check_half, random_tensor};
    use crate::{Device, Init, ParameterSpecs};

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
        let parameters = Parameters::<f32>::initialize(&specs, 0, Device::Cpu);
        let hidden = Tensor::from_vec(vec![0.3, -0.1], &[1, 2], Device::Cpu);
        let loss = CrossEntropy::new(weight).forward(&parameters, &hidden, &[5]);
        assert!((loss.mean() - 8f64.ln()).abs() < 1e-6);
    }
}
