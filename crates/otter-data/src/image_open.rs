//! Encoded image bytes to 8-bit RGB, as Pillow's `Image.open(..).convert("RGB")` gives it.
//!
//! Grey is repeated, palettes are looked up, alpha is dropped (not blended), animations give their
//! first frame. Of 16-bit colour samples the high byte is kept, but 16-bit grey is cut at 255, so
//! that all but its darkest values are white: that is what Pillow 13 does and a model was trained
//! on. Convert such images to 8 bits beforehand to keep their tones.

use std::fs::File;
use std::io::{Cursor, Read};
use std::path::Path;

use image::metadata::Orientation as StoredOrientation;
use image::{DynamicImage, ImageDecoder, ImageReader, Limits};
use serde::{Deserialize, Serialize};

use crate::error::{DataError, Result};
use crate::jpeg;

/// Largest number of pixels that is decoded; a small file can claim far more.
pub const MAX_PIXELS: u64 = 200_000_000;

/// Longest side that is decoded: JPEG's own limit. It bounds the memory of the resize passes.
pub const MAX_SIDE: u32 = 65_535;

/// Largest encoded file that is read.
const MAX_FILE_BYTES: u64 = 1 << 28;

/// What to do with the orientation stored in EXIF.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Orientation {
    /// Turn the image upright.
    Apply,
    /// Keep the stored rows, as the original does.
    Ignore,
}

/// An image of 8-bit RGB pixels, rows from top to bottom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RgbImage {
    width: usize,
    height: usize,
    pixels: Vec<u8>, // (height, width, 3)
}

impl RgbImage {
    /// Wraps pixels (height, width, 3); `None` if their number does not fit or a side is zero.
    pub fn new(width: usize, height: usize, pixels: Vec<u8>) -> Option<Self> {
        let expected = width.checked_mul(height)?.checked_mul(3)?;
        (expected > 0 && pixels.len() == expected).then_some(Self { width, height, pixels })
    }

    /// Width in pixels.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Height in pixels.
    pub fn height(&self) -> usize {
        self.height
    }

    /// Pixels (height, width, 3).
    pub fn pixels(&self) -> &[u8] {
        &self.pixels
    }
}

/// Reads and decodes an image file, upright.
pub fn load_image_file(path: &Path) -> Result<RgbImage> {
    let name = path.display().to_string();
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|error| DataError::io(path, error))?;
    // Reads at most one byte too many: the size in the directory says nothing about devices and pipes.
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(|error| DataError::io(path, error))?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(DataError::Image {
            name,
            message: format!("more than the limit of {MAX_FILE_BYTES} bytes; no image is that large"),
        });
    }
    open_image(&bytes, Orientation::Apply, &name)
}

/// Decodes PNG, JPEG, WebP or GIF bytes; `name` is used in messages.
pub fn open_image(bytes: &[u8], orientation: Orientation, name: &str) -> Result<RgbImage> {
    if let Some(image) = open_baseline_jpeg(bytes, orientation) {
        return Ok(image);
    }
    let failed = |message: String| DataError::Image { name: name.to_owned(), message };
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
    let turn = match orientation {
        // A damaged EXIF block says nothing about the pixels.
        Orientation::Apply => decoder.orientation().ok(),
        Orientation::Ignore => None,
    };
    let mut image = DynamicImage::from_decoder(decoder).map_err(decoding_failed)?;
    if let Some(turn) = turn {
        image.apply_orientation(turn);
    }
    let (width, height) = (image.width() as usize, image.height() as usize);
    let pixels = to_rgb(image).map_err(|message| failed(message.to_owned()))?;
    RgbImage::new(width, height, pixels)
        .ok_or_else(|| failed("the decoder returned a wrong number of pixels".into()))
}

/// The usual photograph, exact and fast; `None` for everything that the general decoder has to look at.
fn open_baseline_jpeg(bytes: &[u8], orientation: Orientation) -> Option<RgbImage> {
    let decoded = jpeg::decode(bytes, MAX_PIXELS, MAX_SIDE as usize)?;
    let turn = match orientation {
        Orientation::Apply => decoded.exif.and_then(StoredOrientation::from_exif_chunk),
        Orientation::Ignore => None,
    };
    match turn {
        None | Some(StoredOrientation::NoTransforms) => {
            RgbImage::new(decoded.width, decoded.height, decoded.pixels)
        }
        Some(turn) => {
            let (width, height) = (decoded.width as u32, decoded.height as u32);
            let buffer = image::RgbImage::from_raw(width, height, decoded.pixels)?;
            let mut image = DynamicImage::ImageRgb8(buffer);
            image.apply_orientation(turn);
            let (width, height) = (image.width() as usize, image.height() as usize);
            RgbImage::new(width, height, image.into_rgb8().into_raw())
        }
    }
}

fn limits() -> Limits {
    let mut limits = Limits::default();
    // The widest sample kept while decoding is 16-bit RGBA.
    limits.max_alloc = Some(MAX_PIXELS * 8);
    limits
}

fn to_rgb(image: DynamicImage) -> Result<Vec<u8>, &'static str> {
    Ok(match image {
        DynamicImage::ImageRgb8(image) => image.into_raw(),
        DynamicImage::ImageRgba8(image) => colour::<4, _>(image.as_raw(), |v| v),
        DynamicImage::ImageLuma8(image) => grey::<1, _>(image.as_raw(), |v| v),
        DynamicImage::ImageLumaA8(image) => grey::<2, _>(image.as_raw(), |v| v),
        DynamicImage::ImageRgb16(image) => colour::<3, _>(image.as_raw(), high_byte),
        DynamicImage::ImageRgba16(image) => colour::<4, _>(image.as_raw(), high_byte),
        DynamicImage::ImageLuma16(image) => grey::<1, _>(image.as_raw(), |value: u16| value.min(255) as u8),
        DynamicImage::ImageLumaA16(image) => grey::<2, _>(image.as_raw(), high_byte),
        _ => return Err("floating-point pixels are not supported; convert it to 8 bits"),
    })
}

fn high_byte(value: u16) -> u8 {
    (value >> 8) as u8
}

fn colour<const CHANNELS: usize, T: Copy>(samples: &[T], to_u8: impl Fn(T) -> u8) -> Vec<u8> {
    samples
        .chunks_exact(CHANNELS)
        .flat_map(|pixel| [to_u8(pixel[0]), to_u8(pixel[1]), to_u8(pixel[2])])
        .collect()
}

fn grey<const CHANNELS: usize, T: Copy>(samples: &[T], to_u8: impl Fn(T) -> u8) -> Vec<u8> {
    samples.chunks_exact(CHANNELS).flat_map(|pixel| [to_u8(pixel[0]); 3]).collect()
}
