//! The base language model of a conversion: a plain one, or that inside an Otter.

use crate::convert::elements::same_bytes;
use crate::convert::report::{Dropped, folder_name};
use crate::convert::source::{Source, SourceKind};
use crate::directory::account::reason_to_ignore;
use crate::error::{CheckpointError, Result};
use crate::gguf::GgufFile;
use otter_formats::TensorEntry;
use otter_model::text::Family;
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};

/// A tensor with its name inside an Otter and the one in its file.
#[derive(Debug, Clone)]
pub(in crate::convert) struct WrappedTensor {
    pub name: String,
    pub stored_name: String,
    pub entry: TensorEntry,
}

/// A language model whose tensors have the names they get inside an Otter.
#[derive(Debug)]
pub(in crate::convert) struct Language {
    pub path: PathBuf,
    pub model: &'static Family,
    /// Its configuration, to become `text_config`.
    pub config: Map<String, Value>,
    /// Everything but the two tables.
    pub tensors: Vec<WrappedTensor>,
    pub input_table: WrappedTensor,
    /// `None` when it is the input table.
    pub output_table: Option<WrappedTensor>,
    /// Width of the hidden states.
    pub width: usize,
    /// Number of decoder layers.
    pub layers: usize,
    pub warnings: Vec<String>,
    /// The GGUF file that holds its tokenizer too.
    pub gguf: Option<GgufFile>,
}

impl Language {
    /// Opens a directory.
    ///
    /// # Errors
    /// When it holds neither a language model nor an Otter, or its configuration is missing.
    pub fn open(path: &Path, dropped: &mut Vec<Dropped>) -> Result<Self> {
        let source = Source::open(path)?;
        dropped.extend(source.dropped.iter().cloned());
        let inside = match source.kind {
            SourceKind::LanguageModel(_) => false,
            SourceKind::Otter => true,
            other => {
                let problem = format!("this is {other}; expected a language model (--base-lm)");
                return Err(CheckpointError::format(path, problem));
            }
        };
        let Some(model) = source.language_model() else {
            return Err(CheckpointError::format(path, "the architecture of the language model is not known"));
        };
        let config = source.config.as_ref().and_then(|config| match inside {
            true => config.get("text_config").and_then(Value::as_object).cloned(),
            false => Some(config.clone()),
        });
        let Some(config) = config else {
            let problem = "no configuration of the language model; expected config.json beside its weights";
            return Err(CheckpointError::format(path, problem));
        };
        let mut language = Self::from_source(&source, model, config, inside, dropped)?;
        language.gguf = source.gguf;
        Ok(language)
    }

    fn from_source(
        source: &Source,
        model: &'static Family,
        config: Map<String, Value>,
        inside: bool,
        dropped: &mut Vec<Dropped>,
    ) -> Result<Self> {
        let missing_prefix = !inside && lacks_prefix(source, model);
        let (mut tensors, mut input_table, mut output_table) = (Vec::new(), None, None);
        let (wrapped_input, wrapped_output) = (model.wrapped_input_table(), model.wrapped_output_table());
        for (stored_name, entry) in &source.tensors {
            if inside
                && (!stored_name.starts_with("lang_encoder.")
                    || stored_name.contains(".gated_cross_attn_layer."))
            {
                dropped.push(Dropped::new(
                    &source.path,
                    stored_name,
                    "only the language model is taken from here",
                ));
                continue;
            }
            let name = match inside {
                true => stored_name.clone(),
                false if missing_prefix && Some(stored_name.as_str()) != model.output_table => {
                    model.wrapped_name(&format!("{}{stored_name}", model.prefix))
                }
                false => model.wrapped_name(stored_name),
            };
            let tensor = WrappedTensor { name, stored_name: stored_name.clone(), entry: entry.clone() };
            if let Some(reason) = reason_to_ignore(&tensor.name) {
                dropped.push(Dropped::new(&source.path, stored_name, reason));
            } else if tensor.name == wrapped_input {
                input_table = Some(tensor);
            } else if Some(&tensor.name) == wrapped_output.as_ref() {
                output_table = Some(tensor);
            } else {
                tensors.push(tensor);
            }
        }
        let Some(input_table) = input_table else {
            let problem = format!("no embedding table; expected `{}` of {}", model.input_table, model.name);
            return Err(CheckpointError::format(&source.path, problem));
        };
        if input_table.entry.shape.len() != 2 {
            let problem = format!("shape {:?}; a table has rows and columns", input_table.entry.shape);
            return Err(CheckpointError::tensor(&source.path, &input_table.stored_name, problem));
        }
        let number = |keys: &[&str]| {
            let found = keys.iter().find_map(|key| config.get(*key)?.as_u64());
            found.and_then(|value| usize::try_from(value).ok())
        };
        let width = number(model.width_keys).unwrap_or(input_table.entry.shape[1]);
        let layers = layer_count(model, &tensors);
        if let Some(declared) = number(model.depth_keys).filter(|&declared| declared != layers) {
            let problem = format!("config.json says {declared} layers, the weights hold {layers}");
            return Err(CheckpointError::format(&source.path, problem));
        }
        let path = source.path.clone();
        let warnings = Vec::new();
        let gguf = None;
        let mut language =
            Self { path, model, config, tensors, input_table, output_table, width, layers, warnings, gguf };
        language.settle_tie(dropped);
        Ok(language)
    }

    /// Drops an output table that is the input table, and says so where both are kept.
    fn settle_tie(&mut self, dropped: &mut Vec<Dropped>) {
        let Some(output) = &self.output_table else { return };
        let declared = self.config.get("tie_word_embeddings").and_then(Value::as_bool);
        let ties = declared.unwrap_or(self.model.ties_by_default);
        if !ties {
            return;
        }
        if same_bytes(&self.input_table.entry, &output.entry) {
            let reason = format!("tied to {}, with the same content", self.input_table.stored_name);
            dropped.push(Dropped::new(&self.path, &output.stored_name, reason));
            self.output_table = None;
        } else {
            self.warnings.push(format!(
                "{}: the configuration ties the two tables, but they are stored with different values; both are kept \
                 and tie_word_embeddings is written as false",
                self.path.display()
            ));
        }
    }

    /// Whether input and output table are one.
    pub fn is_tied(&self) -> bool {
        self.output_table.is_none()
    }

    /// `text_config` for a table of `rows` rows.
    pub fn text_config(&self, rows: usize) -> Map<String, Value> {
        let mut text = self.config.clone();
        for key in ["auto_map", "_commit_hash", "_attn_implementation_autoset"] {
            text.shift_remove(key);
        }
        let own_name = text.get("_name_or_path").and_then(Value::as_str).filter(|name| !name.is_empty());
        let name = own_name.map_or_else(|| folder_name(&self.path), folder_of_name);
        text.insert("_name_or_path".to_owned(), json!(name));
        let missing = |text: &Map<String, Value>, key: &str| text.get(key).is_none_or(Value::is_null);
        let of_type = text.get("model_type").and_then(Value::as_str);
        let own = self.model.classes.iter().find(|(_, name)| Some(*name) == of_type);
        let &(class, model_type) = own.unwrap_or(&self.model.classes[0]);
        if missing(&text, "architectures") {
            text.insert("architectures".to_owned(), json!([class]));
        }
        if missing(&text, "model_type") {
            text.insert("model_type".to_owned(), json!(model_type));
        }
        // The cross-attention takes its width from this key, whatever the architecture calls it.
        text.entry("hidden_size").or_insert(json!(self.width));
        text.insert("vocab_size".to_owned(), json!(rows));
        text.insert("tie_word_embeddings".to_owned(), json!(self.is_tied()));
        text
    }
}

/// A hub id stays; of a path only the last component does, so that nobody's folders are published.
fn folder_of_name(name: &str) -> String {
    let is_path = name.starts_with(['/', '.', '~']) || name.contains('\\') || name.matches('/').count() > 1;
    if is_path { folder_name(Path::new(name)) } else { name.to_owned() }
}

/// Whether the file names its tensors without the architecture's prefix, as a model saved without its head does.
fn lacks_prefix(source: &Source, model: &Family) -> bool {
    let stripped = model.layers.strip_prefix(model.prefix).unwrap_or(model.layers);
    let has = |path: &str| source.names().any(|name| name.starts_with(&format!("{path}.")));
    !has(model.layers) && has(stripped)
}

fn layer_count(model: &Family, tensors: &[WrappedTensor]) -> usize {
    let pattern = format!("{}.#.*", model.wrapped_layers());
    let index = |tensor: &WrappedTensor| {
        crate::facts::rename::captures(&pattern, &tensor.name)
            .and_then(|found| found[0].parse::<usize>().ok())
    };
    tensors.iter().filter_map(index).max().map_or(0, |last| last + 1)
}
