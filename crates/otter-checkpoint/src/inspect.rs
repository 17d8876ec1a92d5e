//! What a checkpoint directory holds, as data for a program to print.

use crate::checkpoint::Checkpoint;
use crate::config_file::ModelFamily;
use crate::load_report::{LoadReport, reason_to_ignore};
use crate::tensor::Dtype;
use crate::tokenizer::load_tokenizer;
use crate::weights::WeightForm;
use otter_data::SpecialTokens;
use otter_model::config::OtterConfig;
use std::fmt;
use std::path::PathBuf;

/// Part of the model that a tensor belongs to, told by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// CLIP image tower.
    Vision,
    /// Perceiver resampler.
    Perceiver,
    /// Gated cross-attention blocks.
    CrossAttention,
    /// Decoder layers and final norm.
    LanguageModel,
    /// Input and output tables.
    Embeddings,
    /// Anything else.
    Other,
}

impl Part {
    /// All parts in the order in which data flows through them.
    pub const ALL: [Self; 6] = [
        Self::Vision,
        Self::Perceiver,
        Self::CrossAttention,
        Self::LanguageModel,
        Self::Embeddings,
        Self::Other,
    ];

    /// The part that a tensor of this name belongs to, in a model of this configuration.
    pub fn of(name: &str, config: &OtterConfig) -> Self {
        if name.starts_with("vision_encoder.") {
            Self::Vision
        } else if name.starts_with("perceiver.") {
            Self::Perceiver
        } else if name.contains(".gated_cross_attn_layer.") {
            Self::CrossAttention
        } else if name == config.input_table() || name == config.output_table() {
            Self::Embeddings
        } else if name.starts_with("lang_encoder.") {
            Self::LanguageModel
        } else {
            Self::Other
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::Vision => "vision encoder",
            Self::Perceiver => "Perceiver resampler",
            Self::CrossAttention => "gated cross-attention",
            Self::LanguageModel => "language model",
            Self::Embeddings => "embeddings",
            Self::Other => "other",
        })
    }
}

/// One tensor.
#[derive(Debug, Clone)]
pub struct TensorSummary {
    /// Its name.
    pub name: String,
    /// Part of the model.
    pub part: Part,
    /// Element type in the file.
    pub dtype: Dtype,
    /// Length of each axis.
    pub shape: Vec<usize>,
    /// Number of elements.
    pub elements: usize,
    /// Why it is not a parameter, if it is not.
    pub ignored: Option<String>,
}

/// Sums over the parameters of one part.
#[derive(Debug, Clone)]
pub struct PartSummary {
    /// The part.
    pub part: Part,
    /// Number of tensors.
    pub tensors: usize,
    /// Number of parameters.
    pub parameters: usize,
    /// Bytes in the files.
    pub bytes: usize,
}

/// Everything [`inspect`] found.
#[derive(Debug, Clone)]
pub struct Inspection {
    /// The directory.
    pub path: PathBuf,
    /// Otter or Flamingo.
    pub family: ModelFamily,
    /// Sizes.
    pub config: OtterConfig,
    /// How the weights are stored.
    pub form: WeightForm,
    /// The weight files.
    pub files: Vec<PathBuf>,
    /// Every tensor in file order.
    pub tensors: Vec<TensorSummary>,
    /// Sums for every part that occurs.
    pub parts: Vec<PartSummary>,
    /// Ids of the special tokens, or why they are not known.
    pub special_tokens: Result<SpecialTokens, String>,
    /// Comparison with the model, when its parameters were given.
    pub report: Option<LoadReport>,
    /// What a reader should know.
    pub warnings: Vec<String>,
    /// Number of parameters. A tied table counts once.
    pub total_parameters: usize,
    /// Bytes of the parameters in the files.
    pub total_bytes: usize,
}

/// Looks a checkpoint over. With the names and shapes of the model's parameters the report also says what is
/// missing or unexpected.
pub fn inspect<'n>(
    checkpoint: &Checkpoint,
    expected: Option<&mut dyn Iterator<Item = (&'n str, &'n [usize])>>,
) -> Inspection {
    let Checkpoint { path, config, weights } = checkpoint;
    let tied = config.model.tie_word_embeddings;
    let mut tensors = Vec::with_capacity(weights.len());
    for name in weights.names() {
        let Some(entry) = weights.get(name) else { continue };
        let alias = tied && name == config.model.output_table();
        let reason = if alias { Some("tied to the input table") } else { reason_to_ignore(name) };
        tensors.push(TensorSummary {
            name: name.to_owned(),
            part: Part::of(name, &config.model),
            dtype: entry.dtype,
            shape: entry.shape.clone(),
            elements: entry.elements(),
            ignored: reason.map(str::to_owned),
        });
    }
    let parameters = || tensors.iter().filter(|tensor| tensor.ignored.is_none());
    let sum = |part: Part| {
        let own = || parameters().filter(move |tensor| tensor.part == part);
        PartSummary {
            part,
            tensors: own().count(),
            parameters: own().map(|tensor| tensor.elements).sum(),
            bytes: own().map(|tensor| tensor.elements * tensor.dtype.size()).sum(),
        }
    };
    let parts: Vec<PartSummary> = Part::ALL.into_iter().map(sum).filter(|part| part.tensors > 0).collect();
    let report = expected.map(|expected| checkpoint.report(expected));
    let mut warnings = config.warnings.clone();
    warnings.extend(weights.notes().iter().cloned());
    Inspection {
        path: path.clone(),
        family: config.family,
        config: config.model.clone(),
        form: weights.form(),
        files: weights.files().to_vec(),
        special_tokens: load_tokenizer(path)
            .map(|tokenizer| *tokenizer.special())
            .map_err(|error| error.to_string()),
        report,
        warnings,
        total_parameters: parts.iter().map(|part| part.parameters).sum(),
        total_bytes: parts.iter().map(|part| part.bytes).sum(),
        parts,
        tensors,
    }
}
