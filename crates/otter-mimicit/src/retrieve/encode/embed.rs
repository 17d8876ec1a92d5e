//! Items to rows of a file, each once, going on where an interrupted run stopped.

use std::path::Path;

use otter_data::{ImageTable, InstructionTable};
use rayon::prelude::*;

use super::image_encoder::ImageEncoder;
use super::precomputed::Precomputed;
use super::sentence_encoder::SentenceEncoder;
use super::tfidf::TfIdf;
use crate::retrieve::error::{Result, RetrieveError};
use crate::retrieve::options::EmbeddingSource;
use crate::retrieve::row_file::RowFile;
use crate::retrieve::select::records::{Records, encoded, first_image};
use crate::retrieve::vectors::{ELEMENT, Vectors, to_f16_bytes};
use crate::retrieve::work::Work;

/// Texts that an encoder gets at once: enough for full batches of each length.
const TEXTS: usize = 2048;
/// Texts of the cheap embedding.
const CHEAP_TEXTS: usize = 1 << 14;
/// Pictures.
const PICTURES: usize = 32;

/// Makes the vectors of items.
pub enum Encoder {
    /// See [`TfIdf`].
    TfIdf(TfIdf),
    /// See [`SentenceEncoder`].
    Sentence(Box<SentenceEncoder>),
    /// See [`ImageEncoder`].
    Tower(Box<ImageEncoder>),
    /// See [`Precomputed`]; whether its ids are those of images.
    Precomputed(Precomputed, bool),
}

impl Encoder {
    /// Opens a source for texts or pictures.
    ///
    /// # Errors
    /// When its files cannot be read or it does not fit.
    pub fn open(
        source: &EmbeddingSource,
        pictures: bool,
        table: &InstructionTable,
        records: &Records,
    ) -> Result<Self> {
        match source {
            EmbeddingSource::TfIdf { width } if !pictures => {
                let mut encoder = TfIdf::new(*width);
                records.representative.iter().for_each(|&entry| encoder.count(&text(table, entry)));
                Ok(Self::TfIdf(encoder))
            }
            EmbeddingSource::SentenceTransformer(directory) if !pictures => {
                Ok(Self::Sentence(Box::new(SentenceEncoder::load(directory)?)))
            }
            EmbeddingSource::Tower { model, pooling } if pictures => {
                Ok(Self::Tower(Box::new(ImageEncoder::load(model, *pooling)?)))
            }
            EmbeddingSource::Precomputed { matrix, ids } => {
                Ok(Self::Precomputed(Precomputed::open(matrix, ids)?, pictures))
            }
            _ => Err(RetrieveError::Options("this source makes no vectors of what is compared".into())),
        }
    }

    fn width(&self) -> usize {
        match self {
            Self::TfIdf(encoder) => encoder.width(),
            Self::Sentence(encoder) => encoder.width(),
            Self::Tower(encoder) => encoder.width(),
            Self::Precomputed(rows, _) => rows.width(),
        }
    }

    fn fingerprint(&self) -> String {
        match self {
            Self::TfIdf(encoder) => encoder.fingerprint(),
            Self::Sentence(encoder) => encoder.fingerprint().to_owned(),
            Self::Tower(encoder) => encoder.fingerprint().to_owned(),
            Self::Precomputed(rows, _) => rows.fingerprint().to_owned(),
        }
    }

    fn block(&self) -> usize {
        match self {
            Self::Sentence(_) => TEXTS,
            Self::Tower(_) => PICTURES,
            Self::TfIdf(_) | Self::Precomputed(..) => CHEAP_TEXTS,
        }
    }

    /// Unit vectors of the items that these records stand for; zeros where there is none.
    fn encode(&self, table: &InstructionTable, images: &[ImageTable], entries: &[u32]) -> Result<Vec<f32>> {
        match self {
            Self::TfIdf(encoder) => {
                Ok(entries.par_iter().flat_map_iter(|&entry| encoder.encode(&text(table, entry))).collect())
            }
            Self::Sentence(encoder) => {
                let texts: Vec<String> = entries.par_iter().map(|&entry| text(table, entry)).collect();
                encoder.encode(&texts.iter().map(String::as_str).collect::<Vec<_>>())
            }
            Self::Tower(encoder) => {
                let picture = |&entry: &u32| {
                    let record = table.record(entry as usize).ok()?;
                    encoded(images, first_image(&record).ok()?).ok()
                };
                Ok(encoder.encode(&entries.par_iter().map(picture).collect::<Vec<_>>()))
            }
            Self::Precomputed(rows, of_images) => {
                let mut found = vec![0.0; entries.len() * rows.width()];
                for (&entry, out) in entries.iter().zip(found.chunks_exact_mut(rows.width())) {
                    let row = if *of_images {
                        let record = table.record(entry as usize).ok();
                        record.as_ref().and_then(|record| rows.get(first_image(record).ok()?))
                    } else {
                        rows.get(&table.id(entry as usize)?)
                    };
                    if let Some(row) = row {
                        out.copy_from_slice(row);
                    }
                }
                Ok(found)
            }
        }
    }
}

/// Embeds all items, or as many as `progress` allows; `None` when it stopped.
///
/// # Errors
/// When an encoder or the file fails.
pub fn embed(
    encoder: &Encoder,
    table: &InstructionTable,
    images: &[ImageTable],
    records: &Records,
    work: &mut Work,
    progress: &mut dyn FnMut(usize) -> bool,
) -> Result<Option<Vectors>> {
    let (width, block) = (encoder.width(), encoder.block());
    let key = format!("{} {}", records.content, encoder.fingerprint());
    let path = work.embeddings(&key)?;
    let mut file = RowFile::open(&path, width * ELEMENT, records.items(), block)?;
    while file.done() < records.items() {
        if !progress(file.done()) {
            return Ok(None);
        }
        let end = (file.done() + block).min(records.items());
        let rows = encoder.encode(table, images, &records.representative[file.done()..end])?;
        if let Some(row) = rows.chunks_exact(width).position(|row| row.iter().any(|value| !value.is_finite()))
        {
            let id = table.id(records.representative[file.done() + row] as usize)?;
            return Err(not_finite(&path, &id));
        }
        file.append(&to_f16_bytes(&rows))?;
    }
    file.finish()?;
    progress(records.items());
    Vectors::map(&path, width).map(Some)
}

fn not_finite(path: &Path, id: &str) -> RetrieveError {
    let problem = format!("the vector of record `{id}` is not finite; the encoder's weights are damaged");
    RetrieveError::format(path, problem)
}

fn text(table: &InstructionTable, entry: u32) -> String {
    table.record(entry as usize).map(|record| record.instruction.trim().to_owned()).unwrap_or_default()
}
