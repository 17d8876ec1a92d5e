//! The result opened before success is said of it: configuration, tokenizer, and the name and shape of every tensor.

use crate::config::section::Section;
use crate::config::text::text_config;
use crate::convert::plan::PlannedTensor;
use crate::directory::account::LoadReport;
use crate::directory::open::Checkpoint;
use crate::directory::weights::Weights;
use crate::directory::wrappers;
use crate::error::{CheckpointError, Result};
use crate::gguf::{self, GgufFile};
use crate::tokenizer::files::TOKENIZER_FILES;
use crate::tokenizer::load::read_tokenizer;
use otter_model::Otter;
use otter_model::text::Family;
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// Opens a written Otter as any command would and accounts for every tensor. `target` is what it will be, and
/// `carried` are files of sources that were copied there, which messages name instead. Returns the remarks of the loader.
///
/// # Errors
/// When the configuration describes no supported model, a parameter is missing, a tensor is unexpected, a shape differs, or
/// the tokenizer cannot be read.
pub(crate) fn verify_directory(written: &Path, target: &Path, carried: &[PathBuf]) -> Result<Vec<String>> {
    let opened = || -> Result<Vec<String>> {
        let checkpoint = Checkpoint::open(written)?;
        let (_, specs) = Otter::new(&checkpoint.config.model)
            .map_err(|error| CheckpointError::format(&written.join("config.json"), error.to_string()))?;
        let report =
            checkpoint.account(specs.iter().map(|spec| (spec.name.as_str(), spec.shape.as_slice())))?;
        let mut warnings = report.warnings;
        warnings.extend(check_tokenizer(written, checkpoint.config.model.text.vocab_size())?);
        Ok(warnings)
    };
    let own = |text: String| text.replace(&written.display().to_string(), &target.display().to_string());
    match opened() {
        Ok(warnings) => Ok(warnings.into_iter().map(own).collect()),
        Err(error) => {
            let text = carried.iter().fold(error.to_string(), |text, source| {
                let copy = written.join(source.file_name().unwrap_or_default());
                text.replace(&copy.display().to_string(), &source.display().to_string())
            });
            Err(does_not_load(target, &own(text)))
        }
    }
}

/// An error about a result, of which nothing was put in place.
fn does_not_load(target: &Path, reason: &str) -> CheckpointError {
    CheckpointError::format(target, format!("the result does not load, so that it is no success: {reason}"))
}

/// A directory without a tokenizer is whole but for it: releases come so.
fn check_tokenizer(directory: &Path, rows: usize) -> Result<Option<String>> {
    let held = match gguf::file_of(directory) {
        Some(file) => GgufFile::open(&file)?.otter_tokenizer_json()?.is_some(),
        None => TOKENIZER_FILES.iter().any(|name| directory.join(name).is_file()),
    };
    if !held {
        return Ok(Some(
            "there is no tokenizer, so no prompt can be read; give the directory of one with --tokenizer, or copy its files \
             there"
                .to_owned(),
        ));
    }
    let tokens = read_tokenizer(directory)?.tokenizer.vocab_size();
    Ok((tokens > rows).then(|| {
        format!("the tokenizer has {tokens} tokens, but the tables only {rows} rows; tokens from {rows} on cannot be used")
    }))
}

/// Opens what was written, whatever it is, and compares its tensors with the plan.
///
/// # Errors
/// When a tensor is missing, unexpected, or of another shape.
pub(super) fn verify_tensors(written: &Path, target: &Path, planned: &[PlannedTensor]) -> Result<()> {
    let weights = Weights::open(written)?;
    // A prefix that was asked for is not seen by a reader.
    let names: Vec<String> = planned.iter().map(|tensor| tensor.name.clone()).collect();
    let names = wrappers::unwrapped(target, &names)?.names;
    let expected = names.iter().zip(planned).map(|(name, tensor)| (name.as_str(), tensor.shape.as_slice()));
    // Names that a model would ignore are planned too.
    let report = LoadReport::compare(&weights, expected);
    match report.strict() {
        Ok(_) => Ok(()),
        Err(error) => Err(does_not_load(target, &error.to_string())),
    }
}

/// Reads the configuration of a plain language model as putting it into an Otter will.
///
/// # Errors
/// When it describes no supported model.
pub(super) fn verify_language_model(config: &Map<String, Value>, target: &Path) -> Result<Vec<String>> {
    let path = target.join("config.json");
    let section = Section { path: &path, name: "", map: config };
    let mut warnings = Vec::new();
    let family = Family::of(&section).map_err(CheckpointError::from);
    let read = family.and_then(|family| text_config(family, &section, &mut warnings));
    read.map(|_| warnings).map_err(|error| does_not_load(target, &error.to_string()))
}
