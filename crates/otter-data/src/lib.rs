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

mod base64_image;
mod base64_text;
mod batch;
mod config;
mod convert;
mod dataset;
mod epoch_order;
mod error;
mod frame_cache;
mod hash_index;
mod image_decoded;
mod image_file;
mod image_files;
mod image_names;
mod image_notes;
mod image_open;
mod image_parquet;
mod image_parquet_writer;
mod image_preprocess;
mod image_resize;
mod image_resize_passes;
mod image_rules;
mod image_table;
mod image_tar;
mod instruction_table;
mod jpeg;
mod json_index;
mod json_scan;
mod json_text;
mod labels;
mod language;
pub mod layout;
mod loader;
mod mapped_file;
mod mimicit_writer;
mod mixture_yaml;
mod packing;
mod page_cache;
mod parquet_file;
mod parquet_table;
mod plain_page;
mod positioned_file;
pub mod pretraining;
pub mod prompt;
mod python_random;
mod record;
mod sample;
mod sample_builder;
#[cfg(test)]
#[path = "../../../tests/skip.rs"]
mod skip;
mod staging;
mod stats;
mod tar_archive;
mod text;
mod text_file;
mod token_check;
mod tokenizer;
pub mod verify;
pub mod video;
pub mod webdataset;
mod writer;

pub use base64_text::decode_base64;
pub use batch::Batch;
pub use config::{
    DataConfig, Group, ImagesOfRecord, InContextImages, ItemSeed, OnBadSample, Preset, RecordsWithoutImages,
    Sampling, SetConfig, SpecialTokensInText, Switches, Truncation,
};
pub use convert::{ConvertOptions, ConvertProgress, Converted, convert_set};
pub use dataset::Dataset;
pub use epoch_order::{Mixture, Rank, epoch_order};
pub use error::{DataError, Result, SkipReason};
pub use frame_cache::FrameCounts;
pub use image_files::ImageFolder;
pub use image_names::composed;
pub use image_notes::{ImageCounts, ImageNote, ImageNotes, NoteCount};
pub use image_open::{MAX_PIXELS, MAX_SIDE, RgbImage, load_image_file, open_image};
pub use image_parquet::ParquetImages;
pub use image_preprocess::{ImageTransform, preprocess};
pub use image_resize::{resize_bicubic, resize_bicubic_window, resize_lanczos};
pub use image_rules::{AlphaRule, Gray16Rule, ImageRules, Orientation};
pub use image_table::ImageTable;
pub use image_tar::TarImages;
pub use instruction_table::{ContextTable, InstructionTable};
pub use json_index::{JsonIndex, Section};
pub use json_text::{one_or_many, parse_json, parse_object};
pub use labels::{IGNORE_INDEX, LabelRule, label_mask, reference_label_mask, strict_label_mask};
pub use language::{LANGUAGES, guess_language};
pub use loader::{DataReport, Loader, LoaderOptions, LoaderState};
pub use packing::{Packing, Segment, best_fit};
pub use parquet_table::PageValue;
pub use pretraining::{CaptionFormat, ImageRule, StreamConfig};
pub use prompt::InstructionFormat;
pub use python_random::{PythonRandom, reference_item_seed, resample_frames, resample_positions};
pub use record::Record;
pub use sample::{Frame, MediaItem, Sample};
pub use stats::{StatsReport, StatsRow, stats};
pub use text::{clean_answer, clean_question, without_byte_order_mark};
pub use text_file::{foreign_encoding, read_text_file};
pub use token_check::BrokenToken;
pub use tokenizer::{JoinedText, SpecialTokens, StreamDecoder, TextTokenizer};
pub use writer::{DatasetWriter, OutputForm, WriterOptions, WrittenSet, create_writer, output_paths};
