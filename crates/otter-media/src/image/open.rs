//! Encoded image bytes to 8-bit RGB, as Pillow's `Image.open(..).convert("RGB")` gives it with [`ImageRules::REFERENCE`].
//!
//! Gray is repeated, palettes are looked up, animations give one frame; of 16-bit color samples the high byte is kept.
//! Transparency, gray of 16 bits and stored orientation follow [`ImageRules`]. Color profiles and gamma are not applied,
//! as in Pillow. What an image held that its pixels do not show is told in [`RgbImage::notes`].

use std::fs::File;
use std::io::{Cursor, Read};
use std::path::Path;

use image::metadata::Orientation as StoredOrientation;
use image::{DynamicImage, ExtendedColorType, ImageDecoder, ImageReader, Limits};

use super::decoded::DecodedImage;
use super::encoded::{has_several_frames, is_cmyk, is_cut};
use super::notes::ImageNote;
use super::rgb::RgbImage;
use super::rules::{ImageRules, Orientation};
use crate::error::ImageError;
use crate::jpeg;

/// Largest number of pixels that is decoded; a small file can claim far more.
pub const MAX_PIXELS: u64 = 200_000_000;

/// Longest side that is decoded: JPEG's own limit. It bounds the memory of the resize passes.
pub const MAX_SIDE: u32 = 65_535;

/// Largest encoded file that is read.
const MAX_FILE_BYTES: u64 = 1 << 28;

/// Reads and decodes an image file.
pub fn load_image_file(path: &Path, rules: ImageRules) -> Result<RgbImage, ImageError> {
    let name = path.display().to_string();
    let mut bytes = Vec::new();
    let unreadable =
        |error: std::io::Error| ImageError::Io { path: path.to_owned(), message: error.to_string() };
    let file = File::open(path).map_err(unreadable)?;
    // Reads at most one byte too many: the size in the directory says nothing about devices and pipes.
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(ImageError::Decode {
            name,
            message: format!("more than the limit of {MAX_FILE_BYTES} bytes; no image is that large"),
        });
    }
    open_image(&bytes, rules, &name)
}

/// Decodes PNG, JPEG, WebP or GIF bytes; `name` is used in messages.
pub fn open_image(bytes: &[u8], rules: ImageRules, name: &str) -> Result<RgbImage, ImageError> {
    let decoded = decode_image(bytes, rules.orientation, name)?;
    let failed = |message: &str| ImageError::Decode { name: name.to_owned(), message: message.to_owned() };
    decoded.into_rgb(rules).map_err(failed)
}

/// As [`open_image`], before samples become 8-bit RGB.
pub fn decode_image(bytes: &[u8], orientation: Orientation, name: &str) -> Result<DecodedImage, ImageError> {
    if let Some(decoded) = decode_baseline_jpeg(bytes, orientation) {
        return Ok(decoded);
    }
    let failed = |message: String| ImageError::Decode { name: name.to_owned(), message };
    let decoding_failed = |error: image::ImageError| {
        failed(format!("cannot be decoded ({error}); the bytes are damaged or no PNG, JPEG, WebP or GIF"))
    };
    let mut reader = ImageReader::new(Cursor::new(bytes))
        .with_guessed_format()
        .map_err(|error| failed(format!("cannot be read ({error})")))?;
    reader.limits(limits());
    let mut decoder = reader.into_decoder().map_err(decoding_failed)?;
    let (width, height) = decoder.dimensions();
    if u64::from(width) * u64::from(height) > MAX_PIXELS || width.max(height) > MAX_SIDE {
        return Err(failed(format!(
            "{width} x {height} pixels exceed the limit of {MAX_PIXELS} pixels or {MAX_SIDE} a side; scale it down"
        )));
    }
    if width == 0 || height == 0 {
        return Err(failed(format!("it is empty ({width} x {height} pixels)")));
    }
    // A damaged EXIF block says nothing about the pixels.
    let turn = decoder.orientation().ok();
    // A PNG's single transparent gray value becomes an alpha channel in decoding.
    let gray16 = decoder.original_color_type() == ExtendedColorType::L16;
    let pixels = DynamicImage::from_decoder(decoder).map_err(decoding_failed)?;
    let mut decoded = DecodedImage::new(pixels, gray16);
    decoded.turn(turn, orientation);
    for (holds, note) in [
        (is_cut(bytes), ImageNote::Cut),
        (has_several_frames(bytes), ImageNote::OneFrame),
        (is_cmyk(bytes), ImageNote::Cmyk),
    ] {
        if holds {
            decoded.notes.insert(note);
        }
    }
    Ok(decoded)
}

/// The usual photograph, exact and fast; `None` for everything that the general decoder has to look at.
fn decode_baseline_jpeg(bytes: &[u8], orientation: Orientation) -> Option<DecodedImage> {
    let decoded = jpeg::decode(bytes, MAX_PIXELS, MAX_SIDE as usize)?;
    let buffer = image::RgbImage::from_raw(decoded.width as u32, decoded.height as u32, decoded.pixels)?;
    let mut image = DecodedImage::new(DynamicImage::ImageRgb8(buffer), false);
    image.turn(decoded.exif.and_then(StoredOrientation::from_exif_chunk), orientation);
    Some(image)
}

fn limits() -> Limits {
    let mut limits = Limits::default();
    // The widest sample kept while decoding is 16-bit RGBA.
    limits.max_alloc = Some(MAX_PIXELS * 8);
    limits
}
