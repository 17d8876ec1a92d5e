//! An image as 8-bit RGB.

use super::notes::ImageNotes;

/// An image of 8-bit RGB pixels, rows from top to bottom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RgbImage {
    width: usize,
    height: usize,
    pixels: Vec<u8>, // (height, width, 3)
    notes: ImageNotes,
}

impl RgbImage {
    /// Wraps pixels (height, width, 3); `None` if their number does not fit or a side is zero.
    pub fn new(width: usize, height: usize, pixels: Vec<u8>) -> Option<Self> {
        let expected = width.checked_mul(height)?.checked_mul(3)?;
        let notes = ImageNotes::default();
        (expected > 0 && pixels.len() == expected).then_some(Self { width, height, pixels, notes })
    }

    /// The same image with what its pixels do not show.
    pub(crate) fn with_notes(mut self, notes: ImageNotes) -> Self {
        self.notes = notes;
        self
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

    /// What the file held that the pixels do not show; nothing where they come from no file.
    pub fn notes(&self) -> ImageNotes {
        self.notes
    }
}
