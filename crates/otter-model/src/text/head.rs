//! From the last decoder layer to the output table: the final norm, which one language model lacks, and where the table is
//! narrower than the residual stream a projection.

use otter_nn::{Float, Gradients, Linear, Norm, NormStatistics, ParameterSpecs, Parameters, Tensor};

use crate::config::TextConfig;
use crate::text::embedding::INIT;
use crate::workspace::Workspace;

/// Norm and projection.
#[derive(Clone, Debug)]
pub(crate) struct TextOutput {
    norm: Option<Norm>,
    project_out: Option<Linear>,
}

/// Kept for the backward pass.
pub(crate) struct TextOutputSaved<T> {
    x: Tensor<T>,
    norm: Option<NormStatistics<T>>,
}

impl TextOutput {
    /// Registers norm and projection under `<name>.`.
    pub(crate) fn new(specs: &mut ParameterSpecs, name: &str, text: &TextConfig) -> Self {
        let names = text.names();
        let (width, table_width) = (text.hidden_size(), text.embedding_width());
        let norm_name = format!("{name}.{}", names.norm);
        let norm = text.sizes().final_norm.map(|norm| norm.build(specs, &norm_name, width));
        let project_out = (table_width != width).then(|| {
            let name = format!("{name}.{}", names.project_out);
            Linear::new(specs, &name, width, table_width, false, INIT)
        });
        Self { norm, project_out }
    }

    /// What the output table reads (rows, table width).
    pub(crate) fn forward<T: Float>(&self, parameters: &Parameters<T>, x: Tensor<T>) -> Tensor<T> {
        self.forward_saved(parameters, x).0
    }

    /// The same of rows of x, written to `hidden`, (rows, table width).
    pub(crate) fn forward_into<T: Float>(
        &self,
        parameters: &Parameters<T>,
        x: &Tensor<T>,
        hidden: &mut Tensor<T>,
        workspace: &mut Workspace<T>,
    ) {
        match (&self.norm, &self.project_out) {
            (Some(norm), None) => norm.forward_into(parameters, x, hidden),
            (None, None) => hidden.copy_from(x),
            (None, Some(projection)) => projection.forward_into(parameters, x, hidden, false),
            (Some(norm), Some(projection)) => {
                let mut normed = workspace.take(x.shape());
                norm.forward_into(parameters, x, &mut normed);
                projection.forward_into(parameters, &normed, hidden, false);
                workspace.give(normed);
            }
        }
    }

    /// The same, with what the backward pass needs.
    pub(crate) fn forward_saved<T: Float>(
        &self,
        parameters: &Parameters<T>,
        x: Tensor<T>,
    ) -> (Tensor<T>, TextOutputSaved<T>) {
        let (normed, norm) = match &self.norm {
            Some(norm) => {
                let (normed, statistics) = norm.forward_saved(parameters, &x);
                (normed, Some(statistics))
            }
            None => (x.clone(), None),
        };
        let hidden = match &self.project_out {
            Some(projection) => projection.forward(parameters, &normed),
            None => normed,
        };
        (hidden, TextOutputSaved { x, norm })
    }

    /// Gradient of x; adds parameter gradients.
    pub(crate) fn backward<T: Float>(
        &self,
        parameters: &Parameters<T>,
        saved: &TextOutputSaved<T>,
        d_hidden: &Tensor<T>,
        gradients: &mut Gradients<T>,
    ) -> Tensor<T> {
        let TextOutputSaved { x, norm: statistics } = saved;
        let projected = self.project_out.as_ref().map(|projection| {
            let normed = self.norm.as_ref().map(|norm| norm.forward(parameters, x));
            projection.backward(parameters, normed.as_ref().unwrap_or(x), d_hidden, gradients)
        });
        let d_normed = projected.as_ref().unwrap_or(d_hidden);
        match (&self.norm, statistics) {
            (Some(norm), Some(statistics)) => norm.backward(parameters, x, statistics, d_normed, gradients),
            _ => d_normed.clone(),
        }
    }
}
