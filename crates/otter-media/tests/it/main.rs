//! Tests of pictures and videos, in one binary, so that it is linked once.
#![expect(clippy::unwrap_used, reason = "tests")]

mod common;

mod baseline_jpeg;
mod golden_images;
mod pillow_fixtures;
#[cfg(unix)]
#[path = "../../../../tests/skip.rs"]
mod skip;
#[cfg(unix)]
mod video;
