//! Scenes to pixels: signed distances, two samples a pixel and direction, a dark random
//! background, and light noise. Uses only exactly rounded operations, so that the same seed gives
//! the same bytes on every machine.

use image::{Rgb, RgbImage};
use rand::rngs::ChaCha8Rng;
use rand::{Rng, RngExt};

use super::scene::{Object, Scene, WORLD_SIDE};
use super::seeding::random_stream;

/// Samples of a pixel in each direction.
const SAMPLES: usize = 2;
/// Standard deviation of the noise of a channel, of 255.
const NOISE: f32 = 0.03 * 255.0;

/// Draws a scene as `size`×`size` pixels. `seed` decides the background, the jitter of the colors
/// and the noise; memory grows with the square of `size` (the writer accepts 32 to 64).
pub fn render(scene: &Scene, size: u32, seed: u64) -> RgbImage {
    let mut random = random_stream(seed, "pixels", 0);
    let shade = random.random_range(0.08..0.40_f32) * 255.0;
    let background: [f32; 3] =
        std::array::from_fn(|_| shade + random.random_range(-0.035..0.035_f32) * 255.0);
    let side = size as usize;
    let mut pixels = vec![background; side * side];
    for object in &scene.objects {
        let gain = random.random_range(0.88..1.05_f32);
        let color = object.color.rgb().map(|value| (f32::from(value) * gain).min(255.0));
        draw(object, color, side, &mut pixels);
    }
    let mut picture = RgbImage::new(size, size);
    for (target, pixel) in picture.pixels_mut().zip(&pixels) {
        *target =
            Rgb(pixel.map(|value| (value + NOISE * noise(&mut random)).round().clamp(0.0, 255.0) as u8));
    }
    picture
}

/// Blends one object over the pixels (side × side, row by row).
fn draw(object: &Object, color: [f32; 3], side: usize, pixels: &mut [[f32; 3]]) {
    let samples_a_unit = (side * SAMPLES) as f32 / WORLD_SIDE;
    let reach = object.size.half_extent() + 1.0;
    let range = |center: f32| {
        let to_pixel = |place: f32| (place * side as f32 / WORLD_SIDE).clamp(0.0, side as f32) as usize;
        to_pixel(center - reach)..(to_pixel(center + reach) + 1).min(side)
    };
    for row in range(object.y) {
        for column in range(object.x) {
            let mut coverage = 0.0;
            for sample in 0..SAMPLES * SAMPLES {
                let x = (column * SAMPLES + sample % SAMPLES) as f32 + 0.5;
                let y = (row * SAMPLES + sample / SAMPLES) as f32 + 0.5;
                let distance = object.signed_distance(x / samples_a_unit, y / samples_a_unit);
                coverage += (0.5 - distance * samples_a_unit).clamp(0.0, 1.0);
            }
            let coverage = coverage / (SAMPLES * SAMPLES) as f32;
            let pixel = &mut pixels[row * side + column];
            for (value, target) in pixel.iter_mut().zip(color) {
                *value += (target - *value) * coverage;
            }
        }
    }
}

/// Nearly normal noise of unit variance: the sum of four random bytes, centered. A byte of 256
/// equally likely values has variance (256² − 1) / 12.
fn noise(random: &mut ChaCha8Rng) -> f32 {
    let sum: i32 = random.next_u32().to_le_bytes().iter().map(|&byte| i32::from(byte)).sum();
    (sum - 510) as f32 / 147.8
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::scene::{Color, Concept, Shape, Size};

    fn centered(color: Color, shape: Shape) -> Scene {
        Scene::single(Object { color, shape, size: Size::Large, x: 16.0, y: 16.0 })
    }

    /// The color of the palette nearest to a pixel.
    fn nearest(pixel: Rgb<u8>) -> Color {
        let distance = |color: &Color| -> i32 {
            color.rgb().iter().zip(pixel.0).map(|(&a, b)| (i32::from(a) - i32::from(b)).pow(2)).sum()
        };
        Color::ALL.into_iter().min_by_key(distance).unwrap_or(Color::Red)
    }

    #[test]
    fn the_same_seed_gives_the_same_bytes() {
        let scene = centered(Color::Red, Shape::Ring);
        assert_eq!(render(&scene, 32, 7), render(&scene, 32, 7));
        assert_ne!(render(&scene, 32, 7), render(&scene, 32, 8));
    }

    #[test]
    fn the_middle_of_an_object_has_its_color() {
        for color in Color::ALL {
            for seed in 0..40 {
                for size in [32, 48, 64] {
                    let picture = render(&centered(color, Shape::Square), size, seed);
                    assert_eq!(nearest(*picture.get_pixel(size / 2, size / 2)), color, "{size} {seed}");
                }
            }
        }
    }

    #[test]
    fn shapes_differ_in_many_pixels() {
        for first in 0..6 {
            for second in 0..first {
                let picture = |index: usize| render(&centered(Color::White, Shape::ALL[index]), 32, 1);
                let (a, b) = (picture(first), picture(second));
                let far = |(a, b): &(&Rgb<u8>, &Rgb<u8>)| a.0[0].abs_diff(b.0[0]) > 60;
                let differing = a.pixels().zip(b.pixels()).filter(far).count();
                assert!(differing >= 20, "{:?} {:?}: {differing}", Shape::ALL[first], Shape::ALL[second]);
            }
        }
    }

    #[test]
    fn noise_has_unit_variance() {
        let mut random = random_stream(1, "noise", 0);
        let values: Vec<f32> = (0..20_000).map(|_| noise(&mut random)).collect();
        let mean = values.iter().sum::<f32>() / 20_000.0;
        let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / 20_000.0;
        assert!(mean.abs() < 0.03 && (variance - 1.0).abs() < 0.05, "{mean} {variance}");
    }

    #[test]
    fn an_object_outside_the_picture_is_harmless() {
        let concept = Concept::from_index(0);
        let object =
            Object { color: concept.color, shape: concept.shape, size: Size::Large, x: -100.0, y: 500.0 };
        assert_eq!(render(&Scene::single(object), 32, 1).dimensions(), (32, 32));
    }
}
