//! The images: does each decode, how large is it, is it there twice?

use std::io::Cursor;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use image::{ExtendedColorType, ImageEncoder, ImageReader};
use otter_media::{
    AlphaRule, DecodedImage, ImageNote, ImageRules, MAX_PIXELS, MAX_SIDE, RgbImage, decode_image, open_image,
    resize_bicubic,
};

use crate::config::DataConfig;
use crate::error::{DataError, Result};

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
    pub(super) rules: ImageRules,
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
            .map_err(|error| (Reason::BadImageEntry, without_name(error)))?;
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
        let decoded = decode_image(&bytes, self.rules.orientation, id)
            .map_err(|error| undecodable(without_name(error)))?;
        checked.width.add(u64::from(width));
        checked.height.add(u64::from(height));
        checked.bytes.add(bytes.len() as u64);
        // Of an animation only one frame is decoded here, but all of it is what a person sees.
        let whole = decoded.notes.contains(ImageNote::OneFrame).then_some(bytes.as_slice());
        checked.contents.push((decoded.shown_hash(whole), entry));
        if let Some(message) = transparency(&decoded, self.rules) {
            self.add(checked, Reason::TransparentImage, id, message);
        }
        let image = decoded.into_rgb(self.rules).map_err(|message| undecodable(message.to_owned()))?;
        if lock.is_none() && self.thumbnail_step > 0 && entry.is_multiple_of(self.thumbnail_step) {
            checked.thumbnails.extend(thumbnail(&image, id));
        }
        for note in image.notes().iter() {
            if let Some((reason, message)) = self.noted(note, bytes.len()) {
                self.add(checked, reason, id, message);
            }
        }
        drop(image);
        drop(lock);
        let (short, long) = (u64::from(width.min(height)), u64::from(width.max(height)));
        if pixels > ODD_PIXELS || short < SMALLEST_SIDE || long > short * LARGEST_RATIO {
            self.add(checked, Reason::OddImageSize, id, format!("{width} x {height} pixels"));
        }
        Ok(())
    }

    fn noted(&self, note: ImageNote, bytes: usize) -> Option<(Reason, String)> {
        let gray16 = self.rules.gray16.name();
        Some(match note {
            ImageNote::AlphaDropped | ImageNote::AlphaBlended | ImageNote::VideoAlpha => return None,
            ImageNote::Gray16Clipped => {
                (Reason::Gray16Image, format!("values above 255 are white (gray16 is `{gray16}`)"))
            }
            ImageNote::Gray16Dark => {
                (Reason::Gray16Image, "nearly black: its values of 16 bits are small".to_owned())
            }
            ImageNote::Cut => {
                (Reason::TruncatedImage, format!("its {bytes} bytes stop before the end of the image"))
            }
            ImageNote::OneFrame => (Reason::AnimatedImage, "more than one frame".to_owned()),
            ImageNote::Cmyk => (Reason::CmykImage, "four color components".to_owned()),
            ImageNote::Turned => {
                (Reason::TurnedImage, "shown as it is stored (orientation is `ignore`)".to_owned())
            }
        })
    }
}

/// Mean difference in levels from which it matters what is shown where an image is transparent.
const TRANSPARENCY_MATTERS: f64 = 8.0;

/// Why the rule for transparency matters for this image, if it does.
fn transparency(decoded: &DecodedImage, rules: ImageRules) -> Option<String> {
    if !decoded.is_transparent() {
        return None;
    }
    let shown = |alpha| decoded.clone().into_rgb(ImageRules { alpha, ..rules }).ok();
    let (dropped, white) = (shown(AlphaRule::Drop)?, shown(AlphaRule::White)?);
    // How far the levels of a channel are apart.
    let spread = |image: &RgbImage| {
        let (pixels, _) = image.pixels().as_chunks::<3>();
        let channels = (0..3).map(|channel| {
            let levels = pixels.iter().map(|pixel| pixel[channel]);
            levels.clone().max().unwrap_or_default() - levels.min().unwrap_or_default()
        });
        channels.max().unwrap_or_default()
    };
    let is_flat = |image: &RgbImage| spread(image) == 0;
    let is_seen = |image: &RgbImage| f64::from(spread(image)) > TRANSPARENCY_MATTERS;
    let nothing_is_seen = match rules.alpha {
        AlphaRule::Drop => {
            is_flat(&dropped) && (is_seen(&white) || shown(AlphaRule::Black).is_some_and(|i| is_seen(&i)))
        }
        AlphaRule::White => is_flat(&white) && shown(AlphaRule::Black).is_some_and(|i| is_seen(&i)),
        AlphaRule::Black => is_seen(&white) && shown(AlphaRule::Black).is_some_and(|i| is_flat(&i)),
    };
    if nothing_is_seen {
        return Some(format!(
            "nothing of it is seen with alpha = `{}`: all pixels are equal",
            rules.alpha.name()
        ));
    }
    let levels: u64 =
        dropped.pixels().iter().zip(white.pixels()).map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
    let mean = levels as f64 / white.pixels().len() as f64;
    (mean > TRANSPARENCY_MATTERS).then(|| {
        let own = rules.alpha.name();
        format!("its hidden colors and white differ by {mean:.0} levels on average (alpha is `{own}`)")
    })
}

/// The message of an image error; the id stands beside it anyway.
fn without_name(error: impl Into<DataError>) -> String {
    match error.into() {
        DataError::Image { message, .. } => message,
        other => other.to_string(),
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
    thumbnail(&open_image(&bytes, config.switches().image_rules, &id).ok()?, &id)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_picture_that_is_plain_on_every_ground_hides_nothing() {
        let message = |pixel: [u8; 4], alpha| {
            let mut pixels = image::RgbaImage::from_pixel(9, 9, image::Rgba([9, 90, 200, 255]));
            pixels.put_pixel(4, 4, image::Rgba(pixel));
            let decoded = DecodedImage::new(pixels.into(), false);
            transparency(&decoded, ImageRules { alpha, ..ImageRules::default() })
        };
        for alpha in [AlphaRule::Drop, AlphaRule::White, AlphaRule::Black] {
            assert_eq!(message([9, 90, 200, 254], alpha), None);
        }
        assert!(message([9, 90, 200, 0], AlphaRule::Drop).unwrap().contains("nothing of it is seen"));
    }

    #[test]
    fn thumbnails_keep_the_shape_and_small_images_their_size() {
        for ((width, height), expected) in
            [((400, 100), (112, 28)), ((20, 10), (20, 10)), ((1, 3000), (1, 112))]
        {
            let image = RgbImage::new(width, height, vec![9; width * height * 3]).unwrap();
            let small = open_image(&thumbnail(&image, "").unwrap().jpeg, ImageRules::REFERENCE, "").unwrap();
            assert_eq!((small.width(), small.height()), expected);
        }
    }
}
