//! The trained part of an Otter as an OpenFlamingo (v2) checkpoint.

use crate::convert::elements::rows;
use crate::convert::plan::PlannedTensor;
use crate::convert::report::Dropped;
use crate::convert::source::Source;
use crate::directory::account::reason_to_ignore;
use crate::error::{CheckpointError, Result};
use crate::facts::tables::OPEN_FLAMINGO;
use serde_json::Value;

/// What to write.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct OpenFlamingoOptions {
    /// Put `module.` in front of every name, as a data-parallel wrapper does.
    pub module_prefix: bool,
    /// Keep this many rows of the tables; OpenFlamingo has as many as its tokenizer has entries.
    pub embedding_rows: Option<usize>,
}

/// Names settings of the configuration that change numbers and have no place in such a file.
fn not_said(source: &Source, warnings: &mut Vec<String>) {
    let setting =
        |section: &str, key: &str| source.config.as_ref().and_then(|config| config.get(section)?.get(key));
    for section in ["perceiver_config", "cross_attention_config"] {
        if let Some(width) = setting(section, "dim_head").and_then(Value::as_u64).filter(|width| *width != 64)
        {
            warnings.push(format!(
                "`{section}.dim_head` is {width}, but OpenFlamingo's heads are 64 wide and its file does not say otherwise: \
                 whoever reads it, this program too, computes another model"
            ));
        }
    }
    for (key, original) in [("alpha", "drop"), ("gray16", "clip")] {
        if let Some(rule) =
            setting("otter_input", key).and_then(Value::as_str).filter(|rule| *rule != original)
        {
            warnings.push(format!(
                "pictures were shown with {key} `{rule}`, which the file does not say: give --{key} {rule} to commands that use it"
            ));
        }
    }
}

/// Plans the file: resampler, gated blocks and tables; the language model's layers too where the configuration trains
/// them.
///
/// # Errors
/// When a tensor has no OpenFlamingo name, or the tables have too few rows.
pub(super) fn plan(
    source: &Source,
    options: &OpenFlamingoOptions,
    dropped: &mut Vec<Dropped>,
    warnings: &mut Vec<String>,
) -> Result<Vec<PlannedTensor>> {
    let flag = |key: &str| source.config.as_ref().and_then(|c| c.get(key)?.as_bool()).unwrap_or(false);
    let language_trained = flag("train_lang_encoder") || flag("train_full_model");
    if flag("train_vision_encoder") || flag("train_full_model") {
        warnings.push(
            "the configuration trains the vision tower too, but OpenFlamingo takes its tower from open_clip: what the \
             tower learned is not in the file"
                .to_owned(),
        );
    }
    not_said(source, warnings);
    let model = source.language_model();
    let tables = model.map(|model| (model.wrapped_input_table(), model.wrapped_output_table()));
    let is_table = |name: &str| {
        tables.as_ref().is_some_and(|(input, output)| name == input || output.as_deref() == Some(name))
    };
    let mut planned = Vec::new();
    for (name, entry) in &source.tensors {
        let bridge = name.starts_with("perceiver.") || name.contains(".gated_cross_attn_layer.");
        let reason = match () {
            () if bridge || is_table(name) => None,
            () if name.starts_with("vision_encoder.") => {
                Some("frozen; OpenFlamingo takes its tower from open_clip")
            }
            () if reason_to_ignore(name).is_some() => reason_to_ignore(name),
            () if language_trained => None,
            () => Some("frozen; OpenFlamingo takes it from the base language model"),
        };
        if let Some(reason) = reason {
            dropped.push(Dropped::new(&source.path, name, reason));
            continue;
        }
        let Some(theirs) = OPEN_FLAMINGO.backward(name) else {
            let problem = format!("tensor `{}` has no name in OpenFlamingo", name.escape_debug());
            return Err(CheckpointError::format(&source.path, problem));
        };
        let theirs = if options.module_prefix { format!("module.{theirs}") } else { theirs };
        let entry = match options.embedding_rows {
            Some(count) if is_table(name) => &rows(entry, name, 0..count)?,
            _ => entry,
        };
        planned.push(PlannedTensor::copy(theirs, name, entry));
    }
    if let (Some(config), Some((input, _))) = (&source.config, &tables)
        && options.embedding_rows.is_none()
        && config.get("model_type").and_then(Value::as_str).is_some()
        && let Ok(tokenizer) = crate::tokenizer::load::load_tokenizer(&source.path)
        && let Some(height) = source.get(input).and_then(|entry| entry.shape.first())
        && *height != tokenizer.vocab_size()
    {
        warnings.push(format!(
            "the tables have {height} rows, the tokenizer {} entries; OpenFlamingo sizes its tables by the tokenizer and \
             refuses others. For use there add --embedding-rows {}; for use with this program keep all rows",
            tokenizer.vocab_size(),
            tokenizer.vocab_size()
        ));
    }
    Ok(planned)
}
