//! `otter data show`: one sample as the model sees it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use otter_checkpoint::{beginning, load_tokenizer};
use otter_data::{DataConfig, Dataset, Sample, TextTokenizer};
use serde_json::{Value, json};

use crate::arguments::DataShow;
use crate::commands::checkpoint::hub;
use crate::output;

/// Runs the command.
pub fn run(arguments: &DataShow) -> Result<()> {
    let (config, model) = data_config(arguments)?;
    let model = arguments.model.clone().or(model).context(
        "no tokenizer: the configuration names no model; pass --model DIR with a checkpoint directory",
    )?;
    let model = hub::resolve_from(&arguments.config, &model)?;
    let tokenizer = Arc::new(load_tokenizer(&model)?);
    let dataset = Dataset::open(&config, Arc::clone(&tokenizer))?;
    if arguments.index >= dataset.len() {
        bail!(
            "--index {} is beyond the last sample; the data has {} (from 0)",
            arguments.index,
            dataset.len()
        );
    }
    let sample = dataset.sample(arguments.index)?;
    if arguments.json { output::json(&to_json(&sample, &tokenizer)?) } else { print(&sample, &tokenizer) }
}

/// The data section of a training configuration, or one around an original YAML data list.
fn data_config(arguments: &DataShow) -> Result<(DataConfig, Option<PathBuf>)> {
    let yaml = arguments.config.extension().is_some_and(|e| e == "yaml" || e == "yml");
    if yaml {
        if !arguments.overrides.is_empty() {
            bail!(
                "overrides such as {} need a TOML configuration, not a YAML data list",
                arguments.overrides[0]
            );
        }
        let mut config = DataConfig { mimicit_yaml: Some(arguments.config.clone()), ..DataConfig::default() };
        config.resolve(Path::new(""));
        return Ok((config, None));
    }
    let config = otter_train::config::TrainConfig::load(&arguments.config, &arguments.overrides)?;
    Ok((config.data, Some(config.model.init_from)))
}

fn print(sample: &Sample, tokenizer: &TextTokenizer) -> Result<()> {
    let line = |name: &str, value: String| output::text(&format!("{name:<10} {value}"));
    line("id", sample.id.clone())?;
    line("set", format!("{} ({})", sample.set, sample.group.name()))?;
    line("context", format!("{:?}", sample.context_ids))?;
    for (index, item) in sample.media.iter().enumerate() {
        let frames: Vec<String> = item
            .frames
            .iter()
            .map(|f| format!("{} ({} x {})", f.image_id, f.original_size.0, f.original_size.1))
            .collect();
        line(&format!("image {}", index + 1), frames.join(", "))?;
    }
    line("tokens", format!("{}, {} of them trained", sample.input_ids.len(), sample.label_tokens()))?;
    line("ids", format!("{:?}", sample.input_ids))?;
    line("labels", format!("{:?}", sample.labels))?;
    if tokenizer.begins().is_none() {
        line("begins", beginning(tokenizer))?;
    }
    let marked: Vec<String> = sample
        .labeled_text(tokenizer)?
        .into_iter()
        .map(|(trained, text)| if trained { format!("[[{text}]]") } else { text })
        .collect();
    line("text", marked.concat())?;
    output::text("           ([[…]] is trained, everything else is masked)")
}

fn to_json(sample: &Sample, tokenizer: &TextTokenizer) -> Result<Value> {
    let images: Vec<Value> = sample
        .media
        .iter()
        .map(|item| {
            let frames = item.frames.iter();
            frames
                .map(|f| json!({"id": f.image_id, "width": f.original_size.0, "height": f.original_size.1}))
                .collect()
        })
        .collect();
    let runs: Vec<Value> = sample
        .labeled_text(tokenizer)?
        .into_iter()
        .map(|(trained, text)| json!({"trained": trained, "text": text}))
        .collect();
    Ok(json!({
        "id": sample.id, "set": sample.set, "group": sample.group.name(), "context_ids": sample.context_ids,
        "input_ids": sample.input_ids, "labels": sample.labels, "text": sample.text, "runs": runs, "images": images,
        "dropped_turns": sample.dropped_turns,
    }))
}
