//! `otter-dev synthesize`: a large data set of made-up pairs, for measuring.

use anyhow::Result;
use otter_cli::output;
use otter_cli::progress;
use otter_data::WriterOptions;
use serde_json::json;

use crate::arguments::Synthesize;
use crate::synthetic::{SyntheticOptions, write_synthetic};

/// Pairs for each image, where no number of images is given.
const PAIRS_AN_IMAGE: u64 = 10;

/// Runs the command.
pub fn run(arguments: &Synthesize) -> Result<()> {
    let options = SyntheticOptions {
        name: arguments.name.clone(),
        pairs: arguments.pairs,
        images: arguments.images.unwrap_or(arguments.pairs.div_ceil(PAIRS_AN_IMAGE)),
        seed: arguments.seed,
    };
    let writer_options = WriterOptions {
        shard_bytes: arguments.shard_size,
        overwrite: arguments.overwrite,
        source: Some(format!("otter-dev synthesize, seed {}", options.seed)),
        ..WriterOptions::default()
    };
    let bar = progress::bar(progress::COUNTS);
    let written = write_synthetic(&arguments.out, arguments.to, &options, &writer_options, &mut |now| {
        progress::show(&bar, now.stage, now);
    })?;
    bar.finish_and_clear();
    if arguments.json {
        return output::json(&json!({
            "folder": arguments.out, "form": arguments.to.name(), "name": options.name, "seed": options.seed,
            "records": written.records, "contexts": written.contexts, "images": written.images, "bytes": written.bytes,
        }));
    }
    output::text(&format!(
        "{}: {} pairs, {} contexts, {} images, {}",
        arguments.out.display(),
        output::count(written.records),
        output::count(written.contexts),
        output::count(written.images),
        output::bytes(written.bytes)
    ))
}
