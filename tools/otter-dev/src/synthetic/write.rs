//! Makes blocks on all threads and writes them in order.

use std::path::Path;

use otter_data::{DataError, DatasetWriter, OutputForm, WriterOptions, WrittenSet, create_writer};
use otter_io::Progress;
use rayon::prelude::*;

use super::image::picture;
use super::pairs::{BLOCK, PairMaker};

/// Blocks of pairs made at a time; bounds the memory.
const BLOCKS_AT_ONCE: u64 = 8;

/// Pictures made at a time.
const PICTURES_AT_ONCE: u64 = 4096;

/// What is made.
#[derive(Debug, Clone, PartialEq)]
pub struct SyntheticOptions {
    /// Name of the data set and beginning of its ids.
    pub name: String,
    /// Number of pairs.
    pub pairs: u64,
    /// Number of pictures; with 0 the records have none.
    pub images: u64,
    /// Equal seeds and counts give equal data, whatever the number of threads.
    pub seed: u64,
}

/// Writes a data set of made-up pairs. Memory stays bounded by a few blocks and what the writer holds.
///
/// # Errors
/// No pairs, a directory that cannot be written, a data set that is there already.
pub fn write_synthetic(
    directory: &Path,
    form: OutputForm,
    options: &SyntheticOptions,
    writer_options: &WriterOptions,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<WrittenSet, DataError> {
    if options.pairs == 0 || options.pairs > u64::from(u32::MAX) || options.images > u64::from(u32::MAX) {
        return Err(DataError::Config(format!(
            "{} pairs and {} images are asked for; give from 1 to 4294967295 pairs and up to as many images",
            options.pairs, options.images
        )));
    }
    let mut writer = create_writer(form, directory, &options.name, writer_options)?;
    let maker = PairMaker::new(&options.name, options.seed, options.pairs, options.images);
    write_images(&maker, writer.as_mut(), progress)?;
    let blocks = options.pairs.div_ceil(BLOCK);
    let mut done = 0;
    for first in (0..blocks).step_by(BLOCKS_AT_ONCE as usize) {
        let range = first..(first + BLOCKS_AT_ONCE).min(blocks);
        let made: Vec<_> = range.into_par_iter().map(|block| maker.block(block)).collect();
        for pair in made.into_iter().flatten() {
            writer.record(&pair.id, &pair.record)?;
            if let Some(context) = &pair.context {
                writer.context(&pair.id, context)?;
            }
            done += 1;
        }
        progress(Progress { stage: "pairs", done, total: options.pairs });
    }
    writer.finish()
}

fn write_images(
    maker: &PairMaker,
    writer: &mut dyn DatasetWriter,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<(), DataError> {
    for first in (0..maker.images).step_by(PICTURES_AT_ONCE as usize) {
        let end = (first + PICTURES_AT_ONCE).min(maker.images);
        let made: Vec<_> =
            (first..end).into_par_iter().map(|number| (number, picture(maker.seed, number))).collect();
        for (number, encoded) in made {
            let id = maker.image_id(number);
            let encoded =
                encoded.map_err(|error| DataError::Image { name: id.clone(), message: error.to_string() })?;
            writer.image(&id, &encoded)?;
        }
        progress(Progress { stage: "images", done: end, total: maker.images });
    }
    Ok(())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::collections::HashSet;

    use otter_data::{ContextTable, ImageTable, InstructionTable, open_image};

    use super::*;

    fn make(directory: &Path, seed: u64) -> WrittenSet {
        let options = SyntheticOptions { name: "SYN".into(), pairs: 20_000, images: 500, seed };
        write_synthetic(directory, OutputForm::OtterDataset, &options, &WriterOptions::default(), &mut |_| {})
            .unwrap()
    }

    #[test]
    fn repetition_lengths_and_references_are_as_documented() {
        let place = tempfile::tempdir().unwrap();
        let written = make(place.path(), 3);
        assert_eq!((written.records, written.images), (20_000, 500));
        let share = written.contexts as f64 / 20_000.0;
        assert!((0.78..0.82).contains(&share), "{share}");

        let records = InstructionTable::open(place.path()).unwrap();
        let images = ImageTable::open(place.path(), 1 << 20).unwrap();
        let contexts = ContextTable::open(place.path()).unwrap();
        let mut unique = HashSet::new();
        let mut words = Vec::new();
        let mut used_images = HashSet::new();
        for entry in 0..records.len() {
            let record = records.record(entry).unwrap();
            words.push(record.answer.split(' ').count());
            used_images.extend(record.image_ids.iter().cloned());
            assert!(!record.image_ids.is_empty() && record.image_ids.len() <= 16);
            assert!(record.rel_ins_ids.iter().all(|id| records.find(id).is_some()));
            unique.insert(record.instruction);
        }
        let share = unique.len() as f64 / records.len() as f64;
        assert!((0.76..0.82).contains(&share), "unique {share}");
        words.sort_unstable();
        assert!((18..=32).contains(&words[words.len() / 2]), "median {}", words[words.len() / 2]);
        assert_eq!(used_images.len(), 500);
        for entry in 0..contexts.len() {
            let context = contexts.context(entry).unwrap();
            assert!(context.len() <= 5 && !context.contains(&contexts.id(entry).unwrap().into_owned()));
        }
        for entry in 0..20 {
            let image =
                open_image(&images.encoded_entry(entry).unwrap(), otter_data::ImageRules::default(), "x")
                    .unwrap();
            assert!((32..=64).contains(&image.width()) && (32..=64).contains(&image.height()));
        }
    }

    #[test]
    fn equal_seeds_give_equal_files() {
        let places: Vec<_> = (0..3).map(|_| tempfile::tempdir().unwrap()).collect();
        make(places[0].path(), 3);
        rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap().install(|| make(places[1].path(), 3));
        make(places[2].path(), 4);
        let manifest = |place: &tempfile::TempDir| std::fs::read(place.path().join("manifest.json")).unwrap();
        assert_eq!(manifest(&places[0]), manifest(&places[1]));
        assert_ne!(manifest(&places[0]), manifest(&places[2]));
    }
}
