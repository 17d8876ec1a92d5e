//! Tests of pulling from a hub, in one binary, so that it is linked once.
#![expect(clippy::unwrap_used, reason = "tests")]

mod common;

mod pull;
