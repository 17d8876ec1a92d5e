//! Files of tokenizers as the text of a `tokenizer.json`, and reading that through the `tokenizers` crate.

pub mod bpe;
pub mod json;
mod sentencepiece;

pub use sentencepiece::SentencePiece;
