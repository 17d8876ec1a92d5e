//! Latents of media items, computed once for all queries that show them.
//!
//! The vision side does not know the text around an item, so its latents can be kept between batches. A Perceiver with
//! places for media (`max_num_media`) is the exception: there the latents depend on the item's place in its sequence.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;

use otter_data::{Dataset, Group, ImageCounts, ImageRules, MediaItem, Sample};
use otter_model::{Otter, VisionInput};
use otter_nn::{Device, Parameters, Tensor};
use rayon::prelude::*;

use super::prompt_pass::Media;
use crate::error::EvaluationError;

/// Memory for kept latents, in numbers of f32.
const KEPT_NUMBERS: usize = 1 << 26;

/// Frames encoded at a time; bounds the memory of the vision tower.
const FRAMES_AT_ONCE: usize = 128;

/// The pictures of a media item.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    /// Which image files, in which groups; see [`MediaLatents::new`].
    files: usize,
    /// Table of the item's own set, where the search for its pictures starts.
    table: usize,
    group: Group,
    image_ids: Vec<String>,
}

/// Latents by media item.
pub(crate) struct MediaLatents<'a> {
    otter: &'a Otter,
    parameters: &'a Parameters<f32>,
    datasets: &'a [(usize, &'a Dataset)],
    /// Per data set: the number of its list of image files.
    files: Vec<usize>,
    known: HashMap<Key, Vec<f32>>,
    /// Items encoded so far.
    pub(crate) encoded: usize,
    /// Images that hold more than their pixels show, each counted once.
    pub(crate) image_notes: ImageCounts,
    noted: HashSet<String>,
}

/// The files of images of each set of a data set.
type ImageLists = Vec<(Group, Option<PathBuf>)>;

impl<'a> MediaLatents<'a> {
    pub(crate) fn new(
        otter: &'a Otter,
        parameters: &'a Parameters<f32>,
        datasets: &'a [(usize, &'a Dataset)],
    ) -> Result<Self, EvaluationError> {
        // Equal lists of image files in equal groups find the same picture for an id, so such data sets share latents
        // where they show it alike.
        let mut lists: Vec<(ImageRules, ImageLists)> = Vec::new();
        let mut files = Vec::with_capacity(datasets.len());
        for (_, dataset) in datasets {
            let sets = dataset.config().resolved_sets()?;
            let list: ImageLists = sets.into_iter().map(|set| (set.group, set.images)).collect();
            let list = (dataset.switches().image_rules, list);
            let number = lists.iter().position(|known| *known == list).unwrap_or(lists.len());
            if number == lists.len() {
                lists.push(list);
            }
            files.push(number);
        }
        Ok(Self {
            otter,
            parameters,
            datasets,
            files,
            known: HashMap::new(),
            encoded: 0,
            image_notes: ImageCounts::default(),
            noted: HashSet::new(),
        })
    }

    /// Latents of the media of a batch. `samples` come without pixels, each with the number of its data set and its
    /// position in it; pictures are read only where something is not known yet.
    pub(crate) fn media(&mut self, samples: &[(usize, usize, &Sample)]) -> Result<Media, EvaluationError> {
        if self.otter.config().perceiver.max_num_media.is_some() {
            return self.media_with_places(samples);
        }
        let keys: Vec<Vec<Key>> =
            samples.iter().map(|&(dataset, _, sample)| self.keys(dataset, sample)).collect();
        let wanted = |keys: &Vec<Key>| keys.iter().any(|key| !self.known.contains_key(key));
        let missing: Vec<usize> = (0..samples.len()).filter(|&row| wanted(&keys[row])).collect();
        let size = self.otter.config().perceiver.num_latents * self.otter.config().vision.hidden_size;
        // An item of this batch must not be forgotten before the batch is put together.
        let coming = missing.iter().map(|&row| keys[row].len()).sum::<usize>();
        if (self.known.len() + coming) * size > KEPT_NUMBERS && !missing.is_empty() {
            self.known.clear();
            return self.media_of(samples, &keys, (0..samples.len()).collect(), size);
        }
        self.media_of(samples, &keys, missing, size)
    }

    fn media_of(
        &mut self,
        samples: &[(usize, usize, &Sample)],
        keys: &[Vec<Key>],
        missing: Vec<usize>,
        size: usize,
    ) -> Result<Media, EvaluationError> {
        let read: Vec<&(usize, usize, &Sample)> = missing.iter().map(|&row| &samples[row]).collect();
        let with_pixels = self.with_pixels(&read)?;
        let mut pending: Vec<(Key, &MediaItem)> = Vec::new();
        let mut frames = 0;
        for (&row, sample) in missing.iter().zip(&with_pixels) {
            for (key, item) in keys[row].iter().zip(&sample.media) {
                if self.known.contains_key(key) {
                    continue;
                }
                // Reserves the place, so that another row with the same item does not encode it again.
                self.known.insert(key.clone(), Vec::new());
                frames += item.frames.len();
                self.note(samples[row].0, item);
                pending.push((key.clone(), item));
                if frames >= FRAMES_AT_ONCE {
                    self.encode(&mut pending, size)?;
                    frames = 0;
                }
            }
        }
        self.encode(&mut pending, size)?;

        let mut place: HashMap<&Key, usize> = HashMap::new();
        let mut latents = Vec::new();
        let mut slots = Vec::with_capacity(keys.len());
        for keys in keys {
            let mut row = Vec::with_capacity(keys.len());
            for key in keys {
                let next = place.len();
                let item = *place.entry(key).or_insert(next);
                if item == next {
                    latents.extend_from_slice(self.known.get(key).map_or(&[][..], Vec::as_slice));
                }
                row.push(item);
            }
            slots.push(row);
        }
        let width = self.otter.config().vision.hidden_size;
        let shape = [latents.len() / width, width];
        let latents = (!latents.is_empty()).then(|| Tensor::from_vec(latents, &shape, Device::Cpu));
        let latents = latents.map(|latents| latents.to_device(self.parameters.device()));
        Ok(Media { latents, slots })
    }

    /// Every row's items by themselves, each at its place.
    fn media_with_places(&mut self, samples: &[(usize, usize, &Sample)]) -> Result<Media, EvaluationError> {
        let with_pixels = self.with_pixels(&samples.iter().collect::<Vec<_>>())?;
        let mut items = Vec::new();
        let mut slots = Vec::with_capacity(samples.len());
        for (sample, (dataset, ..)) in with_pixels.iter().zip(samples) {
            sample.media.iter().for_each(|item| self.note(*dataset, item));
            slots.push((items.len()..items.len() + sample.media.len()).collect::<Vec<_>>());
            items.extend(&sample.media);
        }
        if items.is_empty() {
            return Ok(Media { latents: None, slots });
        }
        self.encoded += items.len();
        let input = self.vision_input(&items, slots.clone());
        let latents = self.otter.encode_media(self.parameters, &input, &mut |_, _| {})?;
        Ok(Media { latents: Some(latents), slots })
    }

    fn note(&mut self, dataset: usize, item: &MediaItem) {
        for frame in item.frames.iter().filter(|frame| !frame.notes.is_empty()) {
            let name = self.datasets[dataset].1.frame_name(frame);
            if self.noted.insert(name.clone()) {
                self.image_notes.add(frame.notes, || name.clone());
            }
        }
    }

    fn encode(&mut self, pending: &mut Vec<(Key, &MediaItem)>, size: usize) -> Result<(), EvaluationError> {
        if pending.is_empty() {
            return Ok(());
        }
        let items: Vec<&MediaItem> = pending.iter().map(|(_, item)| *item).collect();
        let input = self.vision_input(&items, Vec::new());
        let latents = self.otter.encode_media(self.parameters, &input, &mut |_, _| {})?.to_host();
        self.encoded += pending.len();
        for ((key, _), latents) in pending.drain(..).zip(latents.data().chunks_exact(size)) {
            self.known.insert(key, latents.to_vec());
        }
        Ok(())
    }

    fn vision_input(&self, items: &[&MediaItem], slots: Vec<Vec<usize>>) -> VisionInput {
        let side = self.otter.config().vision.image_size;
        let mut pixels = Vec::new();
        for frame in items.iter().flat_map(|item| &item.frames) {
            pixels.extend_from_slice(&frame.pixels);
        }
        let shape = [pixels.len() / (3 * side * side), 3, side, side];
        let pixels = Tensor::from_vec(pixels, &shape, Device::Cpu);
        VisionInput::new(pixels, items.iter().map(|item| item.frames.len()), slots)
    }

    fn with_pixels(&self, samples: &[&(usize, usize, &Sample)]) -> Result<Vec<Sample>, EvaluationError> {
        let read = |&&(dataset, index, _): &&(usize, usize, &Sample)| self.datasets[dataset].1.sample(index);
        Ok(samples.par_iter().map(read).collect::<Result<Vec<_>, _>>()?)
    }

    fn keys(&self, dataset: usize, sample: &Sample) -> Vec<Key> {
        let key = |item: &MediaItem| Key {
            files: self.files[dataset],
            table: item.frames.first().map_or(0, |frame| frame.table),
            group: sample.group,
            image_ids: item.frames.iter().map(|frame| frame.image_id.clone()).collect(),
        };
        sample.media.iter().map(key).collect()
    }
}
