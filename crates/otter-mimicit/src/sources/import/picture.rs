//! What becomes of a picture on its way into the data set.
//!
//! By default files that are JPEG or PNG stay as they are, to the byte; other formats become PNG. `image_size` gives what
//! the original's converters write: squashed to a square with Lanczos, without looking at EXIF, as PNG. What is written
//! anew has neither transparency nor 16 bits: [`PictureOptions`] says what becomes of them.

use std::path::Path;

use image::codecs::jpeg::JpegEncoder;
use image::codecs::png::PngEncoder;
use image::{ExtendedColorType, ImageEncoder};
use otter_data::video::Picture;
use otter_data::{
    AlphaRule, Gray16Rule, ImageNotes, ImageRules, Orientation, RgbImage, open_image, resize_lanczos,
};
use serde::Serialize;

use crate::sources::item::{Reason, Skip};

/// How frames of videos are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FrameFormat {
    /// JPEG of this quality, 1 to 100.
    Jpeg(u8),
    /// PNG: without loss, several times larger.
    Png,
}

/// What becomes of pictures.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PictureOptions {
    /// Squash to this side, as the original (224).
    pub image_size: Option<u32>,
    /// Scale larger pictures down to this longest side.
    pub max_side: Option<u32>,
    /// How frames of videos and GIFs are stored.
    pub frame_format: FrameFormat,
    /// What is shown where a picture that is written anew is transparent.
    pub alpha: AlphaRule,
    /// What becomes of gray of 16 bits that is written anew.
    pub gray16: Gray16Rule,
}

impl PictureOptions {
    /// How pictures are decoded.
    pub fn rules(&self) -> ImageRules {
        let orientation = if self.image_size.is_some() { Orientation::Ignore } else { Orientation::Apply };
        ImageRules { orientation, alpha: self.alpha, gray16: self.gray16 }
    }
}

impl Default for PictureOptions {
    fn default() -> Self {
        let ImageRules { alpha, gray16, .. } = ImageRules::default();
        Self { image_size: None, max_side: None, frame_format: FrameFormat::Jpeg(90), alpha, gray16 }
    }
}

/// Largest image file that is read.
const MAX_FILE_BYTES: u64 = 1 << 28;

/// A picture as it is stored.
#[derive(Debug, PartialEq, Eq)]
pub struct Prepared {
    /// Its bytes, or `None` to keep those that were given.
    pub bytes: Option<Vec<u8>>,
    /// What it holds beside the pixels that are shown.
    pub notes: ImageNotes,
}

/// What is stored of a file, whose number of bytes comes first.
pub fn prepare_file(path: &Path, options: &PictureOptions) -> Result<(u64, Prepared), Skip> {
    let broken = |message: String| Skip::new(Reason::BrokenImage, format!("{}: {message}", path.display()));
    let size = std::fs::metadata(path).map_err(|error| broken(error.to_string()))?.len();
    if size > MAX_FILE_BYTES {
        return Err(broken(format!("{size} bytes; no image is that large")));
    }
    let bytes = std::fs::read(path).map_err(|error| broken(error.to_string()))?;
    let prepared = prepare_bytes(&bytes, options, &path.display().to_string())?;
    Ok((bytes.len() as u64, prepared))
}

/// As [`prepare_file`] for bytes; the picture is decoded in any case, so that damage is found now.
pub fn prepare_bytes(bytes: &[u8], options: &PictureOptions, name: &str) -> Result<Prepared, Skip> {
    let broken = |message: String| Skip::new(Reason::BrokenImage, message);
    let image = open_image(bytes, options.rules(), name).map_err(|error| broken(error.to_string()))?;
    let jpeg = bytes.starts_with(&[0xff, 0xd8]);
    let kept = jpeg || bytes.starts_with(b"\x89PNG");
    let bytes = match resized(&image, options) {
        None if kept && options.image_size.is_none() => None,
        resized => {
            let jpeg = jpeg && options.image_size.is_none();
            let format = if jpeg { FrameFormat::Jpeg(95) } else { FrameFormat::Png };
            Some(encode(resized.as_ref().unwrap_or(&image), format).map_err(broken)?)
        }
    };
    Ok(Prepared { bytes, notes: image.notes() })
}

/// The bytes of a frame, and what they do not show.
pub fn prepare_frame(
    picture: Picture,
    options: &PictureOptions,
    name: &str,
) -> Result<(Vec<u8>, ImageNotes), Skip> {
    match picture {
        Picture::Encoded(bytes) => {
            let prepared = prepare_bytes(&bytes, options, name)?;
            Ok((prepared.bytes.unwrap_or(bytes), prepared.notes))
        }
        Picture::Pixels(image) => {
            let format = if options.image_size.is_some() { FrameFormat::Png } else { options.frame_format };
            let resized = resized(&image, options);
            encode(resized.as_ref().unwrap_or(&image), format)
                .map(|bytes| (bytes, image.notes()))
                .map_err(|message| Skip::new(Reason::BrokenVideo, format!("{name}: {message}")))
        }
    }
}

/// The picture in another size, if one is asked for that it does not have.
fn resized(image: &RgbImage, options: &PictureOptions) -> Option<RgbImage> {
    let (width, height) = (image.width(), image.height());
    if let Some(side) = options.image_size {
        let side = side as usize;
        return ((width, height) != (side, side)).then(|| resize_lanczos(image, side, side));
    }
    let (longest, limit) = (width.max(height), options.max_side? as usize);
    (longest > limit).then(|| {
        let scaled = |side: usize| ((side * limit + longest / 2) / longest).max(1);
        resize_lanczos(image, scaled(width), scaled(height))
    })
}

fn encode(image: &RgbImage, format: FrameFormat) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let (width, height) = (image.width() as u32, image.height() as u32);
    let color = ExtendedColorType::Rgb8;
    let written = match format {
        FrameFormat::Jpeg(quality) => JpegEncoder::new_with_quality(&mut bytes, quality).write_image(
            image.pixels(),
            width,
            height,
            color,
        ),
        FrameFormat::Png => PngEncoder::new(&mut bytes).write_image(image.pixels(), width, height, color),
    };
    written.map(|()| bytes).map_err(|error| error.to_string())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn picture(width: usize, height: usize) -> RgbImage {
        RgbImage::new(width, height, (0..width * height * 3).map(|i| (i * 7 % 256) as u8).collect()).unwrap()
    }

    #[test]
    fn jpeg_and_png_stay_as_they_are() {
        let options = PictureOptions::default();
        for format in [FrameFormat::Png, FrameFormat::Jpeg(80)] {
            let bytes = encode(&picture(20, 10), format).unwrap();
            assert_eq!(prepare_bytes(&bytes, &options, "x").unwrap().bytes, None);
        }
        let skip = prepare_bytes(b"\x89PNG but no more", &options, "x.png").unwrap_err();
        assert_eq!(skip.reason, Reason::BrokenImage);
        assert!(skip.message.contains("x.png"));
    }

    #[test]
    fn sizes_are_as_asked() {
        let bytes = encode(&picture(20, 10), FrameFormat::Jpeg(80)).unwrap();
        let size = |options: &PictureOptions| {
            let new = prepare_bytes(&bytes, options, "x").unwrap().bytes.unwrap();
            let image = open_image(&new, ImageRules::REFERENCE, "x").unwrap();
            (image.width(), image.height(), new.starts_with(b"\x89PNG"))
        };
        let limited = PictureOptions { max_side: Some(8), ..PictureOptions::default() };
        assert_eq!(size(&limited), (8, 4, false));
        let squashed = PictureOptions { image_size: Some(6), ..PictureOptions::default() };
        assert_eq!(size(&squashed), (6, 6, true));
        let large = PictureOptions { max_side: Some(20), ..PictureOptions::default() };
        assert_eq!(prepare_bytes(&bytes, &large, "x").unwrap().bytes, None);
        // As the original: a PNG even where the size is right already.
        let square = encode(&picture(6, 6), FrameFormat::Jpeg(80)).unwrap();
        assert!(prepare_bytes(&square, &squashed, "x").unwrap().bytes.unwrap().starts_with(b"\x89PNG"));
    }
}
