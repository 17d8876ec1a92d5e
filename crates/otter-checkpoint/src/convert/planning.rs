//! Which conversion is meant: told from the options and from what the source is.

use super::merge::{delta, lora, overlay};
use crate::config::input_rules::InputRules;
use crate::config::keys::TRAINING;
use crate::config::section::Section;
use crate::convert::gguf_tokenizer;
use crate::convert::options::{ConvertOptions, ConvertTarget, option_error};
use crate::convert::output::OutputFormat;
use crate::convert::parts::assemble::{AssembleOptions, Assembly, assemble};
use crate::convert::parts::bridge::Bridge;
use crate::convert::parts::language::Language;
use crate::convert::parts::tokens::{added_ids, is_open_flamingo_table};
use crate::convert::parts::vision::Vision;
use crate::convert::plan::PlannedTensor;
use crate::convert::report::{Created, Dropped, folder_name};
use crate::convert::source::{Source, SourceKind};
use crate::convert::to_open_flamingo::{self, OpenFlamingoOptions};
use crate::directory::account::reason_to_ignore;
use crate::directory::trained_part::TrainedPart;
use crate::error::Result;
use crate::tokenizer::write::{TokenOrder, add_special_tokens};
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};

/// Where the tokenizer of the result comes from.
#[derive(Debug)]
pub(super) enum Tokenizer {
    /// It was written into the result already.
    Written,
    /// Its files are copied from here, as far as they exist.
    From(PathBuf),
}

/// Everything to write.
#[derive(Debug)]
pub(super) struct Plan {
    pub conversion: String,
    pub source_kind: String,
    pub tensors: Vec<PlannedTensor>,
    /// `config.json`; `None` where the source has none.
    pub config: Option<Map<String, Value>>,
    pub tokenizer: Tokenizer,
    /// Directories whose small files are carried along, the first that has one wins.
    pub carry_from: Vec<PathBuf>,
    /// Directory whose model card still describes the result.
    pub model_card_from: Option<PathBuf>,
    /// What a new card says the model was made from.
    pub base_name: String,
    /// Whether the result must load as an Otter.
    pub verify: bool,
    /// Whether the result is a plain language model.
    pub plain_language_model: bool,
    pub token_order: Option<TokenOrder>,
    pub special_tokens: Vec<(String, u32)>,
    pub dropped: Vec<Dropped>,
    pub created: Vec<Created>,
    pub warnings: Vec<String>,
}

impl Plan {
    fn of(
        source: &Source,
        conversion: &str,
        tensors: Vec<PlannedTensor>,
        config: Option<Map<String, Value>>,
    ) -> Self {
        Self {
            conversion: conversion.to_owned(),
            source_kind: source.kind.to_string(),
            tensors,
            config,
            tokenizer: Tokenizer::From(source.path.clone()),
            carry_from: vec![source.path.clone()],
            model_card_from: None,
            base_name: folder_name(&source.path),
            verify: false,
            plain_language_model: matches!(source.kind, SourceKind::LanguageModel(_)),
            token_order: None,
            special_tokens: Vec::new(),
            dropped: source.dropped.clone(),
            created: Vec::new(),
            warnings: Vec::new(),
        }
    }

    /// Drops what no reader needs, for a form that holds parameters only.
    pub fn keep_parameters(&mut self) {
        let path = self.carry_from.first().cloned().unwrap_or_default();
        let dropped = &mut self.dropped;
        self.tensors.retain(|tensor| match reason_to_ignore(&tensor.name) {
            None => true,
            Some(reason) => {
                dropped.push(Dropped::new(&path, &tensor.name, reason));
                false
            }
        });
    }

    /// What the library would derive from the configuration of the language model.
    pub fn generation_config(&self) -> Option<Value> {
        let text = self.config.as_ref()?.get("text_config")?;
        let id = |key: &str| text.get(key).cloned().unwrap_or(Value::Null);
        Some(json!({
            "_from_model_config": true,
            "bos_token_id": id("bos_token_id"),
            "eos_token_id": id("eos_token_id"),
            "pad_token_id": id("pad_token_id"),
        }))
    }
}

/// Plans the conversion; `directory` is where the result is being made when it is a directory.
///
/// # Errors
/// When the options do not fit the source, or its parts each other.
pub(super) fn plan(options: &ConvertOptions, directory: Option<&Path>) -> Result<Plan> {
    let source = Source::open(&options.source)?;
    refuse_unused(options, &source)?;
    if options.target == ConvertTarget::OpenFlamingo {
        return open_flamingo(options, &source);
    }
    if let Some(path) = &options.delta {
        return delta_plan(path, source);
    }
    match source.kind {
        SourceKind::Adapted if options.merge_lora => merged(&source),
        SourceKind::OpenFlamingo if directory.is_none() && options.base_lm.is_none() => {
            re_encode(&source, directory)
        }
        SourceKind::OpenFlamingo => {
            let (lm, vision) = match &options.base {
                Some(base) => (Some(base), Some(base)),
                None => (options.base_lm.as_ref(), options.base_vision.as_ref()),
            };
            let bridge = (&source, false);
            whole(
                options,
                &source,
                Some(bridge),
                lm.map(PathBuf::as_path),
                vision.map(PathBuf::as_path),
                directory,
            )
        }
        SourceKind::LanguageModel(_) if options.inject || options.base_vision.is_some() => {
            let part = options.overlay.as_deref().map(Source::open).transpose()?;
            let bridge = part.as_ref().map(|part| (part, true));
            let vision = options.base_vision.as_deref();
            whole(options, &source, bridge, Some(&options.source), vision, directory)
        }
        SourceKind::Otter if options.overlay.is_some() => overlaid(options, source, directory),
        SourceKind::OtterPart => completed(options, source, directory),
        _ => re_encode(&source, directory),
    }
}

/// Options that would be without effect are refused.
fn refuse_unused(options: &ConvertOptions, source: &Source) -> Result<()> {
    let kind = source.kind;
    let whole = matches!(kind, SourceKind::OpenFlamingo | SourceKind::LanguageModel(_));
    let is_model = matches!(kind, SourceKind::LanguageModel(_));
    let to_flamingo = options.target == ConvertTarget::OpenFlamingo;
    let bases = options.base_lm.is_some() || options.base_vision.is_some();
    let unused = [
        (options.inject && !is_model, "--inject needs a plain language model"),
        (options.merge_lora && kind != SourceKind::Adapted, "--merge-lora needs a model with LoRA adapters"),
        (
            options.base_lm.is_some() && kind != SourceKind::OpenFlamingo,
            "--base-lm completes an OpenFlamingo checkpoint",
        ),
        (
            options.base_vision.is_some() && !whole,
            "--base-vision completes an OpenFlamingo checkpoint or a language model",
        ),
        (
            options.base.is_some() && !matches!(kind, SourceKind::OpenFlamingo | SourceKind::OtterPart),
            "--base completes a partial checkpoint",
        ),
        (
            options.base.is_some() && bases,
            "--base stands for both --base-lm and --base-vision; give one or the other",
        ),
        (options.token_order.is_some() && !whole, "--token-order is for tokens that this conversion adds"),
        (options.cross_attn_every.is_some() && !whole, "--cross-attn-every needs new gated blocks"),
        (options.max_num_frames.is_some() && !is_model, "--max-num-frames needs a new resampler"),
        (
            options.overlay.is_some() && options.delta.is_some(),
            "--overlay and --delta cannot both be applied at once",
        ),
        (
            options.overlay.is_some() && !is_model && kind != SourceKind::Otter,
            "--overlay needs a whole Otter below it",
        ),
        (options.module_prefix && !to_flamingo, "--module-prefix is for --to openflamingo"),
        (options.embedding_rows.is_some() && !to_flamingo, "--embedding-rows is for --to openflamingo"),
        (
            options.dtype.is_some() && options.format == OutputFormat::Gguf,
            "--dtype is for safetensors and bin; the type of a GGUF file is --quantize",
        ),
        (!options.keep_f32.is_empty() && options.dtype.is_none(), "--keep-f32 is for --dtype f16 or bf16"),
    ];
    match unused.iter().find(|(is_unused, _)| *is_unused) {
        None => Ok(()),
        Some((_, reason)) => Err(option_error(&source.path, format!("{reason}; this is {kind}"))),
    }
}

fn copies(source: &Source) -> Vec<PlannedTensor> {
    source.tensors.iter().map(|(name, entry)| PlannedTensor::copy(name.clone(), name, entry)).collect()
}

/// The same tensors in another type, form or number of shards.
fn re_encode(source: &Source, directory: Option<&Path>) -> Result<Plan> {
    let given = source.path.display();
    let refusal = match source.kind {
        SourceKind::Adapted => Some(format!(
            "this is an Otter with LoRA adapters, which runs only when they are merged: otter convert {given} --merge-lora \
             --out DIR"
        )),
        SourceKind::Unknown if directory.is_some() => Some(format!(
            "{}, so that nothing would come out that loads; `otter inspect {given}` says what it holds",
            source.unknown_kind()
        )),
        _ => None,
    };
    if let Some(problem) = refusal {
        return Err(option_error(&source.path, problem));
    }
    let mut plan = Plan::of(source, "the same tensors, written anew", copies(source), source.config.clone());
    plan.verify = source.kind == SourceKind::Otter;
    plan.model_card_from = Some(source.path.clone());
    if let (Some(file), Some(directory)) = (&source.gguf, directory)
        && gguf_tokenizer::unpack(file, &source.path, directory)?
    {
        plan.tokenizer = Tokenizer::Written;
    }
    if source.kind == SourceKind::Unknown {
        plan.warnings.push(format!("{}; its tensors are written as they are", source.unknown_kind()));
    }
    Ok(plan)
}

fn merged(source: &Source) -> Result<Plan> {
    let merged = lora::merge(source)?;
    let mut plan = Plan::of(source, "LoRA adapters merged", merged.tensors, Some(merged.config));
    plan.created = merged.created;
    plan.dropped.extend(merged.dropped);
    plan.warnings = merged.warnings;
    plan.verify = true;
    Ok(plan)
}

fn delta_plan(path: &Path, source: Source) -> Result<Plan> {
    let delta = Source::open(path)?;
    let mut warnings = Vec::new();
    let tensors = delta::apply(&source, &delta, &mut warnings)?;
    // Configuration and tokenizer are those of the model that the delta makes.
    let config = delta.config.clone().or_else(|| source.config.clone());
    let mut plan = Plan::of(&source, "base and delta added", tensors, config);
    plan.dropped.extend(delta.dropped.iter().cloned());
    plan.tokenizer = Tokenizer::From(delta.path.clone());
    plan.carry_from = vec![delta.path.clone(), source.path.clone()];
    plan.verify = delta.kind == SourceKind::Otter;
    plan.warnings = warnings;
    Ok(plan)
}

fn open_flamingo(options: &ConvertOptions, source: &Source) -> Result<Plan> {
    if !matches!(source.kind, SourceKind::Otter | SourceKind::OtterPart) {
        let problem = format!("this is {}; expected an Otter to take the trained part from", source.kind);
        return Err(option_error(&source.path, problem));
    }
    let choices =
        OpenFlamingoOptions { module_prefix: options.module_prefix, embedding_rows: options.embedding_rows };
    let (mut dropped, mut warnings) = (Vec::new(), Vec::new());
    let tensors = to_open_flamingo::plan(source, &choices, &mut dropped, &mut warnings)?;
    let mut plan = Plan::of(source, "the trained part, under OpenFlamingo's names", tensors, None);
    plan.dropped.extend(dropped);
    plan.warnings = warnings;
    Ok(plan)
}

fn overlaid(options: &ConvertOptions, base: Source, directory: Option<&Path>) -> Result<Plan> {
    let Some(path) = &options.overlay else { return re_encode(&base, directory) };
    let part = Source::open(path)?;
    match part.kind {
        SourceKind::OtterPart | SourceKind::Otter => over(&base, &part),
        SourceKind::OpenFlamingo => {
            let place = Some(base.path.as_path());
            whole(options, &part, Some((&part, false)), place, place, directory)
        }
        other => {
            Err(option_error(path, format!("this is {other}; expected a part of an Otter or OpenFlamingo")))
        }
    }
}

fn over(base: &Source, part: &Source) -> Result<Plan> {
    let mut dropped = Vec::new();
    let bridge = Bridge::from_source(part, &mut dropped)?;
    let mut result = overlay::overlay(base, &bridge, &mut dropped)?;
    input_rules(part)?.write(&mut result.config);
    let mut plan =
        Plan::of(base, "a partial checkpoint over a whole one", result.tensors, Some(result.config));
    plan.dropped.extend(dropped);
    if let Some(config) = &mut plan.config {
        config.entry(TRAINING).or_insert(json!({ "part": folder_name(&part.path) }));
    }
    plan.verify = true;
    Ok(plan)
}

/// What a part was trained with: as the file beside it says, or its own configuration.
fn input_rules(part: &Source) -> Result<InputRules> {
    let folder = if part.path.is_dir() { Some(part.path.as_path()) } else { part.path.parent() };
    let beside = folder.map(TrainedPart::read).transpose()?.flatten();
    match (beside, &part.config) {
        (Some(beside), _) => Ok(beside.input()),
        (None, Some(config)) => {
            InputRules::read(&Section { path: &part.path, name: "", map: config }, &mut Vec::new())
        }
        (None, None) => Ok(InputRules::default()),
    }
}

/// A part of an Otter: put over a base, or written as it is into a file.
fn completed(options: &ConvertOptions, part: Source, directory: Option<&Path>) -> Result<Plan> {
    match (&options.base, directory) {
        (Some(base), _) => {
            let base = Source::open(base)?;
            if base.kind != SourceKind::Otter {
                let problem = format!("this is {}; expected a whole Otter (--base)", base.kind);
                return Err(option_error(&base.path, problem));
            }
            over(&base, &part)
        }
        (None, None) => re_encode(&part, directory),
        (None, Some(_)) => {
            let file = part.path.display();
            let problem = format!(
                "this is a part of an Otter, without frozen weights. Complete it: otter convert {file} --base DIR --out \
                 {}; or write it to a file: --out weights.safetensors",
                options.out.display()
            );
            Err(option_error(&part.path, problem))
        }
    }
}

/// A whole Otter from parts. `bridge` is the trained part, and whether what it lacks is made anew.
fn whole(
    options: &ConvertOptions,
    source: &Source,
    bridge: Option<(&Source, bool)>,
    lm: Option<&Path>,
    vision: Option<&Path>,
    directory: Option<&Path>,
) -> Result<Plan> {
    let out = options.out.display();
    let (Some(lm), Some(vision)) = (lm, vision) else {
        let given = options.source.display();
        let command = match source.kind {
            SourceKind::OpenFlamingo => {
                format!("otter convert {given} --base-lm DIR --base-vision DIR --out {out}")
            }
            _ => format!("otter convert --inject {given} --base-vision DIR --out {out}"),
        };
        let problem = format!("this is {}; the rest of the model is needed: {command}", source.kind);
        return Err(option_error(&source.path, problem));
    };
    let Some(directory) = directory else {
        return Err(option_error(
            &source.path,
            format!("a whole model is written to a directory; --out {out} is a file"),
        ));
    };
    let mut dropped = Vec::new();
    let language = Language::open(lm, &mut dropped)?;
    let vision = Vision::open(vision, &mut dropped)?;
    let trained = bridge.map(|(part, _)| Bridge::from_source(part, &mut dropped)).transpose()?;
    if let Some((part, _)) = bridge
        && !matches!(part.kind, SourceKind::OpenFlamingo | SourceKind::OtterPart | SourceKind::Otter)
    {
        let problem = format!("this is {}; expected a part of an Otter or OpenFlamingo", part.kind);
        return Err(option_error(&part.path, problem));
    }
    let tokenizer = options.tokenizer.clone().unwrap_or_else(|| language.path.clone());
    let add = |order| match &language.gguf {
        Some(file) if options.tokenizer.is_none() => {
            gguf_tokenizer::unpack(file, &language.path, directory)?;
            add_special_tokens(directory, directory, order)
        }
        _ => add_special_tokens(&tokenizer, directory, order),
    };
    let order = options.token_order.unwrap_or(match bridge {
        Some((part, _)) if part.kind == SourceKind::OpenFlamingo => TokenOrder::Flamingo,
        _ => TokenOrder::Otter,
    });
    let mut tokens = add(order)?;
    // A table that is not OpenFlamingo's own was made from an Otter, whose order is the other one unless told.
    let rows = trained.as_ref().and_then(|t| t.get(&language.input_table.name)).map(|t| t.entry.shape[0]);
    let own_table = rows.is_none_or(|rows| is_open_flamingo_table(rows, &tokens));
    let order = if options.token_order.is_none() && !own_table { TokenOrder::Otter } else { order };
    if !own_table {
        tokens = add(order)?;
    }
    let choices = AssembleOptions {
        cross_attn_every: options.cross_attn_every,
        max_num_frames: options.max_num_frames,
        fresh: bridge.is_none_or(|(_, fresh)| fresh),
        new_rows: options.new_rows,
        seed: options.seed,
    };
    let (lm_path, vision_path) = (language.path.clone(), vision.path.clone());
    let Assembly { mut config, tensors, created, warnings } =
        assemble(trained.as_ref(), language, vision, &tokens, &choices, &mut dropped)?;
    if let SourceKind::LanguageModel(_) = source.kind {
        // No Otter was trained on it, or the part that was says how.
        let own = InputRules { begin_token: Some(tokens.begins), ..InputRules::default() };
        let trained = bridge.map(|(part, _)| input_rules(part)).transpose()?;
        trained.unwrap_or_default().over(own).write(&mut config);
    }
    let conversion = match (bridge, choices.fresh) {
        (None, _) => "a language model put into an Otter, with fresh parts between",
        (Some(_), true) => "a language model put into an Otter, with trained parts between",
        (Some(_), false) => "OpenFlamingo and its bases to an Otter",
    };
    let mut plan = Plan::of(source, conversion, tensors, Some(config));
    plan.tokenizer = Tokenizer::Written;
    plan.base_name = folder_name(&lm_path);
    plan.carry_from = vec![lm_path, vision_path];
    plan.verify = true;
    plan.token_order =
        Some(order).filter(|_| !tokens.added.is_empty()).or_else(|| TokenOrder::of(&tokens.special));
    plan.special_tokens = added_ids(&tokens);
    plan.dropped = dropped;
    plan.created = created;
    plan.warnings = warnings;
    Ok(plan)
}
