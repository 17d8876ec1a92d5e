//! Writes an otter-dataset directory.

use std::path::Path;

use super::manifest::{FILE_NAME, Manifest, ManifestFile};
use super::schema::{CONTEXTS, IMAGES, INSTRUCTIONS, MARK};
use super::shards::{Cell, ShardSeries};
use crate::error::{DataError, Result};
use crate::files::staging::Staging;
use crate::sample::record::Record;
use crate::write::{DatasetWriter, UniqueIds, WriterOptions, WrittenSet};

/// Writes the three tables side by side. Held in memory: a row group of each, and up to 40 bytes an id.
pub(crate) struct OtterDatasetWriter {
    staging: Staging,
    manifest: Manifest,
    instructions: ShardSeries,
    contexts: ShardSeries,
    images: ShardSeries,
    ids: UniqueIds,
}

impl OtterDatasetWriter {
    pub(crate) fn create(directory: &Path, name: &str, options: &WriterOptions) -> Result<Self> {
        let manifest = Manifest {
            group: options.group,
            source: options.source.clone(),
            language: options.language.clone(),
            frames_per_second: options.frames_per_second,
            ..Manifest::new(name)
        };
        let series = |table| ShardSeries::new(table, options.otter_dataset_shard_bytes());
        Ok(Self {
            staging: Staging::create(directory)?,
            manifest,
            instructions: series(&INSTRUCTIONS),
            contexts: series(&CONTEXTS),
            images: series(&IMAGES),
            ids: UniqueIds::default(),
        })
    }
}

impl DatasetWriter for OtterDatasetWriter {
    fn image(&mut self, id: &str, encoded: &[u8]) -> Result<()> {
        self.ids.image(id)?;
        self.images.push(&self.staging, id, &[Cell::Value(encoded)])
    }

    fn record(&mut self, id: &str, record: &Record) -> Result<()> {
        self.ids.record(id)?;
        let cells = [
            Cell::Value(record.instruction.as_bytes()),
            Cell::Value(record.answer.as_bytes()),
            Cell::List(&record.image_ids),
            Cell::List(&record.rel_ins_ids),
            Cell::Value(record.language.as_deref().unwrap_or_default().as_bytes()),
            Cell::Value(if record.example_only { MARK.as_bytes() } else { b"" }),
        ];
        self.manifest.records_with_language += u64::from(record.language.is_some());
        self.manifest.example_only += u64::from(record.example_only);
        self.instructions.push(&self.staging, id, &cells)
    }

    fn context(&mut self, id: &str, context: &[String]) -> Result<()> {
        self.ids.context(id)?;
        self.contexts.push(&self.staging, id, &[Cell::List(context)])
    }

    fn finish(self: Box<Self>) -> Result<WrittenSet> {
        let Self { staging, mut manifest, instructions, contexts, images, ids } = *self;
        drop(ids);
        manifest.records = instructions.rows();
        manifest.contexts = contexts.rows();
        manifest.images = images.rows();
        let mut files = Vec::new();
        for series in [instructions, contexts, images] {
            files.extend(series.finish(&staging)?);
        }
        manifest.files = files.iter().map(|(_, file)| file.clone()).collect();
        let mut text =
            serde_json::to_vec_pretty(&manifest).map_err(|error| DataError::Config(error.to_string()))?;
        text.push(b'\n');
        let mut file = staging.file(FILE_NAME)?;
        file.put(&text)?;
        let manifest_bytes = file.finish()?.bytes;

        // From here to the new manifest the directory is not readable, rather than half old and half new.
        let old = remove_old_manifest(&staging)?;
        for (staged_name, file) in &files {
            staging.publish(staged_name, &file.name)?;
        }
        staging.publish(FILE_NAME, FILE_NAME)?;
        for file in old.iter().filter(|old| manifest.files.iter().all(|new| new.name != old.name)) {
            let _ = std::fs::remove_file(staging.destination(&file.name));
        }
        staging.sync();
        Ok(WrittenSet {
            images: manifest.images,
            records: manifest.records,
            contexts: manifest.contexts,
            bytes: manifest.files.iter().map(|file| file.bytes).sum::<u64>() + manifest_bytes,
        })
    }
}

/// Takes away the manifest of an older data set in the same place; gives its files.
fn remove_old_manifest(staging: &Staging) -> Result<Vec<ManifestFile>> {
    let path = staging.destination(FILE_NAME);
    if !path.exists() {
        return Ok(Vec::new());
    }
    let directory = path.parent().unwrap_or(Path::new("."));
    let old = Manifest::read(directory).map(|manifest| manifest.files).unwrap_or_default();
    std::fs::remove_file(&path).map_err(|error| DataError::write(&path, error))?;
    Ok(old)
}
