//! The BERT encoder (Devlin et al., arXiv 1810.04805), forward only; RoBERTa (arXiv 1907.11692) differs in where positions begin.
//!
//! All texts of a batch have the same number of tokens, so nothing is padded or masked.

use std::path::Path;

use otter_checkpoint::Weights;
use otter_model::text::attention::{AttentionSpec, InputNames};
use otter_model::text::block::{BlockParts, NormSpec, Residual, Rows, TransformerBlock};
use otter_model::text::mlp::{MlpForm, MlpSpec};
use otter_model::workspace::Workspace;
use otter_nn::{
    ActivationKind, AttentionMask, Device, Embedding, Init, Norm, ParameterSpecs, Parameters,
    SelfAttentionCore, Tensor,
};

use super::bert_config::BertConfig;
use crate::retrieve::error::{Result, RetrieveError};

/// The encoder and its weights.
pub struct Bert {
    config: BertConfig,
    parameters: Parameters<f32>,
    tokens: Embedding,
    positions: Embedding,
    segments: Embedding,
    norm: Norm,
    layers: Vec<TransformerBlock>,
}

/// Prefixes under which libraries store the same names.
const PREFIXES: [&str; 4] = ["", "bert.", "roberta.", "0.auto_model."];

impl Bert {
    /// Loads the weights of a directory.
    ///
    /// # Errors
    /// When a file is missing or damaged, or a tensor is missing, misshapen or unknown.
    pub fn load(directory: &Path, config: BertConfig) -> Result<Self> {
        let weights = Weights::open(directory)?;
        let anchor = "embeddings.word_embeddings.weight";
        let Some(prefix) =
            PREFIXES.into_iter().find(|prefix| weights.get(&format!("{prefix}{anchor}")).is_some())
        else {
            let problem = format!("no tensor `{anchor}`; the weights of a BERT encoder are expected");
            return Err(RetrieveError::format(directory, problem));
        };
        let mut specs = ParameterSpecs::default();
        let (width, eps) = (config.hidden_size, config.layer_norm_eps);
        let table = |specs: &mut ParameterSpecs, name: &str, rows: usize| {
            Embedding::new(specs, &format!("embeddings.{name}_embeddings"), rows, width, Init::Zeros)
        };
        let tokens = table(&mut specs, "word", config.vocab_size);
        let positions = table(&mut specs, "position", config.max_position_embeddings);
        let segments = table(&mut specs, "token_type", config.type_vocab_size);
        let norm = Norm::layer(&mut specs, "embeddings.LayerNorm", width, true, eps);
        let layers = (0..config.num_hidden_layers).map(|i| block(&mut specs, i, &config)).collect();
        check_names(&weights, prefix, &specs)?;
        let parameters = Parameters::build(&specs, Device::Cpu, |spec| {
            let name = format!("{prefix}{}", spec.name);
            let shape = weights.get(&name).map(|entry| entry.shape.clone()).unwrap_or_default();
            if shape != spec.shape {
                let problem =
                    format!("`{name}` has shape {shape:?}; the configuration says {:?}", spec.shape);
                return Err(RetrieveError::format(directory, problem));
            }
            Ok(Tensor::from_vec(weights.read_f32(&name)?, &spec.shape, Device::Cpu))
        })?;
        Ok(Self { config, parameters, tokens, positions, segments, norm, layers })
    }

    /// Width of the output.
    pub fn width(&self) -> usize {
        self.config.hidden_size
    }

    /// Most tokens of a text.
    pub fn max_tokens(&self) -> usize {
        self.config.max_position_embeddings - self.config.first_position()
    }

    /// Rows of the token table.
    pub fn vocab_size(&self) -> usize {
        self.config.vocab_size
    }

    /// Last hidden states (texts * length, width) of ids (texts, length), none of them padding and all below
    /// [`Bert::vocab_size`], `length` at most [`Bert::max_tokens`].
    pub fn forward(&self, ids: &[u32], length: usize) -> Tensor {
        let parameters = &self.parameters;
        let texts = ids.len() / length.max(1);
        let first = self.config.first_position();
        let positions: Vec<u32> =
            (0..texts).flat_map(|_| (first..first + length).map(|at| at as u32)).collect();
        let mut x = self.tokens.forward(parameters, ids);
        x.add_assign(&self.positions.forward(parameters, &positions));
        x.add_assign(&self.segments.forward(parameters, &vec![0; ids.len()]));
        let mut x = self.norm.forward(parameters, &x);
        let rows = Rows { batch: texts, positions: &[], mask: &AttentionMask::Full };
        let mut workspace = Workspace::new(x.device());
        for layer in &self.layers {
            layer.forward(parameters, &mut x, &rows, None, &mut workspace);
        }
        x
    }
}

/// Registers the layer of this number.
fn block(specs: &mut ParameterSpecs, index: usize, config: &BertConfig) -> TransformerBlock {
    let name = format!("encoder.layer.{index}");
    let mut parts = BlockParts { specs, name: &name, width: config.hidden_size };
    let heads = config.num_attention_heads;
    let init = [Init::Zeros; 2];
    let attention = parts.attention(AttentionSpec {
        inputs: InputNames::Separate(["attention.self.query", "attention.self.key", "attention.self.value"]),
        output: "attention.output.dense",
        bias: true,
        init,
        clip: None,
        rotary: None,
        core: SelfAttentionCore::new(heads, heads, config.hidden_size / heads),
    });
    let activation = match config.hidden_act.as_str() {
        "relu" => ActivationKind::Relu,
        "gelu_new" | "gelu_pytorch_tanh" => ActivationKind::GeluTanh,
        _ => ActivationKind::Gelu,
    };
    let mlp = parts.mlp(&MlpSpec {
        form: MlpForm::Plain(activation),
        up: "intermediate.dense",
        down: "output.dense",
        inner: config.intermediate_size,
        bias: true,
        init,
    });
    let norm = NormSpec::Layer { eps: config.layer_norm_eps, bias: true };
    let first = parts.norm("attention.output.LayerNorm", norm);
    let residual = Residual::PostNorm(first, parts.norm("output.LayerNorm", norm));
    TransformerBlock { residual, attention, mlp }
}

/// Every stored tensor is read, or known to be of no use here.
fn check_names(weights: &Weights, prefix: &str, specs: &ParameterSpecs) -> Result<()> {
    let wanted: std::collections::HashSet<String> =
        specs.iter().map(|spec| format!("{prefix}{}", spec.name)).collect();
    if let Some(missing) = wanted.iter().filter(|name| weights.get(name).is_none()).min() {
        let problem = format!("no tensor `{missing}`; the configuration asks for it");
        return Err(RetrieveError::format(weights.path(), problem));
    }
    let no_use = |name: &str| {
        let name = name.strip_prefix(prefix).unwrap_or(name);
        let buffer = ["embeddings.position_ids", "embeddings.token_type_ids"].contains(&name);
        // The pooler and heads of pre-training act on the last hidden states, which is what is asked for here.
        buffer || ["pooler.", "cls.", "lm_head."].iter().any(|part| name.starts_with(part))
    };
    match weights.names().find(|name| !wanted.contains(*name) && !no_use(name)) {
        None => Ok(()),
        Some(name) => {
            let problem =
                format!("tensor `{}` belongs to no BERT encoder of these sizes", name.escape_debug());
            Err(RetrieveError::format(weights.path(), problem))
        }
    }
}
