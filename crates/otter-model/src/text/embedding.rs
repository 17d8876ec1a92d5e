//! From token ids to the first decoder layer: the token table, where it is narrower than the residual stream a
//! projection, and where positions are learned their table.

use otter_nn::layers::elementwise;
use otter_nn::{Embedding, Float, Gradients, Init, Linear, ParameterId, ParameterSpecs, Parameters, Tensor};

use crate::config::TextConfig;
use crate::workspace::Workspace;

/// Spread of new tables.
pub(crate) const INIT: Init = Init::Normal(0.02);

/// Tables and projection.
#[derive(Clone, Debug)]
pub(crate) struct TextEmbedding {
    tokens: Embedding,
    project_in: Option<Linear>,
    positions: Option<Embedding>,
    /// Row of the position table at which position 0 stands.
    position_offset: u32,
    /// Share of the gradient that reaches the tables.
    fraction: f64,
}

impl TextEmbedding {
    /// Registers the tables under `<name>.`.
    pub(crate) fn new(specs: &mut ParameterSpecs, name: &str, text: &TextConfig) -> Self {
        let names = text.names();
        let (width, table_width) = (text.hidden_size(), text.embedding_width());
        let own = |part: &str| format!("{name}.{part}");
        let tokens = Embedding::new(specs, &own(names.embedding), text.vocab_size(), table_width, INIT);
        let position_offset = text.sizes().position_offset;
        let positions = text.learned_positions().map(|rows| {
            let rows = rows + position_offset as usize;
            Embedding::new(specs, &own(names.positions), rows, width, INIT)
        });
        let project_in = (table_width != width)
            .then(|| Linear::new(specs, &own(names.project_in), table_width, width, false, INIT));
        Self { tokens, project_in, positions, position_offset, fraction: text.sizes().embedding_fraction }
    }

    /// The token table.
    pub(crate) fn tokens(&self) -> &Embedding {
        &self.tokens
    }

    /// Everything here that can be trained.
    pub(crate) fn parameters(&self) -> impl Iterator<Item = ParameterId> {
        let positions = self.positions.as_ref().map(Embedding::weight);
        let projection = self.project_in.as_ref().map(Linear::weight);
        std::iter::once(self.tokens.weight()).chain(positions).chain(projection)
    }

    /// Embedded tokens (rows, width).
    pub(crate) fn forward<T: Float>(
        &self,
        parameters: &Parameters<T>,
        ids: &[u32],
        positions: &[u32],
    ) -> Tensor<T> {
        let mut x = self.tokens.forward(parameters, ids);
        if let Some(projection) = &self.project_in {
            x = projection.forward(parameters, &x);
        }
        if let Some(table) = &self.positions {
            x.add_assign(&table.forward(parameters, &self.position_rows(positions)));
        }
        x
    }

    /// Writes embedded tokens (rows, width) to `x`.
    pub(crate) fn forward_into<T: Float>(
        &self,
        parameters: &Parameters<T>,
        ids: &[u32],
        positions: &[u32],
        x: &mut Tensor<T>,
        workspace: &mut Workspace<T>,
    ) {
        match &self.project_in {
            Some(projection) => {
                let mut rows = workspace.take(&[ids.len(), self.tokens.width()]);
                self.tokens.forward_into(parameters, ids, &mut rows);
                projection.forward_into(parameters, &rows, x, false);
                workspace.give(rows);
            }
            None => self.tokens.forward_into(parameters, ids, x),
        }
        if let Some(table) = &self.positions {
            let mut rows = workspace.take(x.shape());
            table.forward_behind_into(parameters, positions, self.position_offset, &mut rows);
            x.add_assign(&rows);
            workspace.give(rows);
        }
    }

    /// Adds the gradients of the tables and of the projection.
    pub(crate) fn backward<T: Float>(
        &self,
        parameters: &Parameters<T>,
        ids: &[u32],
        positions: &[u32],
        mut dx: Tensor<T>,
        gradients: &mut Gradients<T>,
    ) {
        if self.fraction != 1.0 {
            elementwise::scale(&mut dx, self.fraction);
        }
        if let Some(table) = &self.positions {
            table.backward(&self.position_rows(positions), &dx, gradients);
        }
        if let Some(projection) = &self.project_in {
            let embedded = self.tokens.forward(parameters, ids);
            dx = projection.backward(parameters, &embedded, &dx, gradients);
        }
        self.tokens.backward(ids, &dx, gradients);
    }

    fn position_rows(&self, positions: &[u32]) -> Vec<u32> {
        positions.iter().map(|position| position + self.position_offset).collect()
    }
}
