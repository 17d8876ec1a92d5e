//! Writes the published form of a data set: instruction JSON, train JSON, and the images as JSON, parquet,
//! files or tar.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::error::{DataError, Result};
use crate::files::staging::{StagedFile, Staging};
use crate::files::tar_archive::TarWriter;
use crate::sample::record::Record;
use crate::tables::image_files::{check_file_id, file_extension};
use crate::write::image_parquet::ParquetImageWriter;
use crate::write::{DatasetWriter, OutputForm, UniqueIds, WriterOptions, WrittenSet};

/// A JSON object that is written entry by entry.
struct JsonObject {
    file: StagedFile,
    entries: u64,
}

impl JsonObject {
    fn create(staging: &Staging, name: &str, opening: &str) -> Result<Self> {
        let mut file = staging.file(name)?;
        file.put(opening.as_bytes())?;
        Ok(Self { file, entries: 0 })
    }

    /// `value` is JSON text.
    fn entry(&mut self, key: &str, value: &[u8]) -> Result<()> {
        let key = json(key)?;
        self.file.put(if self.entries == 0 { b"\n" } else { b",\n" })?;
        self.file.put(&key)?;
        self.file.put(b":")?;
        self.file.put(value)?;
        self.entries += 1;
        Ok(())
    }

    /// Closes the object; gives the size of the file.
    fn finish(mut self, closing: &str) -> Result<u64> {
        self.file.put(closing.as_bytes())?;
        Ok(self.file.finish()?.bytes)
    }
}

fn json<T: serde::Serialize + ?Sized>(value: &T) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|error| DataError::Config(format!("a value cannot be JSON: {error}")))
}

/// Where the images go.
enum ImageSink {
    Json(Box<JsonObject>),
    Parquet(Box<ParquetImageWriter>),
    /// Bytes written to image files so far.
    Folder(u64),
    Tar(Box<TarWriter>),
}

/// Writes the files of one data set side by side.
pub(crate) struct MimicItWriter {
    staging: Staging,
    form: OutputForm,
    name: String,
    part_bytes: u64,
    instructions: JsonObject,
    contexts: Option<JsonObject>,
    images: Option<ImageSink>,
    image_count: u64,
    ids: UniqueIds,
}

impl MimicItWriter {
    pub(crate) fn create(
        form: OutputForm,
        directory: &Path,
        name: &str,
        options: &WriterOptions,
    ) -> Result<Self> {
        let staging = Staging::create(directory)?;
        let instructions = JsonObject::create(
            &staging,
            &format!("{name}_instructions.json"),
            "{\"meta\":{\"version\":\"1\"},\"data\":{",
        )?;
        Ok(Self {
            staging,
            form,
            name: name.to_owned(),
            part_bytes: options.parquet_part_bytes(),
            instructions,
            contexts: None,
            images: None,
            image_count: 0,
            ids: UniqueIds::default(),
        })
    }

    fn images_name(&self) -> String {
        match self.form {
            OutputForm::Json => format!("{}.json", self.name),
            OutputForm::Parquet => format!("{}.parquet", self.name),
            OutputForm::Tar => format!("{}.tar", self.name),
            OutputForm::Folder | OutputForm::OtterDataset => self.name.clone(),
        }
    }

    fn start_images(&self) -> Result<ImageSink> {
        let name = self.images_name();
        Ok(match self.form {
            OutputForm::Json => ImageSink::Json(Box::new(JsonObject::create(&self.staging, &name, "{")?)),
            OutputForm::Tar => ImageSink::Tar(Box::new(TarWriter::new(self.staging.file(&name)?))),
            OutputForm::Parquet => {
                make_folder(&self.staging.path(&name))?;
                ImageSink::Parquet(Box::new(ParquetImageWriter::new(&name, self.part_bytes)))
            }
            OutputForm::Folder | OutputForm::OtterDataset => {
                make_folder(&self.staging.path(&name))?;
                ImageSink::Folder(0)
            }
        })
    }

    fn write_file(&self, id: &str, encoded: &[u8]) -> Result<()> {
        let path = self.staging.path(&format!("{}/{id}.{}", self.name, file_extension(encoded)));
        let written = std::fs::File::create_new(&path).or_else(|error| {
            // Ids with `/` stand in folders of their own.
            match path.parent() {
                Some(folder) if error.kind() == std::io::ErrorKind::NotFound => {
                    std::fs::create_dir_all(folder)?;
                    std::fs::File::create_new(&path)
                }
                _ => Err(error),
            }
        });
        written
            .and_then(|mut file| std::io::Write::write_all(&mut file, encoded))
            .map_err(|error| DataError::write(&path, error))
    }
}

fn make_folder(path: &Path) -> Result<()> {
    std::fs::create_dir(path).map_err(|error| DataError::write(path, error))
}

impl DatasetWriter for MimicItWriter {
    fn image(&mut self, id: &str, encoded: &[u8]) -> Result<()> {
        self.ids.image(id)?;
        let mut sink = match self.images.take() {
            Some(sink) => sink,
            None => self.start_images()?,
        };
        match &mut sink {
            ImageSink::Json(object) => {
                let mut value = String::with_capacity(encoded.len() / 3 * 4 + 6);
                value.push('"');
                STANDARD.encode_string(encoded, &mut value);
                value.push('"');
                object.entry(id, value.as_bytes())?;
            }
            ImageSink::Parquet(parts) => parts.push(&self.staging, id, encoded)?,
            ImageSink::Folder(bytes) => {
                check_file_id(id)?;
                self.write_file(id, encoded)?;
                *bytes += encoded.len() as u64;
            }
            ImageSink::Tar(tar) => {
                check_file_id(id)?;
                tar.file(&format!("{id}.{}", file_extension(encoded)), encoded)?;
            }
        }
        self.images = Some(sink);
        self.image_count += 1;
        Ok(())
    }

    fn record(&mut self, id: &str, record: &Record) -> Result<()> {
        self.ids.record(id)?;
        self.instructions.entry(id, &json(record)?)
    }

    fn context(&mut self, id: &str, context: &[String]) -> Result<()> {
        self.ids.context(id)?;
        let object = match &mut self.contexts {
            Some(object) => object,
            None => {
                let name = format!("{}_train.json", self.name);
                self.contexts.insert(JsonObject::create(&self.staging, &name, "{")?)
            }
        };
        object.entry(id, &json(context)?)
    }

    fn finish(self: Box<Self>) -> Result<WrittenSet> {
        let images_name = self.images_name();
        let Self { staging, name, instructions, contexts, images, image_count, ids, .. } = *self;
        drop(ids);
        let mut written =
            WrittenSet { images: image_count, records: instructions.entries, ..WrittenSet::default() };
        written.bytes = instructions.finish("\n}}\n")?;
        if let Some(object) = contexts {
            written.contexts = object.entries;
            written.bytes += object.finish("\n}\n")?;
        }
        if let Some(sink) = images {
            written.bytes += match sink {
                ImageSink::Json(object) => object.finish("\n}\n")?,
                ImageSink::Parquet(parts) => parts.finish(&staging)?,
                ImageSink::Folder(bytes) => bytes,
                ImageSink::Tar(tar) => tar.finish()?,
            };
            staging.publish(&images_name, &images_name)?;
        } else {
            remove_old(&staging.destination(&images_name))?;
        }
        let train = format!("{name}_train.json");
        if written.contexts > 0 {
            staging.publish(&train, &train)?;
        } else {
            remove_old(&staging.destination(&train))?;
        }
        // Last, because nothing is read without it.
        let instructions = format!("{name}_instructions.json");
        staging.publish(&instructions, &instructions)?;
        staging.sync();
        Ok(written)
    }
}

/// Removes what an older data set of the same name had and the new one has not.
fn remove_old(path: &Path) -> Result<()> {
    let removed = if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(DataError::write(path, error)),
        _ => Ok(()),
    }
}
