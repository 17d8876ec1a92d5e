//! `otter eval`: accuracy of a model on a toybox evaluation set by number of in-context examples.

use std::sync::Arc;

use anyhow::{Context, Result, bail};
use otter_data::{DataConfig, Dataset};
use otter_eval::{Detail, EvaluationOptions, Measure, ShotTable, Truth, evaluate};
use serde_json::json;

use crate::arguments::Eval;
use crate::commands::generate::{model, pictures};
use crate::output;

/// Tokens of a sample, beyond which it is refused.
const LONGEST_SAMPLE: usize = 1 << 16;

/// Runs the command.
pub fn run(arguments: &Eval) -> Result<()> {
    if arguments.limit == Some(0) {
        bail!("--limit is 0; give the number of records to evaluate, or leave it out for all");
    }
    // First, because a wrong folder is the likely mistake and a model may take long to load.
    let lists = lists(arguments)?;
    let model = model::load(&arguments.model)?;
    let truth = Truth::read_folder(&arguments.data.join("eval"))?;
    let tokenizer = Arc::new(model.tokenizer.clone());
    let rules = pictures::rules(&model, arguments.rules);
    let mut datasets = Vec::new();
    for (shots, list) in lists {
        let config = DataConfig {
            mimicit_yaml: Some(list),
            image_size: model.otter.config().vision.image_size,
            alpha: Some(rules.alpha),
            gray16: Some(rules.gray16),
            // What is beyond the model's own limit is told or refused with its numbers, not cut.
            max_seq_len: LONGEST_SAMPLE,
            ..DataConfig::default()
        };
        datasets.push((shots, Dataset::open(&config, Arc::clone(&tokenizer))?));
    }
    let sets: Vec<(usize, &Dataset)> = datasets.iter().map(|(shots, dataset)| (*shots, dataset)).collect();
    let options = EvaluationOptions { limit: arguments.limit, ..EvaluationOptions::default() };
    let bar = indicatif::ProgressBar::no_length();
    let evaluation = evaluate(&model.otter, &model.parameters, &sets, &truth, &options, &mut |progress| {
        bar.set_length(progress.total);
        bar.set_position(progress.done);
    })?;
    bar.finish_and_clear();
    pictures::warn(&evaluation.image_notes);
    for warning in &evaluation.warnings {
        eprintln!("warning: {warning}");
    }
    let table = ShotTable::new(&evaluation.records, Detail::Kinds);
    if arguments.json {
        return output::json(&json!({
            "table": table.to_json(),
            "records": evaluation.records,
            "queries": evaluation.queries,
            "seconds": evaluation.seconds,
            "image_notes": evaluation.image_notes,
            "warnings": evaluation.warnings,
        }));
    }
    let (done, all) = (evaluation.records.len(), evaluation.queries);
    if done < all {
        output::text(&format!("{done} of {all} queries, because of --limit"))?;
    }
    output::text("right candidate chosen, 95 % interval, by number of in-context examples")?;
    output::text(&table.to_text(Measure::Choice))?;
    output::text("greedy answer equal to the right one")?;
    output::text(&table.to_text(Measure::ExactMatch))
}

/// The evaluation lists of the folder with their numbers of shots.
fn lists(arguments: &Eval) -> Result<Vec<(usize, std::path::PathBuf)>> {
    let folder = arguments.data.display();
    let entries = std::fs::read_dir(&arguments.data).with_context(|| format!("cannot read {folder}"))?;
    let mut lists = Vec::new();
    for entry in entries {
        let path = entry.with_context(|| format!("cannot read {folder}"))?.path();
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let shots = name.strip_prefix("eval_").and_then(|n| n.strip_suffix("shot.yaml"));
        if let Some(shots) = shots.and_then(|s| s.parse().ok()) {
            lists.push((shots, path));
        }
    }
    if lists.is_empty() {
        bail!("{folder} has no eval_<shots>shot.yaml; make a toybox with `otter toybox --out {folder}`");
    }
    lists.sort();
    Ok(lists)
}
