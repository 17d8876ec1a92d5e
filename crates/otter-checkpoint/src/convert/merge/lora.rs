//! Merging LoRA adapters: `W + scale * B A`, in 32-bit floats, under the names of either age of PEFT. The scale of each is
//! that of [`LoraConfig`].

use crate::convert::merge::lora_config::LoraConfig;
use crate::convert::plan::{Part, PlannedTensor};
use crate::convert::report::{Created, Dropped};
use crate::convert::source::{Source, require_unique};
use crate::directory::weights::list;
use crate::error::{CheckpointError, Result};
use crate::facts::tables::{PEFT, PEFT_BASE_LAYER};
use otter_formats::TensorEntry;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};

/// The planned tensors and the configuration without `lora_config`.
#[derive(Debug)]
pub(in crate::convert) struct Merged {
    pub tensors: Vec<PlannedTensor>,
    pub config: Map<String, Value>,
    pub created: Vec<Created>,
    pub dropped: Vec<Dropped>,
    pub warnings: Vec<String>,
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
pub(in crate::convert) fn merge(source: &Source) -> Result<Merged> {
    let mut config = source.config.clone().unwrap_or_default();
    let lora = LoraConfig::read(source, config.shift_remove("lora_config"))?;
    let mut adapters: BTreeMap<&str, Adapter<'_>> = BTreeMap::new();
    let mut adapter_names = BTreeSet::new();
    let mut rest = Vec::new();
    let mut unsupported = Vec::new();
    for (name, entry) in &source.tensors {
        match adapter_part(name) {
            None if name.contains(".lora_") => unsupported.push(name.as_str()),
            None => rest.push((name.as_str(), entry)),
            Some((module, part, adapter)) => {
                adapter_names.insert(adapter);
                let own = adapters.entry(module).or_default();
                *(if part == "lora_A" { &mut own.a } else { &mut own.b }) = Some((name, entry));
            }
        }
    }
    if !unsupported.is_empty() {
        let problem = format!(
            "adapters of a kind that cannot be merged (only matrices lora_A and lora_B can):{}",
            list(&unsupported)
        );
        return Err(CheckpointError::format(&source.path, problem));
    }
    if adapter_names.len() > 1 {
        let names: Vec<&str> = adapter_names.into_iter().collect();
        let problem = format!(
            "several adapters ({}), of which only one can be merged; save the model with one of them alone",
            names.join(", ")
        );
        return Err(CheckpointError::format(&source.path, problem));
    }
    let saved: BTreeSet<String> = rest.iter().filter_map(|(name, _)| saved_module(name)).collect();
    let mut dropped = Vec::new();
    let mut scales: BTreeMap<String, usize> = BTreeMap::new();
    let mut tensors = Vec::with_capacity(rest.len());
    for (stored, entry) in rest {
        if stored.contains(".original_module.")
            && saved.contains(&stored.replacen(".original_module.", ".", 1))
        {
            let reason = "replaced by the copy that was trained (modules_to_save)";
            dropped.push(Dropped::new(&source.path, stored, reason));
            continue;
        }
        let trained = saved_module(stored);
        let name = trained.as_deref().unwrap_or(stored);
        // Names of PEFT 0.6 become those of earlier releases first; only adapted modules have a base layer.
        let older = PEFT_BASE_LAYER.forward(name);
        let older = older.as_deref().unwrap_or(name);
        let Some(renamed) = PEFT.forward(older) else {
            let problem =
                format!("tensor `{}` has no place in an Otter wrapped by PEFT", stored.escape_debug());
            return Err(CheckpointError::format(&source.path, problem));
        };
        let module = older.strip_suffix(".weight").and_then(|module| adapters.remove_entry(module));
        match module {
            None => tensors.push(PlannedTensor::copy(renamed, stored, entry)),
            Some((module, adapter)) => {
                let (Some((_, a)), Some((_, b))) = (adapter.a, adapter.b) else {
                    let problem = "only one of lora_A and lora_B is there".to_owned();
                    return Err(wrong(source, module, problem));
                };
                let inside = module.split_once("base_model.model.").map_or(module, |(_, inside)| inside);
                let (rank, scale) = lora.strength(inside)?;
                check(source, module, entry, a, b, rank)?;
                *scales.entry(format!("W + {scale} * B A, rank {rank}")).or_default() += 1;
                let (base, a, b) = (entry.clone(), a.clone(), b.clone());
                let parts = vec![Part::LowRank { name: stored.to_owned(), base, a, b, scale }];
                let (dtype, shape) = (entry.dtype, entry.shape.clone());
                tensors.push(PlannedTensor { name: renamed, dtype, shape, parts });
            }
        }
    }
    if let Some((module, _)) = adapters.first_key_value() {
        return Err(wrong(source, module, "the matrix that this adapter belongs to is missing".to_owned()));
    }
    require_unique(&source.path, tensors.iter().map(|tensor| tensor.name.clone()))?;
    let created = |(how, matrices): (String, usize)| Created {
        name: "lang_encoder.*".to_owned(),
        how: format!("{matrices} matrices: {how}, in 32-bit floats, stored in the type of W"),
    };
    let mut warnings = lora.unused_patterns();
    warnings.extend(lora.warnings);
    Ok(Merged { tensors, config, created: scales.into_iter().map(created).collect(), dropped, warnings })
}

/// Module, `lora_A` or `lora_B`, and the adapter's name in `…q_proj.lora_A.default.weight`; adapters saved alone leave their
/// name out.
fn adapter_part(name: &str) -> Option<(&str, &str, &str)> {
    let (module, rest) = name.split_once(".lora_")?;
    let part = rest.split_once('.')?;
    let adapter = part.1.strip_suffix("weight")?.trim_end_matches('.');
    let which = match part.0 {
        "A" => "lora_A",
        "B" => "lora_B",
        _ => return None,
    };
    (!adapter.contains('.')).then_some((module, which, adapter))
}

/// The name of the parameter that a copy in `….modules_to_save.default.…` stands for.
fn saved_module(name: &str) -> Option<String> {
    let (module, rest) = name.split_once(".modules_to_save.")?;
    let (_, parameter) = rest.split_once('.')?;
    Some(format!("{module}.{parameter}"))
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
    CheckpointError::tensor(&source.path, module, problem)
}
