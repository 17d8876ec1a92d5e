//! Strict accounting: after loading, every tensor of the file and every parameter of the model is
//! loaded, knowingly ignored with a reason, or part of an error.

use crate::directory::weights::{Weights, list};
use crate::error::{CheckpointError, Result};
use std::collections::HashSet;
use std::path::{Path, PathBuf};

/// A tensor whose shape is not the model's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShapeMismatch {
    /// The parameter.
    pub name: String,
    /// Shape in the file.
    pub found: Vec<usize>,
    /// Shape in the model.
    pub expected: Vec<usize>,
}

/// What became of every tensor.
#[derive(Debug, Clone, Default)]
pub struct LoadReport {
    /// Directory or file.
    pub path: PathBuf,
    /// Parameters found with the right shape.
    pub loaded: Vec<String>,
    /// Tensors that are known to be of no use, with the reason.
    pub ignored: Vec<(String, String)>,
    /// Parameters that the file does not hold.
    pub missing: Vec<String>,
    /// Tensors that the model does not have.
    pub unexpected: Vec<String>,
    /// Parameters of another shape.
    pub wrong_shapes: Vec<ShapeMismatch>,
    /// What a reader should know.
    pub warnings: Vec<String>,
}

impl LoadReport {
    /// Compares the stored tensors with the parameters of the model.
    pub fn compare<'n>(
        weights: &Weights,
        expected: impl IntoIterator<Item = (&'n str, &'n [usize])>,
    ) -> Self {
        let mut report = Self { path: weights.path().to_path_buf(), ..Self::default() };
        let mut wanted = HashSet::new();
        for (name, shape) in expected {
            wanted.insert(name);
            match weights.get(name) {
                None => report.missing.push(name.to_owned()),
                Some(entry) if entry.shape == shape => report.loaded.push(name.to_owned()),
                Some(entry) => report.wrong_shapes.push(ShapeMismatch {
                    name: name.to_owned(),
                    found: entry.shape.clone(),
                    expected: shape.to_vec(),
                }),
            }
        }
        for name in weights.names().filter(|name| !wanted.contains(name)) {
            match reason_to_ignore(name) {
                Some(reason) => report.ignored.push((name.to_owned(), reason.to_owned())),
                None => report.unexpected.push(name.to_owned()),
            }
        }
        report.warnings.extend(weights.notes().iter().cloned());
        report.warnings.extend(weights.unwrapped().map(str::to_owned));
        report
    }

    /// Whether every parameter is loaded and no unknown tensor is left.
    pub fn is_complete(&self) -> bool {
        self.missing.is_empty() && self.unexpected.is_empty() && self.wrong_shapes.is_empty()
    }

    /// The report itself when it is complete.
    ///
    /// # Errors
    /// [`CheckpointError::Mismatch`] with all missing and unexpected names and wrong shapes.
    pub fn strict(self) -> Result<Self> {
        if self.is_complete() {
            return Ok(self);
        }
        let mut details = String::new();
        let mut add = |title: &str, names: &[&str]| {
            if !names.is_empty() {
                details.push_str(&format!("\n{} {title}:{}", names.len(), list(names)));
            }
        };
        add("missing (in the model, not in the file)", &strings(&self.missing));
        add("unexpected (in the file, not in the model)", &strings(&self.unexpected));
        let shapes: Vec<String> = self
            .wrong_shapes
            .iter()
            .map(|wrong| format!("{}: file {:?}, model {:?}", wrong.name, wrong.found, wrong.expected))
            .collect();
        add("of another shape", &strings(&shapes));
        details.push_str("\nCheck that config.json belongs to these weights");
        Err(CheckpointError::Mismatch { path: self.path, details })
    }

    /// One line of counts.
    pub fn summary(&self) -> String {
        format!(
            "{} loaded, {} ignored, {} missing, {} unexpected, {} of another shape",
            self.loaded.len(),
            self.ignored.len(),
            self.missing.len(),
            self.unexpected.len(),
            self.wrong_shapes.len()
        )
    }

    /// The directory or file the report is about.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn strings(names: &[String]) -> Vec<&str> {
    names.iter().map(String::as_str).collect()
}

/// Tensors that older writers store and no reader needs. `post_layernorm` is not among them: it changes
/// no output, but it is a parameter of the tower and a saved model must hold it again.
pub fn reason_to_ignore(name: &str) -> Option<&'static str> {
    if name == "position_ids" || name.ends_with(".position_ids") {
        Some("position ids are counted, not stored")
    } else if name.ends_with("rotary_emb.inv_freq") {
        Some("rotary frequencies are computed from rope_theta")
    } else if name.starts_with("lang_encoder.gated_cross_attn_layers.") {
        Some("alias of the blocks inside the decoder layers")
    } else if name.starts_with("lang_encoder.old_decoder_blocks.") {
        Some("alias of the decoder layers")
    } else if [".attn_bias", ".attention.bias", ".attention.masked_bias"]
        .iter()
        .any(|end| name.ends_with(end))
    {
        Some("masks and position biases of the attention are computed, not stored")
    } else if name == "lang_encoder.model.decoder.version" {
        Some("a version mark of fairseq")
    } else {
        None
    }
}
