//! `otter data verify`: what is wrong with a data set, and how much of it can be used.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use otter_checkpoint::{Checkpoint, load_tokenizer};
use otter_data::verify::{
    FixOptions, FixReport, HistogramSummary, Severity, VerifyOptions, VerifyReport, report_html, verify,
    verify_and_fix,
};
use otter_io::Progress;

use super::source;
use crate::arguments::DataVerify;
use crate::commands::checkpoint::hub;
use crate::output;
use crate::progress;

/// Most columns of a bar in the terminal.
const BAR_COLUMNS: u64 = 24;

/// Runs the command; the exit status says whether there are errors.
pub fn run(arguments: &DataVerify) -> Result<ExitCode> {
    match arguments.jobs {
        None => run_here(arguments),
        Some(0) => bail!("--jobs is 0; give at least one thread"),
        Some(jobs) => rayon::ThreadPoolBuilder::new()
            .num_threads(jobs)
            .build()
            .context("cannot start the threads of --jobs")?
            .install(|| run_here(arguments)),
    }
}

fn run_here(arguments: &DataVerify) -> Result<ExitCode> {
    let source = &arguments.source.source;
    let (mut config, configured) = source::open(&arguments.source)?;
    if let Some(tokens) = arguments.max_seq_len {
        config.max_seq_len = tokens;
    }
    let rules = arguments.rules.or(config.switches().image_rules);
    (config.alpha, config.gray16) = (Some(rules.alpha), Some(rules.gray16));
    let model = arguments.model.as_deref().or(configured.as_deref()).filter(|_| !arguments.ids_only);
    let model = model.map(|model| hub::resolve_from(source, model)).transpose()?;
    let tokenizer = model.as_deref().map(load_tokenizer).transpose()?.map(Arc::new);
    // A directory with a tokenizer alone, or with a language model, tells nothing of frames.
    let checkpoint = model.as_deref().and_then(|model| Checkpoint::open(model).ok());
    let max_frames = checkpoint.and_then(|found| found.config.model.perceiver.max_num_frames);
    let options = VerifyOptions {
        ids_only: arguments.ids_only,
        strict: arguments.strict,
        max_examples: arguments.max_examples,
        thumbnails: arguments.report.is_some(),
        max_frames,
    };
    let bar = progress::bar("{msg:8} {bar:24} {human_pos}/{human_len} {per_sec} eta {eta}");
    let mut show = |now: Progress<'_>| progress::show(&bar, now.stage, now);
    let (report, fixed) = match &arguments.out {
        None => (verify(&config, tokenizer.as_ref(), &options, &mut show)?, None),
        Some(out) => {
            let fix = FixOptions { form: arguments.form, dedupe: arguments.dedupe };
            let (report, fixed) =
                verify_and_fix(&config, tokenizer.as_ref(), &options, &fix, out, &mut show)?;
            (report, Some(fixed))
        }
    };
    bar.finish_and_clear();
    if let Some(path) = &arguments.report {
        write_report(path, &report_html(&report, &source.display().to_string()))?;
    }
    if arguments.json {
        let mut value = serde_json::to_value(&report)?;
        if let Some(fixed) = &fixed {
            value["fixed"] = serde_json::to_value(fixed)?;
        }
        output::json(&value)?;
    } else {
        print(&report)?;
        if let Some(path) = &arguments.report {
            output::text(&format!("report: {}", path.display()))?;
        }
        if let Some(fixed) = &fixed {
            print_fixed(fixed)?;
        }
    }
    Ok(if report.is_clean() || fixed.is_some() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn write_report(path: &Path, page: &str) -> Result<()> {
    otter_checkpoint::atomic::write_file(path, page.as_bytes())
        .with_context(|| format!("cannot write {}", path.display()))
}

fn print(report: &VerifyReport) -> Result<()> {
    for set in &report.sets {
        output::text(&format!(
            "{}  {}  {} records, {} samples",
            set.name,
            set.group,
            output::count(set.records),
            output::count(set.samples)
        ))?;
    }
    if report.example_only > 0 {
        output::text(&format!(
            "{} records serve only as examples in the context of others (example_only)",
            output::count(report.example_only)
        ))?;
    }
    for table in &report.tables {
        output::text(&format!("{}  {} images", table.path, output::count(table.images)))?;
    }
    if !report.histograms.is_empty() {
        output::text("")?;
        output::text(&format!(
            "{:<30} {:>10} {:>10} {:>10} {:>10} {:>12}",
            "", "mean", "median", "p90", "p99", "largest"
        ))?;
        report.histograms.iter().try_for_each(print_histogram)?;
    }
    for severity in [Severity::Error, Severity::Warning] {
        print_findings(report, severity)?;
    }
    output::text("")?;
    if report.stopped_early {
        output::text("Stopped at the first error (--strict); what comes after it was not looked at.")?;
    } else {
        output::text(&format!(
            "{} of {} samples can be used.",
            output::count(report.usable_samples),
            output::count(report.samples)
        ))?;
    }
    if report.ids_only {
        output::text("Only ids were looked at (--ids-only).")?;
    } else if !report.tokens_checked {
        output::text("Lengths in tokens and labels were not looked at: no tokenizer (--model DIR).")?;
    }
    output::text(&format!(
        "{} errors, {} warnings in {:.1} s",
        output::count(report.errors),
        output::count(report.warnings),
        report.seconds
    ))
}

fn print_fixed(fixed: &FixReport) -> Result<()> {
    output::text("")?;
    output::text(&format!("repaired copy: {}", fixed.list.display()))?;
    for (what, kept, left_out) in [
        (
            "records",
            fixed.records,
            vec![("unusable", fixed.records_dropped), ("merged", fixed.records_merged)],
        ),
        ("contexts", fixed.contexts, vec![("unusable", fixed.contexts_dropped)]),
        (
            "images",
            fixed.images,
            vec![
                ("undecodable", fixed.images_dropped),
                ("merged", fixed.images_merged),
                ("needed by no record", fixed.images_unused),
            ],
        ),
    ] {
        let left_out: Vec<String> = left_out
            .into_iter()
            .filter(|(_, count)| *count > 0)
            .map(|(why, count)| format!("{} {why}", output::count(count)))
            .collect();
        let left_out =
            if left_out.is_empty() { String::new() } else { format!("; left out: {}", left_out.join(", ")) };
        output::text(&format!("  {} {what}{left_out}", output::count(kept)))?;
    }
    let ids = fixed.context_ids_removed + fixed.related_ids_removed;
    if ids > 0 {
        output::text(&format!("  {} ids removed from contexts and rel_ins_ids", output::count(ids)))?;
    }
    Ok(())
}

fn print_histogram(histogram: &HistogramSummary) -> Result<()> {
    output::text(&format!(
        "{:<30} {:>10.1} {:>10} {:>10} {:>10} {:>12}  {}",
        histogram.name,
        histogram.mean,
        output::count(histogram.median),
        output::count(histogram.p90),
        output::count(histogram.p99),
        output::count(histogram.max),
        histogram.unit
    ))
}

fn print_findings(report: &VerifyReport, severity: Severity) -> Result<()> {
    let of_kind = || report.findings.iter().filter(|finding| finding.severity == severity);
    let Some(most) = of_kind().map(|finding| finding.count).max() else { return Ok(()) };
    output::text("")?;
    output::text(if severity == Severity::Error { "ERRORS" } else { "WARNINGS" })?;
    for finding in of_kind() {
        let bar = "▆".repeat((finding.count * BAR_COLUMNS).div_ceil(most.max(1)) as usize);
        output::text(&format!("  {:<24} {:>12}  {bar}", finding.reason, output::count(finding.count)))?;
        output::text(&format!("    {} {}", finding.meaning, finding.remedy))?;
        for example in &finding.examples {
            let id = if example.id.is_empty() { String::new() } else { format!("{}: ", example.id) };
            output::text(&format!("    - {id}{} [{}]", example.message, example.file))?;
        }
        let listed = finding.examples.len() as u64;
        if finding.count > listed {
            output::text(&format!("      and {} more", output::count(finding.count - listed)))?;
        }
    }
    Ok(())
}
