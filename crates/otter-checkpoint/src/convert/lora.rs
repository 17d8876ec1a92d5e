//! Merging LoRA adapters: `W + (alpha / r) * B A`, in 32-bit floats, under the names of either age of PEFT.

use super::plan::{Part, PlannedTensor};
use super::report::Created;
use super::source::{Source, require_unique};
use super::tables::{PEFT, PEFT_BASE_LAYER};
use crate::error::{CheckpointError, Result};
use crate::tensor::TensorEntry;
use crate::weights::list;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// The planned tensors and the configuration without `lora_config`.
#[derive(Debug)]
pub(super) struct Merged {
    pub tensors: Vec<PlannedTensor>,
    pub config: Map<String, Value>,
    pub created: Vec<Created>,
}

/// The two matrices of one module, by its PEFT path.
#[derive(Default)]
struct Adapter<'s> {
    a: Option<(&'s str, &'s TensorEntry)>,
    b: Option<(&'s str, &'s TensorEntry)>,
}

/// Plans the merged model.
///
/// # Errors
/// When `lora_config` is missing, an adapter is not complete or does not fit its matrix, or a name is not known.
pub(super) fn merge(source: &Source) -> Result<Merged> {
    let mut config = source.config.clone().unwrap_or_default();
    let (rank, scale) = scale(source, config.shift_remove("lora_config"))?;
    let mut adapters: BTreeMap<&str, Adapter<'_>> = BTreeMap::new();
    let mut rest = Vec::new();
    let mut unsupported = Vec::new();
    for (name, entry) in &source.tensors {
        // `…q_proj.lora_A.default.weight`; adapters saved alone leave the adapter's name out.
        if let Some((module, _)) = name.split_once(".lora_A.") {
            adapters.entry(module).or_default().a = Some((name, entry));
        } else if let Some((module, _)) = name.split_once(".lora_B.") {
            adapters.entry(module).or_default().b = Some((name, entry));
        } else if name.contains(".lora_") {
            unsupported.push(name.as_str());
        } else {
            rest.push((name.as_str(), entry));
        }
    }
    if !unsupported.is_empty() {
        let problem = format!(
            "adapters of a kind that cannot be merged (only lora_A and lora_B can):{}",
            list(&unsupported)
        );
        return Err(CheckpointError::format(&source.path, problem));
    }
    let mut tensors = Vec::with_capacity(rest.len());
    let merged = adapters.len();
    for (name, entry) in rest {
        // Names of PEFT 0.6 become those of earlier releases first; only adapted modules have a base layer.
        let older = PEFT_BASE_LAYER.forward(name);
        let older = older.as_deref().unwrap_or(name);
        let Some(renamed) = PEFT.forward(older) else {
            let problem =
                format!("tensor `{}` has no place in an Otter wrapped by PEFT", name.escape_debug());
            return Err(CheckpointError::format(&source.path, problem));
        };
        let module = older.strip_suffix(".weight").and_then(|module| adapters.remove_entry(module));
        match module {
            None => tensors.push(PlannedTensor::copy(renamed, name, entry)),
            Some((module, adapter)) => {
                let (Some((_, a)), Some((_, b))) = (adapter.a, adapter.b) else {
                    let problem = "only one of lora_A and lora_B is there".to_owned();
                    return Err(wrong(source, module, problem));
                };
                check(source, module, entry, a, b, rank)?;
                let (base, a, b) = (entry.clone(), a.clone(), b.clone());
                let parts = vec![Part::LowRank { name: name.to_owned(), base, a, b, scale }];
                let (dtype, shape) = (entry.dtype, entry.shape.clone());
                tensors.push(PlannedTensor { name: renamed, dtype, shape, parts });
            }
        }
    }
    if let Some((module, _)) = adapters.first_key_value() {
        return Err(wrong(source, module, "the matrix that this adapter belongs to is missing".to_owned()));
    }
    require_unique(&source.path, tensors.iter().map(|tensor| tensor.name.clone()))?;
    let how = format!(
        "{merged} matrices: W + {scale} * B A, rank {rank}, in 32-bit floats, stored in the type of W"
    );
    let created = vec![Created { name: "lang_encoder.*".to_owned(), how }];
    Ok(Merged { tensors, config, created })
}

fn scale(source: &Source, lora: Option<Value>) -> Result<(usize, f32)> {
    let path = source.path.join("config.json");
    let lora = lora.filter(|value| !value.is_null()).ok_or_else(|| {
        let problem =
            "no `lora_config`; expected {\"r\": …, \"lora_alpha\": …}, which say how strong the adapters are";
        CheckpointError::format(&path, problem)
    })?;
    let positive = |key: &'static str| {
        let value = lora.get(key);
        value.and_then(Value::as_f64).filter(|number| *number > 0.0).ok_or_else(|| CheckpointError::Key {
            path: path.clone(),
            key: format!("lora_config.{key}"),
            found: value.map_or("missing".to_owned(), Value::to_string),
            expected: "expected a number above 0".to_owned(),
        })
    };
    let (rank, alpha) = (positive("r")?, positive("lora_alpha")?);
    Ok((rank as usize, (alpha / rank) as f32))
}

fn check(
    source: &Source,
    module: &str,
    base: &TensorEntry,
    a: &TensorEntry,
    b: &TensorEntry,
    rank: usize,
) -> Result<()> {
    let fits = matches!((&base.shape[..], &a.shape[..], &b.shape[..]),
        (&[out, inner], &[ra, ai], &[bo, rb]) if ra == rank && rb == rank && ai == inner && bo == out);
    if fits && rank > 0 {
        return Ok(());
    }
    let problem = format!(
        "lora_A {:?} and lora_B {:?} do not fit the matrix {:?} with rank {rank}",
        a.shape, b.shape, base.shape
    );
    Err(wrong(source, module, problem))
}

fn wrong(source: &Source, module: &str, problem: String) -> CheckpointError {
    CheckpointError::Tensor { path: source.path.clone(), name: module.to_owned(), problem }
}
