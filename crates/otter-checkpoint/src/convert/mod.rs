//! `otter convert`: any checkpoint to an Otter directory, and back to OpenFlamingo.
//!
//! ```text
//! directories, files ─► Source (names without wrappers, what it is)
//!        │  rename tables, parts/language.rs, parts/vision.rs, parts/bridge.rs
//!        ▼
//! PlannedTensor: name, type, shape, and parts: stored rows, drawn rows, base + delta, W + BA
//!        │  output.rs: one tensor after the other, 256 Ki elements at a time
//!        ▼
//! safetensors or PyTorch shards, config.json, tokenizer ─► verify.rs reads it back ─► renamed into place
//! ```
//!
//! A plan is made from headers alone. Every tensor of every source is written, or dropped with a reason that the
//! [`ConvertReport`] lists, or part of an error.

mod dtype;
mod elements;
mod gguf_tokenizer;
mod merge;
mod options;
mod output;
mod parts;
mod plan;
mod planning;
mod report;
mod source;
mod to_open_flamingo;
mod verify;

pub use crate::convert::dtype::KeepF32;
pub use crate::convert::options::{ConvertOptions, ConvertTarget};
pub use crate::convert::output::OutputFormat;
pub use crate::convert::plan::{Part, PlannedTensor};
pub use crate::convert::report::{ConvertReport, Created, Dropped};
pub use crate::convert::source::{Source, SourceKind};
pub use crate::facts::{rename, tables};
pub use parts::assemble::NewRows;
pub(crate) use verify::verify_directory;

use crate::atomic;
use crate::config::generation::{GENERATION_CONFIG, is_derived};
use crate::config::preprocessor::{PREPROCESSOR_CONFIG, preprocessor_json};
use crate::convert::output::{CARRIED, carry, write_file, write_gguf_file, write_json, write_shards};
use crate::convert::planning::{Plan, Tokenizer};
use crate::convert::report::{count_dtypes, folder_name};
use crate::directory::save::check_target;
use crate::error::Result;
use crate::export::model_card::{self, Described, ModelCard};
use crate::export::transformers_module::write_transformers_module;
use crate::gguf;
use crate::tokenizer::files::TOKENIZER_FILES;
use otter_io::Progress;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};

/// Converts. Progress is counted in bytes of elements, its stage is the tensor written last. What stands at `out` is replaced
/// only when the new content is complete and was read back.
///
/// # Errors
/// When a source cannot be read, its parts do not fit, a tensor is unaccounted for, or writing fails; then `out` is
/// as it was.
pub fn convert(options: &ConvertOptions, progress: &mut dyn FnMut(Progress<'_>)) -> Result<ConvertReport> {
    match OutputFormat::of_file(&options.out).filter(|_| !options.out.is_dir()) {
        Some(OutputFormat::Gguf) => to_gguf(options, progress),
        Some(format) => to_file(options, format, progress),
        None => to_directory(options, progress),
    }
}

/// One file of weights, read back before it is moved into place.
fn to_file(
    options: &ConvertOptions,
    format: OutputFormat,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<ConvertReport> {
    let mut plan = planning::plan(options, None)?;
    dtype::assign(&mut plan.tensors, options.dtype, &options.keep_f32);
    let name = folder_name(&options.out);
    let temporary = atomic::temporary_dir(&options.out)?;
    let file = temporary.join(&name);
    let written = write_file(&file, &options.out, &plan.tensors, format, progress)
        .and_then(|()| verify::verify_tensors(&file, &options.out, &plan.tensors))
        .and_then(|()| atomic::replace_file(&file, &options.out));
    let _ = fs::remove_dir_all(&temporary);
    written.map(|()| report(options, plan, vec![name], Vec::new()))
}

/// One file with configuration and tokenizer, made in a directory of its own and read back before it is moved.
fn to_gguf(options: &ConvertOptions, progress: &mut dyn FnMut(Progress<'_>)) -> Result<ConvertReport> {
    let temporary = atomic::temporary_dir(&options.out)?;
    let inner = ConvertOptions { format: OutputFormat::Gguf, ..options.clone() };
    let written = fill(&temporary, &inner, progress).and_then(|mut report| {
        atomic::replace_file(&temporary.join(gguf::FILE_NAME), &options.out)?;
        report.weight_files = vec![folder_name(&options.out)];
        report.other_files.clear();
        let settings = temporary.join(GENERATION_CONFIG);
        if settings.is_file() && !is_derived(&settings) {
            report.warnings.push(format!(
                "{GENERATION_CONFIG} is left out: a GGUF file holds no settings of answers; give them as options"
            ));
        }
        Ok(report)
    });
    let _ = fs::remove_dir_all(&temporary);
    written
}

fn to_directory(options: &ConvertOptions, progress: &mut dyn FnMut(Progress<'_>)) -> Result<ConvertReport> {
    check_target(&options.out)?;
    let temporary = atomic::temporary_dir(&options.out)?;
    let written = fill(&temporary, options, progress)
        .and_then(|report| atomic::replace_dir(&temporary, &options.out).map(|()| report));
    if written.is_err() {
        let _ = fs::remove_dir_all(&temporary);
    }
    written
}

fn fill(
    temporary: &Path,
    options: &ConvertOptions,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<ConvertReport> {
    let target = &options.out;
    let mut plan = planning::plan(options, Some(temporary))?;
    dtype::assign(&mut plan.tensors, options.dtype, &options.keep_f32);
    let mut other = small_files(temporary, target, &mut plan)?;
    let mut stored = Vec::new();
    let weights = match options.format {
        OutputFormat::Gguf => {
            plan.keep_parameters();
            stored = write_gguf_file(temporary, target, &plan.tensors, options.quantization, progress)?;
            // As the file alone, without the directory around it.
            verify_directory(&temporary.join(gguf::FILE_NAME), target, &[])?;
            vec![gguf::FILE_NAME.to_owned()]
        }
        format => write_shards(temporary, target, &plan.tensors, format, options.max_shard_bytes, progress)?,
    };
    if options.transformers {
        write_transformers_module(temporary)?;
        other.push("the Transformers module".to_owned());
    }
    verify::verify_tensors(temporary, target, &plan.tensors)?;
    let remarks = match (&plan.config, plan.plain_language_model) {
        _ if plan.verify => verify_directory(temporary, target, &carried_from(&plan))?,
        (Some(config), true) => verify::verify_language_model(config, target)?,
        _ => Vec::new(),
    };
    plan.warnings.extend(remarks);
    let mut report = report(options, plan, weights, other);
    report.stored_as(stored);
    write_json(&temporary.join("conversion.json"), target, &report.record())?;
    Ok(report)
}

/// Everything beside the weights; returns the names.
fn small_files(temporary: &Path, target: &Path, plan: &mut Plan) -> Result<Vec<String>> {
    let mut names = Vec::new();
    let dtype = dtype::torch_name(&plan.tensors);
    if let Some(config) = &mut plan.config {
        // Since transformers 4.56 the key is `dtype`.
        let newer = config.contains_key("dtype") && !config.contains_key("torch_dtype");
        config.insert(if newer { "dtype" } else { "torch_dtype" }.to_owned(), json!(dtype));
        write_json(&temporary.join("config.json"), target, &Value::Object(config.clone()))?;
        names.push("config.json".to_owned());
    }
    match &plan.tokenizer {
        Tokenizer::Written => {
            let written = TOKENIZER_FILES.iter().filter(|name| temporary.join(name).is_file());
            names.extend(written.map(|name| (*name).to_owned()));
        }
        Tokenizer::From(directory) => names.extend(carry(TOKENIZER_FILES, directory, temporary, target)?),
    }
    for directory in &plan.carry_from {
        names.extend(carry(CARRIED, directory, temporary, target)?);
    }
    if let Some(directory) = &plan.model_card_from {
        names.extend(carry(&["README.md"], directory, temporary, target)?);
    }
    let Some(config) = plan.config.clone().filter(|_| plan.verify) else { return Ok(names) };
    let mut add = |name: &str, value: Option<Value>| match value {
        Some(value) if !temporary.join(name).exists() => {
            names.push(name.to_owned());
            write_json(&temporary.join(name), target, &value)
        }
        _ => Ok(()),
    };
    add(GENERATION_CONFIG, plan.generation_config())?;
    let image = config.get("vision_config").and_then(|vision| vision.get("image_size")?.as_u64());
    add(PREPROCESSOR_CONFIG, image.and_then(|size| usize::try_from(size).ok()).map(preprocessor_json))?;
    if !temporary.join("README.md").exists() {
        let tensors = plan.tensors.iter().map(|tensor| (tensor.name.as_str(), tensor.elements())).collect();
        let described = Described { config: &Value::Object(config), tensors, dtype };
        let card = ModelCard { base_model: Some(plan.base_name.clone()), ..ModelCard::default() };
        model_card::write(temporary, target, Some(&card), &described)?;
        names.push("README.md".to_owned());
    }
    Ok(names)
}

/// The files of sources that were copied as they are.
fn carried_from(plan: &Plan) -> Vec<PathBuf> {
    let tokenizer = match &plan.tokenizer {
        Tokenizer::Written => None,
        Tokenizer::From(directory) => Some(directory),
    };
    let tokenizer = tokenizer.into_iter().flat_map(|from| TOKENIZER_FILES.iter().map(|name| from.join(name)));
    let other = CARRIED.iter().filter_map(|name| {
        let mut places = plan.carry_from.iter().map(|from| from.join(name));
        places.find(|file| file.is_file())
    });
    tokenizer.chain(other).collect()
}

fn report(options: &ConvertOptions, plan: Plan, weights: Vec<String>, other: Vec<String>) -> ConvertReport {
    let dtypes = count_dtypes(plan.tensors.iter().map(|tensor| tensor.dtype.name()));
    let renamed = |tensor: &&PlannedTensor| {
        tensor.parts.iter().any(|part| matches!(part, Part::Stored { name, .. } if *name != tensor.name))
    };
    ConvertReport {
        conversion: plan.conversion,
        source: options.source.clone(),
        source_kind: plan.source_kind,
        out: options.out.clone(),
        weight_files: weights,
        other_files: other,
        tensors: plan.tensors.len(),
        parameters: plan.tensors.iter().map(|tensor| tensor.elements() as u64).sum(),
        bytes: plan.tensors.iter().map(PlannedTensor::bytes).sum(),
        dtypes,
        renamed: plan.tensors.iter().filter(renamed).count(),
        token_order: plan.token_order.map(|order| parts::tokens::order_name(order).to_owned()),
        special_tokens: plan.special_tokens,
        dropped: plan.dropped,
        created: plan.created,
        quantized: Vec::new(),
        warnings: plan.warnings,
    }
}
