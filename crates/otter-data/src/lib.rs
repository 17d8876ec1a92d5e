//! Samples: MIMIC-IT formats, images, prompts, label masks, batches. Knows no model.
//!
//! ```text
//! instruction JSON ─┐
//! train JSON ───────┼─► Dataset ─► Sample ─► Loader ─► Batch
//! images ───────────┘   (mapped)   (ids, labels, pixels)
//! ```
//!
//! Defaults repair the defects of the original; `preset = "reference"` gives its exact samples.
//! See [`DataConfig`] for the switches.

mod batch;
mod config;
mod dataset;
mod error;
mod image_open;
mod image_preprocess;
mod image_resize;
mod labels;
mod loader;
mod mixture_yaml;
pub mod prompt;
mod python_random;
mod sample;
mod text;
mod tokenizer;

pub use batch::Batch;
pub use config::{
    DataConfig, Group, ImagesOfRecord, InContextImages, ItemSeed, OnBadSample, Preset, RecordsWithoutImages,
    Sampling, SetConfig, SpecialTokensInText, Switches, Truncation,
};
pub use dataset::Dataset;
pub use error::{DataError, Result, SkipReason};
pub use image_open::{MAX_PIXELS, MAX_SIDE, Orientation, RgbImage, load_image_file, open_image};
pub use image_preprocess::{ImageTransform, preprocess};
pub use image_resize::{resize_bicubic, resize_bicubic_window};
pub use labels::{IGNORE_INDEX, LabelRule, label_mask, reference_label_mask, strict_label_mask};
pub use loader::{DataReport, Loader, LoaderOptions, LoaderState};
pub use prompt::InstructionFormat;
pub use python_random::{PythonRandom, reference_item_seed, resample_frames, resample_positions};
pub use sample::{Frame, MediaItem, Sample};
pub use text::{clean_answer, clean_question};
pub use tokenizer::{SpecialTokens, StreamDecoder, TextTokenizer};
