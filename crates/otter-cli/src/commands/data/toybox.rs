//! `otter toybox`: writes the synthetic world as a MIMIC-IT data set.

use anyhow::{Result, bail};
use otter_toybox::world::{ToyboxOptions, write_toybox};
use serde_json::json;

use crate::arguments::Toybox;
use crate::output;
use crate::progress;

/// Largest `--scale`: about half a million training queries, within the bounds of every family.
const LARGEST_SCALE: f64 = 40.0;

/// Runs the command.
pub fn run(arguments: &Toybox) -> Result<()> {
    if !(arguments.scale > 0.0 && arguments.scale <= LARGEST_SCALE) {
        bail!("--scale is {}; it must be above 0 and at most {LARGEST_SCALE}", arguments.scale);
    }
    let defaults = ToyboxOptions::default();
    let options = ToyboxOptions {
        seed: arguments.seed,
        image_size: u32::try_from(arguments.image_size).unwrap_or(u32::MAX),
        train: defaults.train.scaled(arguments.scale),
        eval: defaults.eval.scaled(arguments.scale),
        ..defaults
    };
    let bar = progress::bar("{bar:24} {pos}/{len} {msg} {eta}");
    let summary = write_toybox(&arguments.out, &options, &mut |now| {
        progress::show(&bar, now.stage, now);
    })?;
    bar.finish_and_clear();
    if arguments.json {
        return output::json(&json!({"folder": arguments.out, "options": options, "summary": summary}));
    }
    output::text(&format!(
        "{}: {} pictures, {} instructions, {} queries",
        arguments.out.display(),
        output::count(summary.images as u64),
        output::count(summary.instructions as u64),
        output::count(summary.queries as u64)
    ))?;
    for set in &summary.sets {
        output::text(&format!(
            "  {:<6} {:<14} {:>7} pictures {:>7} queries",
            set.split, set.code, set.images, set.queries
        ))?;
    }
    Ok(())
}
