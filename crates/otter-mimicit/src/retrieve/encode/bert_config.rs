//! What a sentence-transformers directory says about itself: sizes, pooling, how texts become ids.

use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::retrieve::error::{Result, RetrieveError};

/// No configuration file is longer.
const LONGEST_JSON: u64 = 1 << 24;
/// Bounds that keep sizes from overflowing; no encoder of this kind comes near.
const LARGEST_SIZE: usize = 1 << 20;

/// The sizes of a BERT encoder (`config.json`).
#[derive(Clone, Debug, Deserialize)]
pub struct BertConfig {
    /// `bert`, `roberta` or `xlm-roberta`.
    pub model_type: String,
    /// Rows of the token table.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Number of layers.
    pub num_hidden_layers: usize,
    /// Heads of a layer.
    pub num_attention_heads: usize,
    /// Width inside the feed-forward part.
    pub intermediate_size: usize,
    /// Rows of the position table.
    pub max_position_embeddings: usize,
    /// Rows of the segment table.
    #[serde(default = "two")]
    pub type_vocab_size: usize,
    /// Added to the variance in layer norms.
    #[serde(default = "small")]
    pub layer_norm_eps: f64,
    /// Activation of the feed-forward part.
    #[serde(default = "gelu")]
    pub hidden_act: String,
    /// Positions of RoBERTa begin after this id.
    #[serde(default)]
    pub pad_token_id: Option<usize>,
    /// Only `absolute` is known.
    #[serde(default)]
    pub position_embedding_type: Option<String>,
}

fn two() -> usize {
    2
}

fn small() -> f64 {
    1e-12
}

fn gelu() -> String {
    "gelu".into()
}

impl BertConfig {
    /// Reads and checks `config.json`.
    ///
    /// # Errors
    /// When it is missing, damaged or describes another kind of model.
    pub fn read(directory: &Path) -> Result<Self> {
        let path = directory.join("config.json");
        let config: Self = read_json(&path)?;
        let wrong = |key: &str, found: &dyn std::fmt::Debug, expected: &str| {
            Err(RetrieveError::format(&path, format!("`{key}` is {found:?}; {expected}")))
        };
        if !["bert", "roberta", "xlm-roberta"].contains(&config.model_type.as_str()) {
            return wrong(
                "model_type",
                &config.model_type,
                "text encoders of the kinds bert, roberta and xlm-roberta are supported (all-MiniLM-L6-v2, \
                 paraphrase-multilingual-MiniLM-L12-v2, …)",
            );
        }
        for (key, size) in [
            ("vocab_size", config.vocab_size),
            ("hidden_size", config.hidden_size),
            ("num_attention_heads", config.num_attention_heads),
            ("intermediate_size", config.intermediate_size),
            ("max_position_embeddings", config.max_position_embeddings),
            ("type_vocab_size", config.type_vocab_size),
        ] {
            if size == 0 || size > LARGEST_SIZE {
                return wrong(key, &size, "a size between 1 and 1048576 is expected");
            }
        }
        if config.num_hidden_layers > 1000 {
            return wrong("num_hidden_layers", &config.num_hidden_layers, "at most 1000 are supported");
        }
        if !config.hidden_size.is_multiple_of(config.num_attention_heads) {
            return wrong("hidden_size", &config.hidden_size, "it must be a multiple of num_attention_heads");
        }
        if !["gelu", "gelu_new", "gelu_pytorch_tanh", "relu"].contains(&config.hidden_act.as_str()) {
            return wrong(
                "hidden_act",
                &config.hidden_act,
                "gelu, gelu_new, gelu_pytorch_tanh or relu is expected",
            );
        }
        if config.position_embedding_type.as_deref().is_some_and(|kind| kind != "absolute") {
            return wrong("position_embedding_type", &config.position_embedding_type, "absolute is expected");
        }
        if config.first_position() >= config.max_position_embeddings {
            return wrong(
                "max_position_embeddings",
                &config.max_position_embeddings,
                "more positions are expected",
            );
        }
        Ok(config)
    }

    /// Row of the position table that the first token takes.
    pub fn first_position(&self) -> usize {
        if self.model_type == "bert" { 0 } else { self.pad_token_id.unwrap_or(1).saturating_add(1) }
    }
}

/// How the rows of a text become one vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextPooling {
    /// The mean over all tokens.
    Mean,
    /// The row of the first token.
    First,
    /// The largest value of each feature.
    Max,
}

/// What stands in `modules.json` and the files beside it.
#[derive(Clone, Debug)]
pub struct SentenceConfig {
    /// See [`TextPooling`].
    pub pooling: TextPooling,
    /// Tokens of a text, its special tokens included; the rest is cut off.
    pub max_tokens: Option<usize>,
    /// Whether texts are lower-cased before the tokenizer sees them.
    pub lower_case: bool,
}

#[derive(Deserialize)]
struct Module {
    path: String,
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Deserialize)]
struct Lengths {
    max_seq_length: Option<usize>,
    #[serde(default)]
    do_lower_case: bool,
}

impl SentenceConfig {
    /// Reads `modules.json`, the pooling's `config.json` and `sentence_bert_config.json`. A directory without
    /// `modules.json` is a plain encoder; its texts are pooled by the mean, as sentence-transformers does.
    ///
    /// # Errors
    /// When a file is damaged, a module is unknown or its path leaves the directory.
    pub fn read(directory: &Path) -> Result<Self> {
        let mut config = Self { pooling: TextPooling::Mean, max_tokens: None, lower_case: false };
        let lengths = directory.join("sentence_bert_config.json");
        if lengths.exists() {
            let lengths: Lengths = read_json(&lengths)?;
            (config.max_tokens, config.lower_case) = (lengths.max_seq_length, lengths.do_lower_case);
        }
        let path = directory.join("modules.json");
        if !path.exists() {
            return Ok(config);
        }
        let modules: Vec<Module> = read_json(&path)?;
        for module in modules {
            let plain = !module.path.contains(['/', '\\', ':', '\0']) && !module.path.starts_with('.');
            if !plain {
                let problem = format!("module path `{}` leaves the folder", module.path.escape_debug());
                return Err(RetrieveError::format(&path, problem));
            }
            match module.kind.rsplit('.').next().unwrap_or_default() {
                "Transformer" if module.path.is_empty() => {}
                "Pooling" => config.pooling = pooling(&directory.join(module.path).join("config.json"))?,
                // All rows are scaled to length 1 in any case: only their direction counts.
                "Normalize" => {}
                _ => {
                    let problem = format!(
                        "module `{}` at `{}` is not supported; Transformer (in the folder itself), Pooling and Normalize are",
                        module.kind, module.path
                    );
                    return Err(RetrieveError::format(&path, problem));
                }
            }
        }
        Ok(config)
    }
}

fn pooling(path: &Path) -> Result<TextPooling> {
    let values: serde_json::Map<String, serde_json::Value> = read_json(path)?;
    let mut modes: Vec<String> = values
        .iter()
        .filter(|(_, value)| value.as_bool() == Some(true))
        .filter_map(|(key, _)| key.strip_prefix("pooling_mode_").map(str::to_owned))
        .collect();
    // The form since version 5 of the library.
    if let Some(mode) = values.get("pooling_mode").and_then(|mode| mode.as_str()) {
        modes = vec![mode.to_owned()];
    }
    match modes.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        // The mean times a root of the length has the direction of the mean.
        ["mean_tokens" | "mean" | "mean_sqrt_len_tokens" | "mean_sqrt_len"] => Ok(TextPooling::Mean),
        ["cls_token" | "cls"] => Ok(TextPooling::First),
        ["max_tokens" | "max"] => Ok(TextPooling::Max),
        _ => Err(RetrieveError::format(
            path,
            format!(
                "the pooling is {modes:?}; exactly one of mean_tokens, cls_token and max_tokens is supported"
            ),
        )),
    }
}

/// Reads a JSON file of bounded size.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let length = std::fs::metadata(path).map_err(RetrieveError::io(path, "open"))?.len();
    if length > LONGEST_JSON {
        return Err(RetrieveError::format(
            path,
            format!("{length} bytes; at most {LONGEST_JSON} are expected"),
        ));
    }
    let bytes = std::fs::read(path).map_err(RetrieveError::io(path, "read"))?;
    serde_json::from_slice(&bytes)
        .map_err(|error| RetrieveError::format(path, format!("not the JSON that is expected here ({error})")))
}
