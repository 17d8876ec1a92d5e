//! Features of the frozen vision tower on disk, so that a picture is encoded once and not in every epoch.
//!
//! ```text
//! DIR/<tower>/features.f16   one record a picture: patches x width half-precision numbers
//! DIR/<tower>/keys           one entry a record: key (16 bytes), checksum of the record (8 bytes)
//! ```
//!
//! A key is the start of the SHA-256 of the preprocessed pixels, so that the same picture under another name, or in another
//! data set, is the same record, and a changed picture is another one. `<tower>` is that of the tower's weights. An entry
//! is written after its record: what an interrupted run leaves is a record without entry, which is cut off, or an entry
//! whose checksum is wrong, which is computed anew. Features are rounded to half precision (relative error at most
//! 2^-11) also when they are fresh, so that a run does not depend on what the cache held before.

use std::collections::HashMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use half::f16;
use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};
use otter_model::Otter;
use otter_nn::{Parameters, Tensor};
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use crate::error::{Result, TrainError};

type Key = [u8; 16];
const ENTRY_BYTES: usize = 24;

/// What the cache did so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CacheCounts {
    /// Pictures whose features were read.
    pub hits: u64,
    /// Pictures that were encoded.
    pub encoded: u64,
    /// Of these, pictures that were not added, because the cache is full or another process writes to it.
    pub not_added: u64,
}

/// Features on disk, of one tower.
pub struct FeatureCache {
    folder: PathBuf,
    features: File,
    keys: File,
    /// Places and checksums of the records.
    places: HashMap<Key, (u64, u64)>,
    /// Numbers of a record.
    record: usize,
    /// Records of the file, and how many it may have.
    records: u64,
    limit: u64,
    /// Another process has the lock: read only.
    read_only: bool,
    counts: CacheCounts,
}

impl FeatureCache {
    /// Opens, or makes, the cache of this model's tower in `directory`. It grows up to `max_bytes`.
    ///
    /// # Errors
    /// When a file cannot be opened or read.
    pub fn open(directory: &Path, otter: &Otter, parameters: &Parameters, max_bytes: u64) -> Result<Self> {
        let vision = &otter.config().vision;
        let record = vision.num_patches() * vision.hidden_size;
        let folder = directory.join(tower_name(parameters));
        std::fs::create_dir_all(&folder).map_err(TrainError::io(&folder, "create"))?;
        let open = |name: &str| {
            let path = folder.join(name);
            let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
            file.map_err(TrainError::io(&path, "open"))
        };
        let (features, keys) = (open("features.f16")?, open("keys")?);
        let read_only = match keys.try_lock() {
            Ok(()) => false,
            Err(TryLockError::WouldBlock) => true,
            Err(TryLockError::Error(error)) => {
                return Err(TrainError::io(&folder.join("keys"), "lock")(error));
            }
        };
        let limit = max_bytes / (2 * record as u64 + ENTRY_BYTES as u64);
        let (places, counts) = (HashMap::new(), CacheCounts::default());
        let mut cache = Self { folder, features, keys, places, record, records: 0, limit, read_only, counts };
        cache.read_keys()?;
        Ok(cache)
    }

    fn read_keys(&mut self) -> Result<()> {
        let failed = |path: PathBuf, what| move |error| TrainError::io(&path, what)(error);
        let (features_path, keys_path) = (self.folder.join("features.f16"), self.folder.join("keys"));
        let feature_bytes = self.features.metadata().map_err(failed(features_path.clone(), "open"))?.len();
        let key_bytes = self.keys.metadata().map_err(failed(keys_path.clone(), "open"))?.len();
        self.records = (feature_bytes / self.record_bytes()).min(key_bytes / ENTRY_BYTES as u64);
        let mut entry = [0; ENTRY_BYTES];
        let mut reader = std::io::BufReader::new(&self.keys);
        for place in 0..self.records {
            reader.read_exact(&mut entry).map_err(failed(keys_path.clone(), "read"))?;
            let (mut key, mut sum) = ([0; 16], [0; 8]);
            key.copy_from_slice(&entry[..16]);
            sum.copy_from_slice(&entry[16..]);
            self.places.insert(key, (place, u64::from_le_bytes(sum)));
        }
        if !self.read_only {
            let bytes = self.records * self.record_bytes();
            self.features.set_len(bytes).map_err(failed(features_path, "cut"))?;
            self.keys.set_len(self.records * ENTRY_BYTES as u64).map_err(failed(keys_path, "cut"))?;
        }
        Ok(())
    }

    fn record_bytes(&self) -> u64 {
        2 * self.record as u64
    }

    /// One line about what there is.
    pub fn describe(&self) -> String {
        let gib = |records: u64| (records * self.record_bytes()) as f64 / (1u64 << 30) as f64;
        let state = if self.read_only { "; another process adds to it, this one only reads" } else { "" };
        format!(
            "vision features: {} pictures in {} ({:.2} of at most {:.1} GiB, {} KiB each){state}",
            self.places.len(),
            self.folder.display(),
            gib(self.records),
            gib(self.limit),
            self.record_bytes() / 1024,
        )
    }

    /// What was found and what was not.
    pub fn counts(&self) -> CacheCounts {
        self.counts
    }

    /// Features (frames, patches, width) of pixels (frames, 3, side, side). Equal pictures are encoded once.
    ///
    /// # Errors
    /// When the files cannot be read or written.
    pub fn features(&mut self, otter: &Otter, parameters: &Parameters, pixels: &Tensor) -> Result<Tensor> {
        let frames = pixels.shape()[0];
        let frame_len = pixels.len() / frames.max(1);
        let keys: Vec<Key> = pixels.data().par_chunks(frame_len.max(1)).map(picture_key).collect();
        let mut out = vec![0.0; frames * self.record];
        let mut missing: Vec<(Key, usize)> = Vec::new();
        for (frame, key) in keys.iter().enumerate() {
            let own = &mut out[frame * self.record..(frame + 1) * self.record];
            if self.read(key, own)? {
                self.counts.hits += 1;
            } else if !missing.iter().any(|(known, _)| known == key) {
                missing.push((*key, frame));
            }
        }
        for (key, frame) in missing {
            // One at a time: in company the products are summed in other blocks, and the rounding could differ.
            let picture = pixels.data()[frame * frame_len..(frame + 1) * frame_len].to_vec();
            let mut shape = pixels.shape().to_vec();
            shape[0] = 1;
            let picture = Tensor::from_vec(picture, &shape, pixels.device());
            let mut rounded = vec![f16::ZERO; self.record];
            rounded.convert_from_f32_slice(otter.vision_features(parameters, &picture).to_host().data());
            parameters.device().check()?;
            self.counts.encoded += 1;
            self.add(&key, &rounded)?;
            for (frame, _) in keys.iter().enumerate().filter(|(_, own)| **own == key) {
                rounded.convert_to_f32_slice(&mut out[frame * self.record..(frame + 1) * self.record]);
            }
        }
        let vision = &otter.config().vision;
        Ok(Tensor::from_vec(out, &[frames, vision.num_patches(), vision.hidden_size], pixels.device()))
    }

    /// Fills `out` with the record of a picture; false where there is none that is whole.
    fn read(&mut self, key: &Key, out: &mut [f32]) -> Result<bool> {
        let Some(&(place, sum)) = self.places.get(key) else { return Ok(false) };
        let mut bytes = vec![0; 2 * self.record];
        self.features
            .seek(SeekFrom::Start(place * self.record_bytes()))
            .and_then(|_| self.features.read_exact(&mut bytes))
            .map_err(TrainError::io(&self.folder.join("features.f16"), "read"))?;
        if checksum(&bytes) != sum {
            self.places.remove(key);
            return Ok(false);
        }
        let bits: Vec<u16> = bytes.as_chunks::<2>().0.iter().map(|pair| u16::from_le_bytes(*pair)).collect();
        bits.reinterpret_cast::<f16>().convert_to_f32_slice(out);
        Ok(true)
    }

    fn add(&mut self, key: &Key, values: &[f16]) -> Result<()> {
        if self.read_only || self.records >= self.limit {
            self.counts.not_added += 1;
            return Ok(());
        }
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let sum = checksum(&bytes);
        self.features
            .seek(SeekFrom::Start(self.records * self.record_bytes()))
            .and_then(|_| self.features.write_all(&bytes))
            .map_err(TrainError::io(&self.folder.join("features.f16"), "write"))?;
        let entry = [key.as_slice(), &sum.to_le_bytes()].concat();
        self.keys
            .seek(SeekFrom::Start(self.records * ENTRY_BYTES as u64))
            .and_then(|_| self.keys.write_all(&entry))
            .map_err(TrainError::io(&self.folder.join("keys"), "write"))?;
        self.places.insert(*key, (self.records, sum));
        self.records += 1;
        Ok(())
    }
}

/// Start of the SHA-256 of the pixels of one picture.
fn picture_key(pixels: &[f32]) -> Key {
    let mut hash = Sha256::new();
    update(&mut hash, pixels);
    let mut key = [0; 16];
    key.copy_from_slice(&hash.finalize()[..16]);
    key
}

fn checksum(bytes: &[u8]) -> u64 {
    let mut sum = [0; 8];
    sum.copy_from_slice(&Sha256::digest(bytes)[..8]);
    u64::from_le_bytes(sum)
}

fn update(hash: &mut Sha256, values: &[f32]) {
    let mut bytes = [0; 4096];
    for part in values.chunks(bytes.len() / 4) {
        for (to, value) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(part) {
            *to = value.to_le_bytes();
        }
        hash.update(&bytes[..part.len() * 4]);
    }
}

/// A name for the tower's weights: names, shapes and values.
fn tower_name(parameters: &Parameters) -> String {
    let mut hash = Sha256::new();
    for parameter in parameters.iter().filter(|parameter| parameter.name.starts_with("vision_encoder.")) {
        hash.update(format!("{} {:?};", parameter.name, parameter.tensor.shape()));
        parameter.tensor.view().chunks(1 << 16).for_each(|part| update(&mut hash, &part));
    }
    otter_io::text::hex(&hash.finalize()[..8])
}
