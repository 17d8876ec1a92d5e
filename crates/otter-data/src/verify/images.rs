//! The images: does each decode, how large is it, is it there twice?

use std::hash::{DefaultHasher, Hasher};
use std::io::Cursor;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use image::{ExtendedColorType, ImageEncoder, ImageReader};

use crate::config::DataConfig;
use crate::error::{DataError, Result};
use crate::image_open::{MAX_PIXELS, MAX_SIDE, Orientation, RgbImage, open_image};
use crate::image_resize::resize_bicubic;

use super::finding::{Findings, Reason};
use super::histogram::Histogram;
use super::source::OpenedTable;

/// Images decoded by one task between two merges.
pub(super) const IMAGES_PER_CHUNK: usize = 16;

/// Larger images are decoded one at a time, so that threads do not multiply their memory.
const LARGE_PIXELS: u64 = 1 << 24;

/// Limits beyond which a size is odd.
const ODD_PIXELS: u64 = 50_000_000;
const SMALLEST_SIDE: u64 = 8;
const LARGEST_RATIO: u64 = 20;

/// Longest side of a thumbnail.
const THUMBNAIL_SIDE: usize = 112;

/// A small JPEG for the report.
#[derive(Debug, Clone)]
pub(crate) struct Thumbnail {
    pub(crate) caption: String,
    pub(crate) jpeg: Vec<u8>,
}

/// What was found in some images of one table.
pub(super) struct ImagesChecked {
    pub(super) findings: Findings,
    pub(super) width: Histogram,
    pub(super) height: Histogram,
    pub(super) bytes: Histogram,
    /// Entries that cannot be used.
    pub(super) bad: Vec<u32>,
    /// (hash of the pixels, entry).
    pub(super) contents: Vec<(u64, u32)>,
    pub(super) thumbnails: Vec<Thumbnail>,
}

/// Checks the images of one table.
pub(super) struct ImageCheck<'a> {
    pub(super) orientation: Orientation,
    pub(super) opened: &'a OpenedTable,
    pub(super) max_examples: usize,
    /// Every so many images give a thumbnail; 0 means none.
    pub(super) thumbnail_step: u32,
    /// Held while a large image is decoded.
    pub(super) one_large: &'a Mutex<()>,
}

impl ImageCheck<'_> {
    pub(super) fn run(&self, entries: Range<usize>) -> Result<ImagesChecked> {
        let mut checked = ImagesChecked {
            findings: Findings::new(self.max_examples),
            width: Histogram::default(),
            height: Histogram::default(),
            bytes: Histogram::default(),
            bad: Vec::new(),
            contents: Vec::new(),
            thumbnails: Vec::new(),
        };
        for entry in entries {
            let id = self.opened.table.id(entry)?;
            if let Err((reason, message)) = self.image(entry as u32, &id, &mut checked) {
                checked.bad.push(entry as u32);
                self.add(&mut checked, reason, &id, message);
            }
        }
        Ok(checked)
    }

    fn add(&self, checked: &mut ImagesChecked, reason: Reason, id: &str, message: String) {
        let file = || self.opened.table.path().display().to_string();
        checked.findings.add(reason, self.opened.file, id, || (file(), message));
    }

    fn image(&self, entry: u32, id: &str, checked: &mut ImagesChecked) -> Result<(), (Reason, String)> {
        let bytes = self
            .opened
            .table
            .encoded_entry(entry as usize)
            .map_err(|error| (Reason::BadImageEntry, without_name(&error)))?;
        if bytes.is_empty() {
            return Err((Reason::EmptyImage, "its entry holds no byte".into()));
        }
        let undecodable = |message: String| (Reason::UndecodableImage, message);
        let (width, height) = ImageReader::new(Cursor::new(&bytes))
            .with_guessed_format()
            .map_err(|error| undecodable(error.to_string()))?
            .into_dimensions()
            .map_err(|error| undecodable(format!("{error} ({} bytes)", bytes.len())))?;
        let pixels = u64::from(width) * u64::from(height);
        if pixels > MAX_PIXELS || width.max(height) > MAX_SIDE {
            let message = format!("{width} x {height} pixels in {} bytes", bytes.len());
            return Err((Reason::ImageTooLarge, message));
        }
        // Nothing below waits for other tasks while this is held: a task that waits may be given another image.
        let lock =
            (pixels > LARGE_PIXELS).then(|| self.one_large.lock().unwrap_or_else(PoisonError::into_inner));
        let image =
            open_image(&bytes, self.orientation, id).map_err(|error| undecodable(without_name(&error)))?;
        checked.width.add(u64::from(width));
        checked.height.add(u64::from(height));
        checked.bytes.add(bytes.len() as u64);
        checked.contents.push((pixel_hash(&image), entry));
        if lock.is_none() && self.thumbnail_step > 0 && entry.is_multiple_of(self.thumbnail_step) {
            checked.thumbnails.extend(thumbnail(&image, id));
        }
        drop(image);
        drop(lock);
        if is_truncated(&bytes) {
            let message = format!("its {} bytes stop before the end of the image", bytes.len());
            self.add(checked, Reason::TruncatedImage, id, message);
        }
        let (short, long) = (u64::from(width.min(height)), u64::from(width.max(height)));
        if pixels > ODD_PIXELS || short < SMALLEST_SIDE || long > short * LARGEST_RATIO {
            self.add(checked, Reason::OddImageSize, id, format!("{width} x {height} pixels"));
        }
        Ok(())
    }
}

/// The message of an image error; the id stands beside it anyway.
fn without_name(error: &DataError) -> String {
    match error {
        DataError::Image { message, .. } => message.clone(),
        other => other.to_string(),
    }
}

fn pixel_hash(image: &RgbImage) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write_usize(image.width());
    hasher.write_usize(image.height());
    hasher.write(image.pixels());
    hasher.finish()
}

/// Whether a file lacks the mark that ends it. Decoders fill up what is missing.
fn is_truncated(bytes: &[u8]) -> bool {
    let last = |mark: &[u8]| memchr::memmem::rfind(bytes, mark);
    match bytes {
        // The end mark after the last start of a scan: thumbnails in the head have marks of their own.
        [0xFF, 0xD8, ..] => last(&[0xFF, 0xD9]) < last(&[0xFF, 0xDA]),
        [0x89, b'P', b'N', b'G', ..] => last(b"IEND").is_none(),
        [b'R', b'I', b'F', b'F', a, b, c, d, ..] => {
            bytes.len() as u64 - 8 < u64::from(u32::from_le_bytes([*a, *b, *c, *d]))
        }
        _ => false,
    }
}

/// A small JPEG of an image; `None` if it cannot be encoded.
pub(super) fn thumbnail(image: &RgbImage, caption: &str) -> Option<Thumbnail> {
    let longest = image.width().max(image.height());
    let side = |length: usize| (length * THUMBNAIL_SIDE.min(longest) / longest).max(1);
    let (width, height) = (side(image.width()), side(image.height()));
    let small = resize_bicubic(image, width, height);
    let mut jpeg = Vec::new();
    image::codecs::jpeg::JpegEncoder::new_with_quality(&mut jpeg, 80)
        .write_image(small.pixels(), width as u32, height as u32, ExtendedColorType::Rgb8)
        .ok()?;
    Some(Thumbnail { caption: caption.to_owned(), jpeg })
}

/// Decodes an image again for the report.
pub(super) fn thumbnail_of(config: &DataConfig, opened: &OpenedTable, entry: u32) -> Option<Thumbnail> {
    let id = opened.table.id(entry as usize).ok()?;
    let bytes = opened.table.encoded_entry(entry as usize).ok()?;
    thumbnail(&open_image(&bytes, config.switches().orientation, &id).ok()?, &id)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn cut_files_are_noticed() {
        let image = RgbImage::new(40, 30, (0..3600).map(|i| (i * 7 % 251) as u8).collect()).unwrap();
        let jpeg = thumbnail(&image, "x").unwrap().jpeg;
        assert!(!is_truncated(&jpeg));
        assert!(is_truncated(&jpeg[..jpeg.len() - 2]));
        assert!(is_truncated(&jpeg[..jpeg.len() * 3 / 4]));
        // Something appended does not make it cut.
        assert!(!is_truncated(&[jpeg.as_slice(), b"tail"].concat()));
        assert!(is_truncated(b"RIFF\x40\0\0\0WEBP"));
        assert!(!is_truncated(b""));
    }

    #[test]
    fn thumbnails_keep_the_shape_and_small_images_their_size() {
        for ((width, height), expected) in
            [((400, 100), (112, 28)), ((20, 10), (20, 10)), ((1, 3000), (1, 112))]
        {
            let image = RgbImage::new(width, height, vec![9; width * height * 3]).unwrap();
            let small = open_image(&thumbnail(&image, "").unwrap().jpeg, Orientation::Ignore, "").unwrap();
            assert_eq!((small.width(), small.height()), expected);
        }
    }
}
