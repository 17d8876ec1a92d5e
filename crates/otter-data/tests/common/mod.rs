//! Paths and tokenizers of the reference data.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::path::PathBuf;
use std::sync::Arc;

use otter_data::{SpecialTokens, TextTokenizer};

pub fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(name)
}

pub fn json(name: &str) -> serde_json::Value {
    let text = std::fs::read_to_string(golden(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// `tokenizer_llama` or `tokenizer_mpt`.
pub fn tokenizer(name: &str) -> Arc<TextTokenizer> {
    let file = golden("data").join(name).join("tokenizer.json");
    let tokenizer = tokenizers::Tokenizer::from_file(&file).unwrap_or_else(|error| panic!("{name}: {error}"));
    let (bos, eos) =
        if name.ends_with("llama") { ("<s>", "</s>") } else { ("<|endoftext|>", "<|endoftext|>") };
    let id = |token: &str| tokenizer.token_to_id(token).unwrap_or_else(|| panic!("{name} lacks {token}"));
    let special = SpecialTokens {
        bos: Some(id(bos)),
        eos: Some(id(eos)),
        pad: id("<PAD>"),
        endofchunk: id("<|endofchunk|>"),
        image: id("<image>"),
        answer: id("<answer>"),
    };
    Arc::new(TextTokenizer::new(tokenizer, special))
}
