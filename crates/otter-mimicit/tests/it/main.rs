//! Tests of makers of data sets, in one binary, so that it is linked once.
#![expect(clippy::unwrap_used, reason = "tests")]

mod retrieve;
mod sources;
