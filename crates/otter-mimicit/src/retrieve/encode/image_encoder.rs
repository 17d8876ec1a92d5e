//! The CLIP tower of an Otter checkpoint: pictures to unit vectors. Only the tower's weights are read.

use std::path::Path;

use otter_checkpoint::Checkpoint;
use otter_data::{ImageRules, ImageTransform, open_image, preprocess};
use otter_io::text::hex;
use otter_model::vision::ClipVision;
use otter_nn::{Device, ParameterSpecs, Parameters, Tensor};
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use crate::retrieve::error::{Result, RetrieveError};
use crate::retrieve::vectors::normalize_rows;

/// Where the tower stands in the names of a checkpoint.
const TOWER: &str = "vision_encoder.vision_model";

/// How the rows of a picture become one vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImagePooling {
    /// The class token after the last norm, as CLIP.
    Class,
    /// The mean over the patches: what Otter itself sees, and the choice for towers whose class token was not trained.
    Mean,
}

/// The tower and its weights.
pub struct ImageEncoder {
    tower: ClipVision,
    parameters: Parameters<f32>,
    side: usize,
    width: usize,
    pooling: ImagePooling,
    fingerprint: String,
}

impl ImageEncoder {
    /// Loads the tower of a checkpoint directory.
    ///
    /// # Errors
    /// When a file is missing or damaged, or a tensor of the tower is missing or misshapen.
    pub fn load(directory: &Path, pooling: ImagePooling) -> Result<Self> {
        let checkpoint = Checkpoint::open(directory)?;
        let config = &checkpoint.config.model.vision;
        let mut specs = ParameterSpecs::default();
        let tower = ClipVision::new(&mut specs, TOWER, config);
        let mut hasher = Sha256::new();
        let parameters = Parameters::build(&specs, Device::Cpu, |spec| {
            let shape = checkpoint.weights.get(&spec.name).map(|entry| entry.shape.clone());
            if shape.as_ref().is_some_and(|shape| *shape != spec.shape) {
                let problem =
                    format!("`{}` has shape {shape:?}; the configuration says {:?}", spec.name, spec.shape);
                return Err(RetrieveError::format(directory, problem));
            }
            let values = checkpoint.weights.read_f32(&spec.name)?;
            values.iter().for_each(|value| hasher.update(value.to_le_bytes()));
            Ok(Tensor::from_vec(values, &spec.shape, Device::Cpu))
        })?;
        let fingerprint = format!("clip-2 {pooling:?} {} {}", config.image_size, hex(&hasher.finalize()));
        let (side, width) = (config.image_size, config.hidden_size);
        Ok(Self { tower, parameters, side, width, pooling, fingerprint })
    }

    /// Length of a vector.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Changes when the vectors of any picture may change.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Unit vectors (pictures, width) of encoded pictures, seen as at inference (short side resized, center cropped); zeros
    /// where there is none or it cannot be decoded.
    pub fn encode(&self, pictures: &[Option<Vec<u8>>]) -> Vec<f32> {
        let pixels: Vec<Option<Vec<f32>>> = pictures
            .par_iter()
            .map(|bytes| {
                let picture = open_image(bytes.as_ref()?, ImageRules::default(), "picture").ok()?;
                Some(preprocess(&picture, self.side, ImageTransform::Clip))
            })
            .collect();
        let good: Vec<usize> = (0..pixels.len()).filter(|&picture| pixels[picture].is_some()).collect();
        let mut rows = vec![0.0; pictures.len() * self.width];
        if good.is_empty() {
            return rows;
        }
        let joined: Vec<f32> = pixels.into_iter().flatten().flatten().collect();
        let joined = Tensor::from_vec(joined, &[good.len(), 3, self.side, self.side], Device::Cpu);
        let features = match self.pooling {
            ImagePooling::Class => self.tower.class_features(&self.parameters, &joined).into_vec(),
            ImagePooling::Mean => self.patch_means(&joined),
        };
        for (&picture, features) in good.iter().zip(features.chunks_exact(self.width)) {
            rows[picture * self.width..][..self.width].copy_from_slice(features);
        }
        normalize_rows(&mut rows, self.width);
        rows
    }

    /// The sum over the patches has the direction of the mean.
    fn patch_means(&self, pixels: &Tensor) -> Vec<f32> {
        let features = self.tower.forward(&self.parameters, pixels); // (images, patches, width)
        let patches = features.shape()[1];
        let mut sums = vec![0.0; pixels.shape()[0] * self.width];
        for (sum, image) in
            sums.chunks_exact_mut(self.width).zip(features.data().chunks_exact(patches * self.width))
        {
            for row in image.chunks_exact(self.width) {
                sum.iter_mut().zip(row).for_each(|(sum, &value)| *sum += value);
            }
        }
        sums
    }
}
