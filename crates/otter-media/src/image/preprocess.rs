//! RGB pixels to the normalized floats of the vision tower.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::resize::{resize_bicubic, resize_bicubic_window};
use super::rgb::RgbImage;

/// The transforms of the original.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ImageTransform {
    /// Training: squashed to a square, rounded constants.
    #[default]
    Train,
    /// Inference: short side to size, center crop, exact CLIP constants.
    Clip,
    /// Idefics: squashed to a square, exact CLIP constants.
    Idefics,
}

impl ImageTransform {
    fn mean_and_std(self) -> ([f64; 3], [f64; 3]) {
        match self {
            Self::Train => ([0.481, 0.458, 0.408], [0.269, 0.261, 0.276]),
            Self::Clip | Self::Idefics => {
                ([0.481_454_66, 0.457_827_5, 0.408_210_73], [0.268_629_54, 0.261_302_58, 0.275_777_11])
            }
        }
    }
}

/// Resizes, crops and normalizes: (3, size, size).
pub fn preprocess(image: &RgbImage, size: usize, transform: ImageTransform) -> Vec<f32> {
    let mut output = vec![0.0; 3 * size.max(1).pow(2)];
    preprocess_into(image, size, transform, &mut output);
    output
}

/// The same, ready to be shared by samples and a cache.
pub fn preprocess_shared(image: &RgbImage, size: usize, transform: ImageTransform) -> Arc<[f32]> {
    let mut output: Arc<[f32]> = std::iter::repeat_n(0.0, 3 * size.max(1).pow(2)).collect();
    if let Some(output) = Arc::get_mut(&mut output) {
        preprocess_into(image, size, transform, output);
    }
    output
}

fn preprocess_into(image: &RgbImage, size: usize, transform: ImageTransform, output: &mut [f32]) {
    let size = size.max(1);
    let resized = match transform {
        ImageTransform::Train | ImageTransform::Idefics => resize_bicubic(image, size, size),
        ImageTransform::Clip => {
            let (width, height) = (image.width(), image.height());
            let short = width.min(height);
            let (width, height) = (size * width / short, size * height / short);
            let (left, top) = ((width - size) / 2, (height - size) / 2);
            resize_bicubic_window(image, (width, height), left..left + size, top..top + size)
        }
    };
    normalize(&resized, transform, output);
}

/// (size, size, 3) bytes to (3, size, size) floats.
fn normalize(image: &RgbImage, transform: ImageTransform, output: &mut [f32]) {
    let (mean, std) = transform.mean_and_std();
    let tables: [[f32; 256]; 3] = std::array::from_fn(|channel| {
        // Single precision after the division by 255, as in the original.
        let (mean, std) = (mean[channel] as f32, std[channel] as f32);
        std::array::from_fn(|level| ((level as f64 / 255.0) as f32 - mean) / std)
    });
    let (red, rest) = output.split_at_mut(output.len() / 3);
    let (green, blue) = rest.split_at_mut(red.len());
    let (pixels, _) = image.pixels().as_chunks::<3>();
    for (((pixel, red), green), blue) in pixels.iter().zip(red).zip(green).zip(blue) {
        *red = tables[0][usize::from(pixel[0])];
        *green = tables[1][usize::from(pixel[1])];
        *blue = tables[2][usize::from(pixel[2])];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_pixels_becomes_a_full_square() {
        for (width, height) in [(1, 1), (1, 300), (300, 1)] {
            let image = RgbImage::new(width, height, vec![9; width * height * 3]).expect("sizes fit");
            for transform in [ImageTransform::Train, ImageTransform::Clip] {
                assert_eq!(preprocess(&image, 28, transform).len(), 3 * 28 * 28);
            }
        }
    }
}
