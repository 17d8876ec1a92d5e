//! Tests of the toybox and of evaluation on it, in one binary, so that it is linked once.
#![expect(clippy::unwrap_used, reason = "tests")]

mod few_shot;
mod toybox_files;
