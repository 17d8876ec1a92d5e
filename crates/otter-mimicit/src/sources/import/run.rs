//! A whole import: items on several threads into the journal, the journal into the data set.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use otter_data::DatasetWriter;
use otter_data::video::VideoOptions;
use serde_json::{Value, json};

use super::journal::Journal;
use super::parallel::in_order;
use super::picture::PictureOptions;
use super::process::{Finished, process};
use super::replay::Replay;
use super::report::ImportReport;
use crate::sources::error::ImportError;
use crate::sources::item::Source;
use crate::sources::{Inputs, SourceKind};

/// Longest time that finished items wait in memory before they stand in the journal.
const FLUSH_EVERY: Duration = Duration::from_secs(1);

/// How a source is imported.
#[derive(Debug, Clone)]
pub struct ImportOptions {
    /// The source, for the journal.
    pub kind: SourceKind,
    /// Its files, for the journal.
    pub inputs: Inputs,
    /// Threads.
    pub jobs: usize,
    /// Stop at the first thing that would be left out.
    pub strict: bool,
    /// Write a context for every pair: the pairs of the same item before it.
    pub contexts: bool,
    /// What becomes of pictures.
    pub pictures: PictureOptions,
    /// Which frames of videos.
    pub video: VideoOptions,
    /// Forget what an interrupted import did.
    pub restart: bool,
}

/// How far an import is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Items done in this stage.
    pub done: usize,
    /// Items in all.
    pub total: usize,
    /// Items left out so far, in the first stage.
    pub skipped: usize,
    /// Whether the data set is being written, the second stage.
    pub writing: bool,
}

/// How an import ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Imported {
    /// The data set is written.
    Finished(Box<ImportReport>),
    /// It was asked to stop; this many items are in the journal and the same call goes on from there.
    Interrupted {
        /// Items done.
        done: usize,
        /// Items in all.
        total: usize,
    },
}

/// The folder of the journal of a data set.
pub fn journal_folder(out: &Path) -> PathBuf {
    let mut name = out.file_name().unwrap_or_default().to_owned();
    name.push(".import");
    out.with_file_name(name)
}

/// Imports a source. `open_writer` is called once everything is read; `stop` ends the import at the next item.
pub fn import(
    source: &dyn Source,
    out: &Path,
    options: &ImportOptions,
    open_writer: &mut dyn FnMut() -> Result<Box<dyn DatasetWriter>, ImportError>,
    observer: &mut dyn FnMut(Progress),
    stop: &AtomicBool,
) -> Result<Imported, ImportError> {
    options.video.check()?;
    let folder = journal_folder(out);
    if options.restart && folder.exists() {
        std::fs::remove_dir_all(&folder).map_err(|error| ImportError::io(&folder, error))?;
    }
    let mut journal = Journal::open(&folder, &plan(source, options)?)?;
    let total = source.len();
    fill(source, options, &mut journal, observer, stop)?;
    if journal.items < total || stop.load(Ordering::Relaxed) {
        return Ok(Imported::Interrupted { done: journal.items, total });
    }
    let mut writer = open_writer()?;
    let mut replay = Replay::new(source, options.contexts, options.strict);
    let mut reader = journal.read()?;
    for done in 0..total {
        if stop.load(Ordering::Relaxed) {
            return Ok(Imported::Interrupted { done: journal.items, total });
        }
        let item = reader.next_entry(true)?.ok_or_else(|| {
            ImportError::format(&folder, "it was changed by somebody else; begin anew with --restart")
        })?;
        replay.write(item, writer.as_mut())?;
        observer(Progress { done: done + 1, total, skipped: 0, writing: true });
    }
    drop(reader);
    let (mut report, samples) = replay.finish();
    report.warnings.splice(0..0, source.warnings());
    if samples == 0 {
        // What it says of missing files may be mended before the next try.
        drop(writer);
        journal.remove()?;
        return Err(ImportError::NothingUsed(Box::new(report)));
    }
    report.written = writer.finish()?;
    journal.remove()?;
    Ok(Imported::Finished(Box::new(report)))
}

/// Works on the items that are not in the journal yet.
fn fill(
    source: &dyn Source,
    options: &ImportOptions,
    journal: &mut Journal,
    observer: &mut dyn FnMut(Progress),
    stop: &AtomicBool,
) -> Result<(), ImportError> {
    let total = source.len();
    let mut skipped = 0;
    let mut flushed = Instant::now();
    let work = |index: usize| process(source.item(index), &options.pictures, &options.video);
    let result = in_order(journal.items..total, options.jobs, work, |item: Result<Finished, ImportError>| {
        let item = item?;
        if options.strict
            && let Some(skip) = item.entry.skips.first()
        {
            return Err(ImportError::Strict(skip.clone()));
        }
        skipped += usize::from(item.entry.pairs.is_empty());
        journal.append(&item)?;
        if flushed.elapsed() >= FLUSH_EVERY {
            journal.flush()?;
            flushed = Instant::now();
        }
        observer(Progress { done: journal.items, total, skipped, writing: false });
        Ok(!stop.load(Ordering::Relaxed))
    });
    // What is done stays done, also after an error.
    let flush = journal.flush();
    result.and(flush)
}

/// What decides about the content of the journal.
fn plan(source: &dyn Source, options: &ImportOptions) -> Result<Value, ImportError> {
    let annotations = options.inputs.annotations.as_deref();
    let size = match annotations {
        Some(path) => std::fs::metadata(path).map_err(|error| ImportError::io(path, error))?.len(),
        None => 0,
    };
    let video = &options.video;
    Ok(json!({
        "version": 2,
        "source": options.kind,
        "items": source.len(),
        "annotation_bytes": size,
        "inputs": options.inputs,
        "pictures": options.pictures,
        "video": {
            "sampling": video.sampling,
            "max_frames": video.max_frames,
            "max_side": video.max_side,
            "sequence_fps": video.sequence_fps,
        },
    }))
}
