//! RGB pixels to the normalised floats of the vision tower (`spec/data.md` 2.4).

use serde::{Deserialize, Serialize};

use crate::image_open::RgbImage;
use crate::image_resize::{resize_bicubic, resize_bicubic_window};

/// The two transforms of the original.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ImageTransform {
    /// Training: squashed to a square, rounded constants.
    #[default]
    Train,
    /// Inference: short side to size, centre crop, exact CLIP constants.
    Clip,
}

impl ImageTransform {
    fn mean_and_std(self) -> ([f64; 3], [f64; 3]) {
        match self {
            Self::Train => ([0.481, 0.458, 0.408], [0.269, 0.261, 0.276]),
            Self::Clip => {
                ([0.481_454_66, 0.457_827_5, 0.408_210_73], [0.268_629_54, 0.261_302_58, 0.275_777_11])
            }
        }
    }
}

/// Resizes, crops and normalises: (3, size, size).
pub fn preprocess(image: &RgbImage, size: usize, transform: ImageTransform) -> Vec<f32> {
    let size = size.max(1);
    let resized = match transform {
        ImageTransform::Train => resize_bicubic(image, size, size),
        ImageTransform::Clip => {
            let (width, height) = (image.width(), image.height());
            let short = width.min(height);
            let (width, height) = (size * width / short, size * height / short);
            let (left, top) = ((width - size) / 2, (height - size) / 2);
            resize_bicubic_window(image, (width, height), left..left + size, top..top + size)
        }
    };
    normalise(&resized, transform)
}

fn normalise(image: &RgbImage, transform: ImageTransform) -> Vec<f32> {
    let (mean, std) = transform.mean_and_std();
    let mut output = Vec::with_capacity(image.pixels().len());
    for channel in 0..3 {
        // Single precision after the division by 255, as in the original.
        let (mean, std) = (mean[channel] as f32, std[channel] as f32);
        let table: [f32; 256] = std::array::from_fn(|level| ((level as f64 / 255.0) as f32 - mean) / std);
        output.extend(image.pixels().iter().skip(channel).step_by(3).map(|&level| table[usize::from(level)]));
    }
    output
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
