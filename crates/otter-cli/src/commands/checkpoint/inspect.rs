//! `otter inspect`: what a checkpoint directory or weight file is and holds, and what is missing or odd.

use std::path::Path;

use anyhow::Result;
use otter_checkpoint::{Inspection, Kind, NonFinite, PartSummary, TokenOrder, scan};
use otter_model::config::OtterConfig;
use otter_model::{FreezeRule, Otter};
use serde_json::{Value, json};

use super::hub::resolve_model;
use crate::arguments::Inspect;
use crate::output;
use crate::progress;

/// Runs the command.
pub fn run(arguments: &Inspect) -> Result<()> {
    let path = resolve_model(&arguments.dir)?;
    let inspection = otter_checkpoint::inspect(&path)?;
    let counts = Counts::of(&inspection, arguments)?;
    let scanned = arguments.scan.then(|| scan_with_progress(&path)).transpose()?;
    if arguments.json {
        return output::json(&to_json(&inspection, counts, scanned.as_deref(), arguments));
    }
    print(&inspection, counts, scanned.as_deref(), arguments)
}

/// Parameters of the model, and the trained ones by the rule of the command line.
#[derive(Clone, Copy)]
struct Counts {
    total: u64,
    trainable: u64,
}

impl Counts {
    /// By the configuration, or else what the files hold.
    fn of(inspection: &Inspection, arguments: &Inspect) -> Result<Self> {
        let rule = FreezeRule::parse(&arguments.trainable);
        if let Some(config) = &inspection.config
            && let Ok((_, specs)) = Otter::new(config)
        {
            rule.check(&specs)?;
            return Ok(Self { total: specs.count(|_| true), trainable: rule.count(config, &specs) });
        }
        Ok(Self { total: inspection.total_parameters as u64, trainable: inspection.stored_trainable as u64 })
    }
}

fn scan_with_progress(path: &Path) -> Result<Vec<NonFinite>> {
    let bar = progress::bar("scanning {wide_bar} {percent}% of {human_len} elements, {eta}");
    let found = scan(path, &mut |done, total| {
        bar.set_length(total);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    Ok(found?)
}

fn line(name: &str, value: impl AsRef<str>) -> Result<()> {
    output::text(&format!("{name:<18} {}", value.as_ref()))
}

fn print(
    inspection: &Inspection,
    counts: Counts,
    scanned: Option<&[NonFinite]>,
    arguments: &Inspect,
) -> Result<()> {
    line("checkpoint", inspection.path.display().to_string())?;
    line("kind", inspection.kind.to_string())?;
    if let Some(family) = inspection.family {
        line("family", family.architecture())?;
    }
    match &inspection.release {
        Some(found) => line("release", found.sentence())?,
        None => line("release", "no known one has these sizes")?,
    }
    if let Some(completion) = inspection.completion() {
        line("partial", completion)?;
    } else if let Some(whole) = inspection.counts.filter(|_| !inspection.missing_files().is_empty()) {
        let (have, whole) = (output::count(inspection.total_parameters as u64), output::count(whole.total));
        line("partial", format!("{have} of {whole} parameters"))?;
    } else if let Some(step) = inspection.next_step() {
        line("to use it", step)?;
    }
    print_files(inspection)?;
    print_sizes(inspection)?;
    let rule = if inspection.config.is_some() { arguments.trainable.as_str() } else { "head, by names" };
    let (total, trainable) = (output::count(counts.total), output::count(counts.trainable));
    line("parameters", format!("{total} ({trainable} trainable, rule {rule})"))?;
    if let Some(counts) = inspection.counts {
        let (head, v01) = (output::count(counts.head), output::count(counts.v01));
        line("", format!("trained by the last version {head}, by v0.1 {v01}"))?;
    }
    for part in &inspection.parts {
        let (count, bytes) = (output::count(part.parameters as u64), output::bytes(part.bytes as u64));
        let name = part.part.to_string();
        line("", format!("{name:<21} {count:>16}  {bytes:>10}  {} tensors, {}", part.tensors, dtypes(part)))?;
    }
    print_tokens(inspection)?;
    let signs = &inspection.signs;
    if signs.gates > 0 {
        line("gates", format!("{} of {} are exactly zero", signs.zero_gates, signs.gates))?;
    }
    for note in &inspection.notes {
        line("note", note)?;
    }
    for problem in problems(inspection) {
        line("odd", problem)?;
    }
    match scanned {
        Some([]) => line("scan", "every element is finite")?,
        Some(found) => found.iter().try_for_each(|tensor| line("scan", not_finite(tensor)))?,
        None => {}
    }
    if arguments.tensors {
        for tensor in &inspection.tensors {
            output::text(&format!("{:<6} {:?} {}", tensor.dtype.name(), tensor.shape, tensor.name))?;
        }
    }
    Ok(())
}

fn print_files(inspection: &Inspection) -> Result<()> {
    let Some(form) = inspection.form else { return line("weights", "none") };
    line("weights", format!("{form} in {} file(s)", inspection.files.len()))?;
    for file in &inspection.files {
        let name = file.path.file_name().unwrap_or_default().to_string_lossy();
        let size = file.bytes.map_or("missing".to_owned(), output::bytes);
        line("", format!("{name:<44} {size:>10}  {} tensors", file.tensors))?;
    }
    Ok(())
}

/// What is known of the sizes, a line each part.
fn print_sizes(inspection: &Inspection) -> Result<()> {
    let facts = &inspection.facts;
    if let Some(language) = facts.language {
        let known = |text: &str, value: Option<usize>| {
            value.map(|value| format!(", {text} {value}")).unwrap_or_default()
        };
        let other = facts.model_type.as_deref().filter(|_| language == otter_checkpoint::Language::Other);
        let heads = facts.heads.map(|(heads, pairs)| format!(", {heads} heads ({pairs} key/value)"));
        line(
            "language model",
            format!(
                "{}{}{}{}{}",
                other.map_or_else(|| language.to_string(), str::to_owned),
                known("layers", facts.layers),
                known("width", facts.width),
                heads.unwrap_or_default(),
                known("vocabulary", facts.rows),
            ),
        )?;
    }
    if let Some((image, patch, layers)) = facts.image {
        let width = facts.vision_width.map_or(String::new(), |width| format!(" of {width}"));
        let name = match inspection.kind {
            Kind::OtherTower(tower) => tower.to_string(),
            _ => "CLIP".to_owned(),
        };
        line("vision tower", format!("{name}, {layers} layers{width}, {image} px in patches of {patch}"))?;
    }
    if let Some(latents) = facts.latents {
        let frames = facts.frames.map_or(String::new(), |frames| format!(", up to {frames} frames"));
        line("perceiver", format!("{latents} latents{frames}"))?;
    }
    if let Some(every) = facts.every {
        let blocks = inspection.facts.blocks;
        line("cross-attention", format!("before every {every} layers, {blocks} blocks in the files"))?;
    }
    Ok(())
}

fn print_tokens(inspection: &Inspection) -> Result<()> {
    match &inspection.special_tokens {
        Ok(check) => {
            let special = &check.special;
            let end = |id: Option<u32>| id.map_or("none".to_owned(), |id| id.to_string());
            line(
                "special tokens",
                format!(
                    "<image> {}  <answer> {}  <|endofchunk|> {}  pad {}  bos {}  eos {}",
                    special.image,
                    special.answer,
                    special.endofchunk,
                    special.pad,
                    end(special.bos),
                    end(special.eos)
                ),
            )
        }
        // Only an Otter must have them.
        Err(_)
            if matches!(inspection.kind, Kind::LanguageModel | Kind::VisionTower | Kind::OtherTower(_)) =>
        {
            Ok(())
        }
        Err(reason) => line("special tokens", format!("unknown: {reason}")),
    }
}

fn dtypes(part: &PartSummary) -> String {
    let names: Vec<&str> = part.dtypes.iter().map(|(dtype, _)| dtype.name()).collect();
    names.join(" + ")
}

fn not_finite(tensor: &NonFinite) -> String {
    let NonFinite { name, nan, infinite, first } = tensor;
    format!("{name}: {nan} NaN and {infinite} infinite elements, the first at index {first}")
}

/// Everything missing, unexpected, ignored or odd, a line each.
fn problems(inspection: &Inspection) -> Vec<String> {
    let mut lines = inspection.warnings.clone();
    lines.extend(inspection.config_problem.as_ref().map(|problem| format!("cannot be loaded: {problem}")));
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

fn to_json(
    inspection: &Inspection,
    counts: Counts,
    scanned: Option<&[NonFinite]>,
    arguments: &Inspect,
) -> Value {
    let parts: Vec<Value> = inspection
        .parts
        .iter()
        .map(|p| {
            let dtypes: Vec<Value> =
                p.dtypes.iter().map(|(dtype, tensors)| json!({"dtype": dtype.name(), "tensors": tensors})).collect();
            json!({"part": p.part.to_string(), "parameters": p.parameters, "tensors": p.tensors, "bytes": p.bytes, "dtypes": dtypes})
        })
        .collect();
    let mut dtypes: Vec<&str> = inspection.tensors.iter().map(|t| t.dtype.name()).collect();
    dtypes.sort_unstable();
    dtypes.dedup();
    let report = inspection.report.as_ref();
    let files: Vec<Value> = inspection
        .files
        .iter()
        .map(|file| json!({"path": file.path, "bytes": file.bytes, "tensors": file.tensors}))
        .collect();
    let release = inspection.release.as_ref().map(|found| {
        json!({"name": found.release.name, "evidence": found.evidence, "others": found.others, "untrained": found.release.untrained})
    });
    let (facts, tables, signs) = (&inspection.facts, &inspection.tables, &inspection.signs);
    let mut value = json!({
        "path": inspection.path,
        "kind": inspection.kind.to_string(),
        "architecture": inspection.family.map(|family| family.architecture()),
        "release": release,
        "partial": inspection.completion(),
        "next_step": inspection.next_step(),
        "weights": inspection.form.map(|form| form.to_string()),
        "files": inspection.files.iter().map(|file| &file.path).collect::<Vec<_>>(),
        "file_sizes": files,
        "config": inspection.config.as_ref().map(sizes),
        "config_problem": inspection.config_problem,
        "language_model": {
            "family": facts.language.map(|language| language.to_string()),
            "layers": facts.layers,
            "width": facts.width,
            "heads": facts.heads.map(|(heads, _)| heads),
            "key_value_heads": facts.heads.map(|(_, pairs)| pairs),
            "rows": facts.rows,
        },
        "cross_attention_layers": inspection.config.as_ref().map(|config| config.cross_attention_layers()),
        "parameters": {"total": counts.total, "trainable": counts.trainable, "rule": arguments.trainable, "stored": inspection.total_parameters},
        "trainable": {
            "head": inspection.counts.map(|counts| counts.head),
            "v0.1": inspection.counts.map(|counts| counts.v01),
            "stored": inspection.stored_trainable,
        },
        "whole": inspection.whole(),
        "parts": parts,
        "dtypes": dtypes,
        "special_tokens": special_tokens(inspection),
        "token_order": token_order(inspection),
        "tied_tables": {
            "declared": tables.declared,
            "both_stored": tables.both_stored,
            "identical": tables.identical,
            "trap": tables.trap,
        },
        "training": {
            "gates": signs.gates,
            "zero_gates": signs.zero_gates,
            "answer_row": signs.answer_row,
            "warnings_before_chat": inspection.warnings_before_chat(),
        },
        "missing_files": inspection.missing_files().iter().map(|file| &file.path).collect::<Vec<_>>(),
        "missing": report.map(|r| r.missing.clone()).unwrap_or_default(),
        "unexpected": report.map(|r| r.unexpected.clone()).unwrap_or_default(),
        "ignored": report.map(|r| r.ignored.clone()).unwrap_or_default(),
        "notes": inspection.notes,
        "odd": problems(inspection),
    });
    if let Some(found) = scanned {
        let found: Vec<Value> = found
            .iter()
            .map(|t| json!({"name": t.name, "nan": t.nan, "infinite": t.infinite, "first": t.first}))
            .collect();
        value["scan"] = json!(found);
    }
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

/// The sizes. Which language model they are of is said elsewhere, so its name does not stand around its own.
fn sizes(config: &OtterConfig) -> Value {
    let mut value = json!(config);
    if let Some(text) = value["text"].as_object_mut()
        && text.len() == 1
        && let Some(own) = text.values_mut().next().map(Value::take)
    {
        value["text"] = own;
    }
    value
}

fn special_tokens(inspection: &Inspection) -> Value {
    match &inspection.special_tokens {
        Ok(check) => {
            let s = &check.special;
            json!({"image": s.image, "answer": s.answer, "endofchunk": s.endofchunk, "pad": s.pad, "bos": s.bos, "eos": s.eos})
        }
        Err(reason) => json!({"unknown": reason}),
    }
}

/// Whose order the ids follow, and what the other class would use.
fn token_order(inspection: &Inspection) -> Value {
    let Ok(check) = &inspection.special_tokens else { return Value::Null };
    let name = |order: Option<TokenOrder>| {
        order.map(|order| match order {
            TokenOrder::Otter => "otter",
            TokenOrder::Flamingo => "flamingo",
        })
    };
    let other = check.order.map(|_| json!({"answer": check.special.pad, "pad": check.special.answer}));
    json!({
        "files": name(check.order),
        "class": name(check.class_order),
        "matches": check.matches_class(),
        "other_class": other,
        "tokens": check.vocab_size,
        "rows_without_token": check.rows_without_token,
    })
}
