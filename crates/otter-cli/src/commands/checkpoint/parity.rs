//! `otter parity`: compares a checkpoint with tensors recorded from the original.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use otter_checkpoint::LoadOptions;
use otter_eval::parity::{
    Golden, GoldenTensor, ParityReport, Subject, Tolerances, compare_forward, compare_gradients, scenarios,
};
use otter_model::FreezeRule;
use otter_nn::{DType, Device};
use safetensors::{Dtype, SafeTensors};
use serde_json::json;

use crate::arguments::Parity;
use crate::commands::generate::model;
use crate::output;

/// Runs the command; fails when something differs or was not compared.
pub fn run(arguments: &Parity) -> Result<ExitCode> {
    let device = model::device(&arguments.device)?;
    let mut model = model::load_with(&arguments.model, Device::Cpu, LoadOptions::default())?;
    let rule = FreezeRule::parse(&arguments.trainable);
    let config = model.otter.config().clone();
    model.parameters.set_trainable(|name| rule.is_trainable(&config, name));
    // What is trained was widened before: a GPU is not asked to do that.
    model.parameters.move_to(device)?;
    let (golden, _) = read(&arguments.golden)?;
    let usual = match arguments.device.dtype {
        DType::Bf16 => Tolerances::rounded(),
        _ => Tolerances::default(),
    };
    let tolerances = Tolerances {
        hidden: arguments.tolerance.unwrap_or(usual.hidden),
        logits: arguments.logits_tolerance.unwrap_or(usual.logits),
        gradients: arguments.gradient_tolerance.unwrap_or(usual.gradients),
        noise: usual.noise,
    };
    let subject = Subject {
        otter: &model.otter,
        parameters: &model.parameters,
        media_token_id: model.tokenizer.special().image,
        recompute: arguments.recompute,
    };
    let scenario = arguments.scenario.as_deref();
    let mut report = compare_forward(&subject, &arguments.golden, &golden, scenario, tolerances)?;
    if let Some(file) = &arguments.gradients {
        let (gradients, named) = read(file)?;
        let scenario = scenario_of_gradients(named, &golden, file)?;
        let own = compare_gradients(
            &subject,
            &arguments.golden,
            &golden,
            &scenario,
            (file, &gradients),
            tolerances,
        )?;
        report.comparisons.extend(own.comparisons);
        report.not_compared.extend(own.not_compared);
        report.without_golden.extend(own.without_golden);
    }
    if arguments.json {
        output::json(&json!({"passed": report.passed(), "report": &report}))?;
    } else {
        print(&report)?;
    }
    Ok(if report.passed() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn print(report: &ParityReport) -> Result<()> {
    output::text(&format!("{:<72} {:>10} {:>10} {:>9}", "tensor", "max abs", "max rel", "accepted"))?;
    for c in &report.comparisons {
        let name = format!("{}.{}", c.scenario, c.name);
        let mark = if c.ok { "" } else { "  DIFFERS" };
        output::text(&format!(
            "{name:<72} {:>10.2e} {:>10.2e} {:>9.0e}{mark}",
            c.max_absolute, c.max_relative, c.tolerance
        ))?;
    }
    for key in &report.not_compared {
        output::text(&format!("{key:<72} NOT COMPARED: this model gives no such tensor"))?;
    }
    for name in &report.without_golden {
        output::text(&format!(
            "{name:<72} NOT COMPARED: trained, but the golden file has no gradient for it"
        ))?;
    }
    let failed = report.comparisons.iter().filter(|c| !c.ok).count();
    let verdict = if report.passed() { "agrees" } else { "DIFFERS" };
    output::text(&format!(
        "{verdict}: {} tensors compared, {failed} beyond tolerance, {} not compared",
        report.comparisons.len(),
        report.not_compared.len() + report.without_golden.len()
    ))
}

/// Reads a golden file: its tensors and the scenario its metadata names, if any.
fn read(path: &Path) -> Result<(Golden, Option<String>)> {
    let name = path.display();
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {name}"))?;
    let unreadable = || format!("{name} is not a complete safetensors file");
    let (_, metadata) = SafeTensors::read_metadata(&bytes).with_context(unreadable)?;
    let file = SafeTensors::deserialize(&bytes).with_context(unreadable)?;
    let mut golden = Golden::new();
    for (key, view) in file.tensors() {
        let mut tensor =
            GoldenTensor { shape: view.shape().to_vec(), floats: Vec::new(), integers: Vec::new() };
        match view.dtype() {
            Dtype::F32 => tensor.floats = elements(view.data(), f32::from_le_bytes),
            Dtype::I64 => tensor.integers = elements(view.data(), i64::from_le_bytes),
            other => bail!("{name}: tensor '{key}' has type {other:?}; golden files hold F32 and I64"),
        }
        golden.insert(key, tensor);
    }
    let scenario = metadata.metadata().as_ref().and_then(|m| m.get("scenario").cloned());
    Ok((golden, scenario))
}

fn elements<T, const N: usize>(bytes: &[u8], read: impl Fn([u8; N]) -> T) -> Vec<T> {
    let chunks = bytes.chunks_exact(N);
    chunks.filter_map(|chunk| chunk.try_into().ok()).map(read).collect()
}

fn scenario_of_gradients(named: Option<String>, golden: &Golden, file: &Path) -> Result<String> {
    let all = scenarios(golden);
    let fallback = ["ragged_images", "incontext"].into_iter().find(|s| all.iter().any(|a| a == s));
    let scenario = named.or_else(|| fallback.map(str::to_string)).with_context(|| {
        format!(
            "{}: no metadata entry `scenario` says which scenario the gradients belong to",
            file.display()
        )
    })?;
    if !all.contains(&scenario) {
        bail!(
            "{}: its scenario '{scenario}' is not in the golden file, which has {}",
            file.display(),
            all.join(", ")
        );
    }
    Ok(scenario)
}
