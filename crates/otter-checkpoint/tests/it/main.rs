//! Tests of checkpoints, tokenizers and their conversions, in one binary, so that it is linked once.
#![expect(clippy::unwrap_used, reason = "tests")]

mod common;

mod convert;
mod gguf;
mod golden_checkpoints;
mod half_weights;
mod hostile_files;
mod hostile_gguf;
mod inject;
mod inspect;
mod quantized_weights;
mod save_and_load;
mod tokenizer_variants;
mod tokenizers;
mod torch_write;
