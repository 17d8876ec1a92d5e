//! `otter data stats`: pairs, unique instructions, images and clips, by sub-dataset and language.

use anyhow::Result;
use otter_data::{StatsReport, StatsRow, stats};

use super::source;
use crate::arguments::DataStats;
use crate::output;
use crate::progress;

/// Runs the command.
pub fn run(arguments: &DataStats) -> Result<()> {
    let (config, _) = source::open(&arguments.source)?;
    let bar = progress::bar("{bar:24} {human_pos}/{human_len} {per_sec} eta {eta}");
    let report = stats(&config, &mut |done, total| {
        bar.set_length(total);
        bar.set_position(done);
    })?;
    bar.finish_and_clear();
    if arguments.json { output::json(&serde_json::to_value(&report)?) } else { print(&report) }
}

fn print(report: &StatsReport) -> Result<()> {
    heading("sub-dataset", true)?;
    report.datasets.iter().try_for_each(|one| row(one, true))?;
    row(&report.total, true)?;
    output::text("")?;
    heading("language", false)?;
    report.languages.iter().try_for_each(|one| row(one, false))?;
    let (told, pairs) = (report.total.language_told, report.total.pairs);
    let guessed = "guessed from script and frequent words";
    output::text(&match told {
        0 => format!("Languages are {guessed}."),
        told if told == pairs => "Languages are those that the records tell.".to_owned(),
        _ => format!(
            "Languages are those that {} of {} records tell; of the others they are {guessed}.",
            output::count(told),
            output::count(pairs)
        ),
    })?;
    if report.unreadable > 0 {
        output::text(&format!(
            "{} records could not be read and are not counted; see `otter data verify`.",
            output::count(report.unreadable)
        ))?;
    }
    Ok(())
}

/// The context is known by sub-dataset only; of a language it is shown how many records tell it.
fn heading(name: &str, with_context: bool) -> Result<()> {
    let context = if with_context {
        format!(" {:>11} {:>8}", "in context", "size")
    } else {
        format!(" {:>11}", "told")
    };
    output::text(&format!(
        "{name:<16} {:>11} {:>11} {:>11} {:>11} {:>9} {:>8} {:>8} {:>8}{context}",
        "pairs", "unique ins.", "unique ans.", "images", "clips", "ins. wd", "ans. wd", "img/pair"
    ))
}

fn row(row: &StatsRow, with_context: bool) -> Result<()> {
    let count = output::count;
    let context = if with_context {
        format!(" {:>11} {:>8.2}", count(row.with_context), row.context_size)
    } else {
        format!(" {:>11}", count(row.language_told))
    };
    output::text(&format!(
        "{:<16} {:>11} {:>11} {:>11} {:>11} {:>9} {:>8.1} {:>8.1} {:>8.2}{context}",
        row.name,
        count(row.pairs),
        count(row.unique_instructions),
        count(row.unique_answers),
        count(row.images),
        count(row.clips),
        row.instruction_words,
        row.answer_words,
        row.images_per_pair,
    ))
}
