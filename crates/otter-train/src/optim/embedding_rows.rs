//! Training only some rows of the token tables. Gradients of the other rows are zeroed
//! before clipping, so those rows never move: they have no moments and the tables are not decayed.

use otter_nn::{Gradients, Parameters};

/// Which rows of which tables are trained.
pub struct EmbeddingRowMask {
    tables: Vec<Table>,
    rows: Vec<u32>,
}

struct Table {
    /// The parameter's place in id order.
    parameter: usize,
    width: usize,
}

impl EmbeddingRowMask {
    /// Keeps the rows of the token ids in `rows` in those of `tables` that are trained.
    pub fn new(parameters: &Parameters, gradients: &Gradients, tables: &[String], rows: &[u32]) -> Self {
        let parameters = parameters.iter().zip(gradients.ranges()).enumerate();
        let tables = parameters.filter_map(|(index, (parameter, range))| {
            let masked = range.is_some() && tables.contains(&parameter.name);
            masked.then(|| Table { parameter: index, width: parameter.tensor.width() })
        });
        Self { tables: tables.collect(), rows: rows.to_vec() }
    }

    /// Zeroes the gradients of all other rows.
    pub fn apply(&self, gradients: &mut Gradients) {
        for table in &self.tables {
            let Some(part) = gradients.tensor_part_mut(table.parameter) else { continue };
            part.backend().keep_rows(part, &self.rows, table.width);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::optim::{AdamW, AdamWOptions};
    use otter_nn::{Device, Init, ParameterSpecs};

    #[test]
    fn only_the_chosen_rows_move() {
        let mut specs = ParameterSpecs::default();
        specs.add("other", &[3, 2], Init::Ones);
        specs.add("embed", &[3, 2], Init::Ones);
        specs.add("frozen_head", &[3, 2], Init::Ones);
        let mut parameters = Parameters::initialize(&specs, 0, Device::Cpu);
        parameters.set_trainable(|name| name != "frozen_head");
        let mut gradients = Gradients::new(&parameters);
        gradients.iter_mut().for_each(|g| *g = 1.0);
        let tables = ["embed".to_owned(), "frozen_head".to_owned()];
        let mask = EmbeddingRowMask::new(&parameters, &gradients, &tables, &[1]);
        mask.apply(&mut gradients);
        assert_eq!(gradients.flat(), [1., 1., 1., 1., 1., 1., 0., 0., 1., 1., 0., 0.]);
        AdamW::new(AdamWOptions::default(), &parameters, &gradients).step(
            &mut parameters,
            &gradients,
            0.1,
            1.0,
        );
        let moved = |name: &str| -> Vec<bool> {
            parameters
                .by_name(name)
                .map(|p| p.tensor.values().iter().map(|&v| v != 1.0).collect())
                .unwrap_or_default()
        };
        assert_eq!(moved("other"), [true; 6]);
        assert_eq!(moved("embed"), [false, false, true, true, false, false]);
        assert_eq!(moved("frozen_head"), [false; 6]);
    }
}
