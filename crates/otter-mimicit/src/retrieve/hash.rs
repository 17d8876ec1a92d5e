//! Short hashes of ids, texts and images.

use sha2::{Digest, Sha256};

/// The first 128 bits of SHA-256: equal contents are taken to be the same.
pub fn content(bytes: &[u8]) -> u128 {
    let digest = Sha256::digest(bytes);
    digest.iter().take(16).fold(0, |value, &byte| value << 8 | u128::from(byte))
}

/// 64 bits for an id. Two of ten million differing ids share one with probability 3e-6; they would be taken for the same image.
pub fn id(text: &str) -> u64 {
    content(text.as_bytes()) as u64
}
