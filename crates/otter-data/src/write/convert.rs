//! One data set from any form to any other, record by record.

use otter_io::Progress;
use otter_media::{ImageCounts, ImageNote, ImageNotes, NO_IMAGE, is_cut, is_image};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::config::SetConfig;
use crate::error::{DataError, Result, SkipReason};
use crate::tables::image_table::ImageTable;
use crate::tables::instruction_table::{ContextTable, InstructionTable};
use crate::write::{OutputForm, WriterOptions, WrittenSet, create_writer};

/// Memory for pages of the source; the source is read in order, so few are needed.
const CACHE_BYTES: usize = 64 << 20;

/// How a data set is converted.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ConvertOptions {
    /// Leave out images that no record names.
    pub only_referenced: bool,
    /// Records of other sets that may name the images, too: inside a group, sets share their images.
    pub also_referenced_by: Vec<PathBuf>,
    /// Count what cannot be read and go on, instead of stopping.
    pub skip_bad: bool,
    /// For the writer.
    pub writer: WriterOptions,
}

/// What a conversion wrote and left out.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Converted {
    /// What was written.
    pub written: WrittenSet,
    /// Images that no record names, left out on demand.
    pub unreferenced_images: u64,
    /// Images whose files are cut. Nothing is decoded, so nothing else of images is known.
    #[serde(skip_serializing_if = "ImageCounts::is_empty")]
    pub image_notes: ImageCounts,
    /// Entries that could not be read, by reason.
    pub skipped: BTreeMap<&'static str, u64>,
    /// The first few of them.
    pub examples: Vec<String>,
}

/// Messages kept of entries that could not be read.
const EXAMPLES: usize = 10;

/// Between two reports of progress.
const REPORT_EVERY: usize = 256;

struct Run<'a> {
    options: &'a ConvertOptions,
    progress: &'a mut dyn FnMut(Progress<'_>),
    converted: Converted,
    /// Images, records and contexts given to the writer.
    written: [usize; 3],
}

impl Run<'_> {
    fn report(&mut self, stage: &'static str, done: usize, total: usize) {
        if done.is_multiple_of(REPORT_EVERY) || done == total {
            (self.progress)(Progress::of_items(stage, done, total));
        }
    }

    /// The value, or `None` if it is bad and may be left out.
    fn usable<T>(&mut self, value: Result<T>, reason: SkipReason) -> Result<Option<T>> {
        match value {
            Ok(value) => Ok(Some(value)),
            Err(error) if self.options.skip_bad => {
                *self.converted.skipped.entry(reason.name()).or_default() += 1;
                if self.converted.examples.len() < EXAMPLES {
                    // An error of a sample says its reason itself.
                    let of_sample = error.skip_reason().is_some();
                    let reason = if of_sample { String::new() } else { format!(" [{}]", reason.name()) };
                    self.converted.examples.push(format!("{error}{reason}"));
                }
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

/// Writes the data set `set` in another form under the name `name`. Order and content of records, contexts and image bytes
/// stay; fields of a record that the format does not know are not kept. Stages are `references`, `images`, `records` and
/// `contexts`.
///
/// # Errors
/// A source that cannot be read, an entry that cannot be read (unless it may be skipped), a source of whose records, images
/// or contexts nothing is left, a destination that cannot be written. Then nothing is left at the destination.
pub fn convert_set(
    set: &SetConfig,
    form: OutputForm,
    directory: &Path,
    name: &str,
    options: &ConvertOptions,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Converted> {
    let instructions = InstructionTable::open(&set.instructions)?;
    let images = set.images.as_deref().map(|path| ImageTable::open(path, CACHE_BYTES)).transpose()?;
    let contexts = set.train.as_deref().map(ContextTable::open).transpose()?;
    if contexts.as_ref().is_some_and(ContextTable::is_empty) {
        return Err(DataError::Config(format!(
            "the contexts of {name} are empty: no record is a sample, which the other form cannot say; leave them out"
        )));
    }
    if instructions.is_empty() {
        return Err(DataError::format(
            instructions.path(),
            "it holds no record: there is nothing to convert",
        ));
    }
    let mut writer = create_writer(form, directory, name, &options.writer)?;
    let mut run = Run { options, progress, converted: Converted::default(), written: [0; 3] };

    if let Some(images) = &images {
        let wanted = if options.only_referenced {
            Some(wanted_images(&instructions, images, &mut run)?)
        } else {
            None
        };
        let total = images.len();
        for entry in 0..total {
            if wanted.as_ref().is_some_and(|wanted| !wanted[entry]) {
                run.converted.unreferenced_images += 1;
            } else {
                let image = images.id(entry).and_then(|id| {
                    let encoded = images.encoded_entry(entry)?;
                    // As a file it would have no extension of an image.
                    if matches!(form, OutputForm::Folder | OutputForm::Tar) && !is_image(&encoded) {
                        let name = format!("{id} of {}", images.path().display());
                        return Err(DataError::Image { name, message: NO_IMAGE.to_owned() });
                    }
                    Ok((id, encoded))
                });
                if let Some((id, encoded)) = run.usable(image, SkipReason::BadImage)? {
                    let notes = ImageNotes::from_iter(is_cut(&encoded).then_some(ImageNote::Cut));
                    let place = || format!("{id} of {}", images.path().display());
                    run.converted.image_notes.add(notes, place);
                    writer.image(&id, &encoded)?;
                    run.written[0] += 1;
                }
            }
            run.report("images", entry + 1, total);
        }
    }
    let total = instructions.len();
    for entry in 0..total {
        let record = instructions.id(entry).and_then(|id| match instructions.record(entry) {
            Ok(record) => Ok((id, record)),
            Err(message) => Err(bad_entry(instructions.path(), &id, message)),
        });
        if let Some((id, record)) = run.usable(record, SkipReason::BadRecord)? {
            writer.record(&id, &record)?;
            run.written[1] += 1;
        }
        run.report("records", entry + 1, total);
    }
    if let Some(contexts) = &contexts {
        let total = contexts.len();
        for entry in 0..total {
            let context = contexts.id(entry).and_then(|id| match contexts.context(entry) {
                Ok(context) => Ok((id, context)),
                Err(message) => Err(bad_entry(contexts.path(), &id, message)),
            });
            if let Some((id, context)) = run.usable(context, SkipReason::BadRecord)? {
                writer.context(&id, &context)?;
                run.written[2] += 1;
            }
            run.report("contexts", entry + 1, total);
        }
    }
    // Before anything has its name: nobody shall train on an empty data set.
    let wanted = |images: &ImageTable| images.len() - run.converted.unreferenced_images as usize;
    let sources = [
        ("images", images.as_ref().map_or(0, wanted), images.as_ref().map(ImageTable::path)),
        ("records", total, Some(instructions.path())),
        (
            "contexts",
            contexts.as_ref().map_or(0, ContextTable::len),
            contexts.as_ref().map(ContextTable::path),
        ),
    ];
    for ((what, found, path), written) in sources.into_iter().zip(run.written) {
        if found > 0 && written == 0 {
            return Err(nothing_of(what, found, path.unwrap_or(&set.instructions), &run.converted));
        }
    }
    let mut converted = run.converted;
    converted.written = writer.finish()?;
    Ok(converted)
}

fn nothing_of(what: &str, found: usize, path: &Path, converted: &Converted) -> DataError {
    let reasons: Vec<String> =
        converted.skipped.iter().map(|(reason, count)| format!("{count} [{reason}]")).collect();
    let example = converted.examples.first().map(|example| format!(", e.g. {example}")).unwrap_or_default();
    DataError::format(
        path,
        format!(
            "none of its {found} {what} could be used, so no data set was written; left out: {}{example}",
            reasons.join(", ")
        ),
    )
}

fn bad_entry(path: &Path, id: &str, message: String) -> DataError {
    DataError::Sample { id: id.to_owned(), file: path.to_owned(), reason: SkipReason::BadRecord, message }
}

/// Of each image, whether a record names it.
fn wanted_images(
    instructions: &InstructionTable,
    images: &ImageTable,
    run: &mut Run<'_>,
) -> Result<Vec<bool>> {
    let mut wanted = vec![false; images.len()];
    mark_images(instructions, images, &mut wanted, run)?;
    for path in &run.options.also_referenced_by {
        mark_images(&InstructionTable::open(path)?, images, &mut wanted, run)?;
    }
    Ok(wanted)
}

fn mark_images(
    instructions: &InstructionTable,
    images: &ImageTable,
    wanted: &mut [bool],
    run: &mut Run<'_>,
) -> Result<()> {
    let total = instructions.len();
    for entry in 0..total {
        // Records that cannot be read are dealt with when they are written.
        for id in instructions.record(entry).map(|record| record.image_ids).unwrap_or_default() {
            if let Some(image) = images.find(&id)? {
                wanted[image] = true;
            }
        }
        run.report("references", entry + 1, total);
    }
    Ok(())
}
