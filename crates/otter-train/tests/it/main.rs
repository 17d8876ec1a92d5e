//! Tests of training runs, in one binary, so that it is linked once.
#![expect(clippy::unwrap_used, reason = "tests")]

mod golden_trajectory;
mod otter_run;
mod trainer_loop;
