//! GGUF files of any program: metadata, the places of the tensors, GGML's block formats, and writing.

mod blocks;
mod header;
mod tokenizer;
mod write;

pub use blocks::dequantize_blocks;
pub use header::{Claim, DEFAULT_ALIGNMENT, Header, List, MAGIC, Meta};
pub use tokenizer::tokenizer_json;
pub use write::{
    Elements, Metadata, PassElements, PlannedTensor, PutElements, StoredTensor, file_type, write,
};
