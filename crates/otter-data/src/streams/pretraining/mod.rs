//! Pre-training: image–caption pairs and interleaved documents.
//!
//! ```text
//! StreamConfig ─► Shards (tar, JSON lines) ─► caption or document ─► pieces of text + images ─► Sample
//! ```
//!
//! Streams stand beside the MIMIC-IT sets in one [`crate::Dataset`]; the loader and the trainer see no difference.

mod assignment;
mod captions;
mod config;
mod document;
mod embedded_image;
mod interleaved;
mod labels;
mod stream;

pub use assignment::best_assignment;
pub use config::{CaptionFormat, ImageRule, StreamConfig};
pub(crate) use embedded_image::image_bytes;
pub use labels::{caption_label_mask, interleaved_label_mask};
pub(crate) use stream::{Stream, StreamContext};
