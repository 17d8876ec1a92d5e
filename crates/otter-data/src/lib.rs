//! Samples: MIMIC-IT formats, images, prompts, label masks, batches. Knows no model.
//!
//! ```text
//! instruction JSON ─┐
//! train JSON ───────┼─► Dataset ─► Sample ─► Loader ─► Batch
//! images ───────────┘   (mapped)   (ids, labels, pixels)
//! ```
//!
//! Pictures and videos are read by `otter-media`, whose names are here, too. Defaults repair the defects of the original; `preset = "reference"` gives its exact samples.
//! See [`DataConfig`] for the switches.

mod batch;
mod config;
mod error;
mod files;
pub mod otter_dataset;
mod sample;
mod stats;
mod streams;
mod tables;
mod text;
pub mod verify;
mod write;

pub use batch::Batch;
pub use batch::epoch_order::{Mixture, Rank, epoch_order};
pub use batch::loader::{Loader, LoaderOptions, LoaderState};
pub use batch::packing::{Packing, best_fit};
pub use batch::report::DataReport;
pub use config::{
    DataConfig, Group, ImagesOfRecord, InContextImages, ItemSeed, OnBadSample, Preset, RecordsWithoutImages,
    Sampling, SetConfig, SpecialTokensInText, Switches, Truncation,
};
pub use error::{DataError, Result, SkipReason};
pub use files::base64_text::decode_base64;
pub use files::json_index::{JsonIndex, Section};
pub use files::json_text::{one_or_many, parse_json, parse_object};
pub use files::parquet::table::PageValue;
pub use files::text_file::{foreign_encoding, read_text_file};
pub use otter_input::{IGNORE_INDEX, Segment};
pub use otter_media::{
    AlphaRule, Gray16Rule, ImageCounts, ImageError, ImageNote, ImageNotes, ImageRules, ImageTransform,
    MAX_PIXELS, MAX_SIDE, NoteCount, Orientation, RgbImage, load_image_file, open_image, preprocess,
    resize_bicubic, resize_bicubic_window, resize_lanczos, video,
};
pub use sample::dataset::Dataset;
pub use sample::frame_cache::FrameCounts;
pub use sample::python_random::{PythonRandom, reference_item_seed, resample_frames, resample_positions};
pub use sample::record::Record;
pub use sample::{Frame, MediaItem, Sample};
pub use stats::language::{LANGUAGES, guess_language};
pub use stats::{StatsReport, StatsRow, stats};
pub use streams::pretraining::{CaptionFormat, ImageRule, StreamConfig};
pub use streams::{pretraining, webdataset};
pub use tables::image_files::ImageFolder;
pub use tables::image_names::composed;
pub use tables::image_parquet::ParquetImages;
pub use tables::image_table::ImageTable;
pub use tables::image_tar::TarImages;
pub use tables::instruction_table::{ContextTable, InstructionTable};
pub use text::clean::{clean_answer, clean_question, without_byte_order_mark};
pub use text::labels::{LabelRule, label_mask, reference_label_mask, strict_label_mask};
pub use text::prompt;
pub use text::prompt::InstructionFormat;
pub use text::token_check::BrokenToken;
pub use text::tokenizer::{JoinedText, SpecialTokens, StreamDecoder, TextTokenizer};
pub use write::convert::{ConvertOptions, Converted, convert_set};
pub use write::{DatasetWriter, OutputForm, WriterOptions, WrittenSet, create_writer, output_paths};
