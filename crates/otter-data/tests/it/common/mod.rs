//! Paths and tokenizers of the reference data.

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
    let (bos, eos) = if name.ends_with("mpt") { ("<|endoftext|>", "<|endoftext|>") } else { ("<s>", "</s>") };
    let idefics = name.ends_with("idefics");
    let id = |token: &str| tokenizer.token_to_id(token).unwrap_or_else(|| panic!("{name} lacks {token}"));
    let special = SpecialTokens {
        bos: Some(id(bos)),
        eos: Some(id(eos)),
        pad: id(if idefics { "<unk>" } else { "<PAD>" }),
        endofchunk: id(if idefics { "<end_of_utterance>" } else { "<|endofchunk|>" }),
        image: id("<image>"),
        answer: id("<answer>"),
    };
    Arc::new(TextTokenizer::new(tokenizer, special))
}

/// A tar archive of files.
pub fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = Vec::new();
    for (name, content) in files {
        let mut header = [0; 512];
        header[..name.len()].copy_from_slice(name.as_bytes());
        header[100..108].copy_from_slice(b"0000644\0");
        header[124..136].copy_from_slice(format!("{:011o}\0", content.len()).as_bytes());
        header[148..156].fill(b' ');
        header[156] = b'0';
        header[257..265].copy_from_slice(b"ustar\x0000");
        let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        archive.extend_from_slice(&header);
        archive.extend_from_slice(content);
        archive.resize(archive.len().next_multiple_of(512), 0);
    }
    archive.resize(archive.len() + 1024, 0);
    archive
}
