//! `otter convert`: any checkpoint to an Otter directory, another form, or an OpenFlamingo file.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Result, bail};
use otter_checkpoint::convert::{
    ConvertOptions, ConvertReport, ConvertTarget, Dropped, KeepF32, NewRows, OutputFormat, convert,
};
use otter_checkpoint::{StoredTensor, TokenOrder};

use super::hub::resolve_model;
use crate::arguments::{Convert, ConvertTo, FormatChoice, KeepChoice, NewRowsChoice, TokenOrderChoice};
use crate::output;
use crate::progress;

/// Dropped tensors listed one by one; more of one reason are counted.
const LISTED: usize = 3;

/// Runs the command.
pub fn run(arguments: &Convert) -> Result<()> {
    let options = options(arguments)?;
    let bar = progress::bar("{bytes}/{total_bytes} {bar:30} {bytes_per_sec} eta {eta} {wide_msg}");
    let report = convert(&options, &mut |now| {
        bar.set_length(now.total);
        bar.set_position(now.done);
        bar.set_message(now.stage.to_owned());
    });
    bar.finish_and_clear();
    let report = report?;
    report.warnings.iter().for_each(|warning| eprintln!("warning: {warning}"));
    if arguments.json {
        return output::json(&serde_json::to_value(&report)?);
    }
    print(&report)
}

fn options(arguments: &Convert) -> Result<ConvertOptions> {
    let Some(source) = arguments.source.as_ref().or(arguments.inject.as_ref()) else {
        bail!("SOURCE is missing; give a checkpoint directory or file, or --inject LM_DIR");
    };
    let found = |model: &Option<PathBuf>| model.as_deref().map(resolve_model).transpose();
    Ok(ConvertOptions {
        target: match arguments.to {
            ConvertTo::Otter => ConvertTarget::Otter,
            ConvertTo::Openflamingo => ConvertTarget::OpenFlamingo,
        },
        inject: arguments.inject.is_some(),
        base: found(&arguments.base)?,
        base_lm: found(&arguments.base_lm)?,
        base_vision: found(&arguments.base_vision)?,
        overlay: found(&arguments.overlay)?,
        delta: found(&arguments.delta)?,
        merge_lora: arguments.merge_lora,
        tokenizer: found(&arguments.tokenizer)?,
        token_order: arguments.token_order.map(|order| match order {
            TokenOrderChoice::Otter => TokenOrder::Otter,
            TokenOrderChoice::Flamingo => TokenOrder::Flamingo,
        }),
        cross_attn_every: arguments.cross_attn_every,
        max_num_frames: arguments.max_num_frames,
        new_rows: match arguments.new_rows {
            NewRowsChoice::Normal => NewRows::Normal,
            NewRowsChoice::Mean => NewRows::Mean,
        },
        seed: arguments.seed,
        dtype: arguments.dtype,
        keep_f32: arguments
            .keep_f32
            .iter()
            .map(|kind| match kind {
                KeepChoice::Norms => KeepF32::Norms,
                KeepChoice::Gates => KeepF32::Gates,
            })
            .collect(),
        format: match arguments.format {
            FormatChoice::Safetensors => OutputFormat::Safetensors,
            FormatChoice::Bin => OutputFormat::Torch,
            FormatChoice::Gguf => OutputFormat::Gguf,
        },
        quantization: arguments.quantize,
        transformers: arguments.transformers,
        max_shard_bytes: arguments.shard_size,
        module_prefix: arguments.module_prefix,
        embedding_rows: arguments.embedding_rows,
        ..ConvertOptions::new(resolve_model(source)?, &arguments.out)
    })
}

fn print(report: &ConvertReport) -> Result<()> {
    let line = |name: &str, value: String| output::text(&format!("{name:<16} {value}"));
    line("source", format!("{} ({})", report.source.display(), report.source_kind))?;
    line("conversion", report.conversion.clone())?;
    line("written", report.out.display().to_string())?;
    let dtypes: Vec<String> = report.dtypes.iter().map(|(name, count)| format!("{count} {name}")).collect();
    line(
        "tensors",
        format!(
            "{} ({}), {} parameters, {}, {} renamed",
            report.tensors,
            dtypes.join(", "),
            output::count(report.parameters),
            output::bytes(report.bytes),
            report.renamed
        ),
    )?;
    line("weights", format!("{} file(s): {}", report.weight_files.len(), shortened(&report.weight_files)))?;
    if !report.other_files.is_empty() {
        line("other files", report.other_files.join(", "))?;
    }
    if let Some(order) = &report.token_order {
        let ids: Vec<String> =
            report.special_tokens.iter().map(|(token, id)| format!("{token} {id}")).collect();
        line("added tokens", format!("order {order}: {}", ids.join("  ")))?;
    }
    for created in &report.created {
        line("new", format!("{}: {}", created.name, created.how))?;
    }
    for (reason, items) in by_reason(&report.dropped) {
        for item in items.iter().take(LISTED) {
            let name = if item.name.is_empty() { String::new() } else { format!("{}: ", item.name) };
            line("dropped", format!("{name}{reason}"))?;
        }
        if items.len() > LISTED {
            line("dropped", format!("… and {} more: {reason}", items.len() - LISTED))?;
        }
    }
    for (dtype, errors) in errors_by_type(&report.quantized) {
        let mean = errors.iter().map(|(_, error)| error).sum::<f64>() / errors.len() as f64;
        let worst = errors.iter().max_by(|a, b| a.1.total_cmp(&b.1));
        let worst =
            worst.map_or(String::new(), |(name, error)| format!(", at most {:.2} % ({name})", 100.0 * error));
        line(
            "quantized",
            format!("{} {dtype}, error {:.2} % of a matrix{worst}", errors.len(), 100.0 * mean),
        )?;
    }
    Ok(())
}

/// Names and relative errors of the tensors of each type.
fn errors_by_type(tensors: &[StoredTensor]) -> BTreeMap<&str, Vec<(&str, f64)>> {
    let mut types: BTreeMap<&str, Vec<(&str, f64)>> = BTreeMap::new();
    for tensor in tensors {
        if let Some(error) = tensor.relative_error {
            types.entry(&tensor.dtype).or_default().push((&tensor.name, error));
        }
    }
    types
}

/// What was dropped, together when the reason is the same, in the order of the first of each.
fn by_reason(dropped: &[Dropped]) -> Vec<(&str, Vec<&Dropped>)> {
    let mut groups: Vec<(&str, Vec<&Dropped>)> = Vec::new();
    for item in dropped {
        match groups.iter_mut().find(|(reason, _)| *reason == item.reason) {
            Some((_, items)) => items.push(item),
            None => groups.push((&item.reason, vec![item])),
        }
    }
    groups
}

fn shortened(names: &[String]) -> String {
    match names {
        [first, .., last] if names.len() > LISTED => format!("{first} … {last}"),
        _ => names.join(", "),
    }
}
