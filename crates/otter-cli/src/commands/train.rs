//! `otter train`: tunes a model as a configuration file says.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use otter_train::memory_plan::MemoryPlan;
use otter_train::progress::Progress;
use otter_train::{Observer, Outcome, TrainConfig};
use serde_json::{Value, json};

use super::{hub, interrupt};
use crate::arguments::Train;
use crate::output;

/// Runs the command.
pub fn run(arguments: &Train) -> Result<()> {
    if arguments.plan {
        return plan(arguments);
    }
    let config = load(arguments, &arguments.overrides)?;
    let flag = interrupt::flag()?;
    let mut progress = Progress::new(config.train.log_every);
    let summary = otter_train::train(&config, arguments.resume, &flag, &mut progress)?;
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
    let memory = arguments.memory.iter().map(|size| format!("train.memory={size}"));
    let overrides: Vec<String> = overrides.iter().cloned().chain(memory).collect();
    let mut config = TrainConfig::load(&arguments.config, &overrides)?;
    config.model.init_from = hub::resolve_from(&arguments.config, &config.model.init_from)?;
    Ok(config)
}

/// Prints the memory plan and ends before the first step. The run directory is a temporary one.
fn plan(arguments: &Train) -> Result<()> {
    let folder = std::env::temp_dir().join(format!("otter-plan-{}", std::process::id()));
    let mut overrides = arguments.overrides.clone();
    overrides.push(format!("train.run_dir={}", folder.display()));
    let config = load(arguments, &overrides)?;
    let stop = Arc::new(AtomicBool::new(false));
    let mut watcher = PlanOnly { plan: None, stop: Arc::clone(&stop) };
    let result = otter_train::train(&config, false, &stop, &mut watcher);
    let removed = std::fs::remove_dir_all(&folder);
    result?;
    removed.with_context(|| format!("cannot remove {}", folder.display()))?;
    let plan = watcher.plan.context("the run ended before its memory plan")?;
    if arguments.json {
        let items: Vec<Value> = plan
            .items
            .iter()
            .map(|item| json!({"name": item.name, "bytes": item.bytes, "note": item.note}))
            .collect();
        return output::json(&json!({"items": items, "total_bytes": plan.total()}));
    }
    output::text(plan.to_string().trim_end())
}

/// Keeps the memory plan and stops the run.
struct PlanOnly {
    plan: Option<MemoryPlan>,
    stop: Arc<AtomicBool>,
}

impl Observer for PlanOnly {
    fn memory_plan(&mut self, plan: &MemoryPlan) {
        self.plan = Some(plan.clone());
        self.stop.store(true, Ordering::Relaxed);
    }
}
