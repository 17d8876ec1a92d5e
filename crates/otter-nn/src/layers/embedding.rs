//! Token embedding.

use crate::layers::rows;
use crate::{Float, Gradients, Init, ParameterId, ParameterSpecs, Parameters, Tensor};

/// A table (vocabulary, width) whose rows stand for token ids.
#[derive(Clone, Debug)]
pub struct Embedding {
    weight: ParameterId,
    width: usize,
}

impl Embedding {
    /// Registers `<name>.weight`.
    pub fn new(specs: &mut ParameterSpecs, name: &str, vocabulary: usize, width: usize, init: Init) -> Self {
        Self { weight: specs.add_matrix(format!("{name}.weight"), [vocabulary, width], init), width }
    }

    /// The table's id.
    pub fn weight(&self) -> ParameterId {
        self.weight
    }

    /// Rows of `ids`: (ids, width).
    ///
    /// # Panics
    /// When an id is outside the table; callers check ids against the vocabulary.
    pub fn forward<T: Float>(&self, parameters: &Parameters<T>, ids: &[u32]) -> Tensor<T> {
        let backend = parameters.device().backend();
        backend.gather_rows(parameters.matrix(self.weight), ids, self.width)
    }

    /// Writes rows of `ids` to `out`.
    ///
    /// # Panics
    /// As [`Embedding::forward`].
    pub fn forward_into<T: Float>(&self, parameters: &Parameters<T>, ids: &[u32], out: &mut Tensor<T>) {
        self.forward_behind_into(parameters, ids, 0, out);
    }

    /// As [`Embedding::forward_into`], of the rows `first` behind those of `ids`.
    ///
    /// # Panics
    /// As [`Embedding::forward`].
    pub fn forward_behind_into<T: Float>(
        &self,
        parameters: &Parameters<T>,
        ids: &[u32],
        first: u32,
        out: &mut Tensor<T>,
    ) {
        let table = parameters.matrix(self.weight);
        parameters.device().backend().gather_rows_into(out, table, ids, first, self.width);
    }

    /// Features of a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Adds the rows of `dy` to the gradient of the table.
    pub fn backward<T: Float>(&self, ids: &[u32], dy: &Tensor<T>, gradients: &mut Gradients<T>) {
        if let Some(table) = gradients.rows_mut(self.weight) {
            rows::scatter_add_rows(table, dy, ids, self.width);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Device;
    use crate::testing::gradient_check::check;

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

    #[test]
    fn rows_of_a_half_table_are_widened() {
        let mut specs = ParameterSpecs::default();
        let layer = Embedding::new(&mut specs, "e", 4, 3, Init::Normal(1.0));
        let values: Vec<half::bf16> = (0..12u8).map(|v| half::bf16::from_f32(f32::from(v) / 4.0)).collect();
        let table = Tensor::from_vec(values, &[4, 3], Device::Cpu);
        let parameters = Parameters::<f32>::build(&specs, Device::Cpu, |_| {
            Ok::<_, std::convert::Infallible>(crate::Weight::Bf16(table.clone()))
        })
        .unwrap_or_else(|never| match never {});
        let rows = layer.forward(&parameters, &[3, 1]);
        assert_eq!(rows.data(), [2.25, 2.5, 2.75, 0.75, 1.0, 1.25]);
    }
}
