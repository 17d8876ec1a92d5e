//! Pictures and videos: from the bytes of a file to pixels, and to the floats that a vision tower takes. Knows no record
//! and no model.
//!
//! ```text
//! bytes ─► open_image ─► RgbImage ─► preprocess ─► f32 (3, size, size)
//! video, GIF, folder ─► video::open_frames ─► frames with their times
//! ```

mod error;
mod image;
mod jpeg;
#[cfg(test)]
#[path = "../../../tests/skip.rs"]
mod skip;
pub mod video;

pub use crate::error::ImageError;
pub use crate::image::{
    AlphaRule, DecodedImage, Gray16Rule, ImageCounts, ImageNote, ImageNotes, ImageRules, ImageTransform,
    MAX_PIXELS, MAX_SIDE, NO_IMAGE, NoteCount, Orientation, RgbImage, decode_image, is_cut, is_image,
    load_image_file, open_image, preprocess, preprocess_shared, resize_bicubic, resize_bicubic_window,
    resize_lanczos,
};
