//! Tests of data sets, images and samples, in one binary, so that it is linked once.
#![expect(clippy::unwrap_used, reason = "tests")]

mod common;

mod datasets;
mod forms;
mod golden_samples;
mod malformed;
mod parquet_sources;
mod pretraining;
mod tar_images;
mod tokenizers;
mod verify_fix;
mod verify_properties;
