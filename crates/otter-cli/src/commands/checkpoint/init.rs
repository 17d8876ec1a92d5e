//! `otter init`: a checkpoint of random values.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use otter_checkpoint::{
    Checkpoint, CheckpointConfig, NAMED_MODELS, NamedModel, SaveOptions, initialize_checkpoint,
    load_tokenizer,
};
use serde_json::json;

use super::hub::resolve_model;
use crate::arguments::Init;
use crate::output;
use crate::progress;

/// Runs the command.
pub fn run(arguments: &Init) -> Result<()> {
    let (Some(like), Some(out)) = (&arguments.like, &arguments.out) else { return list(arguments.json) };
    let mut config = config_of(like)?;
    if let Some(rows) = arguments.vocab_size {
        config.model.text.set_vocab_size(rows);
        config.model.validate().with_context(|| format!("--vocab-size {rows}"))?;
    }
    let tokenizer = arguments.tokenizer.as_deref().map(resolve_model).transpose()?;
    if let Some(directory) = &tokenizer {
        let tokenizer = load_tokenizer(directory)?;
        check_tokenizer(directory, tokenizer.vocab_size(), config.model.text.vocab_size())?;
        config.input.begin_token = Some(!tokenizer.prompt_prefix().is_empty());
    }
    let options = SaveOptions {
        tokenizer_from: tokenizer.as_deref(),
        max_shard_bytes: arguments.shard_size,
        dtype: arguments.dtype,
        card: None,
    };
    let bar = progress::bar("{bytes}/{total_bytes} {bar:30} {bytes_per_sec} eta {eta}");
    bar.enable_steady_tick(Duration::from_millis(200));
    let started = Instant::now();
    let made = initialize_checkpoint(out, &config, arguments.seed, &options, &mut |written, total| {
        bar.set_length(total);
        bar.set_position(written);
    });
    bar.finish_and_clear();
    let made = made?;
    made.warnings.iter().for_each(|warning| eprintln!("warning: {warning}"));
    let seconds = started.elapsed().as_secs_f64();
    if arguments.json {
        return output::json(&json!({
            "directory": out,
            "parameters": made.parameters,
            "bytes": made.bytes,
            "seconds": seconds,
        }));
    }
    output::text(&format!(
        "{}: {} random parameters, {} in {seconds:.1} s",
        out.display(),
        output::count(made.parameters),
        output::bytes(made.bytes)
    ))
}

/// The configuration of a published model or of a checkpoint directory.
fn config_of(like: &str) -> Result<CheckpointConfig> {
    if let Some(model) = NamedModel::find(like) {
        return Ok(model.config());
    }
    let place = resolve_model(Path::new(like))?;
    if place.exists() {
        return Ok(Checkpoint::config_like(&place)?);
    }
    let names: Vec<&str> = NAMED_MODELS.iter().map(|model| model.name).collect();
    bail!("`{like}` is neither a directory with a config.json nor one of {}", names.join(", "))
}

/// A tokenizer with more tokens than the table has rows would make ids that the model cannot look up.
fn check_tokenizer(directory: &Path, tokens: usize, rows: usize) -> Result<()> {
    if tokens > rows {
        bail!(
            "the tokenizer in {} has {tokens} tokens, but the model has {rows} rows; \
             pass --vocab-size {tokens} or another --tokenizer",
            directory.display()
        );
    }
    Ok(())
}

fn list(as_json: bool) -> Result<()> {
    let mut models = Vec::new();
    for model in NAMED_MODELS {
        let parameters = u64::try_from(model.config().model.parameter_count())?;
        models.push((model, parameters));
    }
    if as_json {
        let models = models.iter().map(|(model, parameters)| {
            json!({"name": model.name, "parameters": parameters, "description": model.description})
        });
        return output::json(&models.collect());
    }
    for (model, parameters) in models {
        let count = output::count(parameters);
        output::text(&format!("{:<20} {count:>15}  {}", model.name, model.description))?;
    }
    Ok(())
}
