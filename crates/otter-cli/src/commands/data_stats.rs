//! `otter data stats`: pairs, unique instructions, images and clips, by sub-dataset and language.

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};
use otter_data::{StatsReport, StatsRow, stats};

use super::data_source;
use crate::arguments::DataStats;
use crate::output;

/// Runs the command.
pub fn run(arguments: &DataStats) -> Result<()> {
    let (config, _) = data_source::open(&arguments.source)?;
    let bar = ProgressBar::no_length();
    if let Ok(style) = ProgressStyle::with_template("{bar:24} {human_pos}/{human_len} {per_sec} eta {eta}") {
        bar.set_style(style);
    }
    let report = stats(&config, &mut |done, total| {
        bar.set_length(total);
        bar.set_position(done);
    })?;
    bar.finish_and_clear();
    if arguments.json { output::json(&serde_json::to_value(&report)?) } else { print(&report) }
}

fn print(report: &StatsReport) -> Result<()> {
    heading("sub-dataset")?;
    report.datasets.iter().try_for_each(row)?;
    row(&report.total)?;
    output::text("")?;
    heading("language")?;
    report.languages.iter().try_for_each(row)?;
    output::text("Languages are guessed from script and frequent words.")?;
    if report.unreadable > 0 {
        output::text(&format!(
            "{} records could not be read and are not counted; see `otter data verify`.",
            output::count(report.unreadable)
        ))?;
    }
    Ok(())
}

fn heading(name: &str) -> Result<()> {
    output::text(&format!(
        "{name:<16} {:>11} {:>11} {:>11} {:>11} {:>9} {:>8} {:>8} {:>8} {:>11} {:>8}",
        "pairs", "unique ins.", "unique ans.", "images", "clips", "ins. wd", "ans. wd", "img/pair", "in context", "size"
    ))
}

fn row(row: &StatsRow) -> Result<()> {
    let count = output::count;
    output::text(&format!(
        "{:<16} {:>11} {:>11} {:>11} {:>11} {:>9} {:>8.1} {:>8.1} {:>8.2} {:>11} {:>8.2}",
        row.name,
        count(row.pairs),
        count(row.unique_instructions),
        count(row.unique_answers),
        count(row.images),
        count(row.clips),
        row.instruction_words,
        row.answer_words,
        row.images_per_pair,
        count(row.with_context),
        row.context_size
    ))
}
