//! What each patch of a picture shows: targets for pre-training a vision tower.

use super::error::ToyboxError;
use super::scene::{Color, Scene, Shape, Size, WORLD_SIDE};

/// An object must cover this share of a patch to be its label; below it the patch is background.
const LEAST_SHARE: f32 = 0.25;

/// What one patch shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PatchLabel {
    /// No object, or only a sliver of one.
    Background,
    /// The object that covers most of the patch.
    Object {
        /// Its color.
        color: Color,
        /// Its shape.
        shape: Shape,
        /// Its size.
        size: Size,
    },
}

/// Labels of the patches of a `size`×`size` picture, row by row: (size / patch)² of them.
pub fn patch_labels(scene: &Scene, size: u32, patch: u32) -> Result<Vec<PatchLabel>, ToyboxError> {
    if patch == 0 || size == 0 || !size.is_multiple_of(patch) {
        return Err(ToyboxError::option("patch", patch, format!("a divisor of the image size {size}")));
    }
    let across = size / patch;
    let unit = WORLD_SIDE / size as f32;
    let mut labels = Vec::with_capacity((across * across) as usize);
    let mut covered = vec![0u32; scene.objects.len()];
    for top in (0..size).step_by(patch as usize) {
        for left in (0..size).step_by(patch as usize) {
            covered.fill(0);
            for pixel in 0..patch * patch {
                let x = ((left + pixel % patch) as f32 + 0.5) * unit;
                let y = ((top + pixel / patch) as f32 + 0.5) * unit;
                // The last object is in front.
                if let Some(front) = scene.objects.iter().rposition(|o| o.signed_distance(x, y) <= 0.0) {
                    covered[front] += 1;
                }
            }
            let most = (0..covered.len()).max_by_key(|&index| covered[index]);
            labels.push(match most {
                Some(index) if covered[index] as f32 >= LEAST_SHARE * (patch * patch) as f32 => {
                    let object = &scene.objects[index];
                    PatchLabel::Object { color: object.color, shape: object.shape, size: object.size }
                }
                _ => PatchLabel::Background,
            });
        }
    }
    Ok(labels)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::world::{random_stream, render};

    /// The color of the palette nearest to a pixel.
    fn nearest(pixel: [u8; 3]) -> Color {
        let distance = |color: &Color| -> u32 {
            color.rgb().iter().zip(pixel).map(|(a, b)| u32::from(a.abs_diff(b)).pow(2)).sum()
        };
        Color::ALL.into_iter().min_by_key(distance).unwrap()
    }

    #[test]
    fn labels_agree_with_the_pixels() {
        // Vivid pixels (a channel far from the others, or bright) belong to objects: where a patch
        // is labeled, most of its vivid pixels have the color of the label; a background patch
        // has few of them.
        let (mut objects, mut agreeing, mut vivid_pixels) = (0, 0, 0);
        for index in 0..100 {
            let scene = Scene::random(&mut random_stream(5, "scene", index));
            let picture = render(&scene, 32, index);
            for (number, label) in patch_labels(&scene, 32, 4).unwrap().into_iter().enumerate() {
                let (left, top) = ((number % 8) as u32 * 4, (number / 8) as u32 * 4);
                let pixels = (0..16).map(|p| picture.get_pixel(left + p % 4, top + p / 4).0);
                let vivid: Vec<[u8; 3]> = pixels.filter(|p| *p.iter().max().unwrap() > 150).collect();
                match label {
                    PatchLabel::Object { color, .. } => {
                        objects += 1;
                        vivid_pixels += vivid.len();
                        agreeing += vivid.iter().filter(|&&pixel| nearest(pixel) == color).count();
                        assert!(!vivid.is_empty() || color == Color::Purple || color == Color::Green);
                    }
                    PatchLabel::Background => {
                        assert!(vivid.len() <= 6, "scene {index} patch {number}: {}", vivid.len());
                    }
                }
            }
        }
        assert!(objects > 400 && vivid_pixels > 3000, "{objects} {vivid_pixels}");
        assert!(agreeing as f32 > 0.95 * vivid_pixels as f32, "{agreeing} of {vivid_pixels}");
    }

    #[test]
    fn every_object_is_seen_by_some_patch() {
        for index in 0..200 {
            let scene = Scene::random(&mut random_stream(6, "scene", index));
            let labels = patch_labels(&scene, 32, 4).unwrap();
            for object in &scene.objects {
                let label =
                    PatchLabel::Object { color: object.color, shape: object.shape, size: object.size };
                assert!(labels.contains(&label), "{object:?}");
            }
        }
    }

    #[test]
    fn a_patch_that_does_not_divide_is_refused() {
        let scene = Scene::default();
        assert_eq!(patch_labels(&scene, 32, 8).unwrap(), vec![PatchLabel::Background; 16]);
        for patch in [0, 5, 64] {
            assert!(patch_labels(&scene, 32, patch).unwrap_err().to_string().contains("patch"));
        }
    }
}
