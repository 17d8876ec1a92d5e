//! `otter train`: tunes a model as a configuration file says.

use std::process::ExitCode;

use anyhow::Result;
use otter_train::metrics::Progress;
use otter_train::{Outcome, Resume, TrainConfig, TrainSummary};
use serde_json::{Value, json};

use crate::arguments::Train;
use crate::commands::checkpoint::hub;
use crate::commands::interrupt;
use crate::output;

/// Runs the command.
pub fn run(arguments: &Train) -> Result<ExitCode> {
    if arguments.plan {
        plan(arguments)?;
        return Ok(ExitCode::SUCCESS);
    }
    let config = load(arguments, &arguments.overrides)?;
    let flag = interrupt::flag("stopping after this step, with a checkpoint")?;
    let resume = match (arguments.resume, arguments.extend_schedule) {
        (false, _) => Resume::No,
        (true, false) => Resume::Exactly,
        (true, true) => Resume::ExtendSchedule,
    };
    let mut progress = Progress::new(config.train.log_every);
    let summary = otter_train::train(&config, resume, &flag, &mut progress)?;
    print(arguments, &config, &summary)?;
    Ok(if summary.outcome == Outcome::Interrupted { interrupt::status() } else { ExitCode::SUCCESS })
}

/// Prints what came of a run.
fn print(arguments: &Train, config: &TrainConfig, summary: &TrainSummary) -> Result<()> {
    if arguments.json {
        return output::json(&json!({
            "outcome": match summary.outcome {
                Outcome::Completed => "completed",
                Outcome::StoppedEarly => "stopped_early",
                Outcome::Interrupted => "interrupted",
            },
            "step": summary.step,
            "loss": summary.loss,
            "evaluation": summary.evaluation.iter().cloned().collect::<std::collections::BTreeMap<_, _>>(),
            "checkpoint": summary.checkpoint,
            "samples_seen": summary.samples_seen,
            "skipped": summary.skipped,
            "image_notes": summary.image_notes,
            "skipped_examples": summary.skipped_examples,
            "evaluation_skipped": summary.evaluation_skipped,
            "planned_bytes": summary.planned_bytes,
            "peak_bytes": summary.peak_bytes,
        }));
    }
    if let Some(checkpoint) = &summary.checkpoint {
        let model = checkpoint.join("model");
        output::text(&format!("model: {}", model.display()))?;
        output::text(&format!("next:  otter chat --model {}", model.display()))?;
    }
    if summary.outcome == Outcome::Interrupted {
        // The saved configuration: the given one may have been changed by overrides.
        let saved = config.train.run_dir.join("config.toml");
        output::text(&format!("go on: otter train --config {} --resume", saved.display()))?;
    }
    Ok(())
}

/// The configuration with the model found, which may be named as on the hub.
fn load(arguments: &Train, overrides: &[String]) -> Result<TrainConfig> {
    let dtype = arguments.dtype.map(|dtype| dtype.name().to_owned());
    let options =
        [("memory", arguments.memory.clone()), ("device", arguments.device.clone()), ("dtype", dtype)];
    let options = options.into_iter().filter_map(|(key, value)| Some(format!("train.{key}={}", value?)));
    let overrides: Vec<String> = overrides.iter().cloned().chain(options).collect();
    let mut config = TrainConfig::load(&arguments.config, &overrides)?;
    config.model.init_from = hub::resolve_from(&arguments.config, &config.model.init_from)?;
    Ok(config)
}

/// Prints the memory plan, from headers alone.
fn plan(arguments: &Train) -> Result<()> {
    // A plan needs no run directory, and a configuration may leave it to the command line.
    let mut overrides = arguments.overrides.clone();
    overrides.push("train.run_dir=none-is-made".to_owned());
    let config = load(arguments, &overrides)?;
    let fitted = otter_train::plan(&config)?;
    let plan = &fitted.plan;
    if arguments.json {
        let items: Vec<Value> = plan
            .items
            .iter()
            .map(|item| json!({"name": item.name, "bytes": item.bytes, "note": item.note}))
            .collect();
        return output::json(&json!({"items": items, "total_bytes": plan.total()}));
    }
    if config.memory_limit()?.is_some() {
        output::text(&fitted.to_string())?;
    }
    output::text(plan.to_string().trim_end())
}
