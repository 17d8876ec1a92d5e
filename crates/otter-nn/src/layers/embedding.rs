//! Token embedding.

use crate::{Gradients, Init, ParameterId, ParameterSpecs, Parameters, Real, Tensor};

/// A table (vocabulary, width) whose rows stand for token ids.
#[derive(Clone, Debug)]
pub struct Embedding {
    weight: ParameterId,
    width: usize,
}

impl Embedding {
    /// Registers `<name>.weight`.
    pub fn new(specs: &mut ParameterSpecs, name: &str, vocabulary: usize, width: usize, init: Init) -> Self {
        Self { weight: specs.add(format!("{name}.weight"), &[vocabulary, width], init), width }
    }

    /// The table's id.
    pub fn weight(&self) -> ParameterId {
        self.weight
    }

    /// Rows of `ids`: (ids, width).
    ///
    /// # Panics
    /// When an id is outside the table; callers check ids against the vocabulary.
    pub fn forward<T: Real>(&self, parameters: &Parameters<T>, ids: &[u32]) -> Tensor<T> {
        let table = parameters.data(self.weight);
        let mut out = Vec::with_capacity(ids.len() * self.width);
        for &id in ids {
            out.extend_from_slice(&table[id as usize * self.width..][..self.width]);
        }
        Tensor::from_vec(out, &[ids.len(), self.width], parameters.device())
    }

    /// Adds the rows of `dy` to the gradient of the table.
    pub fn backward<T: Real>(&self, ids: &[u32], dy: &Tensor<T>, gradients: &mut Gradients<T>) {
        if let Some(table) = gradients.get_mut(self.weight) {
            for (&id, row) in ids.iter().zip(dy.data().chunks_exact(self.width)) {
                let target = &mut table[id as usize * self.width..][..self.width];
                for (t, &d) in target.iter_mut().zip(row) {
                    *t += d;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gradient_check::check;

    #[test]
    fn gradients_match_finite_differences() {
        let mut specs = ParameterSpecs::default();
        let layer = Embedding::new(&mut specs, "e", 6, 3, Init::Normal(1.0));
        let ids = [2, 0, 2, 5];
        check(
            &specs,
            &[],
            |p, _| layer.forward(p, &ids),
            |_, _, dy, g| {
                layer.backward(&ids, dy, g);
                vec![]
            },
        );
    }
}
