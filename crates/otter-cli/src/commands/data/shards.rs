//! `otter data shards`: pre-training data as tar shards.

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};
use otter_data::webdataset::{ShardLimits, shard_captions, shard_documents};

use crate::arguments::DataShards;
use crate::output;

/// Runs the command.
pub fn run(arguments: &DataShards) -> Result<()> {
    let limits = ShardLimits { samples: arguments.shard_samples, bytes: arguments.shard_size };
    let bar = ProgressBar::no_length();
    let report = match (&arguments.caption_images, &arguments.caption_texts) {
        (Some(images), Some(texts)) => {
            style(&bar, "{bytes}/{total_bytes} {bar:24} {bytes_per_sec} eta {eta}");
            shard_captions(images, texts, &arguments.out, limits, |done, total| show(&bar, done, total))
        }
        _ => {
            style(&bar, "{human_pos}/{human_len} documents {bar:24} {per_sec} eta {eta}");
            let images = arguments.images.as_deref();
            shard_documents(&arguments.documents, images, &arguments.out, limits, |done, total| {
                show(&bar, done, total);
            })
        }
    };
    bar.finish_and_clear();
    let report = report?;
    if arguments.json {
        output::json(&serde_json::to_value(&report)?)?;
    } else {
        output::text(&format!(
            "{} samples in {} shards, {} bytes: {}",
            report.samples.used,
            report.shards,
            report.bytes,
            arguments.out.display()
        ))?;
    }
    if report.missing_images > 0 {
        let example = report.missing_image_example.as_deref().unwrap_or_default();
        eprintln!("warning: {} listed images were not found, e.g. {example}", report.missing_images);
    }
    for (reason, count) in &report.samples.skipped {
        let example = report.samples.examples.get(reason).map(String::as_str).unwrap_or_default();
        eprintln!("warning: left out: {count} [{reason}], e.g. {example}");
    }
    Ok(())
}

fn style(bar: &ProgressBar, template: &str) {
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
}

fn show(bar: &ProgressBar, done: u64, total: u64) {
    bar.set_length(total);
    bar.set_position(done);
}
