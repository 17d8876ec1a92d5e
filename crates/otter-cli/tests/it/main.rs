//! Tests of the real binary, in one binary, so that it is linked once.
#![expect(clippy::unwrap_used, reason = "tests")]

#[macro_use]
mod common;

mod answers;
mod bad_input;
mod chat;
mod convert;
mod data_convert;
mod data_import;
mod data_retrieve;
mod data_show;
mod data_verify;
mod golden_generate;
mod golden_language_models;
mod golden_parity;
#[cfg(feature = "emulate")]
mod gpu;
#[path = "../../../otter-hub/tests/it/common/mod.rs"]
#[expect(dead_code, reason = "only a part is used here")]
mod hub;
mod images;
mod init;
mod inspect;
mod pretraining;
mod prompts;
mod pull;
mod python_interop;
#[cfg(unix)]
mod quickstart;
#[path = "../../../../tests/skip.rs"]
mod skip;
mod toybox;
#[cfg(unix)]
mod train;
mod video_prompt;
mod written_before;
