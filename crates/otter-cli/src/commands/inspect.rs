//! `otter inspect`: what a checkpoint directory holds, and what is missing or odd.

use anyhow::Result;
use otter_checkpoint::{Checkpoint, Inspection};
use otter_model::{FreezeRule, Otter};
use serde_json::{Value, json};

use crate::arguments::Inspect;
use crate::output;

/// Runs the command.
pub fn run(arguments: &Inspect) -> Result<()> {
    let checkpoint = Checkpoint::open(&arguments.dir)?;
    let (_, specs) = Otter::new(&checkpoint.config.model)?;
    let rule = FreezeRule::parse(&arguments.trainable);
    rule.check(&specs)?;
    let trainable = rule.count(&checkpoint.config.model, &specs);
    let total = specs.count(|_| true);
    let mut expected = specs.iter().map(|s| (s.name.as_str(), s.shape.as_slice()));
    let inspection = otter_checkpoint::inspect(&checkpoint, Some(&mut expected));
    if arguments.json {
        return output::json(&to_json(&inspection, total, trainable, arguments));
    }
    print(&inspection, total, trainable, arguments)
}

fn print(inspection: &Inspection, total: u64, trainable: u64, arguments: &Inspect) -> Result<()> {
    let config = &inspection.config;
    let (text, vision) = (&config.text, &config.vision);
    let line = |name: &str, value: String| output::text(&format!("{name:<18} {value}"));
    line("checkpoint", inspection.path.display().to_string())?;
    line("family", inspection.family.architecture().to_string())?;
    line("weights", format!("{} in {} file(s)", inspection.form, inspection.files.len()))?;
    line(
        "language model",
        format!(
            "{}, {} layers of {}, {} heads (keys of {}), vocabulary {}",
            text.names().class,
            text.num_hidden_layers(),
            text.hidden_size(),
            text.num_attention_heads(),
            text.key_width(),
            text.vocab_size()
        ),
    )?;
    line(
        "vision tower",
        format!(
            "CLIP, {} layers of {}, {} px in patches of {}",
            vision.num_hidden_layers, vision.hidden_size, vision.image_size, vision.patch_size
        ),
    )?;
    let frames = config.perceiver.max_num_frames.map_or(String::new(), |f| format!(", up to {f} frames"));
    line(
        "perceiver",
        format!("{} blocks, {} latents{frames}", config.perceiver.depth, config.perceiver.num_latents),
    )?;
    line("cross-attention", format!("before layers {:?}", config.cross_attention_layers()))?;
    line(
        "parameters",
        format!(
            "{} ({} trainable, rule {})",
            output::count(total),
            output::count(trainable),
            arguments.trainable
        ),
    )?;
    for part in &inspection.parts {
        let (count, bytes) = (output::count(part.parameters as u64), output::bytes(part.bytes as u64));
        line(
            "",
            format!("{:<16} {count:>16}  {bytes:>10}  {} tensors", part.part.to_string(), part.tensors),
        )?;
    }
    match &inspection.special_tokens {
        Ok(special) => line(
            "special tokens",
            format!(
                "<image> {}  <answer> {}  <|endofchunk|> {}  pad {}  bos {:?}  eos {:?}",
                special.image, special.answer, special.endofchunk, special.pad, special.bos, special.eos
            ),
        )?,
        Err(reason) => line("special tokens", format!("unknown: {reason}"))?,
    }
    for problem in problems(inspection) {
        line("odd", problem)?;
    }
    if arguments.tensors {
        for tensor in &inspection.tensors {
            output::text(&format!("{:<6} {:?} {}", tensor.dtype.name(), tensor.shape, tensor.name))?;
        }
    }
    Ok(())
}

/// Everything missing, unexpected, ignored or odd, a line each.
fn problems(inspection: &Inspection) -> Vec<String> {
    let mut lines = inspection.warnings.clone();
    if let Some(report) = &inspection.report {
        lines.extend(report.warnings.iter().filter(|w| !inspection.warnings.contains(w)).cloned());
        lines.extend(report.missing.iter().map(|name| format!("missing: {name}")));
        lines.extend(report.unexpected.iter().map(|name| format!("unexpected: {name}")));
        lines.extend(report.ignored.iter().map(|(name, reason)| format!("ignored: {name} ({reason})")));
        lines.extend(
            report
                .wrong_shapes
                .iter()
                .map(|m| format!("shape: {} is {:?}, expected {:?}", m.name, m.found, m.expected)),
        );
    }
    lines
}

fn to_json(inspection: &Inspection, total: u64, trainable: u64, arguments: &Inspect) -> Value {
    let parts: Vec<Value> = inspection
        .parts
        .iter()
        .map(|p| json!({"part": p.part.to_string(), "parameters": p.parameters, "tensors": p.tensors, "bytes": p.bytes}))
        .collect();
    let special = match &inspection.special_tokens {
        Ok(s) => {
            json!({"image": s.image, "answer": s.answer, "endofchunk": s.endofchunk, "pad": s.pad, "bos": s.bos, "eos": s.eos})
        }
        Err(reason) => json!({"unknown": reason}),
    };
    let mut dtypes: Vec<&str> = inspection.tensors.iter().map(|t| t.dtype.name()).collect();
    dtypes.sort_unstable();
    dtypes.dedup();
    let report = inspection.report.as_ref();
    let mut value = json!({
        "path": inspection.path,
        "architecture": inspection.family.architecture(),
        "weights": inspection.form.to_string(),
        "files": inspection.files,
        "config": inspection.config,
        "cross_attention_layers": inspection.config.cross_attention_layers(),
        "parameters": {"total": total, "trainable": trainable, "rule": arguments.trainable, "stored": inspection.total_parameters},
        "parts": parts,
        "dtypes": dtypes,
        "special_tokens": special,
        "missing": report.map(|r| r.missing.clone()).unwrap_or_default(),
        "unexpected": report.map(|r| r.unexpected.clone()).unwrap_or_default(),
        "ignored": report.map(|r| r.ignored.clone()).unwrap_or_default(),
        "odd": problems(inspection),
    });
    if arguments.tensors {
        let tensors: Vec<Value> = inspection
            .tensors
            .iter()
            .map(|t| json!({"name": t.name, "dtype": t.dtype.name(), "shape": t.shape}))
            .collect();
        value["tensors"] = json!(tensors);
    }
    value
}
