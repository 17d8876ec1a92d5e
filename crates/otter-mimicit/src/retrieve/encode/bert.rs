//! The BERT encoder (Devlin et al., arXiv 1810.04805), forward only; RoBERTa (arXiv 1907.11692) differs in where positions begin.
//!
//! All texts of a batch have the same number of tokens, so nothing is padded or masked.

use std::path::Path;

use otter_checkpoint::Weights;
use otter_nn::kernels::elementwise::{Gelu, GeluTanh, Relu, activate};
use otter_nn::layers::attention::KeysValues;
use otter_nn::{
    AttentionMask, Device, Embedding, Init, LayerNorm, Linear, ParameterSpecs, Parameters, SelfAttentionCore,
    Tensor,
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
    norm: LayerNorm,
    layers: Vec<BertLayer>,
}

struct BertLayer {
    query: Linear,
    key: Linear,
    value: Linear,
    out: Linear,
    attention_norm: LayerNorm,
    widen: Linear,
    narrow: Linear,
    output_norm: LayerNorm,
    core: SelfAttentionCore,
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
        let norm = LayerNorm::new(&mut specs, "embeddings.LayerNorm", width, true, eps);
        let layers = (0..config.num_hidden_layers).map(|i| BertLayer::new(&mut specs, i, &config)).collect();
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
        for layer in &self.layers {
            x = layer.forward(parameters, x, texts, &self.config.hidden_act);
        }
        x
    }
}

impl BertLayer {
    fn new(specs: &mut ParameterSpecs, index: usize, config: &BertConfig) -> Self {
        let (width, inner, eps) = (config.hidden_size, config.intermediate_size, config.layer_norm_eps);
        let name = |part: &str| format!("encoder.layer.{index}.{part}");
        let mut linear =
            |part: &str, from: usize, to: usize| Linear::new(specs, &name(part), from, to, true, Init::Zeros);
        let query = linear("attention.self.query", width, width);
        let key = linear("attention.self.key", width, width);
        let value = linear("attention.self.value", width, width);
        let out = linear("attention.output.dense", width, width);
        let widen = linear("intermediate.dense", width, inner);
        let narrow = linear("output.dense", inner, width);
        let attention_norm = LayerNorm::new(specs, &name("attention.output.LayerNorm"), width, true, eps);
        let output_norm = LayerNorm::new(specs, &name("output.LayerNorm"), width, true, eps);
        let heads = config.num_attention_heads;
        let core = SelfAttentionCore::new(heads, heads, width / heads);
        Self { query, key, value, out, attention_norm, widen, narrow, output_norm, core }
    }

    fn forward(&self, parameters: &Parameters<f32>, mut x: Tensor, texts: usize, activation: &str) -> Tensor {
        let q = self.query.forward(parameters, &x);
        let k = self.key.forward(parameters, &x);
        let v = self.value.forward(parameters, &x);
        let kv = KeysValues::exact(&k, &v, x.rows() / texts.max(1));
        let attended = self.core.forward(&q, texts, kv, &AttentionMask::Full);
        self.out.forward_add(parameters, &attended, &mut x);
        let mut x = self.attention_norm.forward(parameters, &x);
        let widened = self.widen.forward(parameters, &x);
        let activated = match activation {
            "relu" => activate::<Relu, f32>(widened.data()),
            "gelu_new" | "gelu_pytorch_tanh" => activate::<GeluTanh, f32>(widened.data()),
            _ => activate::<Gelu, f32>(widened.data()),
        };
        let activated = Tensor::from_vec(activated, widened.shape(), widened.device());
        self.narrow.forward_add(parameters, &activated, &mut x);
        self.output_norm.forward(parameters, &x)
    }
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
