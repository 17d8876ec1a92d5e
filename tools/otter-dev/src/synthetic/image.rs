//! Small pictures: a shaded ground with a few rectangles, as PNG or JPEG.

use std::io::Cursor;

use image::codecs::jpeg::JpegEncoder;
use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::{ExtendedColorType, ImageEncoder, ImageResult};
use rand::RngExt;

use super::random::stream;

/// Encoded bytes of picture `number`.
pub(super) fn picture(seed: u64, number: u64) -> ImageResult<Vec<u8>> {
    let mut random = stream(seed, "picture", number);
    let (width, height) = (random.random_range(32..=64_usize), random.random_range(32..=64_usize));
    let ground: [u8; 3] = random.random();
    let mut pixels = Vec::with_capacity(width * height * 3);
    for row in 0..height {
        let shade = (row * 64 / height) as u8;
        pixels.extend(ground.map(|value| value.saturating_sub(shade)).repeat(width));
    }
    for _ in 0..random.random_range(1..=4) {
        let color: [u8; 3] = random.random();
        let (left, top) = (random.random_range(0..width - 8), random.random_range(0..height - 8));
        let (right, bottom) = (random.random_range(left + 4..width), random.random_range(top + 4..height));
        for row in top..bottom {
            pixels[(row * width + left) * 3..(row * width + right) * 3]
                .copy_from_slice(&color.repeat(right - left));
        }
    }
    let mut encoded = Cursor::new(Vec::with_capacity(2048));
    let (width, height) = (width as u32, height as u32);
    if number.is_multiple_of(2) {
        PngEncoder::new_with_quality(&mut encoded, CompressionType::Fast, FilterType::Sub).write_image(
            &pixels,
            width,
            height,
            ExtendedColorType::Rgb8,
        )?;
    } else {
        JpegEncoder::new_with_quality(&mut encoded, 75).write_image(
            &pixels,
            width,
            height,
            ExtendedColorType::Rgb8,
        )?;
    }
    Ok(encoded.into_inner())
}
