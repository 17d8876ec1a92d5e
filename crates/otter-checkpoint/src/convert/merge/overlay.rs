//! A partial checkpoint (`final_weights.pt`, `checkpoint_steps_100.pt`) over a whole one.

use crate::convert::elements::rows;
use crate::convert::parts::bridge::Bridge;
use crate::convert::parts::language::WrappedTensor;
use crate::convert::plan::{Part, PlannedTensor, widest};
use crate::convert::report::Dropped;
use crate::convert::source::Source;
use crate::directory::weights::list;
use crate::error::{CheckpointError, Result};
use otter_formats::TensorEntry;
use serde_json::{Map, Value, json};

/// The planned tensors and the configuration that fits them.
#[derive(Debug)]
pub(in crate::convert) struct Overlaid {
    pub tensors: Vec<PlannedTensor>,
    pub config: Map<String, Value>,
}

/// Plans the base with every tensor of the part in its place.
///
/// A table of the part may have other rows than the base's: more rows enlarge the vocabulary, fewer leave the rest of the
/// base's. Frame embeddings may be new.
///
/// # Errors
/// When the part holds a tensor that the base does not have, or one of another shape.
pub(in crate::convert) fn overlay(
    base: &Source,
    part: &Bridge,
    dropped: &mut Vec<Dropped>,
) -> Result<Overlaid> {
    let mut config = base.config.clone().unwrap_or_default();
    let model = base.language_model();
    let table_names = model.map(|model| (model.wrapped_input_table(), model.wrapped_output_table()));
    let is_table = |name: &str| {
        table_names.as_ref().is_some_and(|(input, output)| name == input || output.as_deref() == Some(name))
    };
    let mut tensors = Vec::with_capacity(base.tensors.len());
    for (name, entry) in &base.tensors {
        let Some(over) = part.get(name) else {
            tensors.push(PlannedTensor::copy(name.clone(), name, entry));
            continue;
        };
        if over.entry.shape == entry.shape {
            dropped.push(Dropped::new(&base.path, name, "replaced by the overlay"));
            tensors.push(copy(over));
        } else if is_table(name) && over.entry.shape.len() == 2 && over.entry.shape[1..] == entry.shape[1..] {
            tensors.push(table(name, entry, over, dropped, base)?);
        } else {
            return Err(CheckpointError::tensor(
                &part.path,
                &over.stored_name,
                format!(
                    "shape {:?}; in {} it is {:?}. Does the overlay belong to this base?",
                    over.entry.shape,
                    base.path.display(),
                    entry.shape
                ),
            ));
        }
    }
    let mut unknown = Vec::new();
    for over in part.tensors.iter().filter(|over| base.get(&over.name).is_none()) {
        let tied_output = table_names.as_ref().is_some_and(|(_, output)| output.as_ref() == Some(&over.name));
        if over.name == "perceiver.frame_embs" && over.entry.shape.len() == 2 {
            config.insert("max_num_frames".to_owned(), json!(over.entry.shape[0]));
            tensors.push(copy(over));
        } else if tied_output {
            // A table that the base ties and the part does not: both are kept, and the configuration says so.
            config.insert("tie_word_embeddings".to_owned(), json!(false));
            tensors.push(copy(over));
        } else {
            unknown.push(over.stored_name.as_str());
        }
    }
    if !unknown.is_empty() {
        let base = base.path.display();
        let problem = format!("tensors that {base} does not have:{}", list(&unknown));
        return Err(CheckpointError::format(&part.path, problem));
    }
    settle_vocabulary(&mut config, &tensors, table_names.as_ref().map(|(input, _)| input.as_str()));
    Ok(Overlaid { tensors, config })
}

fn table(
    name: &str,
    base: &TensorEntry,
    over: &WrappedTensor,
    dropped: &mut Vec<Dropped>,
    source: &Source,
) -> Result<PlannedTensor> {
    let (trained, kept) = (over.entry.shape[0], base.shape[0]);
    let replaced = format!("rows 0 to {} are replaced by the overlay", trained.min(kept).saturating_sub(1));
    dropped.push(Dropped::new(&source.path, name, replaced));
    if trained >= kept {
        return Ok(copy(over));
    }
    let rest = rows(base, name, trained..kept)?;
    let parts = vec![Part::stored(&over.stored_name, &over.entry), Part::stored(name, &rest)];
    let dtype = widest([over.entry.dtype, base.dtype]);
    Ok(PlannedTensor { name: name.to_owned(), dtype, shape: base.shape.clone(), parts })
}

fn copy(tensor: &WrappedTensor) -> PlannedTensor {
    PlannedTensor::copy(tensor.name.clone(), &tensor.stored_name, &tensor.entry)
}

/// `text_config.vocab_size` is the number of rows that are written.
fn settle_vocabulary(config: &mut Map<String, Value>, tensors: &[PlannedTensor], input: Option<&str>) {
    let rows =
        tensors.iter().find(|tensor| Some(tensor.name.as_str()) == input).and_then(|t| t.shape.first());
    if let (Some(rows), Some(Value::Object(text))) = (rows, config.get_mut("text_config")) {
        text.insert("vocab_size".to_owned(), json!(rows));
    }
}
